"""A map with a journal: results that are there come from it, calls are made for the rest, and kept.

The source is read here, in small batches, never past the limit. A batch is looked up in the journal's thread; what is
there goes into the window, what is missing to the engine that makes calls, which knows nothing of the rest of the
source. The window puts both together again, in the order of the source.
"""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from asyncpar.chunks import Chunk, Errors, name_of
from asyncpar.errors import SerializationError
from asyncpar.feed import Feed, Options
from asyncpar.journal.session import Session
from asyncpar.journal.writer import MISSING, Key, Looked
from asyncpar.lanes import Lanes
from asyncpar.reading import NOTHING, Reader
from asyncpar.window import Window, fitting

if TYPE_CHECKING:
    from asyncpar.pool import Pool

BATCH = 500
"""Items that are looked up together: some milliseconds of the thread's time."""
AHEAD = 2
"""Batches that are looked up at the same time, so that the thread does not wait for the loop."""


class ReplayWindow:
    """What ``Window`` is for ``Results``, of an engine's results and the journal's together. No I/O, no event loop."""

    inner: Window

    def __init__(self, limit: int, *, limit_bytes: int | None = None, ordered: bool = True) -> None:
        self.limit, self.limit_bytes, self.ordered = limit, limit_bytes, ordered
        self.failure: BaseException | None = None
        self.read = 0  # items read from the source
        self.hits = 0  # of which the journal had the result
        self.hits_taken = self.hits_lent = 0
        self.hit_bytes = self.hit_bytes_lent = self.hit_bytes_seen = 0
        self._greedy = False
        self._runs: deque[tuple[list[Any], int] | int] = (
            deque()
        )  # results and their bytes; or how many are to come
        self._rest: list[Any] = []  # of the engine's last list, what comes behind some results of the journal

    @property
    def finished(self) -> int:
        return self.hits + self.inner.finished

    @property
    def taken(self) -> int:
        return self.hits_taken + self.inner.taken

    @property
    def lent(self) -> int:
        return self.hits_lent + self.inner.lent - len(self._rest)

    def take_all(self) -> None:
        self.inner.take_all()
        self._greedy = True
        self.hits_taken, self.hits_lent = self.hits, 0

    def room(self) -> int:
        """How many items may be read from the source now."""
        inner = self.inner
        if self.failure is not None or inner.failure is not None:
            return 0
        outstanding = self.read - self.taken
        room = max(self.limit - outstanding, 0)
        if self.limit_bytes is None or not room:
            return room
        held, seen = self.hit_bytes + inner.bytes, self.hit_bytes_seen + inner.seen_bytes
        return min(
            room, fitting(self.limit_bytes, outstanding, held, self.finished, seen) if self.read else 1
        )

    def add(self, values: list[Any], nbytes: int) -> None:
        """What the journal had of the next items, ``MISSING`` where it had nothing; ``nbytes`` is the weight of all."""
        hits = sum(value is not MISSING for value in values)
        self.hits += hits
        self.hit_bytes_seen += nbytes
        self.hit_bytes += nbytes
        if self._greedy:
            self.hits_taken += hits
        each = nbytes // hits if hits else 0
        self.hit_bytes -= nbytes - each * hits
        if not self.ordered:
            if hits:
                self._runs.append(([value for value in values if value is not MISSING], each * hits))
            return
        begin = 0
        while begin < len(values):
            missing = values[begin] is MISSING
            end = begin + 1
            while end < len(values) and (values[end] is MISSING) == missing:
                end += 1
            self._add_run(end - begin if missing else (values[begin:end], each * (end - begin)))
            begin = end

    def _add_run(self, run: tuple[list[Any], int] | int) -> None:
        if isinstance(run, int) and self._runs and isinstance(self._runs[-1], int):
            self._runs[-1] += run
        else:
            self._runs.append(run)

    def pull(self) -> list[Any] | None:
        """Results to hand out next, or ``None`` if there are none yet (see ``Window.pull``)."""
        self.hits_taken += self.hits_lent
        self.hit_bytes -= self.hit_bytes_lent
        self.hits_lent = self.hit_bytes_lent = 0
        if not self._rest:
            self.inner.settle()
        if self.failure is not None:
            return None
        runs = self._runs
        if runs and not isinstance(head := runs[0], int):
            runs.popleft()
            values, self.hit_bytes_lent = head
            self.hits_lent = 0 if self._greedy else len(values)
            return values
        return self._pull_ordered() if self.ordered else self._pull_inner()

    def _pull_inner(self) -> list[Any] | None:
        values = self.inner.pull()
        if values is None:
            self.failure = self.inner.failure
        return values

    def _pull_ordered(self) -> list[Any] | None:
        values = self._rest or self._pull_inner()
        if not values:
            return values
        count = self._runs[0]
        assert isinstance(count, int)
        self._rest = values[count:]
        if len(values) < count:
            self._runs[0] = count - len(values)
        else:
            self._runs.popleft()
        return values[:count] if self._rest else values


