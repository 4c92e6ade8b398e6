"""A running map of a coroutine function on the loop itself: ``limit`` lanes share one source.

A lane is one task that runs call after call. That costs 2 to 3 us an item; a task for each item costs ten times that.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from asyncpar.errors import CallTimeoutError
from asyncpar.feed import Options, backoff
from asyncpar.reading import NOTHING, Reader
from asyncpar.window import Window


class Lanes:
    """Runs a map on the loop (see ``results.Engine``)."""

    def __init__(
        self,
        function: Callable[..., Awaitable[Any]],
        reader: Reader,
        options: Options,
        changed: Callable[[], None],
    ) -> None:
        self.function, self.reader, self.options, self.changed = function, reader, options, changed
        self.window = Window(options.limit, ordered=options.ordered, raising=not options.return_exceptions)
        self.in_flight: set[asyncio.Task[None]] = set()
        self.idle: deque[asyncio.Future[None]] = deque()
        self.retried = 0
        self.closed = False
        self.running = 0
        self._run: Callable[[Any], Awaitable[Any]]
        if options.timeout or options.retries or options.limiter or options.rate:
            self._run = self._careful
        else:
            self._run = (lambda item: function(*item)) if reader.star else function

    def start(self) -> None:
        self.reader.start(self.moved, self.window.room)
        self.moved()

    def moved(self) -> None:
        """There may be room, or something to read: wake lanes, or add some."""
        if self.closed or not self.reader.ready():
            self._maybe_complete()
            return
        room = self.window.room()
        while room > 0 and self.idle:
            future = self.idle.popleft()
            if not future.done():
                future.set_result(None)
                room -= 1
        loop = asyncio.get_running_loop()
        while room > 0 and len(self.in_flight) < self.options.limit and self._worth_a_lane():
            task = loop.create_task(self._lane(), name="asyncpar: lane of a map")
            self.in_flight.add(task)
            task.add_done_callback(self._ended)
            room -= 1
        wake = getattr(self.reader, "room_again", None)
        if wake is not None:
            wake()

    def _worth_a_lane(self) -> bool:
        total = self.reader.total  # a hint: somebody has to find the end itself
        return (
            not self.in_flight
            or total is None
            or total > self.window.read + len(self.in_flight) - self.running
        )

    def _maybe_complete(self) -> None:
        wake = getattr(self.reader, "room_again", None)
        if wake is not None:
            wake()
        if self.reader.exhausted:
            for future in self.idle:
                if not future.done():
                    future.set_result(None)
            self.idle.clear()
            self.changed()

    def complete(self) -> bool:
        return self.reader.exhausted and not self.reader.ready() and not self.running

    async def _lane(self) -> None:
        window, reader, run = self.window, self.reader, self._run
        one, limit = reader.one, window.limit
        idle, new_future = self.idle, asyncio.get_running_loop().create_future
        while not self.closed:
            item = one() if window.read - window.taken < limit else NOTHING
            if item is NOTHING:
                if reader.exhausted and not reader.ready():
                    break
                future = new_future()
                idle.append(future)
                await future
                continue
            window.read += 1
            self.running += 1
            block = window.open(1)
            error: BaseException | None = None
            value: Any = None
            try:
                value = await run(item)
            except asyncio.CancelledError as raised:
                if self.closed:
                    self.running -= 1
                    raise
                error = raised  # the call's own
            except Exception as raised:  # the call's own, too
                error = raised
            self.running -= 1
            if error is None:
                window.put(block, value)
            else:
                window.fill(block, 0, [value], {0: error})
            self.changed()
        if self.complete():
            self.changed()

    async def _careful(self, item: Any) -> Any:
        """One call with its limiter, rate, timeout and retries."""
        options = self.options
        attempt = 1
        while True:
            try:
                if options.rate is not None:
                    await options.rate.acquire()
                if options.limiter is None:
                    return await self._timed(item)
                async with options.limiter:
                    return await self._timed(item)
            except options.retry_on as error:
                if attempt > options.retries:
                    if options.retries:
                        error.add_note(f"this was attempt {attempt} of {attempt}")
                    raise
                attempt += 1
                self.retried += 1
                await asyncio.sleep(backoff(attempt))

    async def _timed(self, item: Any) -> Any:
        args = item if self.reader.star else (item,)
        timeout = self.options.timeout
        if timeout is None:
            return await self.function(*args)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                return await self.function(*args)
        except TimeoutError as error:
            if not scope.expired():
                raise
            from asyncpar.chunks import name_of

            raise CallTimeoutError(
                f"{name_of(self.function)} ran longer than timeout={timeout:g} seconds"
            ) from error

    def close(self) -> None:
        """Cancel every lane."""
        if not self.closed:
            self.closed = True
            for task in self.in_flight:
                task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.window.failure = self.window.failure or task.exception()
        self.changed()
