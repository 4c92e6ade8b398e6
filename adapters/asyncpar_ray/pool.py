"""``RayPool``: calls as tasks of a Ray cluster, one task for a chunk of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from asyncpar.chunks import Chunk
from asyncpar.cpus import usable_cpus
from asyncpar.engine import EnginePool, LostError, Place, WithdrawnError
from asyncpar.errors import UnsupportedError
from asyncpar.far import Constant, Reply, Request, run_chunk
from asyncpar.pool import Pool
from asyncpar_ray.session import SESSION, import_ray

LARGE = 100 << 10
"""Bytes from which Ray puts an argument into its object store, which may have to wait: off the loop."""
PAUSE = 0.1
"""Seconds before Ray is asked to cancel a task. Ray 2.60 ends the whole program when a task is cancelled in the moment in
which it completes ("Tried to complete task that was not pending"; ray-project/ray#54798 tells of the same race). What
is to be stopped often ends at the same time as what made it so, and in a tenth of a second most of it has."""
CONSTANTS = 8
"""Shared objects that a worker keeps unpickled; the ones it used last."""


class RayPool(EnginePool):
    """Runs calls on the workers of a Ray cluster: one it joins, or one of its own on this machine.

    Calls travel together until a chunk takes about 40 ms, since Ray takes milliseconds for a task. Functions, arguments
    and results travel by cloudpickle, as Ray's own tasks do; the workers need asyncpar installed. Arrays of 64 KiB and
    more lie in Ray's object store and arrive read-only, there and here, without a copy: copy one to write to it, or to
    keep it after the pool is closed. ``share()`` puts its object into the store; a worker keeps the eight it used last.

    **Cancelling** stops the work, and so does a timeout: a tenth of a second later Ray raises ``KeyboardInterrupt`` in the
    function, and where that has not ended it after ``grace`` seconds, the worker is killed and another one started. The ``await`` ends when the
    work has. A call that travelled with others that are still wanted runs on, and its value is dropped.

    **A worker that dies** costs the chunk it ran. All of its calls fail with ``WorkerLostError``, since nothing tells
    which of them ran; ``chunksize=1`` makes that one call. Nothing is run again unasked: Ray's retries are off.

    An actor, or a stream, is a Ray actor with a worker of its own, beside the pool's: it takes no CPU in Ray's count.

    A process has one connection to Ray. Where there is one already (``ray.init()`` was called), the pool uses that and
    leaves it open; pools that are open at the same time share theirs.

    :param address: of a cluster (``"auto"``, ``"host:6379"``); default: a cluster on this machine, which ends with the
        last pool that uses it
    :param workers: tasks at the same time; default: the CPUs of the cluster, or those this process may use
    :param grace: seconds that a cancelled call may take to clean up
    :param task_options: of Ray's tasks, such as ``{"num_cpus": 2}`` or ``{"resources": {...}}``
    :param init_options: for ``ray.init``, over what the pool would say
    :raises ImportError: Ray is not installed
    :raises ConnectionError: from opening, if there is no cluster
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        grace: float = 2.0,
        task_options: dict[str, Any] | None = None,
        init_options: dict[str, Any] | None = None,
    ) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
            raise TypeError(f"workers= must be a whole number, not {type(workers).__name__}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers= must be at least 1, not {workers}")
        super().__init__(workers or usable_cpus())
        self._address, self._wanted_workers, self._grace = address, workers, grace
        self._task_options, self._init_options = task_options or {}, init_options or {}
        self._ray: Any = None
        self._remote: Any = None
        self._joined = False
        self._refs: dict[Chunk, Any] = {}
        self._stops: set[asyncio.TimerHandle] = set()

    # -- opening and closing

    async def _open(self) -> None:
        self._joined = await self._off_loop(SESSION.join, self._address, self.workers, self._init_options)
        self._ray = ray = import_ray()
        self._dump = ray.cloudpickle.dumps
        if self._wanted_workers is None:
            resources = await self._off_loop(ray.cluster_resources)
            self.workers = max(1, int(resources.get("CPU", 1)))
        self.places = [Place() for _ in range(self.workers)]
        await self._off_loop(self._connect)

    def _connect(self) -> None:
        options = {"max_retries": 0, "retry_exceptions": False, **self._task_options}
        self._remote = self._ray.remote(run_task).options(**options).remote

    async def _close(self) -> None:
        if self._tasks:
            await asyncio.wait(
                self._tasks, timeout=PAUSE + self._grace + 1
            )  # what was stopped ends, or is killed
        for stop in self._stops:
            stop.cancel()
        await self._end_tasks()
        self._refs.clear()
        if self._joined:
            self._joined = False
            await self._off_loop(SESSION.leave)
        await super()._close()

    # -- one chunk

    async def _submit(self, chunk: Chunk, request: Request, constants: Sequence[Any]) -> Reply:
        errors = self._ray.exceptions
        if request.items.weight() >= LARGE:
            ref = await self._off_loop(self._remote, request, list(constants))
        else:
            ref = self._remote(request, list(constants))
        self._refs[chunk] = ref
        if not self._wanted(chunk):  # it was withdrawn while it was put into the store
            self._withdraw(chunk)
        try:
            reply: Reply = await ref
        except errors.RayError as error:
            if not self._wanted(chunk):
                raise WithdrawnError from error
            if isinstance(
                error, errors.RayTaskError
            ):  # it could not even begin: asyncpar is missing there, say
                raise
            raise self._death(error) from error
        finally:
            del self._refs[chunk]
        return reply

    def _death(self, error: Exception) -> LostError:
        """What happened to the worker, in Ray's words."""
        said = str(error).strip().partition("\n")[0]
        return LostError(f"a worker of Ray was lost ({type(error).__name__}: {said})")

    def _withdraw(self, chunk: Chunk) -> bool:
        ref = self._refs.get(chunk)
        if ref is None:
            return False
        now = self.loop.time()
        self._stops = {stop for stop in self._stops if stop.when() > now}
        self._stops.add(self.loop.call_later(PAUSE, self._stop, chunk, ref, False))
        self._stops.add(self.loop.call_later(PAUSE + self._grace, self._stop, chunk, ref, True))
        return True

    def _stop(self, chunk: Chunk, ref: Any, force: bool) -> None:
        if self._refs.get(chunk) is ref:
            self._ray.cancel(ref, force=force)

    async def _keep(self, constant: Constant) -> Any:
        return await self._off_loop(self._ray.put, constant)

    def _solo(self) -> Pool:
        return RayActorPool(self)


