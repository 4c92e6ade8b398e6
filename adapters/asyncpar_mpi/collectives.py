"""The steps of what all ranks of a channel do together, for objects and for buffers.

MPI's own collective operations take the heads of objects, and what is small. What is large goes from rank to rank in
pieces: one step of MPI's progress may copy, or add up, all that one request has, and the loop waits for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from mpi4py import MPI

from asyncpar_mpi import parcels
from asyncpar_mpi.arrays import Array
from asyncpar_mpi.errors import ChannelError
from asyncpar_mpi.parcels import BLOCK, Arrived, Line, Parcel
from asyncpar_mpi.progress import Begin, Stand, Steps, complete, complete_all, pieces, together
from asyncpar_mpi.wire import PIECES

TAG = 1 << 14
"""Of what travels from rank to rank within a collective operation; below are those of ``send``."""
WHOLE = 1 << 20
"""Bytes a rank up to which a buffer is given to MPI's operation as it is."""
SUM_PIECE = 4 << 20
"""Bytes that MPI adds up at once: about 5 ms of the loop's time."""
CALL = struct.Struct("<16siq")

Reduction = Callable[[Any, Any], Any]


class Agreement(NamedTuple):
    """What the ranks must agree on.

    :ivar size: bytes a rank, or -1 where they may differ
    """

    name: str
    root: int = -1
    size: int = -1

    def __str__(self) -> str:
        root = "" if self.root < 0 else f"root={self.root}"
        size = "" if self.size < 0 else f"{self.size} bytes"
        return f"{self.name}({', '.join(filter(None, (root, size)))})"


