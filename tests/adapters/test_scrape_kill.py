"""A crawl of 200 hosts, 2 % of the pages faulty, is killed at random moments: every page is accounted for in the end.

`make test` crawls 1,500 pages and kills 5 times; `make integration` crawls ASYNCPAR_CRAWL_PAGES, or 20,000, and kills
22 times. Each run prints the peak memory of the last job.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing

import pytest

from asyncpar_scrape.database import connect, errors
from tests.adapters import scrape_job, scrape_site
from tests.programs import environment

INTEGRATION = "ASYNCPAR_KILLS" in os.environ
KILLS = int(os.environ.get("ASYNCPAR_KILLS", "30")) // 10 + 2
PAGES = int(os.environ.get("ASYNCPAR_CRAWL_PAGES", "20000" if INTEGRATION else "1500"))
UNDER_WAY = 2 * 64 + 4 * 2


def expected(pages):
    """The pages that can be parsed, and those that fail."""
    parsed, failed, waiting = set(), set(), [0]
    while waiting:
        n = waiting.pop()
        if n in parsed or n in failed:
            continue
        if n >= pages or scrape_site.is_faulty(n):
            failed.add(n)
        else:
            parsed.add(n)
            waiting += (n + 1, 2 * n + 1, 2 * n + 2)
    return parsed, failed


def run_to_the_end(store, port, pages):
    """Start the job again after each kill; how many kills there were."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance, killed = random.Random(seed), 0
    command = [sys.executable, scrape_job.__file__, str(store), port]
    while True:
        with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as job:
            if killed < KILLS:
                time.sleep(chance.uniform(0.2, 1.0) * max(1.0, pages / 5000))
                job.kill()
            said = job.stdout.read()
        assert job.returncode in (0, -signal.SIGKILL)
        if job.returncode == 0:
            print(f"{pages} pages, {killed} kills, peak memory of the last job {said.strip()} MB")
            return killed
        killed += 1


def numbers(rows):
    return Counter(int(url.rsplit("/", 1)[1]) for url, *_ in rows)


@pytest.mark.timeout(60 + PAGES // 50)
def test_killed_at_random(tmp_path):
    """Every page's item is there once, every faulty page has its error, and only what was under way was fetched again."""
    store, log = tmp_path / "crawl.sqlite", tmp_path / "served"
    with scrape_site.in_a_process(log, PAGES) as port:
        killed = run_to_the_end(store, port, PAGES)
    parsed, failed = expected(PAGES)
    with closing(connect(store)) as connection:
        items = connection.execute("SELECT url FROM items JOIN pages ON pages.id = items.page")
        assert numbers(items) == Counter(parsed)
        assert numbers(errors(connection)) == Counter(failed)
        assert not connection.execute("SELECT 1 FROM pages WHERE state = 0").fetchall()
    fetched = Counter(log.read_text().split())
    assert set(fetched) == {f"/{n}" for n in parsed | failed}
    again = sum(count - 1 for path, count in fetched.items() if not scrape_site.is_faulty(int(path[1:])))
    assert again <= killed * UNDER_WAY
