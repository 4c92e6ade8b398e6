"""The protocol of a worker and the loop, without processes: a link, and a worker that dies at any moment.

The worker's own code writes the frames and the log; when it runs, flushes, is read and dies is Hypothesis' choice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncpar.chunks import Cancelled, Chunk, Errors, Function
from asyncpar.errors import WorkerLostError
from asyncpar.process.layout import (
    BLOCK,
    BUSY,
    HEADER,
    HELD,
    LOG_AT,
    PLAIN,
    RELEASED,
    SEQ,
    STOPPED,
)  # fmt: skip
from asyncpar.process.link import Link
from asyncpar.process.worker import Worker

OUTCOMES: list[Any] = [1, -5, 2.5, "text", None, [1, 2], 1 << 80, ValueError("bad")]


class FakeCall:
    def __init__(self, item: int, function: Function, lends: list[int]) -> None:
        self.item, self.function, self.lends = item, function, lends


class Sent:
    """A chunk as the worker has it."""

    def __init__(self, ids: list[int], slabs: list[list[int]]) -> None:
        self.ids, self.slabs = ids, slabs


class FakeArena:
    """A control block, and the slabs that are in use."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(BLOCK))

    def block(self, slot: int) -> memoryview:
        return self.memory


class FakeWorker(Worker):
    """A worker whose pipe is a bytearray, and which runs by single steps."""

    def __init__(self, arena: Any) -> None:
        super().__init__(-1, -1, arena, 0, 0.0)
        self.pipe = bytearray()

    def send(self, kind: int, payload: bytes, count: int = 0, flags: int = 0, aux: int = 0) -> None:
        self.pipe += HEADER.pack(len(payload), kind, flags, count, min(aux, 1000)) + payload

    def settle(self) -> None:
        self.send_offsets(HELD, [at for at, _ in self.lent])
        self.lent.clear()


