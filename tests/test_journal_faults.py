"""Journals on a full disk, damaged, and in use: never a wrong result, and a clear word about what to do."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

import asyncpar
from asyncpar import Journal, JournalError, ThreadPool
from asyncpar.journal import rows
from asyncpar.journal.export import export
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import taken
from tests.programs import ROOT

pytestmark = pytest.mark.may_block  # the tests look into files


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


async def text(x):
    await asyncio.sleep(0)
    return f"{x} " * 50


def right(x):
    return f"{x} " * 50


async def fill(path, count=2000):
    await asyncpar.map(text, range(count), journal=path)


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no machine here: it takes root to mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


cancelled: list[int] = []


async def nap_at_seven(x):
    try:
        await asyncio.sleep(30 if x == 7 else 0)
    except asyncio.CancelledError:
        cancelled.append(x)
        raise
    return right(x)


async def test_a_full_disk(small_disk):
    """The map fails clearly, what runs is cancelled, and what was committed is used when there is room again."""
    path = small_disk / "run.journal"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    cancelled.clear()
    got = []
    with pytest.raises(JournalError, match=r"disk is full; make room and run again: what it holds is used"):
        async for value in asyncpar.map(nap_at_seven, range(10**6), limit=2_000, ordered=False, journal=path):
            got.append(value)
    assert cancelled == [7]
    assert set(got) <= set(map(right, range(len(got) + 100)))
    ballast.unlink()
    with closing(rows.connect(path)) as connection:
        stored = list(rows.all_rows(connection))
    assert None not in stored
    assert len(stored) > 100
    items = [x for x in range(200) if x != 7]
    results = asyncpar.map(nap_at_seven, items, journal=path)
    assert await results == list(map(right, items))
    assert results.statistics().replayed > 100


def test_a_limit_of_file_size(tmp_path):
    """Where a disk cannot be filled, a limit of the process does: in a process of its own."""
    program = """
import asyncio, resource, sys
import asyncpar

async def work(x):
    return f"{x} " * 50

async def main():
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        await asyncpar.map(work, range(100_000), journal="run.journal")
    except asyncpar.JournalError as error:
        print(error)

asyncio.run(main())
"""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "run.journal cannot be used: " in done.stdout
    assert "make room and run again" in done.stdout
    with Journal(tmp_path / "run.journal") as journal:
        found = list(journal)
    assert len(found) > 100
    assert all(result.value == right(result.item) for result in found)


async def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(JournalError, match=r"none/run.journal cannot be used: .*No such file or directory"):
        await asyncpar.map(text, [1], journal=tmp_path / "none" / "run.journal")


# A damaged file


async def test_a_file_of_something_else(path):
    path.write_text("a letter to my mother" * 100)
    with pytest.raises(
        JournalError, match=r"file is not a database; it is damaged, or no journal. Take another path"
    ):
        await asyncpar.map(text, [1], journal=path)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE letters (text)")
    with pytest.raises(JournalError, match="is an SQLite file of something else"):
        await asyncpar.map(text, [1], journal=path)
    assert sorted(os.listdir(path.parent)) == ["run.journal"]


async def test_a_newer_format(path):
    await fill(path, 1)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(
        JournalError, match="has format 2 of a newer asyncpar, and this one knows 1: upgrade it"
    ):
        await asyncpar.map(text, [1], journal=path)


async def test_an_empty_file_is_a_new_journal(path):
    path.touch()
    await fill(path, 3)
    with Journal(path) as journal:
        assert len(journal) == 3


async def test_a_damaged_row_is_computed_again(path, caplog):
    """Its checksum does not fit; the others are used, and the next run has all."""
    await fill(path, 100)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE results SET value = replace(value, '7', '8') WHERE id = 8")
        connection.execute(
            "UPDATE results SET key = (SELECT key || x'00' FROM results WHERE id = 20) WHERE id = 21"
        )
        connection.execute("UPDATE results SET item = x'00' WHERE id = 30")
    with Journal(path) as journal:
        assert len(list(journal)) == 97
    for replayed in (97, 100):
        caplog.clear()
        results = asyncpar.map(text, range(100), journal=path)
        assert await results == list(map(right, range(100)))
        assert results.statistics().replayed == replayed
        assert ("results in the journal" in caplog.text) == (replayed == 97)


async def test_two_results_that_were_exchanged_are_found_out(path):
    """A value that is whole, but in another item's row, is not taken for that item's."""
    await fill(path, 10)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        [(one,), (other,)] = connection.execute("SELECT value FROM results WHERE id IN (1, 2) ORDER BY id")
        connection.execute("UPDATE results SET value = ? WHERE id = 1", (other,))
        connection.execute("UPDATE results SET value = ? WHERE id = 2", (one,))
    results = asyncpar.map(text, range(10), journal=path)
    assert await results == list(map(right, range(10)))
    assert results.statistics().replayed == 8


@pytest.mark.parametrize("share", [0.0005, 0.1, 0.5, 0.9, 0.999])
async def test_a_truncated_file_is_refused_and_what_is_left_can_be_saved(path, tmp_path, share):
    """By a new journal that goes on with what could be read."""
    await fill(path)
    whole = path.stat().st_size
    os.truncate(path, int(whole * share))
    with pytest.raises(
        JournalError, match=r"it is damaged, or no journal.*'asyncpar journal export .* saved.journal'"
    ):
        await asyncpar.map(text, range(2000), journal=path)
    saved = tmp_path / "saved.journal"
    try:
        with closing(rows.connect(path, damaged=True)) as connection:
            export(connection, saved)
    except (JournalError, sqlite3.Error):
        assert share < 0.2
        return
    results = asyncpar.map(text, range(2000), journal=saved)
    assert await results == list(map(right, range(2000)))
    assert results.statistics().replayed >= 2000 * (share - 0.2)


@pytest.mark.timeout(120)
async def test_a_corrupted_file_never_gives_a_wrong_result(path, tmp_path):
    """Whatever bytes are overwritten: the results are right, or the file is refused."""
    await fill(path)
    whole = path.read_bytes()
    chance = random.Random(1)
    refused = right_ones = 0
    for round_number in range(30):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            at = chance.randrange(len(damaged))
            length = chance.choice([1, 8, 200])
            damaged[at : at + length] = chance.randbytes(length)[: len(damaged) - at]
        copy = tmp_path / f"{round_number}.journal"
        copy.write_bytes(damaged)
        try:
            results = await asyncpar.map(text, range(2000), journal=copy)
        except JournalError:
            refused += 1
        else:
            assert results == list(map(right, range(2000)))
            right_ones += 1
    assert refused
    assert right_ones


async def test_a_journal_with_a_broken_log_beside_it(path, tmp_path):
    """What the log (WAL) of a killed run holds is used as far as it is whole."""
    program = f"""
