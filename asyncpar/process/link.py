"""What the loop knows of one worker: which calls it has, what came back, what a death costs. No I/O."""

from __future__ import annotations

import pickle
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any

from asyncpar.chunks import Chunk, Errors
from asyncpar.errors import SerializationError, said
from asyncpar.process import transit
from asyncpar.process.layout import (
    BUSY,
    CANCELS,
    ERROR,
    HEADER,
    HELD,
    INTEGERS,
    KEPT,
    LOG,
    LOG_SIZE,
    LOGGED,
    MODE,
    PARCEL,
    PICKLED,
    RANGES,
    READY,
    RECALL,
    RELEASED,
    RESULTS,
    RETURNED,
    RING,
    SEQ,
    SIZE,
    SLABS,
    STOPPED,
    VALUES,
)  # fmt: skip

HEAVY = 1 << 20
"""Pickles of 1 MiB and more are read off the loop's thread: 1 MiB takes about a millisecond."""
Unpack = Callable[[bytes], Any]


class Nobody:
    """The source of calls that were taken back: what their first worker says of them matters no more."""

    offered = False

    def take(self, busy: bool) -> Chunk | None:
        return None

    def waiting(self) -> bool:
        return False

    def deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        pass

    def requeue(self, chunk: Chunk, first: int) -> None:
        pass


NOBODY = Nobody()


