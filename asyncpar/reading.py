"""Reading the source of a map: sync or async iterables, one or several, finite or not.

A source is read in stretches, only when there is room. An error in it is kept until the results
before it have been handed out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from itertools import islice
from operator import length_hint
from types import GeneratorType
from typing import Any

NOTHING: Any = object()
LOOP_SECONDS = 1e-3
"""How long the loop may be held up by reading a sync iterable, as far as its past speed tells."""


class SyncReader:
    """Reads plain iterables, on the loop's thread."""

    def __init__(self, iterables: tuple[Iterable[Any], ...]) -> None:
        self.star = len(iterables) > 1
        self.total = _total(iterables)
        self.exhausted = False
        self.error: BaseException | None = None
        self._iterators = [iter(iterable) for iterable in iterables]
        self._iterator: Iterator[Any] = (
            zip(*self._iterators, strict=False) if self.star else self._iterators[0]
        )
        self._seconds = 0.0  # for one item

    def start(self, on_items: Callable[[], None], room: Callable[[], int]) -> None:
        """Nothing to start: items are there for the asking."""

    def read(self, n: int) -> list[Any]:
        """Up to ``n`` items; fewer if reading them would hold up the loop, none at the end."""
        if self.exhausted:
            return []
        if self._seconds * n > LOOP_SECONDS:
            n = max(1, int(LOOP_SECONDS / self._seconds))
        items: list[Any] = []
        begun = time.perf_counter()
        try:
            items.extend(islice(self._iterator, n))
        except Exception as error:  # the source's own: raised after the results before it
            self.error, self.exhausted = error, True
        if len(items) < n:
            self.exhausted = True
        elif n:
            self._seconds = (time.perf_counter() - begun) / n
        return items

    def one(self) -> Any:
        """The next item, or ``NOTHING``."""
        if not self.exhausted:
            try:
                for item in self._iterator:
                    return item
            except Exception as error:  # the source's own: raised after the results before it
                self.error = error
            self.exhausted = True
        return NOTHING

    def ready(self) -> bool:
        """Whether ``read`` may give something now."""
        return not self.exhausted

    def drop(self) -> None:
        """Nobody reads any more."""

    async def aclose(self) -> None:
        """Close the source, if it is a generator."""
        for iterator in self._iterators:  # a file or a cursor is its owner's to close
            if isinstance(iterator, GeneratorType):
                iterator.close()


class AsyncReader:
    """Reads iterables of which at least one is asynchronous, in a task of its own, never past the room."""

    def __init__(self, iterables: tuple[Iterable[Any] | AsyncIterable[Any], ...]) -> None:
        self.star = len(iterables) > 1
        self.total = _total(iterables)
        self.exhausted = False
        self.error: BaseException | None = None
        self._sources = [_iterate(iterable) for iterable in iterables]
        self._buffer: deque[Any] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None

    def start(self, on_items: Callable[[], None], room: Callable[[], int]) -> None:
        """Begin to read; ``on_items`` is called when items came or the source ended."""
        self._on_items, self._room = on_items, room
        self._task = asyncio.get_running_loop().create_task(
            self._read(), name="asyncpar: read the source of a map"
        )

    def read(self, n: int) -> list[Any]:
        """Up to ``n`` of the items that are there."""
        buffer = self._buffer
        return [buffer.popleft() for _ in range(min(n, len(buffer)))]

    def one(self) -> Any:
        """The next of the items that are there, or ``NOTHING``."""
        return self._buffer.popleft() if self._buffer else NOTHING

    def ready(self) -> bool:
        """Whether ``read`` may give something now."""
        return bool(self._buffer)

    def room_again(self) -> None:
        """The window has moved."""
        if self._wake is not None and not self._wake.done() and self._room() > len(self._buffer):
            self._wake.set_result(None)

    async def _read(self) -> None:
        try:
            while True:
                while self._room() <= len(self._buffer):
                    self._wake = asyncio.get_running_loop().create_future()
                    await self._wake
                self._buffer.append(await self._item())
                self._on_items()
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            self.exhausted = True
            raise
        except Exception as error:  # the source's own: raised after the results before it
            self.error = error
        self.exhausted = True
        self._on_items()

    async def _item(self) -> Any:
        if not self.star:
            return await anext(self._sources[0])
        return tuple([await anext(source) for source in self._sources])

    def drop(self) -> None:
        """Nobody reads any more: end the task, without waiting for it."""
        if self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Stop reading and close the sources."""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
            await asyncio.wait([self._task])
        for source in self._sources:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()


Reader = SyncReader | AsyncReader


def open_reader(iterables: tuple[Any, ...]) -> Reader:
    """The reader for these iterables; a ``TypeError`` names one that is not iterable."""
    for position, iterable in enumerate(iterables, 2):
        if not any(hasattr(iterable, name) for name in ("__aiter__", "__iter__", "__getitem__")):
            raise TypeError(
                f"argument {position} of map must be an iterable or async iterable, not {type(iterable).__name__}"
            )
    if any(hasattr(iterable, "__aiter__") for iterable in iterables):
        return AsyncReader(iterables)
    return SyncReader(iterables)


def _total(iterables: tuple[Any, ...]) -> int | None:
    """How many items there will be, as far as the iterables know (another map does, if its source does)."""
    hints = [length_hint(iterable, -1) for iterable in iterables]
    return min(hints) if min(hints) >= 0 else None


def _iterate(iterable: Any) -> AsyncIterator[Any]:
    return aiter(iterable) if hasattr(iterable, "__aiter__") else _Wrapped(iter(iterable))


class _Wrapped:
    """A sync iterator in the company of async ones."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self._iterator = iterator

    def __aiter__(self) -> _Wrapped:
        return self

    async def __anext__(self) -> Any:
        for item in self._iterator:
            return item
        raise StopAsyncIteration

    async def aclose(self) -> None:
        if isinstance(self._iterator, GeneratorType):
            self._iterator.close()
