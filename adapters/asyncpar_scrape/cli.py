"""``asyncpar scrape``: runs the crawler of a file, and says what a store holds. In the group ``asyncpar.commands``."""

from __future__ import annotations

import importlib
import os
import sqlite3
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

import asyncpar
from asyncpar.cli.errors import CommandError, exit_codes
from asyncpar_scrape import database
from asyncpar_scrape.cache import CacheError
from asyncpar_scrape.crawler import Crawler, CrawlStatistics
from asyncpar_scrape.database import StoreError
from asyncpar_scrape.fetcher import FetcherOptions
from asyncpar_scrape.flat import record
from asyncpar_scrape.links import address_of
from asyncpar_scrape.output import check_format
from asyncpar_scrape.output import export as write_out
from asyncpar_scrape.warc import WarcError

Flag = Annotated[bool, Parameter(negative="")]

app = App(name="scrape", help="Run crawls, and look into their stores.")


@app.default
@exit_codes
def run(
    job: Path | None = None,
    /,
    *,
    urls: Path | None = None,
    out: Path | None = None,
    store: Path | None = None,
    resume: Flag = False,
    retry_errors: Flag = False,
    user_agent: str | None = None,
    delay: float | None = None,
    allow_private: Flag = False,
    cache: Path | None = None,
    warc: Path | None = None,
) -> int:
    """Run the crawl that a file defines as `crawler = Crawler(...)`, or fetch a list of addresses; report on stderr.

    The exit code is 0 also where pages failed: `asyncpar scrape errors STORE` lists them.

    Parameters
    ----------
    job
        A Python file. Its workers import it, so its name must be that of a module.
    urls
        In place of a file: a list of addresses, one a line; `-` is stdin. Each page becomes an item with its address, status,
        content type, title and text.
    out
        Write the items to this file at the end: .jsonl, .csv, .sqlite or .parquet.
    store
        With `--urls`: the SQLite file that keeps what was fetched. The default is that of `--out`, with .crawl behind it.
    resume
        Go on with the crawl that the store holds.
    retry_errors
        Go on, and visit the pages that failed once more.
    user_agent
        Who asks, and where to be reached: 'mybot/1.0 (me@example.org)'. The default is the crawler's, or that of the environment
        variable ASYNCPAR_USER_AGENT.
    delay
        Seconds between two requests to a host.
    allow_private
        Connect to this machine and to private networks, too.
    cache
        A folder in which pages are kept and looked for first, for developing a parser.
    warc
        A WARC file to append all requests and answers to.
    """
    options: FetcherOptions = {}
    if user_agent is not None:
        options["user_agent"] = os.environ["ASYNCPAR_USER_AGENT"] = user_agent  # the file may leave it to us
    if delay is not None:
        options["delay"] = delay
    if allow_private:
        options["allow_private"] = True
    if cache is not None:
        options["cache"] = cache
    if warc is not None:
        options["warc"] = warc
    if (job is None) == (urls is None):
        raise CommandError("give the file of a crawler, or a list of addresses with --urls FILE", exit_code=2)
    try:
        if out is not None:
            check_format(out)
        crawler = _crawler_for(urls, out, store, options) if urls else _crawler_of(job)
        if out is not None and crawler.store_path is None:
            raise CommandError(f"--out needs a crawler with store=, which {job} has not", exit_code=2)
        _configure(crawler, options, resume=resume or retry_errors, retry_errors=retry_errors)
        print(report(_crawled(crawler), crawler.store_path), file=sys.stderr)
    except (StoreError, CacheError, WarcError) as error:
        raise CommandError(str(error)) from error
    return 0 if out is None or crawler.store_path is None else export(Path(crawler.store_path), out)


def _crawled(crawler: Crawler) -> CrawlStatistics:
    try:
        return asyncpar.run(crawler.run)
    except KeyboardInterrupt:
        if crawler.store_path is not None:
            print("interrupted; --resume goes on with it", file=sys.stderr)
        raise


def _configure(crawler: Crawler, options: FetcherOptions, *, resume: bool, retry_errors: bool) -> None:
    try:
        crawler.configure(resume=resume, retry_errors=retry_errors, **options)
    except (ImportError, TypeError, ValueError) as error:
        raise CommandError(str(error), exit_code=2) from error


