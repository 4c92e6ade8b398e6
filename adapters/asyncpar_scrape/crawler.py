"""The pipeline: addresses from the store are fetched on the loop, parsed on processes, and settled in the store."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from math import ceil
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, Unpack

import asyncpar
from asyncpar.errors import BrokenPoolError, PoolClosedError
from asyncpar_scrape import memory
from asyncpar_scrape.addresses import Addresses, host_of
from asyncpar_scrape.database import SITEMAP, StoreError
from asyncpar_scrape.display import Display
from asyncpar_scrape.failures import FetchError, text_of
from asyncpar_scrape.fetcher import Fetcher, FetcherOptions
from asyncpar_scrape.frontier import Entry, Outcome
from asyncpar_scrape.links import address_of
from asyncpar_scrape.parsing import parse_page
from asyncpar_scrape.sitemap import read_sitemap
from asyncpar_scrape.store import Store
from asyncpar_scrape.tally import HostStatistics, Tally

PRELOAD = ("asyncpar_scrape.workers",)
PARSES_AHEAD = 4
"""Pages for each worker that are parsed or wait for it, so that none idles."""
LINE_SECONDS = 0.1
"""How long a page may wait for its host's turn while it has one of the places on the way. One that would wait longer waits
in the frontier."""
SETTLE_SECONDS = 0.1
"""How long a page is on its way at most after it was fetched, where parsers are quick: as long as this lasts, its host goes
on being asked."""
ON_THE_WAY = 4
"""Times ``concurrency``: pages at most that are fetched, parsed, or wait for that and for the disk (``SENT_SECONDS`` and
``BATCH_SECONDS`` of the store)."""
BUSIEST = 10


class CrawlStatistics(NamedTuple):
    """A crawl at one moment.

    :ivar pages: pages that were parsed, those of earlier runs included
    :ivar items: what parsers yielded for them
    :ivar failed: pages that failed
    :ivar waiting: addresses that are known and not visited yet; those on their way are among them
    :ivar refused: links that were not taken, since their pattern had ``max_per_pattern`` already
    :ivar seconds: since this run began
    :ivar visited: pages settled in this run
    :ivar under_way: pages on their way from the frontier to the store
    :ivar errors: pages that failed in this run, by the kind of their error
    :ivar hosts: the ten hosts with most pages a second
    :ivar peak_bytes: the most memory that this process has used, without its workers
    """

    pages: int
    items: int
    failed: int
    waiting: int
    refused: int
    seconds: float
    visited: int
    under_way: int
    errors: Mapping[str, int]
    hosts: tuple[HostStatistics, ...]
    peak_bytes: int


class Crawler:
    """Visits pages from the start addresses on, and keeps what a parser makes of them.

    >>> async with Crawler(parse, start=["http://…/"], store="out.sqlite", user_agent="mybot/1.0 (me@example.org)") as crawl:
    ...     async for item in crawl: ...

    Items come in the order in which pages are done, and are on disk by then: a program that is killed finds each in
    the store, once. A slow consumer holds the fetching back. Whatever fails for a page (its fetch, its parser by an
    exception, a crash, the time-out or something that cannot be pickled) is kept as that page's error, and the crawl
    goes on. Leaving the block cancels what is in flight; these pages keep waiting in the store.

    Pages are fetched by a ``Fetcher``, with the options that are given here. A page whose host has to be left alone for a
    while waits in the frontier, and takes no place from those of other hosts.

    :arg parse: a function of a page that yields, or returns, items and ``Link`` objects. It runs on the process pool,
        so it must be importable there
    :arg fetch: an async function of an address, whose value is the page, in place of a ``Fetcher`` by ``options``; an
        async context manager is entered
    :arg start: absolute addresses
    :arg store: the SQLite file of the crawl; without it a temporary one
    :arg resume: go on with the crawl that the store holds. Pages in flight at its end are fetched again, no others
    :arg retry_errors: with ``resume``: visit the pages that failed once more
    :arg max_pages: pages in all, over all runs; pages that fail count
    :arg depth: links between a page and a start address at most
    :arg max_per_pattern: links that differ in numbers and in values of the query alone, in all; ``None``: as many as there
        are. Default 20,000, three hours of one host at the default delay: a calendar or session numbers have no end
    :arg sitemaps: visit what the start addresses' sites list in the sitemaps that their robots.txt names
    :arg concurrency: pages that are fetched at once
    :arg per_host: requests to one host at once, default 4; of an own ``fetch``, pages of one host that are on their way,
        default 16
    :arg parse_timeout: seconds that a parser may run for a page. Default 30: parsers take milliseconds
    :arg workers: processes that parse; default as for ``ProcessPool``
    :arg progress: show progress on stderr
    :arg options: of the ``Fetcher``, as ``user_agent``, ``delay``, ``allow_private``
    :raises ValueError: ``user_agent`` has no contact, a start address is none, a number is out of range, or ``sitemaps``
        with a fetcher that reads no robots.txt
    :raises TypeError: there are options beside a ``fetch`` that is to have its own
    """

    def __init__(
        self,
        parse: Callable[[Any], Any],
        fetch: Callable[[str], Awaitable[Any]] | None = None,
        *,
        start: Iterable[str] = (),
        store: str | Path | None = None,
        resume: bool = False,
        retry_errors: bool = False,
        max_pages: int | None = None,
        depth: int | None = None,
        max_per_pattern: int | None = 20_000,
        sitemaps: bool = False,
        concurrency: int = 64,
        per_host: int | None = None,
        parse_timeout: float = 30.0,
        workers: int | None = None,
        progress: bool = False,
        **options: Unpack[FetcherOptions],
    ) -> None:
        numbers = {
            "concurrency": concurrency,
            "per_host": per_host,
            "max_pages": max_pages,
            "max_per_pattern": max_per_pattern,
        }
        for name, number in numbers.items():
            if number is not None and number < 1:
                raise ValueError(f"{name}= must be at least 1, not {number}")
        if parse_timeout <= 0:
            raise ValueError(f"parse_timeout= must be a number of seconds above 0, not {parse_timeout}")
        self._start = _addresses(start)
        self.parse = parse
        self.store_path = store
        self._options: dict[str, Any] = {"concurrency": concurrency, **options}
        if per_host is not None:
            self._options["per_host"] = per_host
        self._custom = fetch
        self._depth, self._sitemaps = depth, sitemaps
        self._fetcher = self._make_fetcher(options)
        self._resume, self._retry_errors = resume, retry_errors
        self._limits = {"max_pages": max_pages, "max_per_pattern": max_per_pattern}
        self._concurrency = concurrency
        self._parse_timeout = parse_timeout
        self._workers = workers
        self._progress = progress
        self._ready: deque[Any] = deque()
        self._wanted = True
        self._closing = contextlib.AsyncExitStack()
        self._tally = Tally()
        self._under_way = 0

    def _make_fetcher(self, options: Mapping[str, Any]) -> Fetcher | None:
        """What fetches politely; nothing, where the crawl has a function of the user's."""
        if self._custom is None:
            made = Fetcher(**self._options)
        elif options:
            raise TypeError(
                f"{', '.join(options)}= is for the Fetcher that a crawler makes; with fetch= give it to what that is"
            )
        elif isinstance(self._custom, Fetcher):
            made = self._custom
        elif self._sitemaps:
            raise TypeError(
                "sitemaps=True is for crawls with a Fetcher: a function of one's own knows no robots.txt"
            )
        else:
            return None
        if self._sitemaps and made._robots is None:
            raise ValueError(
                "sitemaps=True needs robots.txt, which names the sitemaps: leave out robots=False"
            )
        return made

    def configure(
        self,
        *,
        resume: bool = False,
        retry_errors: bool = False,
        progress: bool = True,
        **options: Unpack[FetcherOptions],
    ) -> None:
        """Change how a crawl that has not begun will go, as the command does with the crawler of a file.

        :raises TypeError: there are options, and the crawl has a ``fetch`` of its own
        """
        self._resume, self._retry_errors, self._progress = resume, retry_errors, progress
        if options:
            self._options |= options
            self._fetcher = self._make_fetcher(options)

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._store = Store(
                self.store_path, resume=self._resume, retry=self._retry_errors, per_host=self._most_of_a_host(),
                **self._limits,
            )  # fmt: skip
            await self._store.open(self._start)
            stack.push_async_callback(self._store.aclose)
            self._pool = await stack.enter_async_context(asyncpar.ProcessPool(self._workers, preload=PRELOAD))
            self._pool._check_function(self.parse)
            client: Any = self._fetcher or self._custom
            if hasattr(client, "__aenter__"):
                await stack.enter_async_context(client)
            self._fetching = asyncpar.Limiter(self._concurrency)
            ahead = PARSES_AHEAD * self._pool.workers
            self._parsing = asyncpar.Limiter(ahead)
            results = asyncpar.map(
                self._visit, self._entries(), limit=ON_THE_WAY * self._concurrency + ahead, ordered=False
            )
            self._results = await stack.enter_async_context(results)
            self._began = time.monotonic()
            if self._progress:
                await stack.enter_async_context(Display(self.statistics, self._pool))
            self._closing = stack.pop_all()
        return self

    def _most_of_a_host(self) -> int:
        """Pages of one host that may be on their way at once."""
        if self._fetcher is None:
            return int(self._options.get("per_host", 16))
        hosts = self._fetcher.hosts
        most = (ON_THE_WAY - 1) * self._concurrency
        settling = min(most, ceil(SETTLE_SECONDS / hosts.delay)) if hosts.delay else most
        return hosts.per_host + 1 + settling

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

    async def run(self) -> CrawlStatistics:
        """Crawl to the end, for what the store then holds; enters and leaves the block itself."""
        self._wanted = False
        async with self:
            async for _ in self._results:
                pass
            return self.statistics()

    def statistics(self) -> CrawlStatistics:
        """Counts at this moment, as a frozen object."""
        counts, now = self._store.counts, time.monotonic()
        return CrawlStatistics(
            pages=counts.done,
            items=counts.items,
            failed=counts.failed,
            waiting=counts.waiting,
            refused=counts.refused,
            seconds=now - self._began,
            visited=self._tally.pages,
            under_way=self._under_way,
            errors=dict(self._tally.errors.most_common()),
            hosts=tuple(self._tally.busiest(BUSIEST, now)),
            peak_bytes=memory.peak(),
        )

    # -- the pipeline

    async def _entries(self) -> AsyncIterator[Entry]:
        """Pages that may be asked now; the others wait on. The next are looked for while these are visited."""
        taking = self._store.take(self._concurrency)
        try:
            while entries := await taking:
                taking = self._store.take(self._concurrency)
                for entry in entries:
                    pause = self._pause(entry)
                    if pause:  # at once: what is learned of the host later must be heard later
                        self._store.put_back(entry, time.monotonic() + pause)
                    else:
                        yield entry
        finally:
            taking.cancel()

    def _pause(self, entry: Entry) -> float:
        """Seconds for which a page is to wait in the frontier."""
        if self._fetcher is None:
            return 0.0
        return max(0.0, self._fetcher.expect(entry.url) - LINE_SECONDS)

    async def _visit(self, entry: Entry) -> list[Any]:
        """Fetch, parse and settle a page; its items. One that is to be tried again has none."""
        self._under_way += 1
        try:
            return await self._visited(entry)
        finally:
            self._under_way -= 1

    async def _visited(self, entry: Entry) -> list[Any]:
        items: list[Any] = []
        try:
            page = await self._fetch(entry)
            held = self._keep(page)
            try:
                async with self._parsing:
                    items, outcome = await self._parse(entry, page)
            finally:
                self._drop(held)
        except (StoreError, BrokenPoolError, PoolClosedError):
            raise  # the crawl's end, not the page's
        except Exception as error:
            if self._is_retried(entry, error):
                self._store.put_back(entry._replace(tries=entry.tries + 1), time.monotonic())
                return []
            outcome = Outcome(entry, text_of(error))
        await self._store.settle(outcome)
        failed = outcome.error.partition(":")[0] if outcome.error else None
        self._tally.add(host_of(entry.url), failed, time.monotonic())
        return items

    async def _fetch(self, entry: Entry) -> Any:
        if self._fetcher is not None:
            return await self._fetcher.attempt(entry.url, any_type=entry.depth == SITEMAP)
        assert self._custom is not None
        async with self._fetching:
            return await self._custom(entry.url)

    def _keep(self, page: Any) -> int:
        """Count a page that waits for its parser as bytes in flight. There is no await since it was fetched."""
        if self._fetcher is None:
            return 0
        size = len(page.body)
        self._fetcher.in_flight.keep(size)
        return size

    def _drop(self, size: int) -> None:
        if self._fetcher is not None:
            self._fetcher.in_flight.drop(size)

    def _is_retried(self, entry: Entry, error: Exception) -> bool:
        """Whether a page waits for another try; how long, its host's pause says."""
        return (
            self._fetcher is not None
            and isinstance(error, FetchError)
            and error.transient
            and entry.tries < self._fetcher.retries
        )

    async def _parse(self, entry: Entry, page: Any) -> tuple[list[Any], Outcome]:
        if entry.depth == SITEMAP:
            found = await self._pool.run_within(self._parse_timeout, read_sitemap, page)
            return [], Outcome(entry, None, (), found.pages, found.sitemaps)
        items, texts, links = await self._pool.run_within(
            self._parse_timeout, parse_page, self.parse, page, self._wanted
        )
        deep = self._depth is not None and entry.depth >= self._depth
        sitemaps: Addresses = {}
        if self._sitemaps and not entry.depth and self._fetcher is not None:  # of a start address's site
            sitemaps = dict(map(address_of, await self._fetcher.sitemaps(entry.url)))
        return items, Outcome(entry, None, texts, {} if deep else links, sitemaps)


def _addresses(start: Iterable[str]) -> Addresses:
    if isinstance(start, str):
        raise TypeError(f"start= takes a list of addresses: start=[{start!r}]")
    found: Addresses = {}
    for url in start:
        try:
            found.setdefault(*address_of(url))
        except ValueError:
            raise ValueError(f"start= takes absolute addresses, as http://host/path, not {url!r}") from None
    return found
