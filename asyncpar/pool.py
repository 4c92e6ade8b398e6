"""The one protocol: what every pool can do, and the little that each supplies.

A pool supplies: how to open and close, a *place* with room for another chunk, and how to send a chunk to it.
Whoever runs the chunk calls ``chunk.deliver`` and, once it has ended, ``pool.vacate(place)``.
Queueing, fairness, chunk sizes, limits, order, retries and timeouts are here and beside it.
"""

from __future__ import annotations

import asyncio
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Sequence
from itertools import repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from asyncpar.chunks import Cancelled, Chunk, Errors, Function, not_callable
from asyncpar.errors import CallTimeoutError, PoolClosedError, UnsupportedError, WorkerLostError, fresh, said
from asyncpar.feed import LONG_SECONDS, MapOptions
from asyncpar.limits import Limiter, RateLimiter
from asyncpar.shielding import shielded

if TYPE_CHECKING:
    from os import PathLike

    from asyncpar.actors import Actor, Stream
    from asyncpar.journal.journal import Journal
    from asyncpar.results import Results
    from asyncpar.statistics import PoolStatistics

T = TypeVar("T")
A = TypeVar("A")
P = ParamSpec("P")

KNOWN_FUNCTIONS = 1024
"""Functions whose cost a pool remembers; the least recently used goes first."""
MOST_CALLS = 256
CALLS_A_TURN = 5
"""Calls that end in one turn of the loop. The task that each wakes takes the loop about 10 us until it has made its
next call: a timer is late by two such turns, so by about 0.1 ms."""
WORTH_A_CHUNK = 32
"""Calls that leave together although more are about to come, made by tasks that wait for their turn."""
_MISSING: Any = object()


class Call(asyncio.Future[Any]):
    """One call made with ``run``. Cancelling it stops the work, then ends as cancelled, as a task does."""

    __slots__ = (
        "args",
        "chunk",
        "function",
        "index",
        "kwargs",
        "lends",
        "mark",
        "message",
        "payload",
        "pool",
        "shared",
        "stopping",
        "timeout",
    )

    def __init__(self, pool: Pool, function: Function, args: Any, kwargs: Any) -> None:
        super().__init__(loop=pool.loop)
        self.pool = pool
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.chunk: Chunk | None = None
        self.index = 0
        self.stopping = False
        self.timeout: float | None = None
        self.payload: Any = b""  # the arguments, as the pool sends them
        self.mark = 0
        self.lends: Sequence[int] = ()
        self.shared: Sequence[Any] = ()  # constants among the arguments, kept alive until the call has ended

    def cancel(self, msg: Any = None) -> bool:
        if self.done():
            return False
        if self.chunk is not None and self.pool.stop_call(self.chunk, self.index, Cancelled()):
            self.stopping = True
            self.message = msg  # by which anyio's scopes know a cancellation of theirs
            return True
        return self._cancelled(msg)

    def _cancelled(self, msg: Any = None) -> bool:
        return super().cancel(msg)

    def end(self, value: Any, error: BaseException | None) -> None:
        """Take the outcome, unless the caller has gone."""
        self.chunk = None  # which holds this call: a large value must not wait for the garbage collector
        if self.done():
            return
        if self.stopping:
            self._cancelled(self.message)
        elif error is None:
            self.set_result(value)
        elif isinstance(error, Cancelled):
            self._cancelled()
        elif isinstance(error, (StopIteration, KeyboardInterrupt, SystemExit)):
            made = RuntimeError(f"the call raised {type(error).__name__}: {said(error)}")
            made.__cause__ = error
            self.set_exception(made)
        else:
            self.set_exception(error)


