"""Actors and streams: what keeps state in a worker, which is then a worker of its own beside the pool's."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from asyncpar import residence
from asyncpar.chunks import is_async
from asyncpar.errors import PoolClosedError, WorkerLostError, fresh
from asyncpar.shielding import shielded

if TYPE_CHECKING:
    from asyncpar.pool import Pool

A = TypeVar("A")
T = TypeVar("T")
P = ParamSpec("P")


class Actor(Generic[A]):
    """An object that lives in one worker and keeps state. Calls run one at a time, in order.

    The worker is the actor's alone, so that no other call can take it down. If it dies, the running call and
    every later one raise ``WorkerLostError``: its state is gone. Leaving the block ends the worker.
    """

    def __init__(
        self, pool: Pool, cls: Callable[..., A], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not callable(cls):
            raise TypeError(f"actor() takes a class and its arguments, not {type(cls).__name__}")
        self._make, self._args, self._kwargs = residence.Settle(cls), args, kwargs
        pool._check_function(self._make)
        self._pool: Pool | None = None
        self._parent = pool
        self._lost: WorkerLostError | None = None

    async def __aenter__(self) -> Self:
        self._parent._check_open()
        self._pool = await self._parent._solo().__aenter__()
        self._parent._streams.add(self)
        try:
            await self._pool.run(self._make, *self._args, **self._kwargs)
        except BaseException:  # cancelled too: the worker must not be left behind
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what runs and end the worker. Closing the pool does the same."""
        self._parent._streams.discard(self)
        if self._pool is not None:
            await self._pool.aclose()

    @overload
    async def run(
        self, method: Callable[Concatenate[A, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def run(
        self, method: Callable[Concatenate[A, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    async def run(self, method: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``method(object, *args, **kwargs)`` where the object lives: ``await model.run(Model.predict, x)``.

        :raises WorkerLostError: the actor's worker died, now or before
        """
        if self._pool is None:
            raise PoolClosedError(
                "this actor has not started: use it inside 'async with pool.actor(...) as actor:'"
            )
        if self._lost is not None:
            raise fresh(self._lost)
        there = residence.InvokeAsync if is_async(method) else residence.Invoke
        try:
            return await self._pool.run(there(method), *args, **kwargs)
        except WorkerLostError as error:
            self._lost = fresh(error)
            raise


class Stream(AsyncIterator[T], Generic[T]):
    """The items of a generator function that runs in a worker of its own, with backpressure.

    The generator runs ahead by at most ``limit`` items. Closing (or leaving ``async with``) closes it there.
    """

    def __init__(
        self,
        pool: Pool,
        function: Callable[..., Iterable[T] | AsyncIterable[T]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limit: int,
    ) -> None:
        if not callable(function):
            raise TypeError(f"stream() takes a generator function, not {type(function).__name__}")
        if not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit= must be a whole number of at least 1, not {limit!r}")
        self._make, self._args, self._kwargs = residence.Iterate(function), args, kwargs
        pool._check_function(self._make)
        self._advance: Callable[..., Any] = residence.Advance(function)
        self._leave: Callable[..., Any] = residence.Leave(function)
        self._parent = pool
        self._limit = limit
        self._pool: Pool | None = None
        self._items: deque[T] = deque()
        self._next: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._closing: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._pool is None and not self._ended:
            await self._start()
        while not self._items:
            if self._error is not None:
                error, self._error = self._error, None
                await self.aclose()
                raise error
            if self._ended:
                await self.aclose()
                raise StopAsyncIteration
            await self._more()
        item = self._items.popleft()
        self._ahead()
        return item

    async def _start(self) -> None:
        self._parent._check_open()
        self._pool = await self._parent._solo().__aenter__()
        self._parent._streams.add(self)
        try:
            if await self._pool.run(self._make, *self._args, **self._kwargs):
                function = self._make.function
                self._advance, self._leave = residence.AdvanceAsync(function), residence.LeaveAsync(function)
        except BaseException:  # cancelled too: the worker must not be left behind
            await self.aclose()
            raise
        self._ahead()

    def _ahead(self) -> None:
        """Have the next items made, if there is room for half the limit."""
        room = self._limit - len(self._items)
        if (
            self._next is None
            and not self._ended
            and self._pool is not None
            and room >= (self._limit + 1) // 2
        ):
            self._next = asyncio.get_running_loop().create_task(self._pool.run(self._advance, room))

    async def _more(self) -> None:
        self._ahead()
        assert self._next is not None
        try:
            items, self._ended = await asyncio.shield(self._next)
        except asyncio.CancelledError:
            if not self._next.done():
                await self.aclose()
            raise
        except Exception as error:  # handed out after the items before it
            self._ended, self._error = True, error
            items = []
        self._next = None
        self._items.extend(items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the generator in its worker and end the worker. Cancelling this cuts the generator's ``finally`` short."""
        self._ended = True
        self._items.clear()
        if self._pool is None:
            return
        if self._closing is None:
            self._closing = self._pool.loop.create_task(self._close(self._pool))
        closing = self._closing
        try:
            await asyncio.wait([closing])
        except asyncio.CancelledError:
            closing.cancel()
            await shielded(_ended(closing))
            raise
        closing.result()

    async def _close(self, pool: Pool) -> None:
        if self._next is not None:
            self._next.cancel()
            await asyncio.wait([self._next])
            if not self._next.cancelled():
                self._next.exception()  # nobody wants what came of it
        try:
            if pool._state == "open":
                await pool.run(self._leave)
        except (WorkerLostError, asyncio.CancelledError):
            pass  # nothing lives there any more, or shall
        finally:
            await pool.aclose()
            self._pool = None
            self._parent._streams.discard(self)

    def __del__(self) -> None:
        """Left early, in a bare ``async for``: another, which the loop holds, closes the generator."""
        pool = getattr(self, "_pool", None)
        if pool is None or self._closing is not None or pool.loop.is_closed():
            return
        heir = object.__new__(type(self))
        heir.__dict__.update(self.__dict__)
        self._parent._streams.add(heir)
        pool.loop.call_soon_threadsafe(heir._close_later)

    def _close_later(self) -> None:
        assert self._pool is not None
        task = self._pool.loop.create_task(self.aclose())
        _closing.add(task)
        task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()


async def _ended(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
