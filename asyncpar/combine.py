"""Waiting for several awaitables at once: `gather` (all), `as_completed` (each), `first` (any).

All three stand on `_Crew`, which keeps one promise: when the caller goes on, nothing that it passed is still running.
The first decisive end (a failure; for `first` a success) cancels the others, and they are awaited. That holds for
tasks and futures that were running before, too: put `asyncio.shield()` around what must live on.

No failure disappears. The first is raised. Others that come while the rest is being cancelled are named in its notes;
if nothing is raised that could carry notes (the caller was cancelled, left early, or got the winner), they go to
the event loop's exception handler, which logs them.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future as ConcurrentFuture
from contextlib import suppress
from typing import Any, Generic, Literal, Self, TypeVar, cast, overload

from asyncpar.limits import Limiter

__all__ = ["Completed", "as_completed", "first", "gather"]

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")
T6 = TypeVar("T6")


# The order of these, and what is ignored, are as for `asyncio.gather`: False is a bool, yet it decides the type.
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1], /, *, limit: int | Limiter | None = None, return_exceptions: Literal[False] = False
) -> tuple[T1]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[T1, T2]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[T1, T2, T3]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[T1, T2, T3, T4]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[T1, T2, T3, T4, T5]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    aw6: Awaitable[T6],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: Literal[False] = False,
) -> tuple[T1, T2, T3, T4, T5, T6]: ...
@overload
async def gather(  # type: ignore[overload-overlap]
    *aws: Awaitable[T], limit: int | Limiter | None = None, return_exceptions: Literal[False] = False
) -> list[T]: ...
@overload
async def gather(
    aw1: Awaitable[T1], /, *, limit: int | Limiter | None = None, return_exceptions: bool
) -> tuple[T1 | BaseException]: ...
@overload
async def gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: bool,
) -> tuple[T1 | BaseException, T2 | BaseException]: ...
@overload
async def gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: bool,
) -> tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException]: ...
@overload
async def gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: bool,
) -> tuple[T1 | BaseException, T2 | BaseException, T3 | BaseException, T4 | BaseException]: ...
@overload
async def gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: bool,
) -> tuple[
    T1 | BaseException, T2 | BaseException, T3 | BaseException, T4 | BaseException, T5 | BaseException
]: ...
@overload
async def gather(
    aw1: Awaitable[T1],
    aw2: Awaitable[T2],
    aw3: Awaitable[T3],
    aw4: Awaitable[T4],
    aw5: Awaitable[T5],
    aw6: Awaitable[T6],
    /,
    *,
    limit: int | Limiter | None = None,
    return_exceptions: bool,
) -> tuple[
    T1 | BaseException,
    T2 | BaseException,
    T3 | BaseException,
    T4 | BaseException,
    T5 | BaseException,
    T6 | BaseException,
]: ...
@overload
async def gather(
    *aws: Awaitable[T], limit: int | Limiter | None = None, return_exceptions: bool
) -> list[T | BaseException]: ...
async def gather(
    *aws: Awaitable[Any], limit: int | Limiter | None = None, return_exceptions: bool = False
) -> Any:
    """Run awaitables at the same time and return the list of their results, in the order of the arguments.

    Coroutines, tasks, futures and objects with `__await__` can be mixed; one that is passed twice runs once and gives
    its result twice. (To type checkers the result is a tuple where that tells them more, as with `asyncio.gather`.)

    The first failure is raised as itself, after the others were cancelled and have ended; further failures are named
    in its notes. Being cancelled cancels all of them and waits until they have ended; a second cancellation does not
    cut their cleaning-up short, and an awaitable that ignores cancellation is waited for.

    :param limit: how many may run at the same time, or a `Limiter` shared with others; what waits for room has not
        started, and never will after a failure. Tasks and futures are running already: they take no room. None, the
        default, starts all at once.
    :param return_exceptions: return failures in the place of results instead of raising the first. An awaitable that
        somebody else cancelled fails with `CancelledError`. KeyboardInterrupt and SystemExit are raised in any case.
    :raises TypeError: an argument is not awaitable, or `limit` is neither int nor `Limiter`.
    :raises ValueError: `limit` is below 1, or an argument is the calling task or belongs to another event loop.
    """
    crew = _Crew[Any]("gather", aws, limit, _is_fatal if return_exceptions else _failed)
    crew.start()
    await crew.finish()
    return crew.outcomes() if crew.decisive is None else crew.verdict()


async def first(*aws: Awaitable[T]) -> T:
    """Run awaitables at the same time and return the first successful result; the losers are cancelled.

    Losers have ended when this returns. Their failures before that are dropped: they lost. Being cancelled cancels
    all of them and waits until they have ended.

    :raises ExceptionGroup: all failed; it holds their exceptions, in the order of the arguments (it is a
        BaseExceptionGroup if somebody else cancelled one of them). KeyboardInterrupt and SystemExit are raised at once.
    :raises ValueError: there are no arguments, or one is the calling task or belongs to another event loop.
    :raises TypeError: an argument is not awaitable.
    """
    if not aws:
        raise ValueError("first() needs at least one awaitable: of none, none can be first")
    crew = _Crew("first", aws, None, _succeeded)
    crew.start()
    await crew.finish()
    if crew.decisive is not None:
        return crew.verdict()
    failures = [exc for exc in crew.outcomes() if isinstance(exc, BaseException)]
    raise BaseExceptionGroup(f"first: all {len(failures)} awaitables failed", failures)


def as_completed(*aws: Awaitable[T], limit: int | Limiter | None = None) -> Completed[T]:
    """Run awaitables at the same time and iterate over their results in the order in which they end.

    >>> async with as_completed(*map(fetch, urls), limit=10) as pages:
    ...     async for page in pages:
    ...         ...

    They start when the iteration does (or the `async with`), and not before. A failure is raised by the iteration, after
    the results before it and after the others were cancelled and have ended; then the iteration is over. Leaving the
    `async with` block early cancels what runs and waits for it; breaking out of a bare `async for` cancels too, but
    nobody waits. One that is passed twice runs once and comes once.

    :param limit: how many may run at the same time, or a `Limiter` shared with others; results that nobody has taken
        yet do not count. None, the default, starts all at once.
    :raises TypeError: an argument is not awaitable, or `limit` is neither int nor `Limiter`; at the call.
    :raises ValueError: `limit` is below 1 (at the call), or an argument is the iterating task or belongs to another
        event loop (when the iteration starts).
    """
    return Completed(_Crew("as_completed", aws, limit, _failed))


class Completed(AsyncIterator[T], Generic[T]):
    """What `as_completed` returns: an async iterator, and an async context manager that leaves nothing running."""

    def __init__(self, crew: _Crew[T]) -> None:
        self._crew = crew

    async def __anext__(self) -> T:
        """Return the next result; cancelling this wait loses none, and leaves the others running."""
        self._crew.start()
        future = await self._crew.next_arrival()
        if future is None:
            raise StopAsyncIteration
        if future is not self._crew.decisive:
            return future.result()
        del future  # its exception is about to hold this frame
        await self._crew.finish()
        return self._crew.verdict()

    async def aclose(self) -> None:
        """End the iteration: cancel what runs, drop what has not started, wait until all have ended."""
        await self._crew.aclose()

    async def __aenter__(self) -> Self:
        self._crew.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        self._crew.abandon()


class _Crew(Generic[T]):
    """Awaitables that run side by side until all have ended; the first decisive end cancels the others."""

    def __init__(
        self,
        verb: str,
        aws: tuple[Awaitable[T], ...],
        limit: int | Limiter | None,
        decides: Callable[[asyncio.Future[T]], bool],
    ) -> None:
        self._verb = verb
        self._aws = aws
        self._limiter = _checked(verb, aws, limit)
        self._decides = decides
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unstarted: deque[Awaitable[T]] = deque()
        self._running: dict[asyncio.Future[T], int] = {}  # with the awaitable's id
        self._futures: dict[int, asyncio.Future[T]] = {}  # by the awaitable's id
        self._arrivals: deque[int] = deque()  # the ids of those that have ended, to be taken
        self._late: list[asyncio.Future[T]] = []
        self._news = asyncio.Event()
        self._all_ended = asyncio.Event()
        self._halted = False
        self._unsubscribe: Callable[[], None] | None = None
        self.decisive: asyncio.Future[T] | None = None

    def start(self) -> None:
        """Start what there is room for; the rest follows as others end. Once started, do nothing."""
        if self._loop is not None:
            return
        self._loop = _checked_loop(self._verb, self._aws)
        for aw in {id(aw): aw for aw in self._aws}.values():
            if asyncio.isfuture(aw):
                self._watch(aw, aw)
            else:
                self._unstarted.append(aw)
        if self._limiter is not None and self._unstarted:
            self._unsubscribe = self._limiter.subscribe(self._start_more)
        self._start_more()
        self._notify()

    async def finish(self) -> None:
        """Wait until all have ended; when cancelled, cancel them, and still wait."""
        cancelled: asyncio.CancelledError | None = None
        try:
            while not self._all_ended.is_set():
                try:
                    await self._all_ended.wait()
                except asyncio.CancelledError as exc:
                    if cancelled is None:
                        cancelled = exc
                        self._halt()
                except GeneratorExit:
                    self.abandon()
                    raise
            if cancelled is not None:
                self._log_untaken()
                raise cancelled
        finally:
            del cancelled  # its traceback holds this frame

    async def next_arrival(self) -> asyncio.Future[T] | None:
        """Wait for the next one to end; None when all have, or when the crew is closed."""
        while not self._arrivals and not self._all_ended.is_set():
            self._news.clear()
            await self._news.wait()
        if not self._arrivals:
            return None
        key = self._arrivals.popleft()
        if self._futures[key] is self.decisive:
            return self.decisive
        return self._futures.pop(key)  # its result is the taker's alone

    def verdict(self) -> T:
        """Return the decisive result or raise the decisive failure; what failed after it is told, too."""
        decisive, late = self.decisive, self._named(self._late)
        assert decisive is not None
        self._forget()
        try:
            result = decisive.result()
        except BaseException as exc:  # whatever it is, it carries the notes
            _add_notes(exc, late)
            raise
        finally:
            del decisive  # its exception's traceback holds this frame
        self._log(late)
        return result

    def outcomes(self) -> list[T | BaseException]:
        """Return each argument's result, or the exception it failed with."""
        return [_outcome(self._futures[id(aw)]) for aw in self._aws]

    async def aclose(self) -> None:
        """Cancel what runs, drop what has not started, wait until all have ended."""
        if self._loop is None:
            self._halted = True
            self.start()
        self._halt()
        self._arrivals.clear()
        await self.finish()
        self._log_untaken()

    def abandon(self) -> None:
        """Begin to close without waiting for it, where one cannot wait, such as in `__del__`, in any thread."""
        told = self._all_ended.is_set() and self.decisive is None and not self._late
        if self._loop is not None and not told:
            with suppress(RuntimeError):  # the loop is closed, and nothing can run any more
                self._loop.call_soon_threadsafe(_close_behind, self)

    def _start_more(self) -> None:
        while self._unstarted and not self._halted and self._has_room():
            self._launch(self._unstarted.popleft())
        if self._halted:
            _close(self._unstarted)
            self._unstarted.clear()
        if not self._unstarted:
            self._leave_line()

    def _has_room(self) -> bool:
        return self._limiter is None or self._limiter.acquire_nowait()

    def _leave_line(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def _launch(self, aw: Awaitable[T]) -> None:
        assert self._loop is not None
        future: asyncio.Future[T]
        coroutine = _as_coroutine(aw)
        try:
            future = self._loop.create_task(coroutine)
        except BaseException as exc:  # an eager task can raise here; it ends like any other
            coroutine.close()
            future = self._loop.create_future()
            future.set_exception(exc)
        if self._limiter is not None:
            future.add_done_callback(self._release)
        self._watch(aw, future)

    def _release(self, _: asyncio.Future[T]) -> None:
        assert self._limiter is not None
        self._limiter.release()

    def _watch(self, aw: Awaitable[T], future: asyncio.Future[T]) -> None:
        self._futures[id(aw)] = future
        self._running[future] = id(aw)
        future.add_done_callback(self._ended)

    def _ended(self, future: asyncio.Future[T]) -> None:
        key = self._running.pop(future)
        decides = self._decides(future)
        if self._halted:
            self._late.append(future)
        else:
            self._arrivals.append(key)
            if decides:
                self.decisive = future
                self._halt()
        self._notify()

    def _halt(self) -> None:
        """Cancel what runs and drop what has not started; from here on, ends are late."""
        self._halted = True
        self._start_more()
        for future in tuple(self._running):
            future.cancel()
        self._notify()

    def _notify(self) -> None:
        if not self._running and not self._unstarted:
            self._all_ended.set()
        self._news.set()

    def _log_untaken(self) -> None:
        """Log failures that nobody will be told of in another way."""
        untaken = self._late if self.decisive is None else [self.decisive, *self._late]
        self._log(self._named(untaken))
        self._forget()

    def _forget(self) -> None:
        """Let go of all futures, so that no exception is kept alive by a cycle through its own traceback."""
        self.decisive = None
        self._futures.clear()
        self._arrivals.clear()
        self._late.clear()

    def _named(self, futures: Iterable[asyncio.Future[T]]) -> list[tuple[str, BaseException]]:
        """Return the failures among `futures`, each with what to call it."""
        failures = [(future, future.exception()) for future in futures if not future.cancelled()]
        return [(self._name(future), exc) for future, exc in failures if exc is not None]

    def _name(self, future: asyncio.Future[T]) -> str:
        position = next(i for i, aw in enumerate(self._aws, 1) if self._futures.get(id(aw)) is future)
        return f"asyncpar.{self._verb}: argument {position}"

    def _log(self, failures: Iterable[tuple[str, BaseException]]) -> None:
        assert self._loop is not None
        for name, exc in failures:
            if not isinstance(exc, KeyboardInterrupt | SystemExit):  # the loop has raised these itself
                message = f"{name} failed when nobody waited for it any more"
                self._loop.call_exception_handler({"message": message, "exception": exc})


_closing: set[asyncio.Task[None]] = set()  # the loop itself keeps tasks by weak references only


def _close_behind(crew: _Crew[Any]) -> None:
    task = asyncio.get_running_loop().create_task(crew.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


def _as_coroutine(aw: Awaitable[T]) -> Coroutine[Any, Any, T]:
    return cast("Coroutine[Any, Any, T]", aw) if isinstance(aw, Coroutine) else _wait_for(aw)


async def _wait_for(aw: Awaitable[T]) -> T:
    return await aw


def _failed(future: asyncio.Future[Any]) -> bool:
    return future.cancelled() or future.exception() is not None


def _is_fatal(future: asyncio.Future[Any]) -> bool:
    return _failed(future) and isinstance(_outcome(future), KeyboardInterrupt | SystemExit)


def _succeeded(future: asyncio.Future[Any]) -> bool:
    return not _failed(future) or _is_fatal(future)


def _outcome(future: asyncio.Future[Any]) -> Any:
    try:
        exc = future.exception()
    except asyncio.CancelledError as cancelled:
        return cancelled
    return future.result() if exc is None else exc


def _add_notes(exc: BaseException, others: Iterable[tuple[str, BaseException]]) -> None:
    for name, other in others:
        if other is not exc:
            exc.add_note(f"{name} failed as well: {type(other).__name__}: {other}")


def _checked(verb: str, aws: tuple[object, ...], limit: object) -> Limiter | None:
    """Return the limiter that `limit` means; close the coroutines in `aws` if there is anything wrong with them."""
    try:
        _check_awaitables(verb, aws)
        return _limiter(limit)
    except (TypeError, ValueError):
        _close(aws)
        raise


def _check_awaitables(verb: str, aws: tuple[object, ...]) -> None:
    for position, aw in enumerate(aws, 1):
        if not inspect.isawaitable(aw):
            raise TypeError(f"{verb}() argument {position} is not awaitable, but {_describe(aw)}")


def _limiter(limit: object) -> Limiter | None:
    if limit is None or isinstance(limit, Limiter):
        return limit
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(
            f"limit= must be an int, a Limiter or None, not {limit!r:.100} ({type(limit).__name__})"
        )
    if limit < 1:
        raise ValueError(f"limit= must be at least 1, not {limit} (None is for no limit)")
    return Limiter(limit)


def _describe(thing: object) -> str:
    """Say what was passed instead of an awaitable, and what to do about it."""
    if inspect.isroutine(thing):
        return f"the function {thing.__qualname__}: call it, and pass what it returns"
    if isinstance(thing, ConcurrentFuture):
        return "a concurrent.futures.Future: pass asyncio.wrap_future(future)"
    kind = type(thing).__name__
    if isinstance(thing, AsyncIterator):
        return f"an async iterator ({kind}): read it with `async for`, or asyncpar.map()"
    if isinstance(thing, list | tuple | set | frozenset) or inspect.isgenerator(thing):
        return f"a {kind}: if it holds awaitables, unpack it with *"
    return f"{thing!r:.100} ({kind}): pass coroutines, tasks, futures or objects with __await__"


def _checked_loop(verb: str, aws: tuple[Awaitable[Any], ...]) -> asyncio.AbstractEventLoop:
    """Return the running loop; refuse, and close all coroutines, if a future could never end on it."""
    loop, current = asyncio.get_running_loop(), asyncio.current_task()
    for position, aw in enumerate(aws, 1):
        if not asyncio.isfuture(aw):
            continue
        if aw is current:
            _close(aws)
            raise ValueError(
                f"{verb}() argument {position} is the task that waits here: it would wait for itself"
            )
        if aw.get_loop() is not loop:
            _close(aws)
            raise ValueError(f"{verb}() argument {position} belongs to another event loop: await it there")
    return loop


def _close(aws: Iterable[object]) -> None:
    """Close what has not started, so that Python does not warn that it was never awaited."""
    for aw in aws:
        if isinstance(aw, Coroutine):
            aw.close()
