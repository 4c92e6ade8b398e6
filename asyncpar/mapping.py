"""``asyncpar.map``: one function over many items, wherever the function belongs."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from asyncpar.chunks import is_async, name_of
from asyncpar.errors import UnsupportedError, WorkerLostError
from asyncpar.feed import Feed, MapOptions, Options
from asyncpar.lanes import Lanes
from asyncpar.limits import Limiter, RateLimiter
from asyncpar.reading import open_reader
from asyncpar.results import Engine, Results

if TYPE_CHECKING:
    from os import PathLike

    from asyncpar.journal.journal import Journal
    from asyncpar.journal.session import Session
    from asyncpar.pool import Pool

A = TypeVar("A")
T = TypeVar("T")
Source = Iterable[Any] | AsyncIterable[Any]
RetryOn = type[BaseException] | tuple[type[BaseException], ...]

COROUTINE_LIMIT = 100
"""Default limit of coroutines in flight: what aiohttp's connector allows too."""


class _Options(MapOptions, total=False):
    on: Pool | str | None


@overload
def map(
    function: Callable[[A], Awaitable[T]],
    items: Iterable[A] | AsyncIterable[A],
    /,
    **options: Unpack[_Options],
) -> Results[T]: ...
@overload
def map(
    function: Callable[[A], T], items: Iterable[A] | AsyncIterable[A], /, **options: Unpack[_Options]
) -> Results[T]: ...
@overload
def map(
    function: Callable[..., Awaitable[T]], /, *iterables: Source, **options: Unpack[_Options]
) -> Results[T]: ...
@overload
def map(function: Callable[..., T], /, *iterables: Source, **options: Unpack[_Options]) -> Results[T]: ...
def map(
    function: Callable[..., Any],
    /,
    *iterables: Source,
    on: Pool | str | None = None,
    limit: int | Limiter | None = None,
    limit_bytes: int | None = None,
    ordered: bool = True,
    timeout: float | None = None,
    retries: int = 0,
    retry_on: RetryOn = (WorkerLostError,),
    return_exceptions: bool = False,
    progress: bool | str = False,
    chunksize: int | None = None,
    rate: RateLimiter | None = None,
    journal: str | PathLike[str] | Journal | None = None,
    key: Callable[..., Any] | None = None,
) -> Results[Any]:
    """Apply ``function`` to every item and return the ``Results``: await it, or read it as a stream.

    :param function: a coroutine function runs on the loop, any other on the default process pool
    :param iterables: sync or async, finite or not; several are read side by side until the shortest ends
    :param on: a pool, or the name of a default pool (``"process"``, ``"thread"``, ``"inline"``, ...)
    :param limit: how many calls may be in flight or finished but unread (default: 100 coroutines, 4,096 calls on
        processes, 256 elsewhere). The source is never read further ahead. A ``Limiter`` bounds the calls in flight of
        all maps that share it.
    :param limit_bytes: the same by serialised bytes of arguments and results (default on processes, when ``limit`` is
        not given either: 256 MiB); what the next result will weigh is taken from those before
    :param ordered: results in the order of the source, or as calls finish
    :param timeout: seconds for each call, from its start; over it the call is stopped and fails with
        ``CallTimeoutError``
    :param retries: how often to repeat a failed call whose error is one of ``retry_on``, after an exponential
        backoff with full jitter (50 ms at first, at most 10 s). Default 0: nothing is ever run twice unasked.
    :param return_exceptions: hand out errors as results instead of raising the first
    :param progress: show progress on stderr; a string is its label
    :param chunksize: force the number of items that travel together; by default it follows the measured cost of a
        call: many trivial calls in a chunk, long ones alone
    :param rate: start no more calls than this ``RateLimiter`` allows
    :param journal: a file, or a ``Journal``, that keeps each result; what it has already is handed out without a call.
        A result may be handed out up to 50 ms before it is in the file; when the map has ended, all are. Cancelling
        keeps what had finished. Failed calls are not kept.
    :param key: what an item is in the journal, as a str, bytes, int or tuple, if its content does not say; called on
        the loop with the item (with several iterables: with one from each)
    :raises TypeError, ValueError: at once, for arguments that make no sense
    :raises JournalError: when the map begins, if the journal cannot be used or is of a changed function; later, after
        the results before it, if it cannot be written or an item has no key
    """
    if on is None and is_async(function):
        pool: Pool | str | None = None
    else:
        pool = "process" if on is None else on
    return make_results(
        function, iterables, pool=pool, limit=limit, limit_bytes=limit_bytes, ordered=ordered, timeout=timeout,
        retries=retries, retry_on=retry_on, return_exceptions=return_exceptions, progress=progress,
        chunksize=chunksize, rate=rate, journal=journal, key=key,
    )  # fmt: skip


