"""A running map on a pool: reads its source, hands out chunks, keeps their outcomes in the window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from asyncpar.chunks import Cancelled, Chunk, Errors, Function
from asyncpar.limits import Limiter, RateLimiter
from asyncpar.reading import Reader
from asyncpar.window import HOLE, Block, Window

if TYPE_CHECKING:
    from os import PathLike

    from asyncpar.journal.journal import Journal
    from asyncpar.pool import Pool

MOST_ITEMS = 4096
"""Items in a chunk: enough that a frame's fixed cost (about 50 us) is lost in it."""
LONG_SECONDS = 5e-3
"""Nothing is queued behind calls that take longer than this: they would wait while others idle."""


class Options(NamedTuple):
    """The keywords of ``map``, checked."""

    limit: int
    limiter: Limiter | None
    limit_bytes: int | None
    ordered: bool
    timeout: float | None
    retries: int
    retry_on: tuple[type[BaseException], ...]
    return_exceptions: bool
    chunksize: int | None
    rate: RateLimiter | None
    extra: Any = None
    """What the pool's own ``map`` takes beside these; its ``_send`` finds it in ``chunk.source.options.extra``."""


class MapOptions(TypedDict, total=False):
    """The keywords of ``map``, for type checkers."""

    limit: int | Limiter | None
    limit_bytes: int | None
    ordered: bool
    timeout: float | None
    retries: int
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    return_exceptions: bool
    progress: bool | str
    chunksize: int | None
    rate: RateLimiter | None
    journal: str | PathLike[str] | Journal | None
    key: Callable[..., Any] | None


