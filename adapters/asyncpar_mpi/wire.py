"""Messages between rank 0 and the ranks that serve it: frames in one message, large buffers in their own.

Frames travel on one communicator, buffers on another, in pieces and in order. Both are duplicates, so that
nothing that a program sends itself can be taken for ours.

A message that has arrived is received with its exact size (``Improbe``, then a matched receive): mpi4py's
``irecv`` has a buffer of 32 KiB, past which one MPI truncates and another writes over the heap. The first probe
after a message came often only makes progress, so that a second has to look.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mpi4py import MPI

# Tags of messages to a rank ...
OPEN = 1  # a pool takes the rank: what it has to know of the program
FRAMES = 2  # see ``asyncpar.process.layout``; both ways
CONTROL = 3  # which calls were cancelled, and which are wanted back
RENEW = 4  # an actor or stream has gone: forget what lives here
CLOSE = 5  # the pool has gone
FINISH = 6  # the job is at its end
# ... and from it.
BEGAN = 7  # a chunk with a timeout has begun
KEPT = 8  # from which call on the rank gives back what is wanted back
CLOSED = 9  # the rank is free again

COUNT = struct.Struct("<I")
BUFFER = struct.Struct("<QQ")  # its number and its size
PIECE = 8 << 20
"""Bytes of a buffer that travel at once. One step of MPI's progress may copy all of it, which holds up the loop for
about 3 ms; counts in messages are bound to 2 GiB besides."""
PIECES = 2
"""Pieces that are being received at a time: the next is there when one has come."""
SENDS = 16
"""Messages on their way that are looked at in one go, in turn."""
HUGE = 2 << 20

Buffer = tuple[int, Any]


class Arrival(NamedTuple):
    """A message, without its buffers."""

    source: int
    tag: int
    body: memoryview


class Backoff:
    """When to look again: at once for a moment, then after an eighth of the time that nothing came, at most 20 ms.

    So waiting costs next to nothing, and nothing is noticed later than 12 % of the time it took.
    """

    SPIN = 200e-6
    MOST = 20e-3

    def __init__(self) -> None:
        self.since = time.perf_counter()

    def reset(self) -> None:
        self.since = time.perf_counter()

    def delay(self) -> float:
        """Seconds; 0 while spinning."""
        idle = time.perf_counter() - self.since
        return 0.0 if idle < self.SPIN else min(self.MOST, idle / 8)

    def wait(self, moved: bool = False) -> None:
        """Let others run meanwhile; what moves is waited for anew."""
        if moved:
            self.reset()
        delay = self.delay()
        if delay:
            time.sleep(delay)
        else:
            os.sched_yield()


class Incoming:
    """The buffers of one message, on their way."""

    def __init__(self, bulk: MPI.Intracomm, source: int, body: memoryview) -> None:
        self.bulk, self.source = bulk, source
        (count,) = COUNT.unpack_from(body)
        start = COUNT.size + BUFFER.size * count
        self.frames = bytes(body[start:])
        self.buffers: list[Buffer] = [
            (number, allocate(size)) for number, size in BUFFER.iter_unpack(body[COUNT.size : start])
        ]
        self.pieces = pieces(buffer for _, buffer in self.buffers)
        self.receiving: deque[MPI.Request] = deque()
        self.whole = not self.buffers
        self.moved = False  # whether something came at the last look

    def progress(self) -> bool:
        """Receive what has come; true when all of it has."""
        self.moved = False
        if self.whole:
            return True
        while self.receiving and self.receiving[0].Test():
            del self.receiving[0]
            self.moved = True
        while len(self.receiving) < PIECES:
            piece = next(self.pieces, None)
            if piece is None:
                break
            self.receiving.append(self.bulk.Irecv([piece, MPI.BYTE], self.source, FRAMES))
        self.whole = not self.receiving
        return self.whole


class Post:
    """One side's half of the talk. Making one is collective: every rank of ``comm`` makes its own."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.comm, self.bulk = comm.Dup(), comm.Dup()
        for made in (self.comm, self.bulk):
            made.Set_errhandler(MPI.ERRORS_RETURN)  # which mpi4py raises
        self.status = MPI.Status()
        self.sending: deque[tuple[MPI.Request, Any]] = deque()

    def send(self, rank: int, tag: int, body: bytes = b"") -> None:
        """Send without waiting; what is sent is kept until it has gone."""
        request = self.comm.Isend([body, MPI.BYTE], rank, tag)
        if not request.Test():
            self.sending.append((request, body))

    def send_frames(self, rank: int, frames: bytes, buffers: Iterable[Buffer] = ()) -> None:
        """Send frames, and the buffers that they name, which must not change meanwhile."""
        buffers = list(buffers)
        table = b"".join(BUFFER.pack(number, memoryview(buffer).nbytes) for number, buffer in buffers)
        self.send(rank, FRAMES, COUNT.pack(len(buffers)) + table + frames)
        for piece in pieces(buffer for _, buffer in buffers):
            self.sending.append((self.bulk.Isend([piece, MPI.BYTE], rank, FRAMES), piece))

    def progress(self) -> bool:
        """Let go of what was sent; true if something was."""
        before = len(self.sending)
        for _ in range(min(before, SENDS)):  # all of a long queue at each look would take forever
            request, kept = self.sending.popleft()
            if not request.Test():
                self.sending.append((request, kept))
        return len(self.sending) < before

    def receive(self, source: int = MPI.ANY_SOURCE) -> Arrival | None:
        """The next message, if one is there."""
        probe, status = self.comm.Improbe, self.status
        message = probe(source, MPI.ANY_TAG, status) or probe(source, MPI.ANY_TAG, status)
        if message is None:
            return None
        source, tag = status.Get_source(), status.Get_tag()
        body = bytearray(status.Get_count(MPI.BYTE))
        message.Recv([body, MPI.BYTE])
        return Arrival(source, tag, memoryview(body))

    def close(self) -> None:
        """Let go of the communicators. Collective."""
        self.comm.Free()
        self.bulk.Free()


def pieces(buffers: Iterable[Any]) -> Iterator[memoryview]:
    """The buffers, cut."""
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        for start in range(0, len(view), PIECE):
            yield view[start : start + PIECE]


def allocate(size: int) -> Any:
    """A writable buffer that goes when nobody reads it any more. Fresh pages cost most of a copy: large ones less."""
    pages = mmap.mmap(-1, size)
    if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a kernel without them
            pass
    return pages


def copied(buffer: memoryview) -> Any:
    """A copy, made without the GIL where NumPy is there."""
    made = allocate(buffer.nbytes)
    numpy = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "copyto"):
        numpy.copyto(numpy.frombuffer(made, "u1"), numpy.frombuffer(buffer, "u1"))
        return made
    for start in range(0, buffer.nbytes, PIECE):  # the GIL can change hands between pieces
        made[start : start + PIECE] = buffer[start : start + PIECE]
    return made