class Machine(RuleBasedStateMachine):
    """As the pool: sends chunks, cancels, takes outcomes, and starts another worker when one has died."""

    offered = False

    def __init__(self) -> None:
        super().__init__()
        self.function = Function(len)
        self.outcome: dict[int, Any] = {}  # what each call is to end with
        self.ended: dict[int, Any] = {}  # what it did end with
        self.started: set[int] = set()
        self.asked_to_stop: set[int] = set()
        self.waiting: deque[list[int]] = deque()  # stretches that go back to be sent again
        self.live: set[int] = set()
        self.slab = 0
        self.lost_calls: list[int] = []

    @initialize()
    def start(self) -> None:
        self.arena = FakeArena()
        self.worker = FakeWorker(self.arena)
        memory = self.arena.memory
        self.link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, self.free)
        self.kept: list[int] = []  # slabs that the worker's functions read still
        self.inbox: deque[Sent] = deque()
        self.chunk: Sent | None = None
        self.at = 0
        self.in_call = False

    def free(self, at: int) -> None:
        assert at not in self.kept, "a function reads it still"
        self.live.remove(at)  # a slab that is freed twice raises

    def new_slab(self) -> int:
        self.slab += 1
        self.live.add(self.slab)
        return self.slab

    # -- as a source

    def ids(self, chunk: Chunk) -> list[int]:
        return [item.item if chunk.singles else item for item in chunk.items]

    def deliver(self, chunk: Chunk, first: int, values: Any, errors: Errors | None) -> None:
        for i, value in enumerate(values):
            call = self.ids(chunk)[first + i]
            assert call not in self.ended, "a call ended twice"
            self.ended[call] = errors[i] if errors and i in errors else value

    def requeue(self, chunk: Chunk, first: int) -> None:
        again = self.ids(chunk)[first:]
        if chunk.singles:
            for call in chunk.items[first:]:
                for at in call.lends:
                    self.free(at)
        assert not set(again) & self.ended.keys()
        self.waiting.append(again)

    # -- rules

    @rule(size=st.integers(1, 6), singles=st.booleans(), slabs=st.booleans(), data=st.data())
    def send_chunk(self, size: int, singles: bool, slabs: bool, data: st.DataObject) -> None:
        if self.waiting:
            ids = list(self.waiting.popleft())
        else:
            ids = list(range(len(self.outcome), len(self.outcome) + size))
            for i in ids:
                self.outcome[i] = data.draw(st.sampled_from(OUTCOMES))
        items: list[Any] = ids
        if singles:
            items = [FakeCall(i, self.function, [self.new_slab()] if slabs else []) for i in ids]
        chunk = Chunk(self, items, self.function, singles=singles)  # type: ignore[arg-type]
        if singles:
            chunk.slabs = [call.lends for call in items]
        elif slabs:
            chunk.slabs = [[self.new_slab()] for _ in data.draw(st.sampled_from([ids, ids[:1]]))]
        self.send(chunk)

    def send(self, chunk: Chunk) -> None:
        self.link.sent(chunk)
        self.inbox.append(Sent(self.ids(chunk), [list(slabs) for slabs in chunk.slabs]))

    def mine(self) -> list[Chunk]:
        """What the worker has and is still to answer for."""
        return [chunk for chunk in self.link.in_flight if chunk.source is self]

    @precondition(lambda self: self.mine())
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        chunk = data.draw(st.sampled_from(self.mine()))
        first = data.draw(st.integers(chunk.done, len(chunk.items) - 1))
        last = data.draw(st.integers(first, len(chunk.items) - 1))
        for i in range(first, last + 1):
            chunk.stop(i, Cancelled())
            self.asked_to_stop.add(self.ids(chunk)[i])
        self.link.cancel(chunk, first, last)

    @precondition(lambda self: self.link.stuck(self.link.words[SEQ]) and not self.link.recalling)
    @rule()
    def recall(self) -> None:
        self.link.recall()

    @rule()
    def take_signal(self) -> None:
        self.worker.note_recall()

    @rule()
    def take_back(self) -> None:
        for chunk in self.link.take_back():
            chunk.requeue()
        self.link.ended.clear()

    @precondition(lambda self: self.chunk is None and self.inbox)
    @rule()
    def open_chunk(self) -> None:
        self.chunk, self.at = self.inbox.popleft(), 0
        self.worker.words[BUSY] = 1

    @precondition(lambda self: not self.in_call and (self.chunk is not None or self.inbox))
    @rule()
    def begin_call(self) -> None:
        worker = self.worker
        if self.chunk is None:
            self.open_chunk()
        assert self.chunk is not None
        worker.note_cancelled()
        seq = worker.words[SEQ]
        if worker.kept <= seq < worker.recalled:
            worker.flush(seq)
            worker.give_back(len(self.chunk.ids) - self.at)
            self.chunk = None
            return
        self.in_call = True
        if not worker.is_cancelled(seq):
            call = self.chunk.ids[self.at]
            assert call not in self.started, "a call ran twice"
            self.started.add(call)

    @precondition(lambda self: self.in_call)
    @rule(flush=st.booleans(), hold=st.booleans())
    def end_call(self, flush: bool, hold: bool) -> None:
        worker, chunk = self.worker, self.chunk
        assert chunk is not None
        worker.note_cancelled()
        seq = worker.words[SEQ]
        self.in_call = False
        last = self.at == len(chunk.ids) - 1
        stopped = worker.is_cancelled(seq)
        if hold:
            for at in next(iter(chunk.slabs[self.at : self.at + 1]), []):
                worker.lent.append((at, None))  # type: ignore[arg-type]
                self.kept.append(at)
        if stopped:
            worker.flush(seq)
            worker.send(STOPPED, b"", 1)
            worker.sent(seq + 1, last=last)
        else:
            self.take_outcome(seq, flush, last)
        self.at += 1
        if last:
            self.chunk = None
            worker.done()

    def take_outcome(self, seq: int, flush: bool, last: bool) -> None:
        worker = self.worker
        value, error = self.raw_outcome()
        plain = not worker.out and error is None and type(value) in PLAIN
        kept = False
        if plain:
            worker.values.append(value)
        else:
            kept = worker.add(*worker.answer(value, error), seq)
        if not last and not flush and (kept or (plain and worker.record(value))):
            worker.words[SEQ] = seq + 1
        else:
            worker.flush(seq + 1, last=last)

    def raw_outcome(self) -> tuple[Any, BaseException | None]:
        assert self.chunk is not None
        outcome = self.outcome[self.chunk.ids[self.at]]
        return (None, ValueError(*outcome.args)) if isinstance(outcome, Exception) else (outcome, None)

    def can_be_let_go(self) -> list[int]:
        lent = [at for at, _ in self.worker.lent]
        return [at for at in self.kept if at not in lent]

    @precondition(lambda self: self.can_be_let_go())
    @rule()
    def let_go(self) -> None:
        for at in self.can_be_let_go():
            self.kept.remove(at)
            self.worker.send_offsets(RELEASED, [at])

    @rule(n=st.integers(1, 200) | st.just(1 << 20))
    def read(self, n: int) -> None:
        data = bytes(self.worker.pipe[:n])
        del self.worker.pipe[:n]
        self.link.feed(data)
        self.link.ended.clear()

    @rule()
    def die(self) -> None:
        running = self.chunk.ids[self.at] if self.chunk is not None else None
        done = self.started - {running}
        self.link.feed(bytes(self.worker.pipe))
        before = dict(self.ended)
        self.kept.clear()
        struck = self.link.lost(lambda label: WorkerLostError(f"lost {label}"))
        lost = [
            i for i, x in self.ended.items() if i not in before and isinstance(x, WorkerLostError | Cancelled)
        ]
        if struck:
            assert running in lost
            assert self.asked_to_stop.issuperset(set(lost) - {running})
        else:
            assert self.asked_to_stop.issuperset(lost)
        assert done <= self.ended.keys(), "what was finished and not sent yet is lost"
        assert not self.link.in_flight
        assert not self.link.held
        assert not self.link.early
        self.start()

    # -- what holds always

    @invariant()
    def every_call_ends_as_it_should(self) -> None:
        for i, end in self.ended.items():
            if isinstance(end, Cancelled):
                assert i in self.asked_to_stop
            elif isinstance(self.outcome[i], Exception) and not isinstance(end, WorkerLostError):
                assert isinstance(end, ValueError)
                assert end.args == self.outcome[i].args
            elif not isinstance(end, WorkerLostError):
                assert end == self.outcome[i]
                assert type(end) is type(self.outcome[i])

    @invariant()
    def in_flight_is_what_has_not_ended(self) -> None:
        in_flight = [i for chunk in self.mine() for i in self.ids(chunk)[chunk.done :]]
        again = [i for ids in self.waiting for i in ids]
        assert sorted(in_flight + again) == sorted(self.outcome.keys() - self.ended.keys())

    def teardown(self) -> None:
        if not hasattr(self, "worker"):
            return
        while self.chunk is not None or self.inbox or self.waiting or self.in_call or self.worker.pipe:
            if self.in_call:
                self.end_call(False, False)
            elif self.chunk is not None or self.inbox:
                self.begin_call()
            elif self.waiting:
                self.send_again()
            else:
                self.read(1 << 30)
        self.let_go()
        self.read(1 << 30)
        assert self.ended.keys() == self.outcome.keys(), "a call has no end"
        assert not self.live, "a buffer is orphaned"

    def send_again(self) -> None:
        ids = self.waiting.popleft()
        self.send(Chunk(self, ids, self.function))  # type: ignore[arg-type]


