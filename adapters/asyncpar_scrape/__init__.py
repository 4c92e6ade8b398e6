"""Scraping jobs on asyncpar: pages are fetched on the loop, parsed on processes, and kept in one SQLite file.

fetcher    the client: Fetcher. Beside it: hosts and turns (politeness), robots and robotsfile, answers, exchange, bodies, decoders,
           inflight and clocks (one request, within bounds), addresses, reasons and failures; cache, and warc (archives)
page       what it gives: Page. Beside it: charsets, links, structured (JSON-LD, microdata), tables
crawler    the pipeline: Crawler
parsing    the worker's side: runs the parser
sitemap    the same for sitemaps
store      the frontier and the items, for the loop: a thread with the file
frontier   what is to be visited, and in which order; traps: what would have no end
database   what is in the file
tally      what a run has done; display shows it; memory
output     items as JSON lines, CSV, Parquet and SQLite
cli        the command
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_scrape.crawler import Crawler, CrawlStatistics
    from asyncpar_scrape.database import StoreError
    from asyncpar_scrape.failures import FetchError
    from asyncpar_scrape.fetcher import Fetcher
    from asyncpar_scrape.hosts import Hosts
    from asyncpar_scrape.page import Page
    from asyncpar_scrape.parsing import Link
    from asyncpar_scrape.tally import HostStatistics

__all__ = [
    "CrawlStatistics",
    "Crawler",
    "FetchError",
    "Fetcher",
    "HostStatistics",
    "Hosts",
    "Link",
    "Page",
    "StoreError",
]

_MODULES = {
    "CrawlStatistics": "crawler",
    "Crawler": "crawler",
    "FetchError": "failures",
    "Fetcher": "fetcher",
    "HostStatistics": "tally",
    "Hosts": "hosts",
    "Link": "parsing",
    "Page": "page",
    "StoreError": "database",
}


def __getattr__(name: str) -> Any:
    """Load a name at its first use: workers, which parse, do without the client and the store."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
