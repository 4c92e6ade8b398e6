"""The stream of a map's results."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from asyncpar.errors import JournalError, PoolClosedError, foreign
from asyncpar.shielding import against_scopes

T = TypeVar("T")


class Engine(Protocol):
    """What runs a map: a ``Feed`` on a pool, or ``Lanes`` on the loop; with a journal, a ``JournaledMap`` around it."""

    window: Any
    reader: Any

    @property
    def in_flight(self) -> set[Any]: ...
    @property
    def retried(self) -> int: ...
    def start(self) -> None: ...
    def moved(self) -> None: ...
    def complete(self) -> bool: ...
    def close(self) -> None: ...


class ResultsStatistics(NamedTuple):
    """A map at one moment.

    :ivar read: items read from the source
    :ivar finished: calls that have an outcome
    :ivar taken: results that were handed to the consumer
    :ivar in_flight: items read whose call has no outcome yet
    :ivar unread: outcomes not yet taken; ``in_flight + unread`` never exceeds ``limit``
    :ivar retried: how often a call was repeated
    :ivar limit: the bound
    :ivar replayed: results that came from the journal, without a call; they count as read, finished and taken, too
    """

    read: int
    finished: int
    taken: int
    in_flight: int
    unread: int
    retried: int
    limit: int
    replayed: int = 0


class Results(AsyncIterator[T], Awaitable[list[T]], Generic[T]):
    """The results of a map. Await it for the list, or read it with ``async for`` as a stream.

    Work starts when it is first awaited, iterated or entered. Inside ``async with``, leaving early
    cancels what is in flight and waits for it. A bare ``async for`` that is left early cancels when the
    ``Results`` is dropped, without waiting.

    A failed call raises its own exception here, after the results before it; the rest is cancelled.
    """

    def __init__(
        self,
        begin: Callable[[Callable[[], None]], Awaitable[Engine]],
        limit: int,
        progress: Any,
        label: str,
        pool: list[Any],
        total: int | None,
    ) -> None:
        self._begin = begin
        self._total = total
        self._limit = limit
        self._engine: Engine | None = None
        self._opening = False
        self._ready: deque[T] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed: BaseException | bool = False
        self._progress = progress
        self._label = label
        self._where = pool  # known once the map has begun

    @property
    def _pool(self) -> Any:
        return self._where[0]

    # -- iterating

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return self._ready.popleft()
        except IndexError:
            pass
        self._ready.extend(await self._next_list())
        return self._ready.popleft()

    async def _next_list(self) -> list[T]:
        """Some results, at least one; raises what iteration has to raise now."""
        engine = self._engine or await self._start()
        window = engine.window
        while True:
            if self._closed:
                raise self._closed if isinstance(self._closed, BaseException) else StopAsyncIteration
            values: list[T] | None = window.pull()
            if values is not None:
                if values:
                    if self._progress is not None:
                        self._progress.advance(len(values), window.hits)
                    engine.moved()
                    return values
                continue
            if window.failure is not None:
                await self._fail(window.failure)
            if engine.complete():
                if engine.reader.error is not None:
                    await self._fail(engine.reader.error)
                await self.aclose()
                raise StopAsyncIteration
            engine.moved()
            if not engine.complete():  # the source's end may have been found just now
                await self._changed(engine)

    async def _changed(self, engine: Engine) -> None:
        if self._waiter is not None:
            raise RuntimeError(
                "this Results is being read by another task already; give each reader a map of its own"
            )
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def _fail(self, error: BaseException) -> None:
        try:
            await self.aclose()
        except JournalError as also:
            if also is not error:
                raise error from also
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            error = foreign(error)  # as itself it would end the reader's loop as if all was well
        try:
            raise error
        finally:
            del error

    async def _start(self) -> Engine:
        if self._closed:
            raise self._closed if isinstance(self._closed, BaseException) else StopAsyncIteration
        if self._opening:
            raise RuntimeError(
                "this Results is being read by another task already; give each reader a map of its own"
            )
        self._opening = True
        try:
            engine = await self._begin(_weak(self))
        except BaseException:  # whatever it is, who reads again is told again
            self._opening = False
            raise
        self._loop = asyncio.get_running_loop()
        if self._pool is not None:
            self._pool._maps.add(self)
        self._engine = engine
        if self._progress is not None:
            self._progress.start(self._total, self._label)
        engine.start()
        return engine

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not self._closed and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_drop, engine)

    def _notify(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # -- awaiting

    def __await__(self) -> Generator[Any, None, list[T]]:
        return self._list().__await__()

    async def _list(self) -> list[T]:
        everything = list(self._ready)
        self._ready.clear()
        engine = self._engine or await self._start()
        engine.window.take_all()
        engine.moved()
        try:
            while True:
                everything += await self._next_list()
        except StopAsyncIteration:
            return everything
        finally:
            await self.aclose()

    # -- closing

    async def __aenter__(self) -> Self:
        if self._engine is None:
            await self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what is in flight and wait until it has stopped. Iterating on ends at once."""
        self._closed = self._closed or True
        self._ready.clear()
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        engine = self._engine
        if engine is None:
            return
        engine.close()
        cancelled: BaseException | None = None
        with against_scopes():
            while engine.in_flight:
                try:
                    await self._changed(engine)
                except asyncio.CancelledError as error:  # what runs is being stopped already: wait for it
                    cancelled = error
            if self._pool is not None:
                self._pool._maps.discard(self)
            await engine.reader.aclose()
        if cancelled is not None:
            raise cancelled

    def _pool_closed(self) -> None:
        self._pool_failed(PoolClosedError("the pool was closed while this map was running"))

    def _pool_failed(self, error: BaseException) -> None:
        if not self._closed:
            self._closed = error
        if self._engine is not None:
            self._engine.close()
            self._engine.reader.drop()  # a bare ``async for`` ends here, and nobody closes anything
        self._notify()

    # -- more

    async def reduce(self, function: Callable[[T, T], T] | Callable[[T, T], Awaitable[T]], *initial: T) -> T:
        """Fold the results with an associative function, pair by pair, on the same workers, order kept.

        :raises TypeError: there are no results and no initial value
        """
        from asyncpar.folding import fold

        async with self:
            return await fold(self._pool, function, self, *initial)

    def __length_hint__(self) -> int:
        """How many results are still to come, where the source tells: so a map that reads this one knows, too."""
        return NotImplemented if self._total is None else max(0, self._total - self.statistics().taken)

    def statistics(self) -> ResultsStatistics:
        """Counts at this moment, as a frozen object."""
        if self._engine is None:
            return ResultsStatistics(0, 0, 0, 0, 0, 0, self._limit)
        window = self._engine.window
        taken = window.taken + window.lent - len(self._ready)
        in_flight, unread = window.read - window.finished, window.finished - taken
        if self._closed:  # what was stopped has no outcome, and what was not taken is gone
            in_flight, unread = (in_flight if self._engine.in_flight else 0), 0
        return ResultsStatistics(
            window.read,
            window.finished,
            taken,
            in_flight,
            unread,
            self._engine.retried,
            window.limit,
            window.hits,
        )


def _drop(engine: Engine) -> None:
    """Close the engine of a ``Results`` that nobody holds any more."""
    engine.close()
    engine.reader.drop()


def _weak(results: Results[Any]) -> Callable[[], None]:
    ref = weakref.ref(results)

    def notify() -> None:
        alive = ref()
        if alive is not None:
            alive._notify()

    return notify