def test_an_abandoned_link_hears_nothing():
    """A broken pool has ended every call; its workers may still answer."""
    arena = FakeArena()
    worker = FakeWorker(arena)
    memory = arena.memory
    link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, lambda at: None)
    link.sent(Chunk(Machine(), [1, 2], Function(len)))  # type: ignore[arg-type]
    worker.values += [1, 2]
    worker.flush(2, last=True)
    link.abandon()
    link.feed(bytes(worker.pipe))
    assert not link.ended
    assert not link.lost(WorkerLostError)


def test_what_was_kept_by_a_call_whose_outcome_was_read_in_the_log_is_not_freed():
    worker, freed = FakeWorker(FakeArena()), list[int]()
    memory, source = worker.arena.memory, Machine()
    link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, freed.append)
    chunk = Chunk(source, [0, 1, 2, 3], Function(len))  # type: ignore[arg-type]
    chunk.slabs = [[10], [11], [12], [13]]
    link.sent(chunk)
    words = worker.words
    words[BUSY] = 1
    for seq in (0, 1):  # two calls have ended, and the first has kept its argument
        assert worker.add(*worker.answer([seq], None), seq)
        words[SEQ] = seq + 1
    worker.lent.append((10, None))  # type: ignore[arg-type]
    link.recall()
    worker.note_recall()  # the third runs
    for back in link.take_back():
        back.requeue()
    assert source.ended == {0: [0], 1: [1]}
    assert list(source.waiting) == [[3]]
    assert not freed, "nothing says yet what was kept"
    worker.add(*worker.answer([2], None), 2)
    worker.flush(3)
    worker.give_back(1)
    link.feed(bytes(worker.pipe))
    assert source.ended == {0: [0], 1: [1], 2: [2]}
    assert freed == [11, 12, 13]
    worker.pipe.clear()
    worker.send_offsets(RELEASED, [10])
    link.feed(bytes(worker.pipe))
    assert freed == [11, 12, 13, 10]