@app.command
@exit_codes
def errors(store: Path, /) -> int:
    """List the pages that failed, each with its error; `--resume --retry-errors` takes them again.

    Parameters
    ----------
    store
        The SQLite file of a crawl.
    """
    with _opened(store) as connection:
        for url, error in database.errors(connection):
            print(f"{url}\t{' '.join(error.split())}")
    return 0


@app.command
@exit_codes
def export(store: Path, out: Path, /) -> int:
    """Write the items of a store to a file.

    Parameters
    ----------
    store
        The SQLite file of a crawl.
    out
        The file; its suffix says the format: .jsonl, .csv, .sqlite or .parquet.
    """
    with _opened(store) as connection:
        written = write_out(connection, out)
    print(f"{written:,} items written to {out}", file=sys.stderr)
    return 0


@app.command
@exit_codes
def traps(store: Path, /) -> int:
    """List the patterns of addresses that had as many as they may, each with how many more were refused.

    Parameters
    ----------
    store
        The SQLite file of a crawl.
    """
    with _opened(store) as connection:
        for pattern, refused in database.traps(connection):
            print(f"{pattern}\t{refused}")
    return 0


@contextmanager
def _opened(store: Path) -> Generator[sqlite3.Connection]:
    """A store to read; what is wrong with it, or with what is written from it, ends the command with a line."""
    try:
        with closing(database.connect(store)) as connection:
            yield connection
    except StoreError as error:
        raise CommandError(str(error)) from error


def _crawler_of(job: Path | None) -> Crawler:
    if job is None or not job.is_file():
        raise CommandError(f"there is no file {str(job)!r}", exit_code=2)
    if job.suffix != ".py" or not job.stem.isidentifier():
        raise CommandError(
            f"{job} cannot be imported by workers: its name must be that of a Python module, as crawl_docs.py",
            exit_code=2,
        )
    sys.path.insert(0, str(job.absolute().parent))  # workers look there, too
    crawler = getattr(importlib.import_module(job.stem), "crawler", None)
    if not isinstance(crawler, Crawler):
        raise CommandError(f"{job} defines no crawler: crawler = Crawler(parse, start=[...])", exit_code=2)
    return crawler


def _crawler_for(urls: Path, out: Path | None, store: Path | None, options: FetcherOptions) -> Crawler:
    if out is None:
        raise CommandError("--urls needs --out FILE: .jsonl, .csv, .sqlite or .parquet", exit_code=2)
    kept = store or out.with_name(out.name + ".crawl")
    start = _addresses_of(urls)
    try:
        return Crawler(record, start=start, depth=0, store=kept, **options)
    except (ImportError, ValueError) as error:  # of an option
        raise CommandError(str(error), exit_code=2) from error


def _addresses_of(urls: Path) -> list[str]:
    """The addresses of a list; empty lines and those that begin with # are none."""
    if str(urls) != "-" and not urls.is_file():
        raise CommandError(f"there is no file {str(urls)!r}", exit_code=2)
    text = sys.stdin.read() if str(urls) == "-" else urls.read_text(encoding="utf-8")
    found: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        try:
            address_of(url)
        except ValueError as error:
            raise CommandError(f"line {number} of {urls}: {error}", exit_code=2) from error
        found.append(url)
    return found


def report(statistics: CrawlStatistics, store: object = None) -> str:
    """What a crawl did, for people: counts, errors by kind, traps."""
    s = statistics
    rate = s.visited / s.seconds if s.seconds else 0.0
    total = (
        f"{s.pages:,} pages, {s.items:,} items, {s.failed:,} failed, {s.waiting:,} waiting; this run: {s.visited:,} "
        f"in {s.seconds:.1f} s ({rate:,.0f} a second), {s.peak_bytes / 1e6:,.0f} MB at most without workers"
    )
    lines = [total]
    if s.errors:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in s.errors.items())
        lines.append(f"failed in this run: {kinds}; all of them: asyncpar scrape errors {store or 'STORE'}")
    if s.refused:
        lines.append(
            f"{s.refused:,} links were refused as traps; see max_per_pattern= and asyncpar scrape traps {store or 'STORE'}"
        )
    return "\n".join(lines)