class Ranks(NamedTuple):
    """The two communicators of a channel: one for heads and MPI's operations, one for the rest."""

    comm: MPI.Intracomm
    bulk: MPI.Intracomm

    @property
    def rank(self) -> int:
        return self.comm.rank

    @property
    def size(self) -> int:
        return self.comm.size

    def others(self) -> list[int]:
        return [rank for rank in range(self.size) if rank != self.rank]

    def fetch(self, block: memoryview, rank: int) -> Steps[Arrived]:
        return parcels.fetch(block, partial(parcels.receive_from, self.bulk, rank, TAG))

    def send_rest(self, parcel: Parcel, rank: int) -> Steps[None]:
        return parcels.send_to(self.bulk, rank, TAG, parcel.rest(BLOCK))

    # -- agreeing

    def agree(self, call: Agreement) -> Steps[None]:
        """See that every rank does the same.

        :raises ChannelError: one does not; on every rank
        """
        mine = CALL.pack(call.name.encode(), call.root, call.size)
        theirs = bytearray(CALL.size * self.size)
        request = self.comm.Iallgather([mine, MPI.BYTE], [theirs, MPI.BYTE])
        yield from complete(request, (mine, theirs))
        calls = [
            Agreement(name.rstrip(b"\0").decode(), root, size)
            for name, root, size in CALL.iter_unpack(theirs)
        ]
        if len(set(calls)) > 1:
            told = ", ".join(f"rank {rank} in {each}" for rank, each in enumerate(calls))
            raise ChannelError(
                f"the ranks of this channel are not in the same operation: {told}. Call them in one order on every rank, "
                "or on a channel for each order: async with comm.dup() as channel"
            )

    # -- objects

    def barrier(self) -> Steps[None]:
        yield from complete(self.comm.Ibarrier())

    def bcast(self, parcel: Parcel | None, root: int) -> Steps[Arrived | None]:
        block = bytearray(BLOCK if parcel is None else parcel.block())
        yield from complete(self.comm.Ibcast([block, MPI.BYTE], root), block)
        move = partial(parcels.spread, self.comm, root)
        if parcel is None:
            return (yield from parcels.fetch(memoryview(block), move))
        yield from move(parcel.rest(BLOCK))
        return None

    def scatter(self, sent: list[Parcel] | None, root: int) -> Steps[Arrived]:
        block = bytearray(BLOCK)
        blocks = None if sent is None else [b"".join(parcel.block() for parcel in sent), MPI.BYTE]
        yield from complete(self.comm.Iscatter(blocks, [block, MPI.BYTE], root), (blocks, block))
        if sent is None:
            return (yield from self.fetch(memoryview(block), root))
        yield from together(self.send_rest(sent[rank], rank) for rank in self.others())
        return parcels.own(sent[root])

    def gather(self, parcel: Parcel, root: int) -> Steps[list[Arrived] | None]:
        block = parcel.block()
        blocks = bytearray(BLOCK * self.size) if self.rank == root else b""
        spec = [blocks, MPI.BYTE] if self.rank == root else None
        yield from complete(self.comm.Igather([block, MPI.BYTE], spec, root), (block, blocks))
        if self.rank != root:
            yield from self.send_rest(parcel, root)
            return None
        return (yield from self._fetch_all(memoryview(blocks), parcel))

    def _fetch_all(self, blocks: memoryview, mine: Parcel) -> Steps[list[Arrived]]:
        arrived = yield from together(
            self.fetch(blocks[rank * BLOCK : (rank + 1) * BLOCK], rank) for rank in self.others()
        )
        arrived.insert(self.rank, parcels.own(mine))
        return arrived

    def allgather(self, parcel: Parcel) -> Steps[list[Arrived]]:
        block, blocks = parcel.block(), bytearray(BLOCK * self.size)
        request = self.comm.Iallgather([block, MPI.BYTE], [blocks, MPI.BYTE])
        yield from complete(request, (block, blocks))
        return (yield from self._spread_all(memoryview(blocks), parcel))

    def _spread_all(self, blocks: memoryview, mine: Parcel) -> Steps[list[Arrived]]:
        """Each rank's in its turn: ranks must begin them in one order, whatever comes first."""
        arrived: list[Arrived] = []
        for rank in range(self.size):
            move = partial(parcels.spread, self.comm, rank)
            if rank == self.rank:
                yield from move(mine.rest(BLOCK))
                arrived.append(parcels.own(mine))
            else:
                arrived.append((yield from parcels.fetch(blocks[rank * BLOCK : (rank + 1) * BLOCK], move)))
        return arrived

    def alltoall(self, sent: list[Parcel]) -> Steps[list[Arrived]]:
        blocks = b"".join(parcel.block() for parcel in sent)
        theirs = bytearray(len(blocks))
        request = self.comm.Ialltoall([blocks, MPI.BYTE], [theirs, MPI.BYTE])
        yield from complete(request, (blocks, theirs))
        sending = together(self.send_rest(sent[rank], rank) for rank in self.others())
        both: list[Steps[Any]] = [sending, self._fetch_all(memoryview(theirs), sent[self.rank])]
        _, arrived = yield from together(both)
        return arrived  # type: ignore[no-any-return]

    # -- reductions of objects

    def reduce(self, value: Any, operation: Reduction, root: int, name: str) -> Steps[Any]:
        value, error = yield from self._up(value, operation, name)
        line = self._line()
        if self.rank == 0 != root:
            yield from line.put(self._outcome(value, error, name), root, TAG, TAG)
        if error is not None:
            raise error
        if self.rank == root != 0:
            return parcels.load((yield from line.take(0, TAG, MPI.Status())), name)
        return value if self.rank == root else None

    def allreduce(self, value: Any, operation: Reduction, name: str) -> Steps[Any]:
        value, error = yield from self._up(value, operation, name)
        parcel = self._outcome(value, error, name) if self.rank == 0 else None
        arrived = yield from self.bcast(parcel, 0)
        if error is not None:
            raise error
        if parcel is None:
            assert arrived is not None
            return parcels.load(arrived, name)
        if parcel.error is not None:
            raise parcel.error
        return value

    def _up(self, value: Any, operation: Reduction, name: str) -> Steps[tuple[Any, Exception | None]]:
        """Pair by pair up a tree, in the order of ranks; the outcome is rank 0's.

        An error travels up in place of a value, so that no rank waits for one that does not come.
        """
        line, status = self._line(), MPI.Status()
        error: Exception | None = None
        distance = 1
        while distance < self.size:
            if self.rank & distance:
                yield from line.put(self._outcome(value, error, name), self.rank - distance, TAG, TAG)
                return None, error
            if self.rank + distance < self.size:
                arrived = yield from line.take(self.rank + distance, TAG, status)
                try:
                    value = value if error else operation(value, parcels.load(arrived, name))
                except Exception as raised:  # the user's operation may raise anything
                    error = raised
            distance *= 2
        return value, error

    def _outcome(self, value: Any, error: Exception | None, name: str) -> Parcel:
        return parcels.pack(value, name, self.rank) if error is None else parcels.refusal(error)

    def _line(self) -> Line:
        return Line(self.bulk, self.bulk, loose=False)

    # -- buffers

    def bcast_buffer(self, array: Array, root: int) -> Steps[None]:
        yield from parcels.spread(self.comm, root, [array.bytes])

    def scatter_buffer(self, sent: Array | None, received: Array, root: int) -> Steps[None]:
        size = len(received.bytes)
        if size <= WHOLE:
            spec = None if sent is None else [sent.bytes, MPI.BYTE]
            request = self.comm.Iscatter(spec, [received.bytes, MPI.BYTE], root)
            yield from complete(request, (sent, received))
        elif sent is None:
            yield from parcels.receive_from(self.bulk, root, TAG, [received.bytes])
        else:
            parts = self._parts(sent, size)
            sending = [parcels.send_to(self.bulk, rank, TAG, [parts[rank]]) for rank in self.others()]
            yield from together([*sending, copy(parts[root], received.bytes)])

    def gather_buffer(self, sent: Array, received: Array | None, root: int) -> Steps[None]:
        size = len(sent.bytes)
        if size <= WHOLE:
            spec = None if received is None else [received.bytes, MPI.BYTE]
            request = self.comm.Igather([sent.bytes, MPI.BYTE], spec, root)
            yield from complete(request, (sent, received))
        elif received is None:
            yield from parcels.send_to(self.bulk, root, TAG, [sent.bytes])
        else:
            yield from self._collect(sent.bytes, self._parts(received, size))

    def _collect(self, mine: memoryview, parts: list[memoryview]) -> Steps[None]:
        coming = [parcels.receive_from(self.bulk, rank, TAG, [parts[rank]]) for rank in self.others()]
        yield from together([*coming, copy(mine, parts[self.rank])])

    def allgather_buffer(self, sent: Array, received: Array) -> Steps[None]:
        size = len(sent.bytes)
        if size <= WHOLE:
            request = self.comm.Iallgather([sent.bytes, MPI.BYTE], [received.bytes, MPI.BYTE])
            yield from complete(request, (sent, received))
            return
        parts = self._parts(received, size)
        yield from copy(sent.bytes, parts[self.rank])
        for rank, part in enumerate(parts):
            yield from parcels.spread(self.comm, rank, [part])

    def alltoall_buffer(self, sent: Array, received: Array) -> Steps[None]:
        size = len(sent.bytes) // self.size
        if size <= WHOLE:
            request = self.comm.Ialltoall([sent.bytes, MPI.BYTE], [received.bytes, MPI.BYTE])
            yield from complete(request, (sent, received))
            return
        parts = self._parts(sent, size)
        sending = [parcels.send_to(self.bulk, rank, TAG, [parts[rank]]) for rank in self.others()]
        yield from together([*sending, self._collect(parts[self.rank], self._parts(received, size))])

    def reduce_buffer(
        self,
        begin: Callable[[Any, Any], MPI.Request],
        sent: Array | None,
        received: Array | None,
        datatype: MPI.Datatype,
    ) -> Steps[None]:
        """``begin`` reduces one piece. A rank that sends or receives none: MPI.IN_PLACE, or not the root."""
        array = sent or received
        assert array is not None
        step = max(1, SUM_PIECE // array.itemsize) * array.itemsize

        def begins() -> Iterator[Begin]:
            for start in range(0, len(array.bytes), step):
                specs = [each and [each.bytes[start : start + step], datatype] for each in (sent, received)]
                yield partial(begin, specs[0] or MPI.IN_PLACE, specs[1])

        yield from complete_all(begins(), PIECES)

    def _parts(self, array: Array, size: int) -> list[memoryview]:
        return [array.bytes[rank * size : (rank + 1) * size] for rank in range(self.size)]


def copy(source: memoryview, target: memoryview) -> Steps[None]:
    """A rank's own part, while MPI goes on with the others'."""
    start = 0
    for piece in pieces(source, WHOLE):
        target[start : start + len(piece)] = piece
        start += len(piece)
        yield Stand.MOVED