class Interrupting:
    """Control words; a signal arrives right after one of them was written."""

    def __init__(self, words: Any, word: int, signal: Callable[[], None]) -> None:
        self.words, self.word, self.signal = words, word, signal

    def __getitem__(self, word: int) -> int:
        return self.words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self.words[word] = value
        if word == self.word:
            self.signal()


@pytest.mark.parametrize("word", [BUSY, SEQ])
@pytest.mark.parametrize("size", [1, 5])
def test_a_recall_that_meets_the_end_of_a_chunk_gives_nothing_back(word, size):
    worker = FakeWorker(FakeArena())
    memory, source = worker.arena.memory, Machine()
    link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, lambda at: None)
    link.sent(Chunk(source, list(range(size)), Function(len)))  # type: ignore[arg-type]
    worker.words[BUSY] = 1
    worker.words[SEQ] = size - 1
    link.recall()
    worker.words = Interrupting(worker.words, word, worker.note_recall)
    worker.values += range(size)
    worker.flush(size, last=True)
    assert not link.take_back()
    source.outcome = {i: i for i in range(size)}
    link.feed(bytes(worker.pipe))
    assert source.ended == source.outcome


def test_a_recall_between_the_last_answer_and_what_comes_back():
    worker = FakeWorker(FakeArena())
    memory, source = worker.arena.memory, Machine()
    link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, lambda at: None)
    chunk = Chunk(source, [0, 1, 2], Function(len))  # type: ignore[arg-type]
    link.sent(chunk)
    worker.words[BUSY] = 1
    link.recall()
    worker.note_recall()
    source.outcome = {i: i for i in range(3)}
    worker.values.append(0)
    worker.flush(1)
    link.feed(bytes(worker.pipe))
    worker.pipe.clear()
    assert link.take_back() == [chunk]  # all that is left of it
    chunk.requeue()
    worker.give_back(2)
    link.feed(bytes(worker.pipe))
    assert list(source.waiting) == [[1, 2]]
    assert source.ended == {0: 0}
    assert not link.in_flight


def test_cancels_are_read_once_or_twice_but_each():
    """A signal may come in while another's ranges are being read."""

    class Nested(list[Any]):
        def append(self, range_: Any) -> None:
            super().append(range_)
            if len(self) == 1:
                worker.note_cancelled()

    worker = FakeWorker(FakeArena())
    memory = worker.arena.memory
    link = Link(memory[:LOG_AT].cast("Q"), memory[LOG_AT:], lambda payload: None, lambda at: None)
    chunk = Chunk(Machine(), list(range(9)), Function(len))  # type: ignore[arg-type]
    link.sent(chunk)
    worker.cancelled = Nested()
    link.cancel(chunk, 3, 3)
    worker.note_cancelled()
    link.cancel(chunk, 7, 7)
    worker.note_cancelled()
    assert worker.is_cancelled(3)
    assert worker.is_cancelled(7)


TestLink = Machine.TestCase
TestLink.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