class ReplayReader:
    """The reader of the engine (see ``reading``): gives it the items that the journal has no result of.

    :param paired: items come together with their keys, for lanes; else ``keys`` are those of the last items read
    """

    def __init__(
        self,
        source: Reader,
        window: ReplayWindow,
        session: Session,
        changed: Callable[[], None],
        *,
        paired: bool,
    ) -> None:
        self.source, self.window, self.session, self.changed = source, window, session, changed
        self.star = source.star and not paired
        self.keys: list[Key] = []
        self._paired = paired
        self._missing: deque[tuple[Any, Key]] = deque()
        self._looking = 0
        # What results weigh is known only when some are there: batches grow, where bytes are counted.
        self._batch = BATCH if window.limit_bytes is None else 1
        self._halted = False  # at an item without a key, or by the end of the map
        self._cut = False  # what was looked up behind such an item is dropped
        self._error: BaseException | None = None

    def start(self, on_items: Callable[[], None], room: Callable[[], int]) -> None:
        self._on_items = on_items
        self.source.start(self._source_moved, self.window.room)
        self.room_again()

    @property
    def error(self) -> BaseException | None:
        return self._error or self.source.error

    @property
    def total(self) -> int | None:
        """How many items the engine will get, as far as is known. For lanes those that are here: more would only wait."""
        if self._paired:
            return self.window.inner.read + len(self._missing)
        return None if self.source.total is None else max(0, self.source.total - self.window.hits)

    @property
    def exhausted(self) -> bool:
        """Whether there is nothing more to come. What the engine may not have yet, since the disk is slow, is to come."""
        ended = self._halted or (self.source.exhausted and not self.source.ready())
        return ended and not self._looking and not (self._missing and self.session.full)

    def ready(self) -> bool:
        return bool(self._missing) and not self.session.full

    def one(self) -> Any:
        return self._missing.popleft() if self.ready() else NOTHING

    def read(self, n: int) -> list[Any]:
        missing = self._missing if self.ready() else deque[Any]()
        pairs = [missing.popleft() for _ in range(min(n, len(missing)))]
        self.keys = [key for _, key in pairs]
        return [item for item, _ in pairs]

    def room_again(self) -> None:
        """There may be room, or less that waits to be written: read on, look up."""
        room_again = getattr(self.source, "room_again", None)
        if room_again is not None:
            room_again()
        ahead = AHEAD if self._batch == BATCH else 1
        while self._looking < ahead and len(self._missing) < BATCH and self.source.ready():
            room = min(self.window.room(), self._batch)
            if self._halted or room <= 0 or self.session.full or not self._look_up(self.source.read(room)):
                break

    def resume(self) -> None:
        """Less waits to be written than before."""
        self.room_again()
        if self._missing and not self._halted:
            self._on_items()

    def _source_moved(self) -> None:
        self.room_again()
        if self.exhausted:
            self._on_items()

    def _look_up(self, items: list[Any]) -> bool:
        if not items:
            if self.exhausted:
                self._on_items()
            return False
        self.window.read += len(items)
        self._looking += 1
        what = items if self.session.key is None else self._keys(self.session.key, items)
        answer = functools.partial(self._looked, items)
        self.session.look_up(what, answer, by_key=self.session.key is not None)
        return True

    def _keys(self, key: Callable[..., Any], items: list[Any]) -> list[Any]:
        """What ``key=`` gives for the items, up to where it fails."""
        keys: list[Any] = []
        try:
            for item in items:
                keys.append(key(*item) if self.source.star else key(item))  # noqa: PERF401 - an error leaves those before
        except Exception as error:  # the user's: raised after the results before it
            self._error, self._halted = error, True
        return keys

    def _looked(self, items: list[Any], looked: Looked) -> None:
        """The answer, on the loop."""
        self._looking -= 1
        self._batch = min(4 * self._batch, BATCH)
        values = [] if self._cut else looked.values
        self.window.read -= len(items) - len(values)
        self.session.damaged += looked.damaged
        if values:
            self.window.add(values, looked.nbytes)
            pairs = zip(items, looked.keys, values, strict=False)
            self._missing += [(item, key) for item, key, value in pairs if value is MISSING]
        if looked.error is not None and not self._cut:
            self._error, self._halted, self._cut = looked.error, True, True
        self.room_again()
        self._on_items()
        self.changed()

    def halt(self) -> None:
        """Read no more."""
        self._halted = True

    def drop(self) -> None:
        """Nobody reads any more: end, without waiting for it."""
        self.halt()
        self.source.drop()
        self.session.drop()

    async def aclose(self) -> None:
        """Close the source, and the journal once everything is in it."""
        self.halt()
        try:
            await self.source.aclose()
        finally:
            await self.session.aclose()


