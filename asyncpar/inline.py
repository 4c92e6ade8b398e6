"""Right here: one call at a time in this thread, in order. For debuggers, profilers and tests."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncpar import residence
from asyncpar.chunks import Chunk, is_async
from asyncpar.errors import foreign
from asyncpar.pool import Pool
from asyncpar.sharing import unwrap


class InlinePlace:
    """This thread."""

    load = 0


class InlinePool(Pool):
    """Runs calls in the loop's own thread, one at a time, in order.

    A breakpoint in a function works, a profiler sees everything, and a test is deterministic. The loop stands still
    while a plain function runs; a timeout or a cancellation takes effect only between calls. Async functions run as
    tasks of the running loop, one at a time too. ``KeyboardInterrupt`` in a call is Ctrl-C and leaves the loop.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.place = InlinePlace()
        self.task: asyncio.Task[None] | None = None
        self.home: dict[str, Any] = {}
        self.awaiting: int | None = None  # the async call that runs
        self.interrupted = False  # nothing begins before the main function knows

    async def _open(self) -> None:
        """Nothing to get ready."""

    def _place(self) -> InlinePlace | None:
        return None if self.place.load or self.interrupted else self.place

    def _send(self, place: InlinePlace, chunk: Chunk) -> None:
        self.task = self.loop.create_task(self._run(chunk), name="asyncpar: inline call")
        self.task.add_done_callback(lambda task: self._cancelled(task, chunk))

    async def _run(self, chunk: Chunk) -> None:
        try:
            for index in range(len(chunk.items)):
                if chunk.stops and index in chunk.stops:
                    chunk.stopped(1)
                    continue
                value, error = await self._call(chunk, index)
                if not chunk.finished:
                    chunk.deliver([value], None if error is None else {0: error})
        except KeyboardInterrupt as interrupt:  # Ctrl-C: the program's, so that it leaves through the loop
            self.interrupted = True
            if not chunk.finished:
                chunk.deliver([None], {0: foreign(interrupt)})
            chunk.requeue()
            self._ended(chunk)
            self.loop.call_soon(self._leave, interrupt)
            return  # what waits is not started: the program is about to end
        self._ended(chunk)
        if self._state == "open":
            self.pump()

    def _cancelled(self, task: asyncio.Task[None], chunk: Chunk) -> None:
        """The loop is being closed and has cancelled the task before its first step."""
        if task.cancelled():
            left = len(chunk.items) - chunk.done
            chunk.deliver([None] * left, {i: asyncio.CancelledError() for i in range(left)})
            self._ended(chunk)

    def _ended(self, chunk: Chunk) -> None:
        self.task = None
        self.vacate(chunk)

    async def _call(self, chunk: Chunk, index: int) -> tuple[Any, BaseException | None]:
        function, args, kwargs = chunk.call(index)
        args, kwargs = unwrap(args, kwargs)
        residence.enter(self.home)
        began = self.loop.time()
        try:
            value = function(*args, **kwargs)
            if is_async(function):
                self.awaiting = index
                value = await value
        except asyncio.CancelledError as error:
            stopped = bool(chunk.stops) and index in (chunk.stops or {})
            return None, (chunk.stops or {})[index] if stopped else error
        except KeyboardInterrupt:
            raise
        except Exception as error:  # the call's own
            return None, error
        except BaseException as error:  # the call's own, too: it must not stop the loop
            return None, foreign(error)
        finally:
            self.awaiting = None
            chunk.function.measured(self.loop.time() - began, 1)
        return value, None

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        task = self.task
        if task is None or task is asyncio.current_task():
            return False
        if self.awaiting is not None and first <= self.awaiting <= last:
            task.cancel()
        return (
            True  # what has not started is skipped; cancelling now would end the task before its first step
        )

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        return None

    def _solo(self) -> InlinePool:
        return InlinePool()

    async def _close(self) -> None:
        if self.task is not None:
            await asyncio.wait([self.task])

    def _leave(self, interrupt: KeyboardInterrupt) -> None:
        self.loop.call_soon(self._resume)  # behind the main function, which cleans up and may make calls
        raise interrupt

    def _resume(self) -> None:
        self.interrupted = False
        if self._state == "open":
            self.pump()
