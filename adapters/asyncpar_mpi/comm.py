"""``Comm``: MPI's operations, awaited, in programs that run on every rank."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from mpi4py import MPI

from asyncpar.errors import WorkerLostError
from asyncpar_mpi import parcels
from asyncpar_mpi.arrays import Array, array_of, check_alike, check_size, datatype_of
from asyncpar_mpi.collectives import TAG, Agreement, Ranks, Reduction
from asyncpar_mpi.errors import ChannelError
from asyncpar_mpi.faults import failed, gone
from asyncpar_mpi.job import forget_files
from asyncpar_mpi.parcels import HEAD, INLINE, RAW, Line, Parcel
from asyncpar_mpi.progress import Operation, Steps, complete, of_loop

COLLECTIVE, SEND, RECEIVE = "a collective operation", "a send", "a receive"
WILD = (MPI.ANY_SOURCE, MPI.ANY_TAG)

_duplicating: dict[int, Claim] = {}
"""Communicators of MPI's own that are being duplicated, by handle."""


@dataclass(eq=False)
class Claim:
    """What is under way on a channel. Two that overlap could be taken for each other."""

    name: str
    task: str
    kind: str
    rank: int
    tag: int
    operation: Operation | None = None

    def overlaps(self, other: Claim) -> bool:
        if self.kind != other.kind:
            return False
        return all(
            one == two or one in WILD or two in WILD
            for one, two in ((self.rank, other.rank), (self.tag, other.tag))
        )

    def refuse(self, earlier: Claim) -> ChannelError:
        if earlier.operation is not None and earlier.operation.dropped:
            return ChannelError(
                f"{self.name}() cannot begin: {earlier.name}() of task {earlier.task!r} was cancelled, but MPI is still "
                "in it until the other ranks have done their part. Await drained() first, or use another channel"
            )
        advice = "a channel of its own: async with comm.dup() as channel"
        if self.kind != COLLECTIVE:
            advice = f"a tag of its own, or {advice}"
        return ChannelError(
            f"{self.name}() of task {self.task!r} began while {earlier.name}() of task {earlier.task!r} was under way on "
            f"the same channel: ranks may begin them in different orders, and get each other's data. Give each task {advice}"
        )


