"""A slot whose device lives in a worker process, which is replaced after a fault."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from asyncpar.chunks import Cancelled
from asyncpar.process import ProcessPool
from asyncpar_streams import far
from asyncpar_streams.slot import Work, groups_of

if TYPE_CHECKING:
    from asyncpar_streams.site import Site


class IsolatedSlot:
    """A place for one chunk, as ``Slot`` is."""

    def __init__(self, site: Site) -> None:
        pool = site.pool
        self.site = site
        self.where = type(pool), site.device.number, pool.result
        self.load = 0
        self.current: tuple[int, float] | None = None
        self.ready: asyncio.Future[None] = pool.loop.create_future()
        self.inner: ProcessPool | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Have the process started and the stream made; ``ready`` tells when it is."""
        self.task = self.ready = self.site.pool.loop.create_task(self._open())

    async def _open(self) -> None:
        self.inner = ProcessPool(1)
        await self.inner.__aenter__()
        await self.inner.run(far.check, *self.where)

    def begin(self, work: Work) -> None:
        """Run a chunk."""
        self.task = self.site.pool.loop.create_task(self._carry(work), name="asyncpar: a chunk on a device")

    def stop(self) -> None:
        """Stop the call that runs, as a process pool does."""
        if self.task is not None and self.current is not None:  # else it skips the call, once it begins
            self.task.cancel()

    async def close(self) -> None:
        """End the process."""
        if self.task is not None:
            if not self.task.done() and self.task is self.ready:
                self.task.cancel()
            await asyncio.wait([self.task])
        if self.inner is not None:
            await self.inner.aclose()

    async def _carry(self, work: Work) -> None:
        begun = time.perf_counter()
        groups, work.todo = groups_of(work, self.site.device), []
        for indices in groups:
            self.current = indices[0], time.monotonic()
            try:
                await self._run(work, indices)
            except asyncio.CancelledError:
                work.errors.update({index: Cancelled() for index in indices})
            except Exception as error:  # the call's own, or the loss of its worker
                work.errors.update(dict.fromkeys(indices, error))
        self.current = None
        work.seconds = time.perf_counter() - begun
        self.site.pool.answered(work)

    async def _run(self, work: Work, indices: list[int]) -> None:
        assert self.inner is not None
        calls = [work.arguments(index) for index in indices]
        work.batches += len(calls) > 1
        label = work.chunk.label(indices[0])
        arguments = [call[1:] for call in calls]
        reply = await self.inner.run(far.run, self.where, calls[0][0], arguments, label, work.request.alone)
        if reply.hungry:
            work.todo += indices
        elif reply.error is not None:
            work.errors.update(dict.fromkeys(indices, reply.error))
        for index, value in zip(indices, reply.values, strict=False):
            work.values[index] = value
            if reply.peak is not None:
                work.peaks.append((index, reply.peak // len(indices)))
        if reply.fault:
            await self._replace()

    async def _replace(self) -> None:
        """The process is of no more use: another takes its place, with a device that works."""
        assert self.inner is not None
        await self.inner.aclose()
        with contextlib.suppress(Exception):  # the next call tells what stands against it
            await self._open()