class CallQueue:
    """The source of the calls that were made one by one (see ``chunks.Source``)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.calls: deque[Call] = deque()
        self.offered = False
        self.outcomes: deque[tuple[Call, Any, BaseException | None]] = deque()

    def add(self, call: Call) -> None:
        self.calls.append(call)
        if not self.outcomes or len(self.calls) >= WORTH_A_CHUNK:
            self.pool.offer(self)

    def waiting(self) -> bool:
        return bool(self.calls)

    def take(self, busy: bool) -> Chunk | None:
        calls = self.calls
        while calls and calls[0].done():
            self.pool._drop(calls.popleft())
        if not calls or (self.outcomes and len(calls) < WORTH_A_CHUNK):
            return None
        cost = calls[0].function.seconds
        if busy and (cost is None or cost > LONG_SECONDS):
            return None
        taken = [calls.popleft()]
        if calls and cost is not None and (taken[0].timeout is None or self.pool.knows_what_runs):
            self._fill(taken, cost)
        chunk = Chunk(self, taken, taken[0].function, singles=True, timeout=taken[0].timeout)
        for index, call in enumerate(taken):
            call.chunk, call.index = chunk, index
        return chunk

    def _fill(self, taken: list[Call], cost: float) -> None:
        """Let more calls travel with the first: an even share of what waits, as long as they fit in the time."""
        calls, pool = self.calls, self.pool
        budget = pool.chunk_seconds - cost
        most = min(MOST_CALLS, pool.most_calls, -(-(len(calls) + 1) // pool.workers))
        while calls and len(taken) < most:
            call = calls.popleft()
            if call.done():
                pool._drop(call)
                continue
            seconds = call.function.seconds
            if seconds is None or budget < seconds or call.timeout != taken[0].timeout:
                calls.appendleft(call)
                return
            budget -= seconds
            taken.append(call)

    def deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        self.pool._completed += len(values)
        calls, outcomes = chunk.items, self.outcomes
        ending = bool(outcomes)
        if len(values) == 1 and not ending:
            calls[first].end(values[0], errors.get(0) if errors else None)
            return
        each = map(errors.get, range(len(values))) if errors else repeat(None)
        outcomes.extend(zip(calls[first : first + len(values)], values, each, strict=False))
        if not ending:
            self._end_some()

    def _end_some(self) -> None:
        """End a few calls in each turn of the loop, so that the tasks they wake do not hold it up together."""
        outcomes = self.outcomes
        for _ in range(min(CALLS_A_TURN, len(outcomes))):
            call, value, error = outcomes.popleft()
            call.end(value, error)
        if outcomes:
            self.pool.loop.call_soon(self._end_some)
        else:
            self.pool.loop.call_soon(
                self.pool.offer, self
            )  # behind the last tasks: they have made their calls then

    def requeue(self, chunk: Chunk, first: int) -> None:
        again = []
        for call in chunk.items[first:]:
            call.chunk = None
            if not call.stopping and not call.done():
                again.append(call)
                continue
            call.end(None, Cancelled())
            self.pool._drop(call)
        self.calls.extendleft(reversed(again))
        self.pool.offer(self)


class Pool(ABC):
    """A bounded set of workers that runs calls. Enter it with ``async with`` and use it inside.

    Leaving the block stops what still runs there: the callers of such calls get ``PoolClosedError``.
    """

    chunk_seconds: float = 0.0
    """How long a chunk should run to make the cost of sending it small; 0: one call a chunk."""
    default_limit: int = 256
    """The ``limit`` of maps that name none."""
    default_limit_bytes: int | None = None
    chunksize: int | None = None
    """Items in a chunk of maps that name none; ``None``: by the measured cost of the function."""
    most_calls: int = 1 << 20
    """How many calls the place found last takes in one chunk."""
    knows_what_runs: bool = True
    """Whether a place knows which call of a chunk runs. If not, calls with a ``timeout`` travel alone."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._state = "new"
        self._queue = CallQueue(self)
        self._sources: deque[Any] = deque()
        self._pump_planned = False
        self._functions: OrderedDict[Any, Function] = OrderedDict()
        self._running: set[Chunk] = set()
        self._completed = 0
        self._lost = 0
        self._maps: weakref.WeakSet[Results[Any]] = weakref.WeakSet()
        self._streams: weakref.WeakSet[Actor[Any] | Stream[Any]] = weakref.WeakSet()

    # -- what a pool supplies

    @abstractmethod
    async def _open(self) -> None:
        """Get ready to run."""

    @abstractmethod
    async def _close(self) -> None:
        """End every worker and leave nothing behind. No chunk is running any more where that can be."""

    @abstractmethod
    def _place(self) -> Any:
        """A place for one more chunk, with an attribute ``load`` (chunks there now), or ``None``."""

    @abstractmethod
    def _send(self, place: Any, chunk: Chunk) -> None:
        """Have the chunk run there. Must not block, nor call ``chunk.deliver`` before it returns."""

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        """Stop these calls; they end through ``chunk.stopped``. False: this place cannot."""
        return False

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        """Which call of the chunk runs, and for how many seconds; ``None``: not yet started."""
        return None

    def _make_call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Call:
        """A call of this function."""
        return Call(self, self._function(function), args, kwargs)

    def _prepare(self, call: Call) -> Coroutine[Any, Any, None] | None:
        """Make a call ready to be sent; raise if it cannot be."""
        return None

    def _mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function of a map as it is to be called, now that the map is made."""
        return function

    @classmethod  # noqa: B027 (most pools take any)
    def _refuse(cls, function: Callable[..., Any]) -> None:
        """Raise for a function that a pool with nothing but defaults cannot run: before there is one."""

    def _check_function(self, function: Callable[..., Any]) -> None:  # noqa: B027 (most pools send nothing)
        """Refuse a function that cannot be sent, where the user passes it."""

    def _drop(self, call: Call) -> None:  # noqa: B027 (most pools prepare nothing)
        """A call that was prepared is not sent: nobody wants it any more."""

    def _solo(self) -> Pool:
        """A pool of the same kind with one worker, for an actor or a stream."""
        raise UnsupportedError(f"{type(self).__name__} has no actors and no streams")

    # -- opening and closing

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise PoolClosedError(f"this {type(self).__name__} was opened before: make a new one")
        self.loop = asyncio.get_running_loop()
        self._state = "opening"
        try:
            await self._open()
        except BaseException:  # cancelled too: nothing may be left behind
            await shielded(self._close())
            self._state = "closed"
            raise
        if self._state == "opening":  # not broken meanwhile
            self._state = "open"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop what runs, end the workers. Cancelling this does not stop it half-way."""
        if self._state not in ("open", "broken"):
            return
        self._state = "closing"
        try:
            await shielded(self._finish())
        finally:
            self._state = "closed"

    async def _finish(self) -> None:
        for results in list(self._maps):
            results._pool_closed()
        for stream in list(self._streams):
            await stream.aclose()
        told = f"the {type(self).__name__} was closed while this call was waiting or running"
        running = [call for chunk in self._running if chunk.singles for call in chunk.items]
        for call in [*running, *self._queue.calls]:
            if not call.done():
                call.set_exception(PoolClosedError(told))
                call.exception()  # an awaiter gets it; without one there is nobody to tell
        self._queue.calls.clear()
        for chunk in list(self._running):
            self.stop_chunk(chunk)
        await self._close()

    def _fail_waiting(self, error: Exception) -> None:
        """The pool can run nothing more: calls that wait and maps end with this error."""
        for call in list(self._queue.calls):
            call.end(None, fresh(error))
        self._queue.calls.clear()
        for results in list(self._maps):
            results._pool_failed(fresh(error))

    def _check_open(self) -> None:
        """Refuse calls before and after the block."""
        if self._state != "open":
            name = type(self).__name__
            raise PoolClosedError(
                f"this {name} is {'not open yet' if self._state in ('new', 'opening') else 'closed'}: "
                f"use it inside 'async with {name}() as pool:'"
            )

    # -- the verbs

    @overload
    async def run(
        self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run ``function(*args, **kwargs)`` on a worker and return its value.

        Its exception is raised here as itself, with the worker's traceback in a note. Cancelling
        stops the work where this pool can, and waits until it has stopped.

        :raises PoolClosedError: the pool is not open
        :raises TypeError: ``function`` is not callable
        :raises SerializationError: function, arguments or result cannot be pickled (process pools)
        :raises WorkerLostError: the worker died while it ran this call
        """
        if self._state != "open":
            self._check_open()
        call = self._make_call(function, args, kwargs)
        slow = self._prepare(call)
        if slow is not None:
            await slow
            self._check_open()
        self._queue.add(call)
        return await call

    @overload
    async def run_within(
        self,
        timeout: float,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...
    @overload
    async def run_within(
        self, timeout: float, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    async def run_within(
        self, timeout: float, function: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Any:
        """As ``run``, but a call that has run for ``timeout`` seconds is stopped.

        The time is the call's own: what it waits for a worker does not count, as it would with ``asyncio.timeout``.
        What stopping means is as for cancelling. Raises what ``run`` raises, and:

        :raises CallTimeoutError: the call ran longer than that
        """
        self._check_open()
        call = self._make_call(function, args, kwargs)
        call.timeout = timeout
        slow = self._prepare(call)
        if slow is not None:
            await slow
            self._check_open()
        self._queue.add(call)
        return await call

    @overload
    def map(
        self,
        function: Callable[[A], Awaitable[T]],
        items: Iterable[A] | AsyncIterable[A],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        function: Callable[[A], T],
        items: Iterable[A] | AsyncIterable[A],
        /,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        function: Callable[..., Awaitable[T]],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        function: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...
    def map(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        limit: int | Limiter | None = None,
        limit_bytes: int | None = None,
        ordered: bool = True,
        timeout: float | None = None,
        retries: int = 0,
        retry_on: type[BaseException] | tuple[type[BaseException], ...] = (WorkerLostError,),
        return_exceptions: bool = False,
        progress: bool | str = False,
        chunksize: int | None = None,
        rate: RateLimiter | None = None,
        journal: str | PathLike[str] | Journal | None = None,
        key: Callable[..., Any] | None = None,
    ) -> Results[Any]:
        """Apply ``function`` to every item, on the workers. See ``asyncpar.map`` for the keywords."""
        from asyncpar.mapping import make_results

        self._check_open()
        return make_results(
            self._mapped(function), iterables, pool=self, limit=limit, limit_bytes=limit_bytes, ordered=ordered, timeout=timeout,
            retries=retries, retry_on=retry_on, return_exceptions=return_exceptions, progress=progress,
            chunksize=chunksize, rate=rate, journal=journal, key=key,
        )  # fmt: skip

    async def reduce(
        self,
        function: Callable[[T, T], T] | Callable[[T, T], Awaitable[T]],
        items: Iterable[T] | AsyncIterable[T],
        initial: T = _MISSING,
    ) -> T:
        """Fold ``items`` with an associative ``function``, pair by pair, on the workers, order kept."""
        from asyncpar.folding import fold

        self._check_open()
        return await fold(self, function, items, *([] if initial is _MISSING else [initial]))

    def actor(self, cls: Callable[P, A], /, *args: P.args, **kwargs: P.kwargs) -> Actor[A]:
        """An object that lives in a worker of its own: ``async with pool.actor(Model, path) as model``."""
        from asyncpar.actors import Actor

        self._check_open()
        return Actor(self, cls, args, kwargs)

    def stream(
        self,
        function: Callable[..., Iterable[T] | AsyncIterable[T]],
        /,
        *args: Any,
        limit: int = 256,
        **kwargs: Any,
    ) -> Stream[T]:
        """Iterate over a generator function that runs in a worker of its own, at most ``limit`` items ahead.

        An async one runs on the worker's own event loop.
        """
        from asyncpar.actors import Stream

        self._check_open()
        return Stream(self, function, args, kwargs, limit)

    def statistics(self) -> PoolStatistics:
        """Counts at this moment, as a frozen object."""
        from asyncpar.statistics import PoolStatistics

        return PoolStatistics(
            self.workers, len(self._running), len(self._queue.calls), self._completed, self._lost
        )

    # -- for sources and for pools' own code: scheduling

    def _function(self, call: Callable[..., Any]) -> Function:
        """What is known of a function; its cost survives from map to map."""
        known = self._known(call)
        if known is not None:
            return known
        if not callable(call):
            raise not_callable(call)
        made = self._new_function(call)
        if self._remembers(call):
            self._functions[call] = made
            if len(self._functions) > KNOWN_FUNCTIONS:
                self._forget(self._functions.popitem(last=False)[1])
        return made

    def _known(self, call: Callable[..., Any]) -> Function | None:
        try:
            return self._functions.get(call)
        except TypeError:  # not hashable
            return None

    def _remembers(self, call: Callable[..., Any]) -> bool:
        """Whether what is known of a function holds for its later calls and maps."""
        try:
            hash(call)
        except TypeError:
            return False
        return True

    def _new_function(self, call: Callable[..., Any]) -> Function:
        return Function(call)

    def _forget(self, function: Function) -> None:  # noqa: B027 (most pools keep nothing)
        """Nothing is kept for a function elsewhere."""

    def offer(self, source: Any) -> None:
        """A source may have something to run: at once if a worker idles, else together with what else comes."""
        if not source.offered:
            source.offered = True
            self._sources.append(source)
        if self._pump_planned:
            return
        place = self._place()
        if place is None:
            return
        if not place.load:
            self._pump_one(place)
        if self._sources:
            self._pump_planned = True
            self.loop.call_soon(self._planned)

    def withdraw(self, source: Any) -> None:
        """This source has nothing more."""
        if source.offered:
            source.offered = False
            self._sources.remove(source)

    def _planned(self) -> None:
        self._pump_planned = False
        self.pump()

    def pump(self) -> None:
        """Fill every place that has room."""
        while self._sources:
            place = self._place()
            if place is None or not self._pump_one(place):
                return

    def _pump_one(self, place: Any) -> bool:
        """Send one chunk from the first source that has one; sources take turns."""
        sources = self._sources
        for _ in range(len(sources)):
            source = sources[0]
            chunk = source.take(place.load > 0)
            if source.waiting():
                sources.rotate(-1)
            elif source.offered:
                source.offered = False
                sources.popleft()
            if chunk is not None:
                self._begin(place, chunk)
                return True
        return False

    def _begin(self, place: Any, chunk: Chunk) -> None:
        chunk.place = place
        place.load += 1
        self._running.add(chunk)
        if chunk.timeout is not None:
            chunk.timer = self.loop.call_later(chunk.timeout, self._check_timeout, chunk)
        self._send(place, chunk)

    def vacate(self, chunk: Chunk) -> None:
        """A chunk has ended, or its calls went back to their source: its place has room again."""
        if chunk in self._running:
            self._running.discard(chunk)
            chunk.place.load -= 1
            if chunk.timer is not None:
                chunk.timer.cancel()
                chunk.timer = None

    def stop_call(self, chunk: Chunk, index: int, outcome: BaseException) -> bool:
        """Stop one call; true if it will end through its chunk."""
        if index < chunk.done or chunk not in self._running:
            return False
        if chunk.stops and index in chunk.stops:
            return True  # it is being stopped: anyio's scopes cancel again in each turn of the loop
        chunk.stop(index, outcome)
        return self._interrupt(chunk, index, index)

    def stop_chunk(self, chunk: Chunk) -> bool:
        """Stop every call of a chunk that has no outcome yet; true if they will end through it."""
        if chunk.finished or chunk not in self._running:
            return False
        for index in range(chunk.done, len(chunk.items)):
            chunk.stop(index, Cancelled())
        return self._interrupt(chunk, chunk.done, len(chunk.items) - 1)

    def _check_timeout(self, chunk: Chunk) -> None:
        timeout = chunk.timeout
        if timeout is None or chunk.finished or chunk not in self._running:
            return
        progress = self._progress(chunk)
        left = timeout
        if progress is not None:
            index, seconds = progress
            left = timeout - seconds
            if left <= 0:
                self._expire(chunk, index, timeout)
                left = timeout
        chunk.timer = self.loop.call_later(max(left, 1e-3), self._check_timeout, chunk)

    def _expire(self, chunk: Chunk, index: int, timeout: float) -> None:
        if chunk.stops and index in chunk.stops:
            return
        error = CallTimeoutError(f"{chunk.label(index)} ran longer than timeout={timeout:g} seconds")
        chunk.stop(index, error)
        if not self._interrupt(chunk, index, index) and len(chunk.items) == 1:
            chunk.lost(error)  # this place cannot stop it: the caller goes on, the place stays held