def backoff(attempt: int) -> float:
    """Seconds to wait before attempt ``attempt`` (2 is the first repeat): exponential, full jitter.

    Between 0 and 50 ms, 100 ms, 200 ms, ... up to 10 s. Full jitter spreads clients best:
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    import random

    return random.uniform(0, min(10.0, 0.05 * 2 ** (attempt - 2)))


class Feed:
    """A source of chunks (see ``chunks.Source``) for one map."""

    def __init__(
        self, pool: Pool, function: Function, reader: Reader, options: Options, changed: Callable[[], None]
    ) -> None:
        self.pool, self.function, self.reader, self.options = pool, function, reader, options
        self.changed = changed
        self.window = Window(
            options.limit,
            limit_bytes=options.limit_bytes,
            ordered=options.ordered,
            raising=not options.return_exceptions,
        )
        self.in_flight: set[Chunk] = set()
        self.again: deque[tuple[Block, int, list[Any]]] = deque()
        self.attempts: dict[tuple[int, int], int] = {}
        self.delayed: dict[asyncio.TimerHandle, None] = {}
        self.retried = 0
        self.size = 1
        self.closed = False
        self.offered = False
        self._turn: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to read the source and to run."""
        self.reader.start(self.offer, self.window.room)
        if self.options.limiter is not None:
            self._unsubscribe = self.options.limiter.subscribe(self.offer)
        self.offer()

    def offer(self) -> None:
        """Something may be there to take."""
        if not self.closed:
            self.pool.offer(self)
            if self.complete():
                self.changed()

    def moved(self) -> None:
        """The consumer took results: there may be room."""
        room_again = getattr(self.reader, "room_again", None)
        if room_again is not None:
            room_again()
        if not self.reader.exhausted or self.again:
            self.offer()

    def complete(self) -> bool:
        """Whether every item of the source has its outcome."""
        reader = self.reader
        return (
            reader.exhausted
            and not reader.ready()
            and not self.in_flight
            and not self.again
            and not self.delayed
        )

    # -- as a source of chunks

    def waiting(self) -> bool:
        return bool(self.again) or (self.reader.ready() and self.window.room() > 0)

    def take(self, busy: bool) -> Chunk | None:
        cost = self.function.seconds
        if self.closed or (busy and (cost is None or cost > LONG_SECONDS)):
            return None
        wanted = len(self.again[0][2]) if self.again else self._size(cost)
        granted = self._granted(min(wanted, self.pool.most_calls))
        if not granted:
            return None
        if self.again:
            block, offset, items = self.again.popleft()
            if len(items) > granted:
                self.again.appendleft((block, offset + granted, items[granted:]))
                items = items[:granted]
        else:
            items = self.reader.read(granted)
            if not items:
                self._give_back(granted)
                if self.complete():
                    self.changed()
                return None
            self._give_back(granted - len(items))
            self.window.read += len(items)
            block, offset = self.window.open(len(items)), 0
        chunk = Chunk(self, items, self.function, star=self.reader.star, timeout=self.options.timeout)
        chunk.block, chunk.offset = block, offset
        self.in_flight.add(chunk)
        return chunk

    def _size(self, cost: float | None) -> int:
        """Items for the next chunk: twice the pool's chunk duration, an even share of what is left."""
        options, workers = self.options, self.pool.workers
        room = self.window.room()
        if options.timeout is not None and not self.pool.knows_what_runs:
            return min(1, room)
        chunksize = options.chunksize or self.pool.chunksize
        if chunksize is not None:
            return min(chunksize, room)
        if cost is None or not self.pool.chunk_seconds:
            self.size = 1
        else:
            wanted = int(2 * self.pool.chunk_seconds / cost)
            if options.timeout is not None:
                wanted = min(wanted, int(options.timeout / 10 / cost))
            self.size = max(1, min(wanted, 4 * self.size, MOST_ITEMS))
        size = min(self.size, max(1, self.window.limit // (2 * workers)))
        left = getattr(self.reader, "total", None)
        if left is not None:
            size = min(size, max(1, -(-(left - self.window.read) // (2 * workers))))
        return min(size, room)

    def _granted(self, n: int) -> int:
        """How many of ``n`` calls limiter and rate allow now; a timer or callback brings us back."""
        limiter, rate = self.options.limiter, self.options.rate
        if n > 0 and rate is not None and (delay := rate.delay()) > 0:
            self._come_back(delay)
            return 0
        if n > 0 and limiter is not None:
            n = min(n, limiter.total)
            while n and not limiter.acquire_nowait(n):
                n //= 2
        if n > 0 and rate is not None:
            whole = n
            n = 1  # starts are spread: a chunk of many would start as one
            if not rate.acquire_nowait():
                n = 0
                self._come_back(rate.delay())
            if limiter is not None and whole > n:
                limiter.release(whole - n)
        return n

    def _give_back(self, n: int) -> None:
        if n and self.options.limiter is not None:
            self.options.limiter.release(n)

    def _come_back(self, delay: float) -> None:
        if self._turn is None:
            self._turn = asyncio.get_running_loop().call_later(max(delay, 1e-3), self._my_turn)

    def _my_turn(self) -> None:
        self._turn = None
        self.offer()

    def deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        self._give_back(len(values))
        self.pool._completed += len(values)
        if chunk.finished:
            self.in_flight.discard(chunk)
        if self.closed:
            self._closing()
            return
        errors = errors or None
        if errors:
            values = list(values)
            for i in [i for i, error in errors.items() if self._again(chunk, first + i, error)]:
                del errors[i]
                values[i] = HOLE
        self.window.fill(chunk.block, chunk.offset + first, values, errors)
        self.changed()
        if not self.reader.exhausted:
            self.pool.offer(self)

    def requeue(self, chunk: Chunk, first: int) -> None:
        self._give_back(len(chunk.items) - first)
        self.in_flight.discard(chunk)
        if self.closed:
            self._closing()
            return
        self.again.append((chunk.block, chunk.offset + first, list(chunk.items[first:])))
        self.offer()

    def _again(self, chunk: Chunk, index: int, error: BaseException) -> bool:
        """Run this call again, later, if the caller asked for that."""
        options = self.options
        if not options.retries or not isinstance(error, options.retry_on) or isinstance(error, Cancelled):
            return False
        key = (id(chunk.block), chunk.offset + index)
        attempt = self.attempts.get(key, 1)
        if attempt > options.retries:
            error.add_note(f"this was attempt {attempt} of {attempt}")
            return False
        self.attempts[key] = attempt + 1
        self.retried += 1
        self.pool._completed -= 1
        entry = (chunk.block, chunk.offset + index, [chunk.items[index]])

        def repeat() -> None:
            self.delayed.pop(handle)
            self.again.append(entry)
            self.offer()

        handle = asyncio.get_running_loop().call_later(backoff(attempt + 1), repeat)
        self.delayed[handle] = None
        return True

    # -- the end

    def close(self) -> None:
        """Read no more, start no more, stop what runs."""
        if self.closed:
            return
        self.closed = True
        self.pool.withdraw(self)
        for handle in (*self.delayed, *([self._turn] if self._turn else [])):
            handle.cancel()
        self.delayed.clear()
        if self._unsubscribe is not None:
            self._unsubscribe()
        for chunk in list(self.in_flight):
            if not self.pool.stop_chunk(chunk):
                self.in_flight.discard(chunk)

    def _closing(self) -> None:
        if not self.in_flight:
            self.changed()
