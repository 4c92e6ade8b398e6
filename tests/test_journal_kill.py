"""A job is killed at random moments, again and again, and taken up each time: nothing wrong, hardly anything lost.

`make integration` kills 200 times, `make test` 25 times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from asyncpar import Journal, JournalError
from asyncpar.journal.rows import all_rows, connect
from asyncpar.journal.session import BACKLOG_ROWS
from tests.journal_job import expected
from tests.programs import ROOT

KILLS = int(os.environ.get("ASYNCPAR_KILLS", "25"))
ITEMS = 3000
LIMIT = 256


@pytest.fixture
def jobs():
    """Starts jobs and says how they ended."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "journal_job.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        yield process
        process.stdin.close()


def start(jobs, journal, log, place):
    jobs.stdin.write(f"{journal} {log} {place} {ITEMS}\n")
    jobs.stdin.flush()
    return int(jobs.stdout.readline())


def status_of(jobs):
    jobs.stdin.write("\n")
    jobs.stdin.flush()
    return int(jobs.stdout.readline())


def kept(path):
    """The numbers whose results are in the file, each of which is right, and no row is damaged."""
    try:
        connection = connect(path)
    except JournalError as error:  # killed before the journal was there
        if "it is empty" not in str(error) and "there is no journal" not in str(error):
            raise
        return set()
    assert all(row is not None for row in all_rows(connection))
    connection.close()
    numbers = set()
    with Journal(path) as journal:
        for result in journal:
            assert result.value == expected(result.item)
            numbers.add(result.item)
    return numbers


def handed_out(log):
    """The numbers whose results the killed jobs had been given."""
    data = log.read_bytes() if log.exists() else b""
    return {int.from_bytes(data[at : at + 4]) for at in range(0, len(data) - len(data) % 4, 4)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["loop", "thread", "process"])
def test_killed_at_random(jobs, tmp_path, place):
    """After each kill every result in the file is right, and no more are missing than one batch and what was under way."""
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    killed = round_number = 0
    while killed < KILLS // 3 + 1:
        journal, log = tmp_path / f"{round_number}.journal", tmp_path / f"{round_number}.log"
        before, most = set(), 0.25 if place == "loop" else 0.5
        while True:
            pid = start(jobs, journal, log, place)
            most += 0.05  # so that a job comes to its end on any machine
            time.sleep(chance.uniform(0.0, most))
            os.kill(pid, signal.SIGKILL)
            status = status_of(jobs)
            now = kept(journal)
            assert before <= now
            before = now
            lost = handed_out(log) - now
            assert len(lost) <= BACKLOG_ROWS + LIMIT
            if status == 0:
                assert now == set(range(ITEMS))
                break
            assert status == -signal.SIGKILL
            killed += 1
        round_number += 1
