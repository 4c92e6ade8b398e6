"""The window of a map with a journal, against a model: no journal, no engine, no event loop."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncpar.journal.replay import ReplayWindow
from asyncpar.journal.writer import MISSING
from asyncpar.window import Window


class Replaying(RuleBasedStateMachine):
    """Items are read and looked up, what is missing is called in chunks that end in any order, results are taken."""

    @initialize(limit=st.integers(1, 12), ordered=st.booleans())
    def begin(self, limit, ordered):
        self.limit, self.ordered = limit, ordered
        self.window = ReplayWindow(limit, ordered=ordered)
        self.window.inner = Window(limit, ordered=ordered)
        self.looking = []  # batches at the journal
        self.missing = []  # looked up, not yet called
        self.running = []  # chunks: block, numbers
        self.numbers = 0
        self.expected = set()
        self.taken = []
        self.greedy = False

    @rule(n=st.integers(1, 8))
    def read(self, n):
        n = min(n, self.window.room())
        if n:
            self.looking.append(list(range(self.numbers, self.numbers + n)))
            self.numbers += n
            self.window.read += n

    @precondition(lambda self: self.looking)
    @rule(there=st.lists(st.booleans(), min_size=8, max_size=8), nbytes=st.integers(0, 100))
    def look_up(self, there, nbytes):
        batch = self.looking.pop(0)
        hits = [number if there[i] else MISSING for i, number in enumerate(batch)]
        self.missing += [number for number, hit in zip(batch, hits, strict=True) if hit is MISSING]
        self.window.add(hits, nbytes if any(hit is not MISSING for hit in hits) else 0)

    @precondition(lambda self: self.missing)
    @rule(n=st.integers(1, 5))
    def call(self, n):
        inner = self.window.inner
        n = min(n, len(self.missing), inner.room())
        if n:
            inner.read += n
            self.running.append((inner.open(n), self.missing[:n]))
            del self.missing[:n]

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        block, numbers = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.window.inner.fill(block, 0, list(numbers), None)

    @rule()
    def take(self):
        values = self.window.pull()
        self.taken += values or []

    @precondition(lambda self: not self.greedy and not self.taken)
    @rule()
    def take_all(self):
        self.greedy = True
        self.window.take_all()

    @invariant()
    def results_are_right(self):
        if self.ordered:
            assert self.taken == list(range(len(self.taken)))
        assert len(set(self.taken)) == len(self.taken)

    @invariant()
    def what_is_read_is_bounded(self):
        """In flight plus not yet taken; what the consumer works on counts as not yet taken."""
        window = self.window
        if not self.greedy:
            assert window.taken + window.lent == len(self.taken)
            assert self.numbers - window.taken <= self.limit
        assert window.finished <= window.read == self.numbers
        assert window.room() >= 0

    def teardown(self):
        """Whatever happened: everything that is still to come comes, once."""
        if not hasattr(self, "window"):
            return
        while self.looking:
            self.look_up([True, False] * 4, 0)
        while self.missing or self.running:
            for block, numbers in self.running:
                self.window.inner.fill(block, 0, list(numbers), None)
            self.running.clear()
            while (values := self.window.pull()) is not None:
                self.taken += values
            self.call(5)
        while (values := self.window.pull()) is not None:
            self.taken += values
        assert sorted(self.taken) == list(range(self.numbers))
        assert self.window.hit_bytes == 0


TestReplaying = Replaying.TestCase
TestReplaying.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.sampled_from("hmf"), min_size=1, max_size=20), st.booleans())
def test_a_failure_comes_after_everything_before_it(kinds, ordered):
    """Hits, misses and one failed call: in order, all before the failure come, from wherever, and nothing behind it."""
    window = ReplayWindow(100, ordered=ordered)
    window.inner = inner = Window(100, ordered=ordered)
    window.read = len(kinds)
    window.add([number if kind == "h" else MISSING for number, kind in enumerate(kinds)], 0)
    calls = [number for number, kind in enumerate(kinds) if kind != "h"]
    inner.read = len(calls)
    if calls:
        errors = {i: ValueError(number) for i, number in enumerate(calls) if kinds[number] == "f"}
        inner.fill(inner.open(len(calls)), 0, calls, errors or None)
    got = []
    while (values := window.pull()) is not None:
        got += values
    failed = [number for number, kind in enumerate(kinds) if kind == "f"]
    if not failed:
        assert sorted(got) == list(range(len(kinds)))
        assert window.failure is None
        return
    assert window.failure.args == (failed[0],)
    if ordered:
        assert got == list(range(failed[0]))


def test_bytes_count():
    """What the journal gave weighs as much as it did there, until it was taken."""
    window = ReplayWindow(1000, limit_bytes=1000)
    window.inner = Window(1000, limit_bytes=1000)
    assert window.room() == 1
    window.read = 1
    window.add([0], 100)
    assert window.room() == 9
    window.read += 9
    window.add(list(range(1, 10)), 900)
    assert window.room() == 0
    assert window.pull() == [0]
    assert window.room() == 0
    assert window.pull() == list(range(1, 10))
    assert window.room() == 1
    window.pull()
    assert window.room() == 10
