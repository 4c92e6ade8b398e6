"""What the parts of the contract share: what a pool is asked for, and tools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

from asyncpar.pool import Pool
from asyncpar.results import Results

T = TypeVar("T")


class Source:
    """A source of a map that tells how far it was read, and whether it was closed."""

    def __init__(self, end: int | None = None, error: Exception | None = None) -> None:
        self.end, self.error = end, error
        self.read = 0
        self.closed = False

    def sync(self) -> Iterator[int]:
        """The numbers from 0, as a generator."""
        try:
            while self.end is None or self.read < self.end:
                self.read += 1
                yield self.read - 1
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    async def asynchronous(self) -> AsyncIterator[int]:
        """The numbers from 0, as an async generator."""
        try:
            for n in self.sync():
                if n % 3 == 0:
                    await asyncio.sleep(0)
                yield n
        finally:
            await asyncio.sleep(0)
            self.closed = True

    def open(self, kind: str) -> Any:
        """``"sync"`` or ``"async"``."""
        return self.sync() if kind == "sync" else self.asynchronous()


def raises(error: type[BaseException] | tuple[type[BaseException], ...], match: str = "") -> Any:
    """``pytest.raises``, imported when a test runs: this module does not need pytest."""
    import pytest

    return pytest.raises(error, match=match or None)


async def until(condition: Callable[[], object], seconds: float = 50.0) -> None:
    """Wait until something is true; fail if it does not become so, in a time that no busy machine takes."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


async def taken(results: Results[T], n: int) -> list[T]:
    """The next ``n`` results."""
    return [await anext(results) for _ in range(n)]


class Contract:
    """What a pool's tests define; see ``PoolContract``."""

    stops = True
    abandons = True
    parallel = True
    shares_files = True
    stateful = True

    def make_pool(self) -> Pool:
        """A new pool, with at least two workers if it is parallel, not opened."""
        raise NotImplementedError("define make_pool() in the test class")

    def need(self, feature: bool, what: str) -> None:
        """Skip a test of what this kind of pool does not promise."""
        if not feature:
            import pytest

            pytest.skip(f"not promised: {what}")