class Comm:
    """A channel between all ranks of a communicator, whose operations are awaited; each rank runs the same program. ::

        async def main():
            async with Comm() as comm:
                part = await comm.scatter(parts if comm.rank == 0 else None)
                total = await comm.allreduce(sum(part))

    Names and arguments are mpi4py's: small letters for objects, which are pickled (large buffers in them, as NumPy's
    arrays, are sent as they are, without a copy), capitals for buffers. A buffer is what NumPy calls a C- or
    F-contiguous array in host memory, any object with the buffer protocol, or ``[buffer, MPI datatype]``. Ranks must
    call the same operations of a channel in the same order.

    **One channel, one task.** A channel is a duplicate of its communicator: what travels on one is never taken for what
    travels on another. Two tasks that run collective operations each need their own, since they may come to them in
    another order on another rank, where MPI would give each the other's data. A collective operation that begins while
    another is under way on the channel raises ``ChannelError``; so does a ``send`` to a rank, with a tag, to which one is
    under way, and a ``recv`` that could get what another waits for. A ``send``, a ``recv`` and a collective operation
    may be under way at once, as in ``await asyncpar.gather(comm.send(x, right), comm.recv(left))``.

    **Cancelling** one whose request MPI has does not stop it: MPI cannot, and the other ranks wait for this one. It goes
    on, its buffers are kept until MPI is done with them (and must not be changed before), and its outcome is dropped;
    meanwhile what overlaps it on the channel raises ``ChannelError``. ``await comm.drained()`` waits until it is over. A
    ``recv`` to which nothing has come is given up at once, and loses nothing.

    **Leaving** the block waits for what is under way, and for the other ranks. Leaving it by an exception waits for
    nothing, since other ranks may not come: the communicators stay until the program ends. Start programs with
    ``mpiexec -n 4 python -m mpi4py SCRIPT``, which ends the whole job when one rank fails.

    **The loop stays free**: no call blocks in MPI. While something is under way it is looked at in every turn of the
    loop, for 8 ms, then less and less often, at least every 20 ms. Pickling, and the operation
    of ``reduce``, run on the loop.

    :param comm: what to duplicate; default: ``COMM_WORLD``. Making a channel is collective
    :param check: before each collective operation see that every rank is in the same one, with the same root and size
        of buffers, and raise ``ChannelError`` on all ranks otherwise. For finding mistakes: each takes one step more
    :raises ChannelError: when used outside its block, or as above
    :raises WorkerLostError: a rank has died, in a job that outlives its ranks (Open MPI, ``mpiexec --with-ft ulfm``);
        elsewhere the job ends
    """

    def __init__(self, comm: MPI.Intracomm | None = None, *, check: bool = False) -> None:
        if comm is not None and not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm= must be an MPI.Intracomm, not {comm!r:.60}")
        self._source = MPI.COMM_WORLD if comm is None else comm
        self._parent: Comm | None = None
        self._check = check
        self._ranks: Ranks | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._claims: list[Claim] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._sent = 0

    def __repr__(self) -> str:
        state = (
            "not open" if self._ranks is None else ", ".join(claim.name for claim in self._claims) or "idle"
        )
        return f"<{type(self).__name__} rank {self.rank} of {self.size}: {state}>"

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return self._source.rank

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return self._source.size

    def dup(self) -> Comm:
        """Another channel between the same ranks: ``async with comm.dup() as channel``. Entering it is collective."""
        made = Comm(self._open_ranks().comm, check=self._check)
        made._parent = self
        return made

    # -- opening and closing

    async def __aenter__(self) -> Self:
        if self._loop is not None:
            raise ChannelError("the channel was entered before: make another, with Comm() or dup()")
        self._loop = asyncio.get_running_loop()
        source = self._source
        if self._parent is not None:
            self._ranks = await self._parent._run("dup", self._duplicate(source), Agreement("dup"))
            return self
        claim = Claim("Comm", _task(), COLLECTIVE, 0, 0)
        if earlier := _duplicating.get(source.handle):
            raise claim.refuse(earlier)
        _duplicating[source.handle] = claim
        operation = claim.operation = Operation(self._duplicate(source), partial(_duplicated, source.handle))
        self._ranks = await of_loop().run(operation)
        forget_files()
        return self

    def _duplicate(self, source: MPI.Intracomm) -> Steps[Ranks]:
        made: list[MPI.Intracomm] = []
        for _ in range(2):
            duplicate, request = source.Idup()
            yield from complete(request, duplicate)
            duplicate.Set_errhandler(MPI.ERRORS_RETURN)  # which mpi4py raises
            made.append(duplicate)
        return Ranks(made[0], made[1])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ranks = self._open_ranks()
        try:
            if kind is None:
                await self.drained()
                await self.barrier()  # so that freeing, which is collective, need not wait
                ranks.comm.Free()
                ranks.bulk.Free()
        finally:
            self._ranks = None

    async def drained(self) -> None:
        """Wait until nothing is under way: after cancelling, before the next operation.

        Cancelling it changes nothing.
        """
        while self._claims:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _open_ranks(self) -> Ranks:
        if self._ranks is None:
            raise ChannelError(
                "the channel is not open: enter it, with async with Comm() as comm, and stay inside"
            )
        return self._ranks

    # -- running operations

    async def _run(
        self,
        name: str,
        steps: Steps[Any],
        call: Agreement | None = None,
        kind: str = COLLECTIVE,
        rank: int = 0,
        tag: int = 0,
    ) -> Any:
        if self._loop is not asyncio.get_running_loop():
            raise ChannelError("the channel belongs to another event loop: open one in each")
        claim = Claim(name, _task(), kind, rank, tag)
        for earlier in self._claims:
            if claim.overlaps(earlier):
                raise claim.refuse(earlier)
        if call is not None and self._check:
            steps = self._after_agreeing(call, steps)
        operation = Operation(steps, lambda: self._ended(claim))
        claim.operation = operation
        self._claims.append(claim)
        try:
            return await of_loop().run(operation)
        except MPI.Exception as error:
            if gone(error):
                raise self._lost(name) from error
            error.add_note(f"in {name}() on rank {self.rank} of {self.size}")
            raise

    def _after_agreeing(self, call: Agreement, steps: Steps[Any]) -> Steps[Any]:
        yield from self._open_ranks().agree(call)
        return (yield from steps)

    def _ended(self, claim: Claim) -> None:
        self._claims.remove(claim)
        if not self._claims:
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiting.clear()

    def _lost(self, name: str) -> WorkerLostError:
        """A rank has died. The others that wait for ranks that left, for that reason, are told."""
        ranks = self._open_ranks()
        dead: set[int] = set()
        for comm in (ranks.comm, ranks.bulk):
            dead |= failed(comm)
            comm.Revoke()
        who = f"rank {', '.join(map(str, sorted(dead)))}" if dead else "a rank"
        return WorkerLostError(
            f"{who} died while rank {self.rank} was in {name}(): this channel is of no use any more. Go on with what this "
            "rank has, or end the job and run it again"
        )

    def _root(self, root: int, name: str) -> bool:
        """Whether this rank is the root."""
        if not 0 <= root < self.size:
            raise ValueError(f"{name}(): {root} is none of the ranks, which are 0 to {self.size - 1}")
        return root == self.rank

    def _pack(self, value: object, name: str) -> Parcel:
        return parcels.pack(value, f"{name}()", self.rank)

    def _pack_each(self, values: Sequence[Any] | None, name: str) -> list[Parcel]:
        """One for each rank; if one cannot be sent, each is told so, and none waits."""
        try:
            given = list(values or ())
        except Exception as error:  # the user's iterator may raise anything
            return [parcels.refusal(error)] * self.size
        if len(given) != self.size:
            wrong = ValueError(
                f"{name}(): rank {self.rank} gave {len(given)} items: give a list of {self.size}, one for each rank"
            )
            return [parcels.refusal(wrong)] * self.size
        packed = [self._pack(value, name) for value in given]
        refused = [parcel for parcel in packed if parcel.error is not None]
        return [refused[0]] * self.size if refused else packed

    # -- objects, of all ranks

    async def barrier(self) -> None:
        """Wait until every rank is here."""
        await self._run("barrier", self._open_ranks().barrier(), Agreement("barrier"))

    async def bcast(self, obj: Any = None, root: int = 0) -> Any:
        """The root's object, on every rank; on the root itself, not a copy.

        :param obj: on other ranks ignored
        :raises SerializationError: it cannot be pickled; on every rank
        """
        parcel = self._pack(obj, "bcast") if self._root(root, "bcast") else None
        arrived = await self._run("bcast", self._open_ranks().bcast(parcel, root), Agreement("bcast", root))
        if parcel is None:
            return parcels.load(arrived, "bcast()")
        _raise(parcel)
        return obj

    async def scatter(self, sendobj: Sequence[Any] | None = None, root: int = 0) -> Any:
        """The item of the root's list that is this rank's; on the root, a copy.

        :param sendobj: a list of ``size`` items; on other ranks ignored
        :raises ValueError: it is of another length; on every rank
        :raises SerializationError: an item cannot be pickled; on every rank
        """
        sent = self._pack_each(sendobj, "scatter") if self._root(root, "scatter") else None
        arrived = await self._run(
            "scatter", self._open_ranks().scatter(sent, root), Agreement("scatter", root)
        )
        if sent is not None:
            _raise(sent[0])
        return parcels.load(arrived, "scatter()")

    async def gather(self, sendobj: Any, root: int = 0) -> list[Any] | None:
        """On the root, a list of each rank's object (its own: a copy); elsewhere ``None``.

        :raises SerializationError: an object cannot be pickled; on its rank and on the root
        """
        self._root(root, "gather")
        parcel = self._pack(sendobj, "gather")
        arrived = await self._run(
            "gather", self._open_ranks().gather(parcel, root), Agreement("gather", root)
        )
        _raise(parcel)
        return None if arrived is None else [parcels.load(each, "gather()") for each in arrived]

    async def allgather(self, sendobj: Any) -> list[Any]:
        """A list of each rank's object, on every rank.

        :raises SerializationError: an object cannot be pickled; on every rank
        """
        parcel = self._pack(sendobj, "allgather")
        arrived = await self._run("allgather", self._open_ranks().allgather(parcel), Agreement("allgather"))
        _raise(parcel)
        return [parcels.load(each, "allgather()") for each in arrived]

    async def alltoall(self, sendobj: Sequence[Any]) -> list[Any]:
        """A list of what each rank has for this one.

        :param sendobj: a list of ``size`` items; the item at ``r`` is for rank ``r``
        :raises ValueError: a rank's list is of another length; on every rank
        :raises SerializationError: an item cannot be pickled; on every rank
        """
        sent = self._pack_each(sendobj, "alltoall")
        arrived = await self._run("alltoall", self._open_ranks().alltoall(sent), Agreement("alltoall"))
        _raise(sent[0])
        return [parcels.load(each, "alltoall()") for each in arrived]

    async def reduce(self, sendobj: Any, op: Reduction = MPI.SUM, root: int = 0) -> Any:
        """On the root, ``op`` over each rank's object, in the order of ranks; elsewhere ``None``.

        :param op: an operation of MPI's, or a function of two objects, which must be associative. It runs on the loop of
            some rank, on two objects at a time
        :raises Exception: what ``op`` raises, on its rank and on the root
        """
        self._root(root, "reduce")
        steps = self._open_ranks().reduce(sendobj, op, root, "reduce()")
        return await self._run("reduce", steps, Agreement("reduce", root))

    async def allreduce(self, sendobj: Any, op: Reduction = MPI.SUM) -> Any:
        """``reduce``, whose outcome every rank gets.

        :raises Exception: what ``op`` raises; on every rank
        """
        steps = self._open_ranks().allreduce(sendobj, op, "allreduce()")
        return await self._run("allreduce", steps, Agreement("allreduce"))

    # -- objects, from rank to rank

    async def send(self, obj: Any, dest: int, tag: int = 0) -> None:
        """Send an object to a rank's ``recv``; to ``MPI.PROC_NULL``, nothing. Returns when what it holds may be changed: if it is large, not before
        the other rank receives it.

        :param tag: from 0; goes with it, so that ``recv`` may choose
        :raises SerializationError: it cannot be pickled; nothing is sent
        """
        parcel = self._pack(obj, "send")
        _raise(parcel)
        await self._send("send", parcel, dest, tag)

    async def recv(
        self, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: MPI.Status | None = None
    ) -> Any:
        """Wait for an object that a rank sends; ``None`` from ``MPI.PROC_NULL``.

        Cancelling loses nothing before something has come; later, what has come.

        :param status: tells afterwards who sent it, and with which tag
        :raises TypeError: what came is a buffer, sent by ``Send``: it is lost
        """
        arrived = await self._receive("recv", None, source, tag, status)
        return None if arrived is None else parcels.load(arrived, "recv()")

    async def _send(self, name: str, parcel: Parcel, dest: int, tag: int) -> None:
        ranks = self._open_ranks()
        if dest == MPI.PROC_NULL:
            return
        self._root(dest, name)
        self._sent += 1
        line = Line(ranks.comm, ranks.bulk, loose=True)
        await self._run(name, line.put(parcel, dest, tag, self._sent % TAG), None, SEND, dest, tag)

    async def _receive(
        self, name: str, array: Array | None, source: int, tag: int, status: MPI.Status | None
    ) -> parcels.Arrived | None:
        ranks = self._open_ranks()
        if source == MPI.PROC_NULL:
            return None
        if source != MPI.ANY_SOURCE:
            self._root(source, name)
        line = Line(ranks.comm, ranks.bulk, loose=True)
        steps = line.take_into(array, source, tag, status or MPI.Status())
        return await self._run(name, steps, None, RECEIVE, source, tag)  # type: ignore[no-any-return]

    # -- buffers, of all ranks

    async def Bcast(self, buf: Any, root: int = 0) -> None:  # noqa: N802 - mpi4py's name
        """Copy the root's buffer into each rank's, which is as large."""
        array = array_of(buf, "Bcast(): buf", writable=not self._root(root, "Bcast"))
        call = Agreement("Bcast", root, len(array.bytes))
        await self._run("Bcast", self._open_ranks().bcast_buffer(array, root), call)

    async def Scatter(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:  # noqa: N802 - mpi4py's name
        """Copy the root's buffer into the ranks', a part each, in order.

        :param sendbuf: ``size`` times as large as ``recvbuf``; on other ranks ignored
        """
        received = array_of(recvbuf, "Scatter(): recvbuf", writable=True)
        sent = None
        if self._root(root, "Scatter"):
            sent = array_of(sendbuf, "Scatter(): sendbuf", writable=False)
            self._check_parts("Scatter", sent, "sendbuf", received, "recvbuf")
        call = Agreement("Scatter", root, len(received.bytes))
        await self._run("Scatter", self._open_ranks().scatter_buffer(sent, received, root), call)

    async def Gather(self, sendbuf: Any, recvbuf: Any, root: int = 0) -> None:  # noqa: N802 - mpi4py's name
        """Copy the ranks' buffers into the root's, one after the other.

        :param recvbuf: ``size`` times as large as ``sendbuf``; on other ranks ignored
        """
        sent = array_of(sendbuf, "Gather(): sendbuf", writable=False)
        received = None
        if self._root(root, "Gather"):
            received = array_of(recvbuf, "Gather(): recvbuf", writable=True)
            self._check_parts("Gather", received, "recvbuf", sent, "sendbuf")
        call = Agreement("Gather", root, len(sent.bytes))
        await self._run("Gather", self._open_ranks().gather_buffer(sent, received, root), call)

    async def Allgather(self, sendbuf: Any, recvbuf: Any) -> None:  # noqa: N802 - mpi4py's name
        """``Gather``, whose outcome every rank gets."""
        sent = array_of(sendbuf, "Allgather(): sendbuf", writable=False)
        received = array_of(recvbuf, "Allgather(): recvbuf", writable=True)
        self._check_parts("Allgather", received, "recvbuf", sent, "sendbuf")
        call = Agreement("Allgather", -1, len(sent.bytes))
        await self._run("Allgather", self._open_ranks().allgather_buffer(sent, received), call)

    async def Alltoall(self, sendbuf: Any, recvbuf: Any) -> None:  # noqa: N802 - mpi4py's name
        """Copy part ``r`` of each rank's buffer to rank ``r``, in order.

        :param recvbuf: as large as ``sendbuf``, which is a multiple of ``size`` items
        """
        sent = array_of(sendbuf, "Alltoall(): sendbuf", writable=False)
        received = array_of(recvbuf, "Alltoall(): recvbuf", writable=True)
        check_alike(sent, "Alltoall(): sendbuf", received, "recvbuf")
        check_size(received, "Alltoall(): recvbuf", len(sent.bytes), "sendbuf is of another size")
        if sent.count % self.size:
            raise ValueError(
                f"Alltoall(): sendbuf holds {sent.items}: give a multiple of {self.size}, a part for each rank"
            )
        call = Agreement("Alltoall", -1, len(sent.bytes))
        await self._run("Alltoall", self._open_ranks().alltoall_buffer(sent, received), call)

    async def Reduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM, root: int = 0) -> None:  # noqa: N802 - mpi4py's name
        """``op`` over the ranks' buffers, item by item, into the root's.

        :param sendbuf: ``MPI.IN_PLACE`` on the root: what ``recvbuf`` holds
        :param recvbuf: as large as ``sendbuf``; on other ranks ignored
        """
        mine = self._root(root, "Reduce")
        sent, received = self._operands("Reduce", sendbuf, recvbuf if mine else None)
        comm = self._open_ranks().comm
        await self._reduce("Reduce", lambda one, two: comm.Ireduce(one, two, op, root), sent, received, root)

    async def Allreduce(self, sendbuf: Any, recvbuf: Any, op: MPI.Op = MPI.SUM) -> None:  # noqa: N802 - mpi4py's name
        """``Reduce``, whose outcome every rank gets. ``sendbuf`` may be ``MPI.IN_PLACE`` on all."""
        sent, received = self._operands("Allreduce", sendbuf, recvbuf)
        if received is None:
            raise TypeError("Allreduce(): recvbuf must be a writable buffer, not None")
        comm = self._open_ranks().comm
        await self._reduce("Allreduce", lambda one, two: comm.Iallreduce(one, two, op), sent, received, -1)

    async def _reduce(
        self, name: str, begin: Any, sent: Array | None, received: Array | None, root: int
    ) -> None:
        array = sent or received
        assert array is not None
        steps = self._open_ranks().reduce_buffer(begin, sent, received, datatype_of(array, f"{name}()"))
        await self._run(name, steps, Agreement(name, root, len(array.bytes)))

    def _operands(self, name: str, sendbuf: Any, recvbuf: Any) -> tuple[Array | None, Array | None]:
        received = None if recvbuf is None else array_of(recvbuf, f"{name}(): recvbuf", writable=True)
        if sendbuf is MPI.IN_PLACE:
            if received is None:
                raise TypeError(
                    f"{name}(): MPI.IN_PLACE needs a recvbuf, which only the root of a reduction has"
                )
            return None, received
        sent = array_of(sendbuf, f"{name}(): sendbuf", writable=False)
        if received is not None:
            check_alike(sent, f"{name}(): sendbuf", received, "recvbuf")
            check_size(received, f"{name}(): recvbuf", len(sent.bytes), "sendbuf is of another size")
        return sent, received

    def _check_parts(self, name: str, whole: Array, whole_name: str, part: Array, part_name: str) -> None:
        check_alike(whole, f"{name}(): {whole_name}", part, part_name)
        why = f"{self.size} ranks have a part of {len(part.bytes)} bytes each ({part_name})"
        check_size(whole, f"{name}(): {whole_name}", len(part.bytes) * self.size, why)

    # -- buffers, from rank to rank

    async def Send(self, buf: Any, dest: int, tag: int = 0) -> None:  # noqa: N802 - mpi4py's name
        """Send a buffer to a rank's ``Recv``. Returns when it may be changed: see ``send``."""
        array = array_of(buf, "Send(): buf", writable=False)
        small = HEAD.size + len(array.bytes) <= INLINE
        body: Any = bytes(array.bytes) if small else array.bytes
        await self._send("Send", Parcel(RAW, body, []), dest, tag)

    async def Recv(  # noqa: N802 - mpi4py's name
        self, buf: Any, source: int = MPI.ANY_SOURCE, tag: int = MPI.ANY_TAG, status: MPI.Status | None = None
    ) -> None:
        """Wait for what a rank sends, and copy it into a buffer, of which it may fill less. Cancelling: see ``recv``.

        :param status: tells afterwards who sent it, with which tag, and how much (``Get_count``)
        :raises ValueError: it does not fit in: it is lost
        :raises TypeError: what came is an object, sent by ``send``: it is lost
        """
        await self._receive("Recv", array_of(buf, "Recv(): buf", writable=True), source, tag, status)


def _duplicated(handle: int) -> None:
    del _duplicating[handle]


def _task() -> str:
    task = asyncio.current_task()
    return task.get_name() if task is not None else "?"


def _raise(parcel: Parcel) -> None:
    if parcel.error is not None:
        raise parcel.error
