"""How a crawl goes, on stderr: a live table where rich and a terminal are there, else a line now and then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from asyncpar_scrape import memory

if TYPE_CHECKING:
    from rich.console import RenderableType

    from asyncpar.process.pool import ProcessPool
    from asyncpar_scrape.crawler import CrawlStatistics

TABLE_SECONDS = 0.5
LINE_SECONDS = 5.0
"""Logs are kept, so a line has to be worth its place."""
SHOWN_HOSTS = 8


class Display:
    """Shows statistics while its block lasts. It never raises: a broken terminal must not break the crawl.

    :arg statistics: gives them
    :arg pool: whose workers' memory counts
    """

    def __init__(self, statistics: Callable[[], CrawlStatistics], pool: ProcessPool) -> None:
        self._statistics, self._pool = statistics, pool

    async def __aenter__(self) -> Self:
        show = _table() if sys.stderr.isatty() else None
        self._show = show or _line
        self._seconds = TABLE_SECONDS if show else LINE_SECONDS
        self._closes = contextlib.ExitStack()
        if show:
            self._closes.callback(show.close)
        self._task = asyncio.create_task(self._run(), name="asyncpar: display of a crawl")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(Exception):
            await self._update()
            self._closes.close()

    async def _run(self) -> None:
        with contextlib.suppress(Exception):
            while True:
                await asyncio.sleep(self._seconds)
                await self._update()

    async def _update(self) -> None:
        used = await asyncio.to_thread(memory.used, [os.getpid(), *self._pool.pids])
        await asyncio.to_thread(self._show, self._statistics(), used)


def line(s: CrawlStatistics, used: int = 0) -> str:
    """A crawl in a line."""
    rate = s.visited / s.seconds if s.seconds else 0.0
    refused = f"{s.refused:,} refused as traps, " if s.refused else ""
    size = f", {used / 1e6:,.0f} MB" if used else ""
    return (
        f"crawl: {s.pages:,} pages, {s.items:,} items, {s.failed:,} failed, {s.waiting:,} waiting, {refused}"
        f"{s.under_way:,} on their way, {rate:,.1f} a second{size}, {s.seconds:.0f} s"
    )


def _line(s: CrawlStatistics, used: int) -> None:
    sys.stderr.write(line(s, used) + "\n")
    sys.stderr.flush()


class _Table:
    """A table that is drawn again in its place."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(console=Console(file=sys.stderr), auto_refresh=False)
        self._live.start()

    def __call__(self, s: CrawlStatistics, used: int) -> None:
        self._live.update(_drawn(s, used), refresh=True)

    def close(self) -> None:
        self._live.stop()


def _table() -> _Table | None:
    with contextlib.suppress(Exception):  # no rich, or no terminal that it can use
        return _Table()
    return None


def _drawn(s: CrawlStatistics, used: int) -> RenderableType:
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    hosts = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    hosts.add_column("host", overflow="ellipsis", no_wrap=True, max_width=40)
    for title in ("pages", "failed", "a second"):
        hosts.add_column(title, justify="right")
    for host in s.hosts[:SHOWN_HOSTS]:
        hosts.add_row(host.host, f"{host.pages:,}", f"{host.failed:,}", f"{host.rate:.1f}")
    errors = ", ".join(f"{kind} {count:,}" for kind, count in s.errors.items())
    parts: list[RenderableType] = [Text(line(s, used), overflow="fold"), hosts]
    if errors:
        parts.append(Text(f"errors: {errors}", overflow="fold"))
    return Group(*parts)
