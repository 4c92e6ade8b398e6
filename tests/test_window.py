"""The window of a map, against a plain model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from asyncpar.window import HOLE, Block, Window


class Machine(RuleBasedStateMachine):
    """Opens blocks, fills them in parts and with holes, takes results: each once, never over the limit."""

    ordered = True
    limit = 12

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(self.limit, ordered=self.ordered, raising=False)
        self.next = 0  # of the source
        self.taken: list[int] = []
        self.open_calls = 0

    parts = Bundle("parts")
    """Stretches with a chunk in flight: block, offset in it, and the items."""

    @precondition(lambda self: self.window.room() > 0)
    @rule(target=parts, data=st.data())
    def read(self, data: st.DataObject) -> Any:
        size = data.draw(st.integers(1, self.window.room()))
        self.window.read += size
        items = list(range(self.next, self.next + size))
        self.next += size
        self.open_calls += size
        return self.window.open(size), 0, items

    @rule(target=parts, part=consumes(parts), data=st.data())
    def fill(self, part: tuple[Block, int, list[int]], data: st.DataObject) -> Any:
        block, offset, items = part
        count = data.draw(st.integers(1, len(items)))
        hole = data.draw(st.none() | st.integers(0, count - 1))
        values: list[Any] = items[:count]
        if hole is None:
            self.window.fill(block, offset, values, None)
            self.open_calls -= count
        else:
            values[hole] = HOLE
            self.window.fill(block, offset, values, {})
            self.open_calls -= count - 1
        rest = (block, offset + count, items[count:])
        again = [] if hole is None else [(block, offset + hole, [items[hole]])]
        return _multiple([p for p in (rest, *again) if p[2]])

    @rule()
    def take(self) -> None:
        values = self.window.pull()
        self.taken += values or []

    @invariant()
    def bounded(self) -> None:
        assert self.window.read - self.window.taken <= self.limit
        assert self.open_calls == self.window.read - self.window.finished

    @invariant()
    def each_once(self) -> None:
        assert len(set(self.taken)) == len(self.taken) <= self.window.finished
        if self.ordered:
            assert self.taken == list(range(len(self.taken)))

    def teardown(self) -> None:
        while (values := self.window.pull()) is not None:
            self.taken += values
        self.each_once()
        if not self.open_calls:
            assert sorted(self.taken) == list(range(self.next))
            assert self.window.taken == self.window.read


def _multiple(parts: list[Any]) -> Any:
    from hypothesis.stateful import multiple

    return multiple(*parts)


class Unordered(Machine):
    ordered = False


TestOrdered = Machine.TestCase
TestUnordered = Unordered.TestCase
TestOrdered.settings = TestUnordered.settings = settings(
    max_examples=75, stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("ordered", [True, False])
def test_after_a_failure_there_is_nothing_more(ordered):
    window = Window(10, ordered=ordered)
    block = window.open(4)
    window.read += 4
    window.fill(block, 0, [1, 2, None, 4], {2: ValueError("third")})
    assert window.pull() == [1, 2]
    assert isinstance(window.failure, ValueError)
    assert window.pull() is None
    assert window.room() == 0


def test_bytes_bound_the_window_too():
    window = Window(100, limit_bytes=1000)
    assert window.room() == 1  # nothing is known of the size yet
    window.read += 1
    block = window.open(1, 400)
    assert window.room() == 1
    window.read += 1
    other = window.open(1, 400)
    assert window.room() == 0
    window.fill(block, 0, ["a"], None)
    window.fill(other, 0, ["b"], None)
    while window.pull():
        pass
    assert window.bytes == 0
    assert window.room() >= 1