class KeptFeed(Feed):
    """A ``Feed`` that keeps what calls return."""

    reader: ReplayReader  # type: ignore[assignment]
    session: Session
    held = 0
    """Outcomes whose pickling takes a while: nobody may change the results until it is done."""

    def keep_in(self, session: Session) -> None:
        """Before the start."""
        self.session = session
        self.keys: dict[int, list[Key]] = {}  # by block, until all its calls have outcomes

    def complete(self) -> bool:
        return not self.held and super().complete()

    def take(self, busy: bool) -> Chunk | None:
        if not self.again and not self.reader.ready():
            return None  # a rate must not count what is only looked for
        chunk = super().take(busy)
        if chunk is not None and self.reader.keys:
            self.keys[id(chunk.block)], self.reader.keys = self.reader.keys, []
        return chunk

    def deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        keys, at = self.keys[id(chunk.block)], chunk.offset + first
        good = [i for i in range(len(values)) if not errors or i not in errors]
        if any(self.session.is_large(values[i]) for i in good):
            self.held += 1
            answer = functools.partial(self._kept, chunk, first, values, errors, good)
            self.session.keep_slowly([(keys[at + i], values[i]) for i in good], answer)
            return
        for i in good:
            try:
                self.session.keep(keys[at + i], values[i])
            except SerializationError as error:
                errors = {**(errors or {}), i: error}
        self._deliver(chunk, first, values, errors)

    def _deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        super().deliver(chunk, first, values, errors)
        if not chunk.block.missing:
            self.keys.pop(id(chunk.block), None)

    def _kept(
        self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None, good: list[int],
        failed: dict[int, BaseException],
    ) -> None:  # fmt: skip
        self.held -= 1
        self._deliver(chunk, first, values, {**(errors or {}), **{good[i]: e for i, e in failed.items()}})
        if self.complete():
            self.changed()


def keeping(
    function: Callable[..., Awaitable[Any]], session: Session, *, star: bool
) -> Callable[..., Awaitable[Any]]:
    """A coroutine function of pairs of an item and its key, which keeps what ``function`` returns for the item."""

    async def kept(pair: tuple[Any, Key]) -> Any:
        item, key = pair
        value = await (function(*item) if star else function(item))
        if session.is_large(value):
            await _keep_slowly(session, key, value)
        else:
            session.keep(key, value)
        return value

    kept.__module__, _, kept.__qualname__ = name_of(function).rpartition(".")
    return kept


async def _keep_slowly(session: Session, key: Key, value: Any) -> None:
    kept: asyncio.Future[dict[int, BaseException]] = session.loop.create_future()
    session.keep_slowly([(key, value)], lambda errors: None if kept.done() else kept.set_result(errors))
    for error in (await kept).values():
        raise error


class JournaledMap:
    """Runs a map with a journal (see ``results.Engine``)."""

    def __init__(
        self,
        pool: Pool | None,
        function: Callable[..., Any],
        source: Reader,
        options: Options,
        session: Session,
        changed: Callable[[], None],
    ) -> None:
        self.session, self.changed = session, changed
        self.window = ReplayWindow(options.limit, limit_bytes=options.limit_bytes, ordered=options.ordered)
        self.reader = reader = ReplayReader(source, self.window, session, changed, paired=pool is None)
        self.inner: Lanes | Feed
        if pool is None:
            kept = keeping(function, session, star=source.star)
            self.inner = Lanes(kept, cast("Reader", reader), options, changed)
        else:
            self.inner = KeptFeed(pool, pool._function(function), cast("Reader", reader), options, changed)
            self.inner.keep_in(session)
        self.window.inner = self.inner.window
        session.drained, session.failed = self._drained, self._failed
        self._flushing = False

    @property
    def in_flight(self) -> set[Any]:
        return self.inner.in_flight

    @property
    def retried(self) -> int:
        return self.inner.retried

    def start(self) -> None:
        self.inner.start()

    def moved(self) -> None:
        self.reader.room_again()
        self.inner.moved()

    def complete(self) -> bool:
        """Whether every item has its outcome, and every result is in the file."""
        if not self.inner.complete():
            return False
        if not self.session.durable and not self._flushing:
            self._flushing = True
            self.session.flush()
        return self.session.durable

    def _drained(self) -> None:
        self.reader.resume()
        if self._flushing:
            self.changed()

    def _failed(self) -> None:
        self.window.failure = self.session.failure
        self.changed()

    def close(self) -> None:
        self.reader.halt()
        self.inner.close()