class RayActorPool(RayPool):
    """One Ray actor, for an actor or a stream of a pool."""

    def __init__(self, parent: RayPool) -> None:
        super().__init__(workers=1, grace=parent._grace)
        self._ray, self._dump = parent._ray, parent._dump

    async def _open(self) -> None:
        self.places = [Place()]
        await self._off_loop(self._connect)

    def _connect(self) -> None:
        options = {"max_restarts": 0, "max_task_retries": 0, "num_cpus": 0}
        self._actor = self._ray.remote(Resident).options(**options).remote()
        self._remote = self._actor.run_task.remote

    def _withdraw(self, chunk: Chunk) -> bool:
        return False

    async def _close(self) -> None:
        if hasattr(self, "_actor"):
            self._ray.kill(self._actor)
        await super()._close()

    def _solo(self) -> Pool:
        raise UnsupportedError("an actor has no actors of its own: ask its pool")


# -- the far side

_kept: OrderedDict[Any, Constant] = OrderedDict()


def run_task(request: Request, refs: list[Any]) -> Reply:
    """A chunk, on a worker of Ray."""
    return run_chunk(request, *map(_constant, refs))


def _constant(ref: Any) -> Constant:
    constant = _kept.pop(ref, None)
    if constant is None:
        constant = import_ray().get(ref)
    _kept[ref] = constant
    while len(_kept) > CONSTANTS:
        _kept.popitem(last=False)
    return constant


class Resident:
    """A worker of its own, in which an actor's object or a stream's iterator lives."""

    def run_task(self, request: Request, refs: list[Any]) -> Reply:
        """A chunk, on this worker."""
        return run_task(request, refs)
