"""`asyncpar demo`: what is checked before, and printed after."""

from __future__ import annotations

import importlib.util
import os
import platform
from itertools import islice
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from asyncpar.cli.demo.counting import Counts
from asyncpar.cli.demo.sources import find_sources
from asyncpar.cli.errors import CommandError
from asyncpar.cli.pools import check_pool
from asyncpar.errors import AsyncparError
from asyncpar.runtime import run

if TYPE_CHECKING:
    from asyncpar.cli.demo.meters import Meter, PeakMemory
    from asyncpar.cli.demo.stages import Report

MEBIBYTE = 1024 * 1024


def show_demo(pool: str | None, *, limit: int, files: int | None, latency: float) -> int:
    """Run the demo and print its tables; return the exit code.

    Args:
        pool: The name of the pool that counts; None for `ASYNCPAR_POOL`, else process.
        limit: How many pages may be on their way, and how many counts.
        files: How many files at most; None for all.
        latency: Seconds by which the server holds back each page.

    Raises:
        CommandError: Something is missing, or the pool does not work.
    """
    pool = pool or os.environ.get("ASYNCPAR_POOL") or "process"
    check_pool(pool)
    if importlib.util.find_spec("aiohttp") is None:
        raise CommandError('the demo needs aiohttp: pip install "asyncpar[web]"')
    names = list(islice(find_sources(), files))
    if not names:
        raise CommandError(
            "this Python comes without the sources of its standard library, which the demo reads"
        )
    console = Console()
    console.print(_introduction(len(names), pool, latency))
    report = _measure(names, pool, limit, latency)
    console.print(
        "", _counts_table(report.counts), _times_table(report, pool), "\n".join(_remarks(report)), sep="\n"
    )
    return 0


def _measure(names: list[str], pool: str, limit: int, latency: float) -> Report:
    from asyncpar.cli.demo.stages import measure

    try:
        return run(measure, names, pool=pool, limit=limit, latency=latency)
    except AsyncparError as error:
        raise CommandError(f"the pool {pool!r} failed: {error}") from error


def _introduction(files: int, pool: str, latency: float) -> str:
    held_back = f", held back {latency * 1000:g} ms each," if latency else ""
    return (
        f"{files:,} files of Python {platform.python_version()}'s standard library (its tests left out)\n"
        f"from a local web server{held_back} to the event loop, bounded by a map,\n"
        f"and on, as they arrive, to the pool {pool!r}, where ast parses them."
    )


def _counts_table(counts: Counts) -> Table:
    table = Table("files", "lines", "functions", "classes", "most imported", title="What was counted")
    table.add_row(
        *(f"{number:,}" for number in counts[:4]),
        ", ".join(f"{name} {number}" for name, number in counts.imports.most_common(6)),
    )
    return table


def _times_table(report: Report, pool: str) -> Table:
    workers = "1 worker" if report.workers == 1 else f"{report.workers} workers"
    table = Table(title=f"What it took ({workers})")
    table.add_column("stage")
    for heading in ("one by one", "asyncpar", "speed-up", "loop late by"):
        table.add_column(heading, justify="right")
    before = report.one_by_one
    _add_times(table, "fetch, on the loop", before.fetch, report.fetch)
    _add_times(table, f"count, on {pool}", before.count, report.count)
    _add_times(table, f"fold, on {pool}", before.fold, report.fold)
    table.add_section()
    _add_times(table, "all three, as a pipeline", before.all, report.all)
    return table


def _add_times(table: Table, stage: str, before: float, meter: Meter) -> None:
    speed_up = f"{before / meter.seconds:.1f}x"
    table.add_row(stage, f"{before:.2f} s", f"{meter.seconds:.2f} s", speed_up, f"{meter.lag * 1000:.0f} ms")


def _remarks(report: Report) -> list[str]:
    remarks = [
        f"The loop was late by {report.all.lag * 1000:.0f} ms at worst while the pipeline ran.",
        _memory(report.memory),
        "All times are of this run, on the same files; 'one by one' is a plain loop.",
        "Each stage was measured alone; as a pipeline they overlap.",
    ]
    if report.fold.seconds > report.one_by_one.fold:
        remarks.append("To fold so little costs less than to send it.")
    return remarks


def _memory(memory: PeakMemory) -> str:
    if memory.parent is None or memory.workers is None:
        return "Memory was not measured: this system does not show it."
    parent, workers = memory.parent / MEBIBYTE, memory.workers / MEBIBYTE
    return f"Peak memory of the pipeline: {parent:.0f} MiB here, {workers:.0f} MiB in workers."
