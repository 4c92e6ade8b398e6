"""The demo's job: with asyncpar as a pipeline, each stage alone, and one by one as a plain program would."""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import ClientSession, TCPConnector

import asyncpar
from asyncpar.cli.demo.counting import Counts, count, merge
from asyncpar.cli.demo.meters import Meter, PeakMemory, measured
from asyncpar.cli.demo.serving import serving
from asyncpar.cli.pools import open_workers
from asyncpar.progress import Progress

T = TypeVar("T")
Fetch = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True)
class Times:
    """Seconds for the work one by one, by stage."""

    fetch: float
    count: float
    fold: float
    all: float


@dataclass(frozen=True)
class Report:
    """What the demo found and measured."""

    counts: Counts
    one_by_one: Times
    fetch: Meter
    count: Meter
    fold: Meter
    all: Meter
    workers: int
    memory: PeakMemory


async def measure(names: Sequence[str], *, pool: str, limit: int, latency: float) -> Report:
    """Do the job in every way, on the same files.

    Args:
        names: The files.
        pool: The name of the pool that counts.
        limit: How many pages may be on their way, and how many counts.
        latency: Seconds by which the server holds back each page.
    """
    async with (
        serving(latency) as server,
        ClientSession(server.url, connector=TCPConnector(limit=0)) as session,
        open_workers(pool, ["asyncpar.cli.demo.counting:*"]) as workers,
    ):

        async def fetch(name: str) -> bytes:
            async with session.get(name, raise_for_status=True) as response:
                return await response.read()

        async with PeakMemory(without=server.pid) as memory, measured() as whole:
            counts = await pipeline(fetch, names, workers, limit)
        counts_alone, meters = await stages_alone(fetch, names, workers, limit)
        counts_one_by_one, one_by_one = await sequence(fetch, names)
        if not counts == counts_alone == counts_one_by_one:
            raise AssertionError("the pipeline, its stages and the plain loop do not agree")
        return Report(counts, one_by_one, *meters, all=whole, workers=workers.workers, memory=memory)


async def pipeline(fetch: Fetch, names: Sequence[str], workers: asyncpar.Pool, limit: int) -> Counts:
    """The job as a user would write it: two maps, and a fold."""
    pages = asyncpar.map(fetch, names, limit=limit, ordered=False, progress="fetch")
    counts: asyncpar.Results[Counts] = workers.map(count, pages, limit=limit, ordered=False, progress="count")
    return await counts.reduce(merge)


async def stages_alone(
    fetch: Fetch, names: Sequence[str], workers: asyncpar.Pool, limit: int
) -> tuple[Counts, tuple[Meter, Meter, Meter]]:
    """Measure each stage without the others, with its whole input at hand."""
    async with measured() as fetching:
        pages = await asyncpar.map(fetch, names, limit=limit, progress="fetch alone")
    async with measured() as counting:
        counts = await workers.map(count, pages, limit=limit, progress="count alone")
    async with measured() as folding:
        total = await workers.reduce(merge, counts)
    return total, (fetching, counting, folding)


async def sequence(fetch: Fetch, names: Sequence[str]) -> tuple[Counts, Times]:
    """The same without asyncpar: one page after the other, in one process."""
    clock = time.perf_counter
    started = clock()
    pages = [await fetch(name) for name in shown(names, "fetch one by one")]
    fetched = clock()
    counts = [count(page) for page in shown(pages, "count one by one")]
    counted = clock()
    total = functools.reduce(merge, counts)
    folded = clock()
    return total, Times(fetched - started, counted - fetched, folded - counted, folded - started)


def shown(items: Sequence[T], label: str) -> Iterator[T]:
    """Yield the items, and show on the way how many there were."""
    progress = Progress()
    progress.start(len(items), label)
    try:
        for item in items:
            yield item
            progress.advance()
    finally:
        progress.close()