def make_results(
    function: Callable[..., Any],
    iterables: tuple[Any, ...],
    *,
    pool: Pool | str | None,
    results_class: type[Results[Any]] = Results,
    journal: str | PathLike[str] | Journal | None = None,
    key: Callable[..., Any] | None = None,
    **keywords: Any,
) -> Results[Any]:
    """The ``Results`` of a map on a pool, on the default pool of that name, or (``None``) on the loop."""
    if not callable(function):
        raise TypeError(
            f"the first argument must be callable, not {type(function).__name__}: pass the function itself"
        )
    if not iterables:
        raise TypeError(f"map needs at least one iterable: map({name_of(function)}, items)")
    progress = keywords.pop("progress")
    kind = _kind(pool)
    options = check_options(kind, **keywords)
    if isinstance(pool, str) and kind is not None:
        kind._refuse(function)
    open_session = _journal(function, journal, key)
    reader = open_reader(iterables)

    async def begin(changed: Callable[[], None]) -> Engine:
        place = pool
        if isinstance(place, str):
            from asyncpar.runtime import default_pool

            place = await default_pool(place)
        if place is not None:
            place._check_open()
            results_pool[0] = place
        if open_session is not None:
            from asyncpar.journal.replay import JournaledMap

            session = await open_session(reader.star)
            return JournaledMap(place, function, reader, options, session, changed)
        if place is None:
            return Lanes(function, reader, options, changed)
        return Feed(place, place._function(function), reader, options, changed)

    results_pool: list[Any] = [None if isinstance(pool, str) else pool]
    bar = None
    if progress:
        from asyncpar.progress import Progress

        bar = Progress()
    label = progress if isinstance(progress, str) else name_of(function)
    return results_class(begin, options.limit, bar, label, results_pool, reader.total)


def _journal(
    function: Callable[..., Any], journal: Any, key: Callable[..., Any] | None
) -> Callable[[bool], Awaitable[Session]] | None:
    """Opens the journal of a map, if it is to have one."""
    if key is not None and not callable(key):
        raise TypeError(f"key= takes a function of the item, not {type(key).__name__}")
    if journal is None:
        if key is not None:
            raise TypeError("key= says what an item is in a journal: pass journal= too")
        return None
    from asyncpar.journal.journal import open_journal

    opened = open_journal(journal)
    inner = getattr(function, "as_passed", function)

    async def open_session(star: bool) -> Session:
        from asyncpar.journal.session import Session

        session = Session(opened, inner, key, star)
        await session.open()
        return session

    return open_session


def _kind(pool: Pool | str | None) -> type[Pool] | None:
    if isinstance(pool, str):
        from asyncpar.runtime import find_pool

        return find_pool(pool)[0]
    if pool is None:
        return None
    from asyncpar.pool import Pool

    if not isinstance(pool, Pool):
        raise TypeError(f"on= must be a pool or the name of one, not {type(pool).__name__}")
    return type(pool)


def check_options(
    kind: type[Pool] | None, *, limit: int | Limiter | None, limit_bytes: int | None, ordered: bool,
    timeout: float | None, retries: int, retry_on: RetryOn, return_exceptions: bool, chunksize: int | None,
    rate: RateLimiter | None, extra: Any = None,
) -> Options:  # fmt: skip
    """The keywords of a map, or an error that says which is wrong and what to write instead."""
    limiter = limit if isinstance(limit, Limiter) else None
    default = COROUTINE_LIMIT if kind is None else kind.default_limit
    if limit_bytes is not None and (kind is None or kind.default_limit_bytes is None):
        place = "the loop" if kind is None else kind.__name__
        raise UnsupportedError(
            f"limit_bytes= needs a pool that serialises; nothing is serialised on {place}: use limit="
        )
    if limit is None and limit_bytes is None and kind is not None:
        limit_bytes = kind.default_limit_bytes
    bound = limiter.total if limiter else default if limit is None else limit
    _at_least("limit", bound, 1, int)
    _at_least("limit_bytes", limit_bytes, 1, int)
    _at_least("timeout", timeout, 0, (int, float), above=True)
    _at_least("retries", retries, 0, int)
    _at_least("chunksize", chunksize, 1, int)
    classes = retry_on if isinstance(retry_on, tuple) else (retry_on,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise TypeError(f"retry_on= takes exception classes, not {cls!r}")
    if rate is not None and not isinstance(rate, RateLimiter):
        raise TypeError(
            f"rate= takes a RateLimiter, not {type(rate).__name__}: rate=RateLimiter(10, per=1.0)"
        )
    return Options(
        cast("int", bound),
        limiter,
        limit_bytes,
        ordered,
        timeout,
        retries,
        classes,
        return_exceptions,
        chunksize,
        rate,
        extra,
    )


def _at_least(name: str, value: Any, least: int, types: Any, above: bool = False) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, types):
        what = "a whole number" if types is int else "a number of seconds"
        raise TypeError(f"{name}= must be {what}, not {type(value).__name__}")
    if not value >= least or (above and value == least):  # NaN neither
        raise ValueError(f"{name}= must be {'more than' if above else 'at least'} {least}, not {value}")
