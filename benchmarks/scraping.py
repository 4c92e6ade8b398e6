"""A crawl of a site on this machine by `asyncpar_scrape`, by hand with aiohttp and selectolax, by Scrapy and by Crawlee.

    python -m venv .venv/scraping
    .venv/scraping/bin/pip install -c requirements/constraints.txt '.[scrape,fast]' selectolax scrapy 'crawlee[parsel]' psutil
    PYTHONPATH=.:adapters .venv/scraping/bin/python -m benchmarks.scraping > benchmarks/results/scraping.md

Each run is a fresh process, and its start counts; the site is served by another. In a round they take turns, each with the same pages
(10,000, 5,000 and 2,000); ratios are of one round, and medians of three rounds are printed. CPU is that of all processes of the crawl, without the server's;
memory is the highest sum of their PSS, looked at twice a second. Nobody waits out of politeness, and each has at most 64
requests in flight. All run on uvloop. `asyncpar` is the crawler with its own Fetcher and Page, `asyncpar, raw` the crawler with the
client and the parser of the loop by hand; the frontier of both is on disk. By hand, Scrapy and Crawlee keep theirs in memory;
with DISK=1 Crawlee runs once more with its own files, which takes five minutes longer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import NamedTuple

import psutil

from benchmarks.scraping_peers import PEERS

ROUNDS = int(os.environ.get("ROUNDS", "3"))
NAMES = [name for name in PEERS if name != "Crawlee, on disk" or os.environ.get("DISK")]
SHARE = float(os.environ.get("SHARE", "1"))
"""Of the pages, for a look whether all runs."""
CASES = [("20 kB", 20, 0, 10_000), ("100 kB", 100, 0, 5000), ("20 kB, 5 ms parsing", 20, 5, 2000)]


class Run(NamedTuple):
    rate: float
    cpu_ms: float
    peak_mb: float


@contextmanager
def site(pages, size):
    command = [sys.executable, "-m", "benchmarks.scraping_site", str(pages), str(size)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.stdin.close()


def memory(process):
    """The sum over the tree, in MB."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has just ended
            pass
    return total / 1e6


def crawl(name, root, busy, pages):
    """Run one to its end."""
    command = [sys.executable, "-m", "benchmarks.scraping_peers", name, root, str(busy)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, over = [0.0], threading.Event()

    def watch():
        process = psutil.Process(child.pid)
        while not over.wait(0.5):
            try:
                peak[0] = max(peak[0], memory(process))
            except psutil.Error:  # it has just ended
                return

    watcher = threading.Thread(target=watch, daemon=True)  # a crawl that fails must not leave it waiting
    watcher.start()
    last = child.stdout.read().splitlines()[-1]
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    over.set()
    watcher.join()
    child.stdout.close()
    got, items, seconds = json.loads(last)
    # Scrapy fetches the start address once more when a page links to it
    if not pages <= got <= pages + 1 or items != 10 * got or child.returncode:
        raise RuntimeError(f"{name} ended with {child.returncode}: {got} pages of {pages}, {items} items")
    return Run(pages / seconds, 1000 * (usage.ru_utime + usage.ru_stime) / pages, peak[0])


def measure(size, busy, pages):
    rounds = []
    for _ in range(ROUNDS):
        runs = {}
        for name in NAMES:
            with site(pages, size) as root:
                runs[name] = crawl(name, root, busy, pages)
                print(name, size, busy, runs[name], file=sys.stderr)
        rounds.append(runs)
    return rounds


def median(rounds, name, field):
    return statistics.median(getattr(runs[name], field) for runs in rounds)


def main() -> None:
    print(f"# Crawling a local site\n\nEach run{__doc__.partition('Each run')[2].rstrip()}")
    print(f"\nMedians of {ROUNDS} rounds on {os.cpu_count()} cores, which the server shares.\n")
    print(
        "| page | | pages a second | CPU a page, ms | peak memory, MB | asyncpar is faster by |\n|---|---|---|---|---|---|"
    )
    for label, size, busy, pages in CASES:
        rounds = measure(size, busy, int(pages * SHARE))
        for name in NAMES:
            ratio = statistics.median(runs["asyncpar"].rate / runs[name].rate for runs in rounds)
            print(
                f"| {label} | {name} | {median(rounds, name, 'rate'):,.0f} | {median(rounds, name, 'cpu_ms'):.2f} | "
                f"{median(rounds, name, 'peak_mb'):.0f} | {'' if name == 'asyncpar' else f'{ratio:.2f}'} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