import asyncio, os, signal
import asyncpar
from tests.test_journal_faults import text

async def main():
    async with asyncpar.map(text, range(3000), limit=250, journal={str(path)!r}) as results:
        n = 0
        async for _ in results:
            n += 1
            if n % 250 == 0:  # many commits, however late the writer is
                while results._engine.session._backlog_rows:
                    await asyncio.sleep(0.01)
            if n == 3000:
                os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    log = tmp_path / "run.journal-wal"
    data = bytearray(log.read_bytes())
    assert len(data) > 100_000
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    log.write_bytes(data)
    results = asyncpar.map(text, range(3000), journal=path)
    assert await results == list(map(right, range(3000)))
    assert 0 < results.statistics().replayed < 3000


# In use


def other_run(path, folder):
    """Another process with a map on the journal, which waits."""
    program = f"""
import asyncio
import asyncpar
from tests.test_journal_faults import text

async def main():
    async with asyncpar.map(text, range(10), journal={str(path)!r}) as results:
        await anext(results)
        print("running", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "running\n"
    return process


async def test_a_second_run_is_refused(path):
    """At once, naming the process of the first; which goes on, and leaves the file free when it is killed."""
    with other_run(path, path.parent) as process:
        try:
            with pytest.raises(
                JournalError,
                match=rf"run.journal is in use by process {process.pid}: wait until that has ended, or take another",
            ):
                await asyncpar.map(text, range(10), journal=path)
            with Journal(path) as journal:  # readers are welcome
                assert len(journal) >= 0
        finally:
            process.kill()
    assert await asyncpar.map(text, range(10), journal=path) == list(map(right, range(10)))
    assert sorted(os.listdir(path.parent)) == ["run.journal"]


async def test_children_that_outlive_the_run_do_not_hold_the_file(path):
    """A process that was forked has no part in the lock."""
    read_end, write_end = os.pipe()
    async with asyncpar.map(text, itertools.count(), journal=path) as results:
        await taken(results, 5)
        child = os.fork()
        if not child:
            os.close(write_end)
            os.read(read_end, 1)  # until the parent lets go
            os._exit(0)
    try:
        assert await asyncpar.map(text, range(5), journal=path) == list(map(right, range(5)))
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)


async def test_the_file_is_removed_while_a_map_runs(path):
    """The map goes on; what is kept is gone with the file."""
    async with ThreadPool(1) as pool, pool.map(f.square, range(100), journal=path, limit=4) as results:
        assert await taken(results, 3) == [0, 1, 4]
        shutil.rmtree(path.parent)
        assert await taken(results, 97) == [x * x for x in range(3, 100)]
    path.parent.mkdir()
