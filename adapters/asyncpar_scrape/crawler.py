"""The pipeline: addresses from the store are fetched on the loop, parsed on processes, and settled in the store."""

from __future__ import annotations

import contextlib
import resource
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import asyncpar
from asyncpar.errors import BrokenPoolError, PoolClosedError
from asyncpar_scrape.frontier import Entry, Outcome, StoreError, host_of
from asyncpar_scrape.parsing import parse_page
from asyncpar_scrape.store import Store

PARSES_AHEAD = 4
"""Pages for each worker that are parsed or wait for it, so that none idles."""


class CrawlStatistics(NamedTuple):
    """A crawl at one moment.

    :ivar pages: pages that were parsed, those of earlier runs included
    :ivar items: what parsers yielded for them
    :ivar failed: pages that failed
    :ivar waiting: addresses that are known and not visited yet; those in flight are among them
    :ivar seconds: since this run began
    :ivar visited: pages settled in this run
    :ivar peak_bytes: the most memory that this process has used, without its workers
    """

    pages: int
    items: int
    failed: int
    waiting: int
    seconds: float
    visited: int
    peak_bytes: int


class Crawler:
    """Visits pages from the start addresses on, and keeps what a parser makes of them.

    >>> async with Crawler(parse, fetch, start=["http://…/"], store="out.sqlite") as crawl:
    ...     async for item in crawl: ...

    Items come in the order in which pages are done, and are on disk by then: a program that is killed finds each in
    the store, once. A slow consumer holds the fetching back. Whatever fails for a page (its fetch, its parser by an
    exception, a crash, the time-out or something that cannot be pickled) is kept as that page's error, and the crawl
    goes on. Leaving the block cancels what is in flight; these pages keep waiting in the store.

    :arg parse: a function of a page that yields, or returns, items and ``Link`` objects. It runs on the process pool,
        so it must be importable there
    :arg fetch: an async function of an address, whose value is the page; an async context manager is entered
    :arg start: absolute addresses
    :arg store: the SQLite file of the crawl; without it a temporary one
    :arg resume: go on with the crawl that the store holds. Pages in flight at its end are fetched again, no others
    :arg retry_errors: with ``resume``: visit the pages that failed once more
    :arg max_pages: pages in all, over all runs; pages that fail count
    :arg depth: links between a page and a start address at most
    :arg concurrency: pages that are fetched at once
    :arg per_host: pages of one host that are on their way at once, so that others get their turn
    :arg parse_timeout: seconds that a parser may run for a page. Default 30: parsers take milliseconds
    :arg workers: processes that parse; default as for ``ProcessPool``
    :arg progress: show progress on stderr
    """

    def __init__(
        self,
        parse: Callable[[Any], Any],
        fetch: Callable[[str], Awaitable[Any]],
        *,
        start: Iterable[str] = (),
        store: str | Path | None = None,
        resume: bool = False,
        retry_errors: bool = False,
        max_pages: int | None = None,
        depth: int | None = None,
        concurrency: int = 64,
        per_host: int = 16,
        parse_timeout: float = 30.0,
        workers: int | None = None,
        progress: bool = False,
    ) -> None:
        if isinstance(start, str):
            raise TypeError(f"start= takes a list of addresses: start=[{start!r}]")
        self._start = list(start)
        for url in self._start:
            if not host_of(url):
                raise ValueError(f"start= takes absolute addresses, as http://host/path, not {url!r}")
        self.parse, self.fetch = parse, fetch
        self.store_path = store
        self._settings: dict[str, Any] = {"resume": resume, "retry": retry_errors, "max_pages": max_pages}
        self._depth = depth
        self._per_host = per_host
        self._concurrency = concurrency
        self._parse_timeout = parse_timeout
        self._workers = workers
        self._progress = progress
        self._ready: deque[Any] = deque()
        self._closing = contextlib.AsyncExitStack()
        self._visited = 0

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._store = Store(self.store_path, per_host=self._per_host, **self._settings)
            await self._store.open(self._start)
            stack.push_async_callback(self._store.aclose)
            self._pool = await stack.enter_async_context(asyncpar.ProcessPool(self._workers))
            self._pool._check_function(self.parse)
            client: Any = self.fetch
            if hasattr(client, "__aenter__"):
                await stack.enter_async_context(client)
            self._fetching = asyncpar.Limiter(self._concurrency)
            ahead = PARSES_AHEAD * self._pool.workers
            self._parsing = asyncpar.Limiter(ahead)
            results = asyncpar.map(
                self._visit, self._entries(), limit=2 * self._concurrency + ahead, ordered=False,
                progress="crawl" if self._progress else False,
            )  # fmt: skip
            self._results = await stack.enter_async_context(results)
            self._began = time.monotonic()
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(kind, error, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        while not self._ready:
            self._ready.extend(await self._results.__anext__())
        return self._ready.popleft()

    def configure(self, *, resume: bool = False, retry_errors: bool = False, progress: bool = True) -> None:
        """Change how a crawl that has not begun will go, as the command does with the crawler of a file."""
        self._settings |= {"resume": resume, "retry": retry_errors}
        self._progress = progress

    async def run(self) -> CrawlStatistics:
        """Crawl to the end, for what the store then holds; enters and leaves the block itself."""
        async with self:
            async for _ in self._results:
                pass
            return self.statistics()

    def statistics(self) -> CrawlStatistics:
        """Counts at this moment, as a frozen object."""
        counts = self._store.counts
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        seconds = time.monotonic() - self._began
        return CrawlStatistics(
            counts.done, counts.items, counts.failed, counts.waiting, seconds, self._visited, peak
        )

    # -- the pipeline

    async def _entries(self) -> AsyncIterator[Entry]:
        while entries := await self._store.take(self._concurrency):
            for entry in entries:
                yield entry

    async def _visit(self, entry: Entry) -> list[Any]:
        """Fetch, parse and settle a page; its items."""
        items: list[Any] = []
        try:
            async with self._fetching:
                page = await self.fetch(entry.url)
            async with self._parsing:
                items, texts, links = await self._pool.run_within(
                    self._parse_timeout, parse_page, self.parse, page
                )
            deep = self._depth is not None and entry.depth >= self._depth
            outcome = Outcome(entry, None, texts, () if deep else links)
        except (StoreError, BrokenPoolError, PoolClosedError):
            raise  # the crawl's end, not the page's
        except Exception as error:
            outcome = Outcome(entry, f"{type(error).__name__}: {error}")
        await self._store.settle(outcome)
        self._visited += 1
        return items
