"""Objects on their way: a head, the pickle, and large buffers, which travel beside it, each in pieces.

A head is of one size where all ranks take part, and takes a small object along. Of two ranks that talk to each other
one sees the size of the head that comes.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from mpi4py import MPI

from asyncpar.errors import SerializationError, describe
from asyncpar_mpi.arrays import Array
from asyncpar_mpi.progress import Begin, Steps, complete, complete_all, find, pieces
from asyncpar_mpi.wire import HUGE, PIECE, PIECES, allocate

HEAD = struct.Struct("<BHIQ")  # kind, tag of the rest, number of buffers, size of the body in bytes
BLOCK = 1024
"""Bytes of a head in a collective operation: a smaller object takes one step of it."""
INLINE = 1 << 16
"""Bytes that a message takes along with its head. Larger buffers travel beside the pickle."""
VALUE, REFUSAL, RAW = range(3)
SIZE = struct.Struct("<Q")

Move = Callable[[Iterable[memoryview]], Steps[None]]


class Parcel(NamedTuple):
    """An object that is to travel. Its body: the sizes of the buffers, then the pickle.

    :ivar error: why it is a refusal, if it is one
    """

    kind: int
    body: bytes
    buffers: list[memoryview]
    error: Exception | None = None

    def head(self, most: int, tag: int = 0) -> bytes:
        """The head, and the body if both are no larger than so many bytes."""
        head = HEAD.pack(self.kind, tag, len(self.buffers), len(self.body))
        return head + self.body if HEAD.size + len(self.body) <= most else head

    def block(self) -> bytes:
        return self.head(BLOCK).ljust(BLOCK, b"\0")

    def rest(self, most: int) -> list[memoryview]:
        """What its head has no room for."""
        inline = HEAD.size + len(self.body) <= most
        return self.buffers if inline else [memoryview(self.body), *self.buffers]


class Arrived(NamedTuple):
    """What came of a parcel, not yet unpickled."""

    kind: int
    body: memoryview
    buffers: list[Any]


def pack(value: object, name: str, rank: int) -> Parcel:
    """Pickle an object; a refusal if it cannot be."""
    buffers: list[memoryview] = []

    def beside(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous: the pickle takes it
            return True
        if len(view) < INLINE:
            return True
        buffers.append(view)
        return False

    try:
        stream = pickle.dumps(value, 5, buffer_callback=beside)
    except Exception as error:  # the user's __reduce__ may raise anything
        refused = SerializationError(
            f"{name}: {describe(value)} of rank {rank} cannot be pickled ({type(error).__name__}: {error})"
        )
        refused.__cause__ = error
        return refusal(refused)
    sizes = b"".join(SIZE.pack(len(buffer)) for buffer in buffers)
    return Parcel(VALUE, sizes + stream if sizes else stream, buffers)


def refusal(error: Exception) -> Parcel:
    """What travels in place of an object, so that whoever waits for it learns that it does not come."""
    try:
        body = pickle.dumps(error, 5)
        pickle.loads(body)
    except Exception:  # the user's exception may not be made for that
        body = pickle.dumps(SerializationError(f"{type(error).__name__}: {error}"), 5)
    return Parcel(REFUSAL, body, [], error)


def load(arrived: Arrived, name: str) -> Any:
    """The object.

    :raises SerializationError: it cannot be unpickled here
    :raises Exception: what the sender's refusal is
    """
    stream = arrived.body[SIZE.size * len(arrived.buffers) :]
    try:
        value = pickle.loads(stream, buffers=arrived.buffers)
    except Exception as error:  # the user's __setstate__ may raise anything
        raise SerializationError(
            f"{name}: what came cannot be unpickled on this rank ({type(error).__name__}: {error})"
        ) from error
    if arrived.kind == REFUSAL:
        raise value
    return value


def own(parcel: Parcel) -> Arrived:
    """What a rank sends to itself: a copy, as from any other."""
    return Arrived(parcel.kind, memoryview(parcel.body), [bytearray(buffer) for buffer in parcel.buffers])


# -- the way of one object


def fetch(head: memoryview, move: Move) -> Steps[Arrived]:
    """Take in what belongs to a head. ``move`` receives into buffers."""
    kind, _, count, size = HEAD.unpack_from(head)
    body = head[HEAD.size : HEAD.size + size]
    if HEAD.size + size > len(head):
        body = memoryview(_space(size))
        yield from move([body])
    sizes = [SIZE.unpack_from(body, SIZE.size * index)[0] for index in range(count)]
    buffers = [_space(size) for size in sizes]
    if buffers:
        yield from move([memoryview(buffer) for buffer in buffers])
    return Arrived(kind, body, buffers)


def _space(size: int) -> Any:
    return allocate(size) if size >= HUGE else bytearray(size)


def cut(views: Iterable[memoryview], begin: Callable[[Any], MPI.Request]) -> Iterator[Begin]:
    """One request for each piece."""
    for view in views:
        for piece in pieces(view, PIECE):
            yield partial(begin, [piece, MPI.BYTE])


def send_to(comm: MPI.Intracomm, rank: int, tag: int, views: Iterable[memoryview]) -> Steps[None]:
    return complete_all(cut(views, lambda spec: comm.Isend(spec, rank, tag)), PIECES)


def receive_from(comm: MPI.Intracomm, rank: int, tag: int, views: Iterable[memoryview]) -> Steps[None]:
    return complete_all(cut(views, lambda spec: comm.Irecv(spec, rank, tag)), PIECES)


def spread(comm: MPI.Intracomm, root: int, views: Iterable[memoryview]) -> Steps[None]:
    return complete_all(cut(views, lambda spec: comm.Ibcast(spec, root)), PIECES)


class Line(NamedTuple):
    """A way from rank to rank: heads travel on one communicator, the rest on another, where each has its own tag.

    :ivar loose: whether who waits for a head may give up
    """

    heads: MPI.Intracomm
    bulk: MPI.Intracomm
    loose: bool

    def put(self, parcel: Parcel, rank: int, tag: int, rest_tag: int) -> Steps[None]:
        """Send it."""
        head = parcel.head(INLINE, rest_tag)
        yield from together_in_order(
            partial(self.heads.Isend, [head, MPI.BYTE], rank, tag),
            cut(parcel.rest(INLINE), lambda spec: self.bulk.Isend(spec, rank, rest_tag)),
        )

    def take_head(self, rank: int, tag: int, status: MPI.Status) -> Steps[memoryview]:
        """Receive the next head, with what it takes along."""
        message = yield from find(self.heads, rank, tag, status, loose=self.loose)
        head = bytearray(status.Get_count(MPI.BYTE))
        yield from complete(message.Irecv([head, MPI.BYTE]), head)
        return memoryview(head)

    def take(self, rank: int, tag: int, status: MPI.Status) -> Steps[Arrived]:
        """Receive the next object."""
        head = yield from self.take_head(rank, tag, status)
        return (yield from fetch(head, self._rest_of(head, status)))

    def _rest_of(self, head: memoryview, status: MPI.Status) -> Move:
        return partial(receive_from, self.bulk, status.source, HEAD.unpack_from(head)[1])

    def take_into(
        self, array: Array | None, rank: int, tag: int, status: MPI.Status
    ) -> Steps[Arrived | None]:
        """Receive the next object, or what comes for a buffer. What is not as expected is received all the same."""
        head = yield from self.take_head(rank, tag, status)
        kind, _, _, size = HEAD.unpack_from(head)
        rest = self._rest_of(head, status)
        if array is not None and kind == RAW and size <= len(array.bytes):
            if HEAD.size + size <= len(head):
                array.bytes[:size] = head[HEAD.size : HEAD.size + size]
            else:
                yield from rest([array.bytes[:size]])
            status.Set_elements(MPI.BYTE, size)
            return None
        arrived = yield from fetch(head, rest)
        if array is not None and kind == RAW:
            raise ValueError(
                f"Recv(): rank {status.source} sent {size} bytes, but buf holds {array.items}: give a larger one"
            )
        if (array is None) == (kind == RAW):
            sent, ours = ("Send()", "Recv()") if kind == RAW else ("send()", "recv()")
            raise TypeError(f"rank {status.source} used {sent}: receive that by {ours}, on a tag of its own")
        return arrived


def together_in_order(first: Begin, others: Iterator[Begin]) -> Steps[None]:
    """The head, and the rest while it is on its way."""

    def begins() -> Iterator[Begin]:
        yield first
        yield from others

    return complete_all(begins(), PIECES)
