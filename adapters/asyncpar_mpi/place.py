"""A rank's place on the loop's side: what goes there, what comes from there, and the state of the talk with it."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncpar.chunks import Chunk
from asyncpar.process.arena import slabs, unpack
from asyncpar.process.layout import (
    BUSY,
    CANCELS,
    FUNCTION,
    HEADER,
    KEPT,
    LOG_AT,
    LOGGED,
    RANGES,
    RECALL,
    RING,
    SEQ,
    SHARE,
)
from asyncpar.process.link import NOBODY, Link
from asyncpar.process.place import Place
from asyncpar_mpi import wire
from asyncpar_mpi.buffers import Buffers
from asyncpar_mpi.worker import RANGE, WORD

if TYPE_CHECKING:
    from asyncpar_mpi.fleet import Fleet
    from asyncpar_mpi.pool import MPIPool

NEVER = 1 << 62


class RankPlace(Place):
    """One rank, and the messages to and from it.

    The control words that a process pool shares with its workers are a copy here, which follows the answers: the call
    that runs is taken to be the first without an outcome.
    """

    def __init__(self, pool: MPIPool, fleet: Fleet, rank: int) -> None:  # its pipes are messages
        self.pool, self.fleet, self.slot = pool, fleet, rank
        self.pid, self.host = fleet.ranks[rank]
        self.load = self.calls = 0
        self.retired = self.gone = self.served = self.stuck = False
        self.ready = float("inf")
        self.seen = -1
        self.heavy = None
        self.functions = set()
        self.constants = set()
        packed: Any = pool.nursery.arena
        self.packed: Buffers = packed
        self.received = Buffers(copies=False)
        self.link = RankLink(
            memoryview(bytearray(LOG_AT)).cast("Q"), memoryview(b""), self.unpack, self.packed.free
        )
        self.link.words[LOGGED] = NEVER  # there is no log to be read
        self.frames: list[bytes] = []
        self.luggage: list[wire.Buffer] = []
        self.flushing = False
        self.told = 0  # cancelled ranges
        self.incoming: deque[wire.Incoming] = deque()
        self.heard = time.monotonic()  # when the first call without an outcome may have begun at the earliest
        self.begun = -1  # the call with which a timed chunk began
        self.closing = False

    # -- to the rank

    def write(self, data: bytes, numbers: Iterable[int] = ()) -> None:
        """Send frames, and the packed buffers that they name, with all else of this turn of the loop."""
        if self.gone or not data:
            return
        at = 0
        while at < len(data):
            size, kind, *_ = HEADER.unpack_from(data, at)
            if kind not in (FUNCTION, SHARE):
                break  # calls: their buffers are given
            at += HEADER.size + size
            if kind == SHARE:
                self.luggage += self.packed.named(slabs(data[at - size : at]))
        self.luggage += self.packed.named(numbers)
        self.frames.append(data)
        if not self.flushing:
            self.flushing = True
            self.pool.loop.call_soon(self.flush)

    def flush(self) -> None:
        self.flushing = False
        if self.gone or not self.frames:
            return
        frames, luggage = b"".join(self.frames), self.luggage
        self.frames, self.luggage = [], []
        self.fleet.send_frames(self, frames, luggage)

    def send(self, tag: int, body: bytes = b"") -> None:
        """Send something else, behind the frames so far."""
        if not self.gone:
            self.flush()
            self.fleet.send(self, tag, body)

    def signal(self, number: int) -> bool:
        """Tell the rank what was cancelled and what is wanted back. It cannot be killed."""
        if number != signal.SIGINT or self.gone:
            return False
        words = self.link.words
        ranges = [RANGES + 2 * (i % RING) for i in range(self.told, words[CANCELS])]
        self.told = words[CANCELS]
        body = b"".join(RANGE.pack(words[at], words[at + 1]) for at in ranges)
        self.send(wire.CONTROL, WORD.pack(words[RECALL]) + body)
        return True

    # -- from the rank

    @property
    def expects(self) -> bool:
        """Whether something is to come."""
        return bool(self.link.in_flight) or self.ready == float("inf") or self.closing or bool(self.incoming)

    def arrived(self, tag: int, body: memoryview) -> None:
        """A message has come."""
        if tag == wire.FRAMES:
            self.incoming.append(wire.Incoming(self.fleet.post.bulk, self.slot, body))
            self.advance()
        elif tag == wire.BEGAN:
            (self.begun,) = WORD.unpack(body)
            self.heard = time.monotonic()
        elif tag == wire.KEPT:
            (self.link.words[KEPT],) = WORD.unpack(body)
        elif tag == wire.CLOSED:
            self.closing = False
            self.fleet.released(self)

    def advance(self) -> bool:
        """Take in the messages that are whole; true if something came."""
        came = False
        while self.incoming:
            whole = self.incoming[0].progress()
            came = came or whole or self.incoming[0].moved
            if not whole:
                break
            luggage = self.incoming.popleft()
            self.received.received.update(luggage.buffers)
            self.link.feed(luggage.frames)
            self.look()
            self.after()
        return came

    def look(self) -> None:
        """Bring the control words up to the answers."""
        link, words = self.link, self.link.words
        if words[SEQ] != link.answered:
            words[SEQ] = link.answered
            self.heard = time.monotonic()
        words[BUSY] = bool(link.in_flight)

    def unpack(self, payload: bytes) -> Any:
        return unpack(self.received, payload, lambda number, view: None)  # type: ignore[arg-type]

    # -- life

    def is_stopped(self) -> bool:
        """Whether the rank's process is stopped, as by SIGSTOP: seen on this machine only, and on Linux."""
        if self.host != self.fleet.ranks[0][1]:
            return False
        try:
            status = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] in "Tt"

    def died(self, exitcode: int, over: int) -> None:
        """MPI says that the rank has gone; everything that it had said is taken in."""
        if not self.gone:
            self.gone = True
            self.incoming.clear()
            self.pool.buried(self, exitcode, over)

    def leave_if_idle(self) -> None:
        """A rank that is lent to an actor changes hands when it has nothing to do: who waits for that looks."""


class RankLink(Link):
    """What the loop knows of one rank."""

    def forsake(self) -> list[Chunk]:
        """The running call goes on for nobody, and what waits behind it moves on: returned, the first of it split off.

        Whatever the rank still says of these is for nobody, and keeps the order of its answers.
        """
        chunks = list(self.in_flight)
        self.in_flight.clear()
        for chunk in chunks:
            dead = Chunk(NOBODY, chunk.items[chunk.done :], chunk.function)
            dead.seq = chunk.seq + chunk.done
            if not chunk.singles:  # the rank may still read what it came in
                dead.slabs, chunk.slabs = chunk.slabs[chunk.done :], chunk.slabs[: chunk.done]
            elif chunk is chunks[0]:  # the running call's arguments; those of the others are sent again
                dead.slabs, chunk.slabs = chunk.slabs[chunk.done : chunk.done + 1], ()
            self.in_flight.append(dead)
        return [chunk for chunk in chunks if chunk.source is not NOBODY]

    def running_in(self, chunk: Chunk, first: int, last: int) -> bool:
        return bool(self.in_flight) and chunk.seq + first <= self.answered <= chunk.seq + last


def numbers_of(chunk: Chunk) -> Iterable[int]:
    """The packed buffers that a chunk names."""
    return chain.from_iterable(chunk.slabs)