class Link:
    """The state of one worker. ``unpack`` reads payloads that name slabs, ``free`` takes our slabs back."""

    def __init__(self, words: Any, log: Any, unpack: Unpack, free: Callable[[int], None]) -> None:
        self.words, self.log = words, log
        self.unpack, self.free = unpack, free
        self.in_flight: deque[Chunk] = deque()
        self.next_seq = 0  # of the next call to be sent
        self.delivered = 0  # of the next call whose outcome is to be delivered
        self.answered = 0  # of the next call the worker is to answer; less, if outcomes were read in its log
        self.recalling = False
        self.held: set[int] = set()
        self.early: deque[Sequence[int]] = deque()  # slabs of calls whose outcome was read in the log
        self.data = b""
        self.more: list[bytes] = []  # what came behind ``data``, whose first frame is not whole yet, or heavy
        self.missing = 0  # bytes of that frame
        self.heavy: bytes | None = None  # a payload that somebody should read in a thread, then ``resume``
        self.abandoned = False
        self.ended: list[Chunk] = []  # chunks that ended since the last look
        self.messages: list[tuple[int, bytes, str | None]] = []  # LOG and READY, and during which call
        for i in range(RANGES):
            words[i] = 0

    # -- sending

    def sent(self, chunk: Chunk) -> None:
        """The chunk is on its way."""
        chunk.seq = self.next_seq
        self.next_seq += len(chunk.items)
        self.in_flight.append(chunk)

    def cancel(self, chunk: Chunk, first: int, last: int) -> bool:
        """Mark calls of a chunk as cancelled; true if one of them may be running."""
        self.mark_cancelled(chunk.seq + first, chunk.seq + last)
        return self.running_in(chunk, first, last)

    def mark_cancelled(self, first: int, last: int) -> None:
        """Let the worker skip these calls, by their numbers; it has to be signalled."""
        words = self.words
        count = words[CANCELS]
        at = RANGES + 2 * (count % RING)
        words[at], words[at + 1] = first, last
        words[CANCELS] = count + 1

    def running_in(self, chunk: Chunk, first: int, last: int) -> bool:
        """Whether one of these calls is running now."""
        return bool(self.words[BUSY]) and chunk.seq + first <= self.words[SEQ] <= chunk.seq + last

    # -- taking back

    def stuck(self, seq: int) -> bool:
        """Whether the call that ran at the last look, ``seq``, runs still, and others wait behind it."""
        words = self.words
        waiting = seq + 1 < self.next_seq and words[RECALL] < self.next_seq and not self.behind()
        return waiting and bool(words[BUSY]) and bool(words[SEQ] == seq)

    def behind(self) -> bool:
        """Whether the worker is at calls that were taken back: it has only to say so."""
        return bool(self.in_flight) and self.in_flight[0].source is NOBODY

    def recall(self) -> None:
        """Ask for what has not begun; the worker has to be signalled, and answers as soon as it can."""
        self.words[KEPT] = 0
        self.words[RECALL] = self.next_seq
        self.recalling = True

    def take_back(self) -> list[Chunk]:
        """What the worker has agreed not to begin, to be run elsewhere; its place here is kept by the dead,

        for the worker's answer to such calls is still to come, in its order. What it has finished, and would
        send with the long call, is delivered now.
        """
        words = self.words
        kept, end = words[KEPT] - 1, words[RECALL]
        if not self.recalling or kept < 0:
            return []
        self.recalling = False
        self._read_live_log(kept - 1)
        back: list[Chunk] = []
        chunks, self.in_flight = self.in_flight, deque()
        for chunk in chunks:
            first = max(kept - chunk.seq, chunk.done, 0)
            if first >= len(chunk.items) or chunk.seq >= end:
                self.in_flight.append(chunk)
                continue
            dead = Chunk(NOBODY, chunk.items[first:], chunk.function)
            dead.seq = chunk.seq + first
            if not chunk.singles:  # the worker may still read the frame that it came in
                dead.slabs = chunk.slabs[first:]
            chunk.slabs = chunk.slabs[:first]
            back.append(chunk.split(first))
            if back[-1] is not chunk:
                self.in_flight.append(chunk)
            self.in_flight.append(dead)
        return back

    def _read_live_log(self, end: int) -> None:
        """Deliver the calls before ``end`` that the worker has finished and not sent, if it does not send them now."""
        words = self.words
        seq, mode, log = words[LOGGED], words[MODE], bytes(self.log)
        if words[LOGGED] == seq and seq <= self.delivered < end:  # else its last answer is in the pipe
            self._read_log(seq, end, mode, memoryview(log))

    # -- receiving

    def feed(self, data: bytes) -> None:
        """Take bytes from the worker: outcomes go to their chunks."""
        if self.abandoned:
            return
        self.more.append(data)
        self.missing -= len(data)
        if self.heavy is None and self.missing <= 0:
            self._parse()

    def resume(self, value: Any, error: BaseException | None) -> None:
        """The heavy payload was read elsewhere: go on behind it."""
        size, _, _, count, aux = HEADER.unpack_from(self.data)
        body = self.data[HEADER.size : HEADER.size + size]
        self.data = self.data[HEADER.size + size :]
        self.heavy = None
        self._results(body, count, aux, (value, error))
        self._parse()

    def _parse(self) -> None:
        data = b"".join((self.data, *self.more)) if self.data else b"".join(self.more)
        self.more.clear()
        self.missing = 0
        at, end = 0, len(data)
        while end - at >= HEADER.size:
            size, kind, flags, count, aux = HEADER.unpack_from(data, at)
            start = at + HEADER.size
            if start + size > end:
                self.missing = start + size - end
                break
            body = data[start : start + size]
            if flags & PARCEL and _weight(body[4:]) >= HEAVY:
                self.heavy = body[4:]
                break
            at = start + size
            if kind == RESULTS:
                self._results(body, count, aux)
            elif kind == VALUES:
                self._values(body, count, aux)
            else:
                self._small(kind, count, body)
        self.data = data[at:]

    def load(self, payload: bytes, parcel: bool) -> tuple[Any, Exception | None]:
        """The value in a payload, or the error that says why it cannot be read."""
        try:
            return (self.unpack(payload) if parcel else pickle.loads(payload)), None
        except Exception as error:  # the user's classes may raise anything
            made = SerializationError(
                f"the result cannot be unpickled here: {type(error).__name__}: {said(error)}"
            )
            made.__cause__ = error
            return None, made

    def _results(
        self, body: bytes, count: int, aux: int, given: tuple[Any, BaseException | None] | None = None
    ) -> None:
        chunk = self.in_flight[0]
        chunk.function.measured(aux / 1e6, count)
        known = self._answer(count)
        marks = struct.unpack_from(f"<{count}I", body)
        sizes = marks if max(marks) <= SIZE else [mark & SIZE for mark in marks]
        ends = pairwise(accumulate(sizes, initial=4 * count))
        blobs = [body[start:end] for start, end in ends][known:]
        values: list[Any] | None = None
        errors: Errors = {}
        weight = len(body)
        if sizes is marks:
            with suppress(Exception):  # the user's classes may raise anything: below it is said by which
                values = list(map(pickle.loads, blobs))
        if values is None:
            values = []
            for i, (mark, blob) in enumerate(zip(marks[known:], blobs, strict=True)):
                value, error = given or self._outcome(mark, blob)
                values.append(value)
                if mark & SLABS:
                    weight += _lent(blob)
                if error is not None:
                    errors[i] = error
        self._deliver(chunk, values, errors or None, weight)

    def _outcome(self, mark: int, blob: bytes) -> tuple[Any, BaseException | None]:
        if mark & ERROR:
            return None, transit.load_error(blob)
        return self.load(blob, bool(mark & SLABS))

    def _values(self, body: bytes, count: int, aux: int) -> None:
        chunk = self.in_flight[0]
        chunk.function.measured(aux / 1e6, count)
        values = pickle.loads(body)
        if known := self._answer(count):
            values = values[known:]
        self._deliver(chunk, values, None, len(body))

    def _answer(self, count: int) -> int:
        """Take note that the worker has answered so many calls; how many of these were read in its log before."""
        known = self.delivered - self.answered
        self.answered += count
        for _ in range(min(known, count)):
            self._free(self.early.popleft())
        return known

    def _small(self, kind: int, count: int, body: bytes) -> None:
        if kind == STOPPED:
            chunk = self.in_flight[0]
            self._settle(chunk, count)
            self._skip(count)
            chunk.stopped(count)
            self._end(chunk)
        elif kind == RETURNED:
            self._returned(count)
        elif kind == HELD:
            self.held.update(struct.unpack(f"<{count}Q", body))
        elif kind == RELEASED:
            for at in struct.unpack(f"<{count}Q", body):
                self.held.discard(at)
                self.free(at)
        elif kind in (LOG, READY):
            running = self.in_flight[0] if self.in_flight else None
            self.messages.append((kind, body, None if running is None else running.label(running.done)))

    def _returned(self, count: int) -> None:
        """The worker did not begin these calls: they were taken back already, or are now."""
        self._skip(count)
        while count:  # a part of them may have been taken back by another recall
            chunk = self.in_flight[0]
            left = len(chunk.items) - chunk.done
            count -= left
            if not chunk.singles:
                self._settle(chunk, left)
            chunk.requeue()
            self._end(chunk)

    def _deliver(self, chunk: Chunk, values: list[Any], errors: Errors | None, weight: int = 0) -> None:
        self._settle(chunk, len(values))
        self._take(chunk, values, errors, weight)

    def _take(self, chunk: Chunk, values: list[Any], errors: Errors | None, weight: int = 0) -> None:
        self.delivered += len(values)
        if chunk.block is not None:  # it is a map's
            chunk.source.window.grow(chunk.block, weight)  # type: ignore[attr-defined]
        chunk.deliver(values, errors)
        self._end(chunk)

    def _skip(self, count: int) -> None:
        """The next calls have no outcome of this worker's."""
        self.delivered += count
        self.answered += count

    def _end(self, chunk: Chunk) -> None:
        if chunk.done >= len(chunk.items):
            self.in_flight.popleft()
            self.ended.append(chunk)

    def _settle(self, chunk: Chunk, count: int) -> None:
        """The arguments of the next calls were used: their slabs are free, unless the function kept them."""
        if chunk.slabs:
            for slabs in chunk.slabs[chunk.done : chunk.done + count]:
                self._free(slabs)

    def _free(self, slabs: Sequence[int]) -> None:
        for at in slabs:
            if at not in self.held:
                self.free(at)

    # -- death

    def abandon(self) -> None:
        """Every call here has been given an outcome: whatever the worker still says is for nobody."""
        self.abandoned = True
        self.in_flight.clear()
        self.heavy = None

    def release(self) -> None:
        """Let go of the shared memory."""
        self.words.release()
        self.log.release()

    def lost(self, error: Callable[[str], BaseException]) -> bool:
        """The worker is dead and its pipe read to the end. True if a running call was lost.

        What it had finished is in its log; the call that was running is lost; the others never started.
        """
        words = self.words
        running = words[SEQ]
        if self.in_flight and self.delivered < running:
            self._read_log(words[LOGGED], running, words[MODE], self.log)
        struck = False
        if (
            self.in_flight
            and words[BUSY]
            and self.delivered == running
            and self.in_flight[0].source is not NOBODY
        ):
            chunk = self.in_flight[0]
            self._settle(chunk, 1)
            struck = True
            chunk.lost(error(chunk.label(chunk.done)))
            self._end(chunk)
        self.ended.extend(self.in_flight)
        for chunk in reversed(self.in_flight):
            if not chunk.singles:  # the arguments of those stay where they are, to be sent again
                self._settle(chunk, len(chunk.items) - chunk.done)
            chunk.requeue()
        self.in_flight.clear()
        while self.early:
            self._free(self.early.popleft())
        for at in self.held:
            self.free(at)
        self.held.clear()
        return struck

    def _read_log(self, seq: int, end: int, mode: int, log: memoryview) -> None:
        if mode != PICKLED:
            numbers = log[: 8 * (LOG_SIZE // 8)].cast("q" if mode == INTEGERS else "d")
            for value in list(numbers[self.delivered - seq : end - seq]):
                self._logged(value, None)
            return
        at = 0
        while seq < end and at + 4 <= LOG_SIZE:
            (mark,) = struct.unpack_from("<I", log, at)
            blob = bytes(log[at + 4 : at + 4 + (mark & SIZE)])
            at += 4 + (mark & SIZE)
            if seq >= self.delivered:
                self._logged(*self._outcome(mark, blob))
            seq += 1

    def _logged(self, value: Any, error: BaseException | None) -> None:
        """Deliver what the log has. Whether the function kept its arguments is said in the pipe, with the answer."""
        chunk = self.in_flight[0]
        self.early.append([at for slabs in chunk.slabs[chunk.done : chunk.done + 1] for at in slabs])
        self._take(chunk, [value], None if error is None else {0: error})


def _weight(payload: bytes) -> int:
    """Bytes of a pickle that lies in shared memory."""
    data, refs = pickle.loads(payload)
    return refs[1] if data is None else 0


def _lent(payload: bytes) -> int:
    """Bytes of shared memory that a payload names."""
    return sum(pickle.loads(payload)[1][1::2])
