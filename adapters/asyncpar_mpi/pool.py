"""``MPIPool``: calls on the ranks of an MPI job."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

from asyncpar.chunks import Chunk
from asyncpar.errors import BrokenPoolError, NestedPoolError, UnsupportedError, WorkerLostError
from asyncpar.feed import Feed
from asyncpar.process.nursery import _log_level
from asyncpar.process.pool import ProcessPool, log
from asyncpar.reading import AsyncReader
from asyncpar_mpi.errors import DrainedError

if TYPE_CHECKING:
    from mpi4py import MPI

    from asyncpar_mpi.buffers import Buffers
    from asyncpar_mpi.fleet import Fleet
    from asyncpar_mpi.place import RankLink, RankPlace

UNHEARD = 5.0
"""Seconds beyond its timeout that a call may take to begin, its arguments' way included, before its rank counts as
one that is stopped."""
STOPPED = 1.0
"""Seconds for which a rank has to be stopped before a drain no longer waits for it."""
job: Fleet | None = None
"""The fleet of a program that ``python -m asyncpar_mpi`` started."""


class Crew:
    """What one pool, with its actors and streams, has of the fleet. To ``Packing`` it is what a nursery is."""

    def __init__(self, fleet: Fleet, arena: Buffers) -> None:
        self.fleet, self.arena = fleet, arena
        self.places: dict[int, RankPlace] = {}
        self.closing = False


class MPIPool(ProcessPool):
    """Runs calls on the ranks of an MPI job; a process pool whose workers the launcher started, on any machine.

    In a program started by ``mpiexec -n N python -m asyncpar_mpi SCRIPT`` the ranks but 0 are its workers. Pools that
    are open at the same time share them: each takes those that are free. ::

        async with MPIPool() as pool:  # or asyncpar.open_pool(), under the launcher
            energies = await pool.map(simulate, range(100_000))

    Calls travel as on a ``ProcessPool``; buffers of 64 KiB and more in messages of their own. A constant (``share``)
    travels to each rank once. All MPI calls are made on the loop's thread, and only while something is in flight.

    **Cancelling** what has not started costs nothing. A call that runs is interrupted within about 20 ms, or an eighth of
    the time that it has run, at most 250 ms (``KeyboardInterrupt`` inside the function), as soon as it runs Python code. If it goes on when the grace is over,
    its caller is freed all the same, and calls that wait behind it go to other ranks; its rank is busy until it ends.

    **A rank that dies** ends the whole job, unless it is Open MPI's and started with ``mpiexec --with-ft ulfm``: then
    the running call is lost (``WorkerLostError``) and the pool goes on with the other ranks. A rank that no pool has
    takes the place of the dead one: start some more than ``workers=`` as spares; they sleep until then.

    An actor and a stream have a rank of their own, taken from the pool's, which keeps at least one.

    :param comm: a communicator whose other ranks call ``asyncpar_mpi.serve(comm)``; default: the launcher's job
    :param workers: take so many ranks at most; default: all that are free
    :param window: chunks in a rank at the same time: with 2 (the default) one runs and one waits, so that the rank does
        not idle while its answer travels
    :param initializer: called once in each rank before its first call
    :param grace: seconds between the interrupt that stops a call and the moment it is given up (default 1)
    :param functions: ``"by_value"``: lambdas, closures and what a notebook defines travel by cloudpickle, both ways
    :param context: context variables (module-level ones) whose values calls see
    :raises UnsupportedError: there is no job: the program was not started by the launcher
    :raises BrokenPoolError: every rank is in use
    :raises NestedPoolError: when opened inside a rank's call
    """

    chunk_seconds = 10e-3
    default_limit = 1 << 16

    def __init__(
        self,
        comm: MPI.Intracomm | None = None,
        *,
        workers: int | None = None,
        window: int = 2,
        initializer: Callable[[], object] | None = None,
        grace: float = 1.0,
        functions: Literal["by_reference", "by_value"] = "by_reference",
        context: Sequence[Any] = (),
    ) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ValueError(f"window= must be a whole number of at least 1, not {window!r}")
        super().__init__(
            workers or 1, initializer=initializer, grace=grace, functions=functions, context=context
        )
        self.comm, self.most, self.window = comm, workers, window
        self.spin = 0.0  # the fleet's poller does that
        self.settings.pop("flags")
        self.fleet: Fleet | None = None
        self.drained = False

    # -- opening and closing

    async def _open(self) -> None:
        if self.owner is not None:
            await self._borrow()
            return
        fleet = self.fleet = self._find_fleet()
        from asyncpar_mpi.buffers import Buffers

        crew: Any = Crew(fleet, Buffers(copies=True))
        self.nursery = crew
        self.packing.open(crew)
        end = self.loop.time() + self.grace
        while not (ranks := fleet.take(self.most)) and fleet.places and self.loop.time() < end:
            fleet.receive()  # a pool that was closed just now may leave some
            await asyncio.sleep(0.001)
        if not ranks:
            raise BrokenPoolError(
                "every rank is in use by a pool that is open: close that first, or open it with workers= to leave some"
            )
        fleet.pools.add(self)
        for rank in ranks:
            self._enlist(rank)
        if fleet.draining:
            self.loop.call_soon(self.drain)

    def _enlist(self, rank: int) -> None:
        """Have a rank serve this pool."""
        from asyncpar_mpi.place import RankPlace

        assert self.fleet is not None
        place = self.nursery.places[rank] = RankPlace(self, self.fleet, rank)
        self.places.append(place)
        self.workers = len(self.places)
        self.fleet.open(place, self.settings | {"log_level": _log_level()})

    def _find_fleet(self) -> Fleet:
        if os.environ.get("ASYNCPAR_WORKER") == str(os.getpid()):
            raise NestedPoolError(
                "an MPIPool cannot be opened inside a worker: return the work to the caller"
            )
        if self.comm is not None:
            from asyncpar_mpi.fleet import Fleet

            return Fleet(self.comm)
        if job is None:
            raise UnsupportedError(
                "there are no ranks here: start the program with 'asyncpar mpi -n 4 SCRIPT', or "
                "'mpiexec -n 4 python -m asyncpar_mpi SCRIPT'; without MPI use a ProcessPool"
            )
        return job

    async def _close(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
        end = self.loop.time() + self.grace + 0.05
        while (
            any(place.link.in_flight and not place.stuck for place in self.places) and self.loop.time() < end
        ):
            await asyncio.sleep(0.001)
        await self._end_thread()
        if self.owner is not None:
            self._give_back()
        elif self.fleet is not None:
            await self._release(self.fleet, end)

    async def _release(self, fleet: Fleet, end: float) -> None:
        """Let the ranks go. One that is in a call of nobody's goes when that ends."""
        from asyncpar_mpi import wire

        fleet.pools.discard(self)
        places: list[Any] = [place for place in self._everyone() if not place.gone]
        self.places.clear()
        self.nursery.closing = True
        for place in places:
            place.closing = True
            place.send(wire.CLOSE)
        while any(place.closing and not place.gone for place in places) and self.loop.time() < end:
            await asyncio.sleep(0.001)
        for place in places:
            place.link.abandon()
        if not fleet.pools:  # the loop may be closed before the last rank has answered
            fleet.stop_polling()
        if self.comm is not None:
            fleet.finish(0.0)

    async def _end_thread(self) -> None:
        if self.pickling:
            await asyncio.wait(self.pickling)
        if self.thread is not None:
            self.thread.shutdown(wait=False)
            while any(thread.is_alive() for thread in self.thread._threads):  # without blocking the loop
                await asyncio.sleep(0.001)

    # -- actors and streams: a rank of their own

    def _solo(self) -> MPIPool:
        solo = MPIPool(grace=self.grace, window=self.window)
        solo.packing, solo.context = self.packing, self.context
        solo.owner = self.owner or self
        solo.nursery, solo.fleet = self.nursery, self.fleet
        return solo

    async def _borrow(self) -> None:
        """Take a rank from the owner, as soon as it has nothing to do."""
        owner = self.owner
        assert isinstance(owner, MPIPool)
        while True:
            fit = [place for place in owner.places if not place.stuck]
            if len(owner.places) < 2 or not fit:
                raise UnsupportedError(
                    f"an actor or stream needs a rank of its own, and {len(fit)} is left: start more ranks"
                )
            place = min(fit, key=lambda place: place.load)
            owner.places.remove(place)
            owner.workers -= 1
            self.places.append(place)
            while place.load and not place.gone:
                await asyncio.sleep(0.001)
            if place.gone or not place.link.behind():
                break
            self._give_back()  # its call was given up meanwhile
        place.pool = self
        if place.gone:
            raise WorkerLostError(f"worker {place.pid} died before the actor or stream began", pid=place.pid)

    def _give_back(self) -> None:
        from asyncpar_mpi import wire

        owner = self.owner
        assert isinstance(owner, MPIPool)
        while self.places:
            place: Any = self.places.pop()
            if place.gone:
                continue
            place.pool = owner
            place.send(wire.RENEW)
            owner.places.append(place)
            owner.workers += 1

    # -- places

    def _place(self) -> Any:
        if self.broken is not None and not self.drained:
            self._fail_all(self.broken)
        best: Any = None
        for place in self.places:
            load = place.load
            if load < self.window and not place.stuck and (best is None or load < best.load):
                best = place
                if not load:
                    break
        return best

    def _dispatch(self, place: Any, chunk: Chunk, frames: bytes) -> None:
        from asyncpar_mpi.place import numbers_of

        if not place.link.in_flight:
            place.heard = time.monotonic()
        place.link.sent(chunk)
        place.look()
        place.calls += len(chunk.items)
        place.write(frames, numbers_of(chunk))

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        place: Any = chunk.place
        if chunk not in place.link.in_flight:
            return False
        running: bool = place.link.cancel(chunk, first, last)
        place.signal(signal.SIGINT)
        self.loop.call_later(self.grace, self._give_up, place, chunk, first, last)
        return running

    def _give_up(self, place: Any, chunk: Chunk, first: int, last: int) -> None:
        """The grace period is over: if the call goes on, it does so for nobody."""
        if place.gone or chunk not in place.link.in_flight or chunk.done > last:
            return
        if place.link.running_in(chunk, first, last):
            self._forsake(place, chunk)
        else:
            self.loop.call_later(self.grace or 0.01, self._give_up, place, chunk, first, last)

    def _forsake(self, place: Any, stopped: Chunk | None = None) -> None:
        """What runs in a rank goes on for nobody, and what waits there moves on.

        :param stopped: the chunk whose running call ends as it was told to; a call of any other moves on as well
        """
        link: RankLink = place.link
        self._skip(place, link.answered + 1, link.next_seq)
        place.stuck = True  # before its calls look for another rank
        for moved in link.forsake():
            self.vacate(moved)
            if moved is stopped:
                moved.stopped(1)
            moved.requeue()
        if all(other.link.behind() for other in self.places) and not self.drained:
            log.warning(
                "every rank of this pool is in a call that went on when it was stopped; others wait until one ends"
            )
        self.pump()

    def _skip(self, place: Any, first: int, end: int) -> None:
        """Tell a rank that these calls are for nobody."""
        if first < end:
            place.link.mark_cancelled(first, end - 1)
            place.signal(signal.SIGINT)

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        place: Any = chunk.place
        link = place.link
        if not link.in_flight or link.in_flight[0] is not chunk:
            return None
        seconds = time.monotonic() - place.heard
        if not chunk.seq <= place.begun <= link.answered:
            seconds -= UNHEARD
        return (chunk.done, seconds) if seconds > 0 else None

    @property
    def has_outcomes(self) -> bool:
        """Whether outcomes wait for their turn on the loop."""
        return bool(self._queue.outcomes)

    # -- losses

    def _start_heir(self) -> None:
        """No rank can be started before it is missed."""

    def buried(self, place: Any, exitcode: int, over: int) -> None:
        """A rank is dead: its running call is lost, the others go elsewhere."""

        def error(label: str) -> BaseException:
            return WorkerLostError(
                f"rank {place.slot} (worker {place.pid} on {place.host}) died while it ran {label}; "
                "the pool goes on without it; run it again with retries= if that is safe",
                pid=place.pid,
                function=label,
            )

        link = place.link
        while link.heavy is not None:
            link.resume(*link.load(link.heavy, True))
        self._lost += link.lost(error)
        for chunk in link.ended:
            self.vacate(chunk)
        link.ended.clear()
        self.nursery.places.pop(place.slot, None)
        if place in self.places:
            self.places.remove(place)
            self.workers = max(1, len(self.places))
        pool: Any = self.owner or self
        pool._call_a_spare()
        if self.places or self._state not in ("open", "opening"):
            self.pump()
        elif self.owner is not None:
            lost = (
                f"rank {place.slot} (worker {place.pid} on {place.host}) died, and what lived in it is gone"
            )
            self._break(WorkerLostError(lost, pid=place.pid), None)
        else:
            self.broken = None  # it may have been drained
            self._break(
                BrokenPoolError("every rank of this pool has died: see stderr for what they said"), None
            )

    def _call_a_spare(self) -> None:
        """Put a rank that no pool has in the place of one that died."""
        assert self.fleet is not None
        if self._state in ("open", "opening") and not self.drained:
            for rank in self.fleet.take(1):
                self._enlist(rank)
            self.pump()

    def fail(self, error: Exception) -> None:
        """MPI itself has failed."""
        self._break(BrokenPoolError(f"MPI failed, and the ranks cannot be reached: {error}"), error)

    # -- drain

    def drain(self) -> None:
        """Start nothing more. What runs ends as it does; maps end after the results that come of it."""
        if self.drained or self._state != "open":
            return
        self.drained = True
        error = DrainedError("the job was told to end: what ran was finished, and nothing more is started")
        self.broken, self._state = error, "broken"  # to whoever calls
        for lives in list(self._streams):
            if isinstance(lives._pool, MPIPool):
                lives._pool.drain()
        self._end_waiting()
        for results in list(self._maps):
            engine: Any = results._engine
            if engine is not None:
                _end(engine, error)
        self._watch_stopped(frozenset())

    def _end_waiting(self) -> None:
        for call in list(self._queue.calls):
            self._drop(call)
            call.end(None, self.broken)
        self._queue.calls.clear()

    def _watch_stopped(self, before: frozenset[Any]) -> None:
        """A drain does not wait for ranks that are stopped, now and a moment ago."""
        if self._state != "broken" or not self._running:
            return
        places: list[Any] = self.places
        stopped = frozenset(place for place in places if place.load and place.is_stopped())
        for place in stopped & before:
            self._forsake(place)
        self.loop.call_later(STOPPED, self._watch_stopped, stopped)

    def hurry(self) -> None:
        """Wait no longer for what runs: it goes on for nobody."""
        for lives in list(self._streams):
            if isinstance(lives._pool, MPIPool):
                lives._pool.hurry()
        for place in list(self.places):
            if self.drained and place.load:
                self._forsake(place)

    def vacate(self, chunk: Chunk) -> None:
        super().vacate(chunk)
        if self.drained and isinstance(chunk.source, Feed):  # what failed is not tried again
            _end(chunk.source, cast("DrainedError", self.broken))

    def offer(self, source: Any) -> None:
        if self.drained and isinstance(source, Feed):
            _end(source, cast("DrainedError", self.broken))
        elif self.drained:  # what was moved on
            self._end_waiting()
        super().offer(source)


def _end(feed: Feed, error: DrainedError) -> None:
    """Let a map that has more to start end as if its source had failed: after the results of what was started."""
    if feed.closed or (feed.reader.exhausted and not feed.again and not feed.delayed):
        return
    feed.again.clear()
    for handle in (*feed.delayed, *([feed._turn] if feed._turn else [])):
        handle.cancel()
    feed.delayed.clear()
    feed._turn = None
    reader = feed.reader
    reader.drop()
    if isinstance(reader, AsyncReader):
        reader._buffer.clear()
    reader.error, reader.exhausted = error, True
    feed.changed()
