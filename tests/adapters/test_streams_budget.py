"""Who may run on a device: the budget's promises, for every order of events."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

pytest.importorskip("numpy")

from asyncpar.chunks import Function
from asyncpar_streams.budget import Budget, Request
from asyncpar_streams.needs import Needs, parse_bytes, show_bytes

LIMIT = 100


class AnyOrder(RuleBasedStateMachine):
    """Requests come, end, run out of memory and are withdrawn, in any order."""

    def __init__(self):
        super().__init__()
        self.budget = Budget(LIMIT)
        self.running: list[Request] = []
        self.order: list[Request] = []  # of those that wait, as they are to be admitted

    def took(self, admitted):
        for request in admitted:
            assert request is self.order.pop(0)  # first come, first served
            self.running.append(request)

    @rule(need=st.none() | st.integers(0, 2 * LIMIT))
    def ask(self, need):
        request = Request(need, lambda: None)
        self.order.append(request)
        self.took(self.budget.ask(request))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data):
        request = data.draw(st.sampled_from(self.running))
        self.running.remove(request)
        self.took(self.budget.leave(request))

    @precondition(lambda self: any(not request.alone for request in self.running))
    @rule(data=st.data())
    def run_out_of_memory(self, data):
        request = data.draw(st.sampled_from([one for one in self.running if not one.alone]))
        self.running.remove(request)
        self.order.insert(sum(one.alone for one in self.order), request)
        self.took(self.budget.again(request))

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def withdraw(self, data):
        request = data.draw(st.sampled_from(self.order))
        self.order.remove(request)
        self.took(self.budget.withdraw(request))

    @invariant()
    def holds_no_more_than_there_is(self):
        held = [one.held for one in self.running]
        assert sum(held) == self.budget.used
        assert sum(held) <= LIMIT or sum(size > 0 for size in held) == 1

    @invariant()
    def what_runs_alone_is_alone(self):
        assert len(self.running) == 1 or not any(one.alone for one in self.running)

    @invariant()
    def somebody_runs_if_anybody_waits(self):
        assert self.running or not self.order


TestAnyOrder = AnyOrder.TestCase


def test_without_a_limit_only_what_ran_out_of_memory_waits():
    """No bytes are counted; a second attempt waits for the others, and they for it."""
    budget = Budget()
    one, two, three = (Request(None, lambda: None) for _ in range(3))
    assert budget.ask(one) == [one]
    assert budget.ask(two) == [two]
    assert budget.again(one) == []
    assert budget.ask(three) == []
    assert budget.leave(two) == [one]
    assert budget.leave(one) == [three]


def test_a_function_needs_what_it_was_seen_to_take_and_more_for_larger_arguments():
    """Nothing is known at first; what was declared goes before what was seen."""
    needs, function = Needs(), Function(len)
    small, large = memoryview(bytes(10)), memoryview(bytes(40))
    assert needs.of(function, [small], {}) is None
    needs.learn(function, [small], {}, 100)
    needs.learn(function, [small], {}, 30)
    assert needs.of(function, [small], {}) == 100
    assert needs.of(function, [[large]], {}) == 400
    needs.declare(len, lambda value: 3 * value.nbytes)
    assert needs.of(function, [large], {}) == 120
    needs.declare(len, "2 KiB")
    assert needs.of(function, [large], {}) == 2048


@pytest.mark.parametrize(
    ("text", "size"), [("8 GiB", 8 << 30), ("1.5kb", 1500), ("12", 12), (7, 7), ("300 MiB", 300 << 20)]
)
def test_bytes_in_words(text, size):
    """Units of 1000 and of 1024 are told apart."""
    assert parse_bytes(text, "memory") == size


@pytest.mark.parametrize("wrong", ["", "much", "8 apples", 0, -1, True, 1.5, "0 MB", None])
def test_what_is_no_number_of_bytes_is_told(wrong):
    """The message names the argument."""
    with pytest.raises(ValueError, match="memory= takes a number of bytes"):
        parse_bytes(wrong, "memory")


def test_bytes_are_shown_in_their_unit():
    """As people say it."""
    assert [show_bytes(size) for size in (5, 2048, 3 << 29)] == ["5 bytes", "2 KiB", "1.5 GiB"]
