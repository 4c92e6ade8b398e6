"""``asyncpar scrape``: runs the crawler of a file, and says what a store holds. In the group ``asyncpar.commands``."""

from __future__ import annotations

import importlib
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

import asyncpar
from asyncpar.cli.errors import CommandError, exit_codes
from asyncpar_scrape import frontier
from asyncpar_scrape.crawler import Crawler, CrawlStatistics
from asyncpar_scrape.frontier import StoreError
from asyncpar_scrape.output import export as write_out

Flag = Annotated[bool, Parameter(negative="")]

app = App(name="scrape", help="Run crawls, and look into their stores.")


@app.default
@exit_codes
def run(job: Path, /, *, resume: Flag = False, retry_errors: Flag = False, out: Path | None = None) -> int:
    """Run the crawl that a file defines as `crawler = Crawler(...)`, and report on stderr.

    The exit code is 0 also where pages failed: `asyncpar scrape errors STORE` lists them.

    Parameters
    ----------
    job
        A Python file. Its workers import it, so its name must be that of a module.
    resume
        Go on with the crawl that the store holds.
    retry_errors
        With `--resume`: visit the pages that failed once more.
    out
        Write the items to this file at the end: .jsonl, .csv, .sqlite or .parquet.
    """
    crawler = _crawler_of(job)
    if out is not None and crawler.store_path is None:
        raise CommandError(f"--out needs a crawler with store=, which {job} has not", exit_code=2)
    crawler.configure(resume=resume or retry_errors, retry_errors=retry_errors)
    try:
        statistics = asyncpar.run(crawler.run)
        print(report(statistics), file=sys.stderr)
    except StoreError as error:
        raise CommandError(str(error)) from error
    return 0 if out is None or crawler.store_path is None else export(Path(crawler.store_path), out)


@app.command
@exit_codes
def errors(store: Path, /) -> int:
    """List the pages that failed, each with its error; `--resume --retry-errors` takes them again.

    Parameters
    ----------
    store
        The SQLite file of a crawl.
    """
    try:
        with closing(frontier.connect(store)) as connection:
            for url, error in frontier.errors(connection):
                print(f"{url}\t{' '.join(error.split())}")
    except StoreError as error:
        raise CommandError(str(error)) from error
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
    try:
        with closing(frontier.connect(store)) as connection:
            written = write_out(connection, out)
    except StoreError as error:
        raise CommandError(str(error)) from error
    print(f"{written:,} items written to {out}", file=sys.stderr)
    return 0


def _crawler_of(job: Path) -> Crawler:
    if not job.is_file():
        raise CommandError(f"there is no file {str(job)!r}", exit_code=2)
    if job.suffix != ".py" or not job.stem.isidentifier():
        raise CommandError(
            f"{job} cannot be imported by workers: its name must be that of a Python module, as crawl_docs.py",
            exit_code=2,
        )
    sys.path.insert(0, str(job.absolute().parent))  # workers look there, too
    crawler = getattr(importlib.import_module(job.stem), "crawler", None)
    if not isinstance(crawler, Crawler):
        raise CommandError(
            f"{job} defines no crawler: crawler = Crawler(parse, fetch, start=[...])", exit_code=2
        )
    return crawler


def report(statistics: CrawlStatistics) -> str:
    """What a crawl did, in a line."""
    s = statistics
    rate = s.visited / s.seconds if s.seconds else 0.0
    return (
        f"{s.pages:,} pages, {s.items:,} items, {s.failed:,} failed, {s.waiting:,} waiting; this run: {s.visited:,} "
        f"in {s.seconds:.1f} s ({rate:,.0f} a second), {s.peak_bytes / 1e6:,.0f} MB at most without workers"
    )
