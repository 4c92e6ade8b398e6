"""``DaskPool``: calls as tasks of a Dask cluster, one task for a chunk of them."""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from asyncpar.chunks import Chunk
from asyncpar.cpus import usable_cpus
from asyncpar.engine import EnginePool, LostError, Place, WithdrawnError
from asyncpar.errors import UnsupportedError
from asyncpar.far import Constant, Reply, Request
from asyncpar.pool import Pool
from asyncpar_dask.worker import run_task

LARGE = 1 << 20
"""Bytes from which a chunk is scattered to its worker: a task's own definition goes through the scheduler."""


class DaskPlace(Place):
    """One thread of a Dask worker."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address
        self.pid: int | None = None  # once it has answered
        self.lost = False


class DaskPool(EnginePool):
    """Runs calls on the workers of a Dask cluster: one it connects to, or one of its own on this machine.

    Calls travel together until a chunk takes about 40 ms, since Dask takes milliseconds for a task. Functions, arguments
    and results travel by cloudpickle, as with Dask's own ``submit``; the workers need asyncpar installed. Arrays of
    64 KiB and more arrive read-only, there and here: copy one to write to it. ``share()`` scatters its object.

    **Cancelling** stops what was not sent, and frees the caller. Dask cannot stop a function that runs: its place stays
    held until it ends, and so it is with a timeout. What was cancelled but travelled with other calls runs as well, and
    its value is dropped. Closing the pool does not wait for what still runs on a cluster that is not its own.

    **A worker that dies** costs the chunks that it had, up to two for each of its threads: one that runs, and one that
    waits where calls take less than 5 ms. All of their calls fail with ``WorkerLostError``, since nothing tells which of them
    ran; ``chunksize=1`` makes that one call. Nothing is run again unasked, whatever Dask's ``allowed-failures`` says.
    The pool uses workers that join later, and no longer those that leave.

    There are no actors and no streams.

    :param address: of a scheduler (``"tcp://host:8786"``), or a ``distributed.Client``, whose cluster and security are
        used by a connection of the pool's own; default: a cluster on this machine, which ends with the pool
    :param workers: processes of a cluster of its own; default: the CPUs this process may use
    :param timeout: seconds to connect, and for the first worker to be there
    :param security: ``distributed.Security``, for a scheduler that wants TLS
    :raises ImportError: Dask is not installed
    :raises OSError, TimeoutError: from opening, if there is no scheduler, or no worker
    """

    def __init__(
        self, address: Any = None, *, workers: int | None = None, timeout: float = 30.0, security: Any = None
    ) -> None:
        if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int)):
            raise TypeError(f"workers= must be a whole number, not {type(workers).__name__}")
        if workers is not None and workers < 1:
            raise ValueError(f"workers= must be at least 1, not {workers}")
        if workers is not None and address is not None:
            raise ValueError(
                "workers= is for a cluster of the pool's own: a cluster that is there has its workers"
            )
        super().__init__(workers or usable_cpus())
        self._address, self._security, self._timeout = address, security, timeout
        self._distributed: Any = None
        self._cluster: Any = None
        self._folder = ""
        self._client: Any = None
        self._subscribed = False
        self._futures: dict[Chunk, Any] = {}
        self._numbers = itertools.count()
        self._sent: dict[int, Chunk] = {}
        self._begun: dict[Chunk, float] = {}  # of those with a timeout

    # -- opening and closing

    async def _open(self) -> None:
        distributed, self._dump = await self._off_loop(_import)
        self._distributed = distributed
        address, security = self._address, self._security
        if address is None:
            address = await self._off_loop(self._start)
        elif isinstance(address, distributed.Client):
            security = security or address.security
            address = address.scheduler.address
        self._client = await distributed.Client(
            address, asynchronous=True, set_as_default=False, security=security, timeout=self._timeout
        )
        self._client.subscribe_topic("all", self._happened)
        self._topic = f"asyncpar-{self._client.id}"
        self._client.subscribe_topic(self._topic, self._has_begun)
        self._subscribed = True
        await self._client.wait_for_workers(1, timeout=self._timeout)
        for worker, threads in (await self._client.nthreads()).items():
            self._joined(worker, threads)

    def _start(self) -> str:
        """A cluster on this machine. Its scheduler has a thread of its own, so that the loop stays free."""
        self._folder = tempfile.mkdtemp(prefix="asyncpar-dask-")
        with import_module("dask").config.set({"temporary-directory": self._folder}):  # the scheduler's, too
            self._cluster = self._distributed.LocalCluster(
                n_workers=self.workers, threads_per_worker=1, processes=True, host="127.0.0.1",
                local_directory=self._folder, silence_logs=logging.ERROR, dashboard_address="127.0.0.1:0",
                scheduler_kwargs={"dashboard": False},
            )  # fmt: skip
        address: str = self._cluster.scheduler_address
        return address

    async def _close(self) -> None:
        await self._end_tasks()
        self._futures.clear()
        if self._client is not None:
            if self._subscribed:
                self._client.unsubscribe_topic("all")
                self._client.unsubscribe_topic(self._topic)
            await self._client.close()
        if self._cluster is not None:
            await self._off_loop(self._cluster.close)
        if self._folder:
            await self._off_loop(shutil.rmtree, self._folder, True)
        await super()._close()

    # -- the workers

    async def _happened(self, event: tuple[float, Any]) -> None:
        """The scheduler tells of workers that come and go."""
        what = event[1]
        action = what.get("action") if isinstance(what, dict) else None
        if action == "remove-worker":
            self._left(what["worker"])
        elif action == "add-worker":
            self._joined(
                what["worker"], (await self._client.nthreads([what["worker"]])).get(what["worker"], 0)
            )

    def _joined(self, address: str, threads: int) -> None:
        if any(place.address == address for place in self.places):
            return
        self.places += [DaskPlace(address) for _ in range(threads)]
        self.workers = max(1, len(self.places))
        if self._state == "open":
            self.pump()

    def _left(self, address: str) -> None:
        gone = [place for place in self.places if place.address == address]
        self.places = [place for place in self.places if place.address != address]
        self.workers = max(1, len(self.places))
        for place in gone:
            place.lost = True
            for chunk in place.chunks:
                if chunk in self._futures:
                    self._cancel(chunk)

    # -- one chunk

    async def _submit(self, chunk: Chunk, request: Request, constants: Sequence[Any]) -> Reply:
        place = chunk.place
        sent: Any = request
        if request.items.weight() >= LARGE:
            sent = await self._client.scatter(request, workers=[place.address], hash=False)
        if place.lost:
            raise self._death(place)
        number = next(self._numbers)
        topic = self._topic if chunk.timeout is not None else None
        future = self._futures[chunk] = self._client.submit(
            run_task, (topic, number), sent, *constants, workers=[place.address], pure=False
        )
        self._sent[number] = chunk
        try:
            reply: Reply = await future
        except self._distributed.CancelledError as error:  # asyncio's is another
            if place.lost:
                raise self._death(place) from None
            if not self._wanted(chunk):
                raise WithdrawnError from None
            raise LostError(f"Dask dropped the task ({error})") from error
        except self._distributed.KilledWorker as error:
            raise self._death(place) from error
        finally:
            del self._futures[chunk], self._sent[number]
            self._begun.pop(chunk, None)
        place.pid = reply.pid
        return reply

    def _cancel(self, chunk: Chunk) -> None:
        task = self.loop.create_task(
            self._futures[chunk].cancel(), name="asyncpar: a chunk that is cancelled"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_begun(self, event: tuple[float, Any]) -> None:
        chunk = self._sent.get(event[1])
        if chunk is not None:
            self._begun[chunk] = self.loop.time()

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        begun = self._begun.get(chunk)
        return None if begun is None else (chunk.done, self.loop.time() - begun)

    def _death(self, place: DaskPlace) -> LostError:
        who = f"worker {place.pid} at {place.address}" if place.pid else f"the worker at {place.address}"
        error = LostError(f"{who} died or left the cluster")
        error.pid = place.pid
        return error

    def _withdraw(self, chunk: Chunk) -> bool:
        """What waits behind another chunk is not started; what runs cannot be stopped."""
        if chunk in self._futures and chunk.place.chunks[0] is not chunk:
            self._cancel(chunk)
        return False

    async def _keep(self, constant: Constant) -> Any:
        return await self._client.scatter(constant, hash=False)

    def _solo(self) -> Pool:
        raise UnsupportedError(
            "DaskPool has no actors and no streams: use Dask's own, client.submit(cls, actor=True), or a ProcessPool"
        )


def _import() -> tuple[Any, Any]:
    """Dask's package, and how it pickles. It takes half a second. By name: type checkers do not have it."""
    try:
        cloudpickle: Any = import_module("cloudpickle")
        distributed: Any = import_module("distributed")
    except ImportError as error:
        raise ImportError("DaskPool needs Dask. Install it with: pip install 'asyncpar[dask]'") from error
    return distributed, cloudpickle.dumps
