"""Threads of this process: for blocking functions, and for those that free the GIL (NumPy, numba ``nogil``)."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from typing import Any

from asyncpar.chunks import Chunk, Errors, is_async
from asyncpar.cpus import usable_cpus
from asyncpar.errors import foreign
from asyncpar.pool import Pool
from asyncpar.sharing import unwrap


class Caller:
    """Calls functions in one thread; async ones on a loop of the thread's own, which starts with the first."""

    def __init__(self) -> None:
        self.runner: asyncio.Runner | None = None

    def call(self, function: Any, args: Any, kwargs: Any) -> Any:
        if not is_async(function):
            return function(*args, **kwargs)
        if self.runner is None:
            self.runner = asyncio.Runner()
        return self.runner.run(function(*args, **kwargs))

    def close(self) -> None:
        """Close the loop."""
        if self.runner is not None:
            self.runner.close()


async def joined(thread: threading.Thread) -> None:
    """Wait until a thread has ended, without blocking the loop."""
    delay = 1e-4
    while thread.is_alive():
        await asyncio.sleep(delay)
        delay = min(2 * delay, 0.02)
    thread.join()


class ThreadPlace:
    """One thread, which starts with its first chunk, and the chunks it is given."""

    def __init__(self, pool: ThreadPool, number: int) -> None:
        self.pool = pool
        self.load = 0
        self.inbox: queue.SimpleQueue[tuple[Chunk, contextvars.Context] | None] = queue.SimpleQueue()
        self.current: tuple[int, float] | None = None  # call that runs, and since when
        self.caller = Caller()
        self.thread = threading.Thread(target=self.serve, name=f"asyncpar-thread-{number}", daemon=True)

    def serve(self) -> None:
        while (work := self.inbox.get()) is not None:
            chunk, context = work
            begun = time.perf_counter()
            values, errors = self.execute(chunk, context)
            seconds = time.perf_counter() - begun
            self.current = None
            try:
                self.pool.loop.call_soon_threadsafe(self.pool.answered, chunk, values, errors, seconds)
            except RuntimeError:  # the loop is closed: nobody waits for this any more
                break
            del work, chunk, context, values, errors
        self.caller.close()

    def execute(self, chunk: Chunk, context: contextvars.Context) -> tuple[list[Any], Errors | None]:
        values: list[Any] = []
        errors: Errors = {}
        for index in range(len(chunk.items)):
            if chunk.stops is not None and index in chunk.stops:
                errors[index] = chunk.stops[index]
                values.append(None)
                continue
            self.current = index, time.monotonic()
            function, args, kwargs = chunk.call(index)
            args, kwargs = unwrap(args, kwargs)
            try:
                value = context.run(self.caller.call, function, args, kwargs)
            except Exception as error:  # the call's own
                errors[index], value = error, None
            except BaseException as error:  # the call's own, too: it must not end the thread
                errors[index], value = foreign(error), None
            values.append(value)
        return values, errors or None


class ThreadPool(Pool):
    """Worker threads of this process: arguments and results are passed as they are, nothing is pickled.

    :param workers: how many threads; default: the CPUs this process may use + 4, at most 32

    A running function in a thread cannot be stopped. Cancelling such a call, or its timeout, frees the caller at once;
    the thread stays busy until the function returns, and closing the pool waits for that. Calls that have not started
    are dropped. Async functions run on a loop of the thread's own. Calls see a copy of the caller's context variables.
    """

    chunk_seconds = 2e-4

    def __init__(self, workers: int | None = None) -> None:
        if workers is None:
            workers = min(32, usable_cpus() + 4)
        if isinstance(workers, bool) or not isinstance(workers, int):
            raise TypeError(f"workers= must be a whole number, not {type(workers).__name__}")
        if workers < 1:
            raise ValueError(f"workers= must be at least 1, not {workers}")
        super().__init__(workers)
        self.places: list[ThreadPlace] = []

    async def _open(self) -> None:
        """Threads start when they are first needed."""

    def _place(self) -> ThreadPlace | None:
        for place in self.places:
            if not place.load:
                return place
        if len(self.places) < self.workers:
            return ThreadPlace(self, len(self.places) + 1)  # one of the pool's when something is sent to it
        return None

    def _send(self, place: ThreadPlace, chunk: Chunk) -> None:
        if place.thread.ident is None:
            place.thread.start()
            self.places.append(place)
        place.inbox.put((chunk, contextvars.copy_context()))

    def answered(self, chunk: Chunk, values: list[Any], errors: Errors | None, seconds: float) -> None:
        """On the loop: a thread has ended a chunk."""
        self.vacate(chunk)
        chunk.function.measured(seconds, len(chunk.items))
        if not chunk.finished:
            chunk.deliver(values, errors)
        if self._state == "open":
            self.pump()

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        current = chunk.place.current
        return None if current is None else (current[0], time.monotonic() - current[1])

    def _solo(self) -> ThreadPool:
        return ThreadPool(1)

    async def _close(self) -> None:
        places, self.places = self.places, []
        for place in places:
            place.inbox.put(None)
        for place in places:
            await joined(place.thread)
