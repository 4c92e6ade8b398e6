"""Journals on the loop and on pools: what is kept, what is handed out again, and what is refused."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

import asyncpar
from asyncpar import InlinePool, Journal, JournalError, ProcessPool, SerializationError, ThreadPool
from asyncpar.errors import CallTimeoutError
from asyncpar.journal import session
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Source, taken, until
from tests.programs import ROOT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


class Counted:
    """A coroutine function that counts its calls. Known to journals by its version."""

    def __init__(self):
        self.calls = []

    async def square(self, x):
        self.calls.append(x)
        await asyncio.sleep(0)
        return x * x


async def double(x):
    await asyncio.sleep(0)
    return 2 * x


async def fail_on_three(x):
    if x == 3:
        raise ValueError("no 3")
    return x


def files(path):
    return sorted(os.listdir(path.parent))


def read(path):
    """Item and value of every result."""
    with Journal(path) as journal:
        return {result.item: result.value for result in journal}


async def stored(path):
    """The same, without blocking the loop."""
    return await off_the_loop(read, path)


async def off_the_loop(function, *args):
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


# Running again


async def test_nothing_is_computed_twice(path):
    count = Counted()
    journal = Journal(path, version=1)
    assert await asyncpar.map(count.square, range(50), journal=journal) == [x * x for x in range(50)]
    assert await asyncpar.map(count.square, range(100), journal=journal) == [x * x for x in range(100)]
    assert sorted(count.calls) == list(range(100))
    assert await off_the_loop(files, path) == ["run.journal"]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 40])
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_limit_counts_what_comes_from_the_journal(path, kind, limit, ordered):
    """Results that are there and results that are computed, in any mixture, in order, never read further ahead."""
    await asyncpar.map(double, [x for x in range(200) if x % 7 in (0, 1, 5)], journal=path)
    source, got = Source(200), []
    async with asyncpar.map(double, source.open(kind), limit=limit, ordered=ordered, journal=path) as results:
        async for value in results:
            assert source.read - len(got) <= limit
            statistics = results.statistics()
            assert statistics.in_flight + statistics.unread <= limit
            got.append(value)
            if len(got) % 20 == 0:
                await asyncio.sleep(0.002)
                assert source.read - len(got) <= limit
    assert (got if ordered else sorted(got)) == [2 * x for x in range(200)]
    assert results.statistics().replayed == 86
    assert source.closed


async def test_several_iterables_and_tuples_are_different_items(path):
    """f(1, 2) is not f((1, 2)), nor is the item (1, 2) of several iterables what key= says is (1, 2)."""

    async def show(*args):
        return args

    assert await asyncpar.map(show, [1], [2], journal=path) == [(1, 2)]
    assert await asyncpar.map(show, [(1, 2)], journal=path) == [((1, 2),)]
    assert await asyncpar.map(show, [5], [6], journal=path, key=lambda a, b: (a - 4, b - 4)) == [(5, 6)]
    again = asyncpar.map(show, [1, 3], [2, 4], journal=path)
    assert await again == [(1, 2), (3, 4)]
    assert again.statistics().replayed == 1


async def test_items_of_one_value_and_several_types(path):
    items = [1, True, 1.0, "1", b"1", None, (1,), [1]]

    async def kind(x):
        return type(x).__name__

    for _ in range(2):
        results = asyncpar.map(kind, items, journal=path)
        assert await results == ["int", "bool", "float", "str", "bytes", "NoneType", "tuple", "list"]
    assert results.statistics().replayed == len(items)


async def test_the_same_item_again(path):
    """Both get a result, and a second run takes one for both."""
    for replayed in (None, 6):
        results = asyncpar.map(double, [1, 2, 1, 1, 2, 3], limit=2, journal=path)
        assert await results == [2, 4, 2, 2, 4, 6]
        assert replayed in (None, results.statistics().replayed)
    assert await stored(path) == {1: 2, 2: 4, 3: 6}


async def test_key_says_what_an_item_is(path):
    class Record:
        def __init__(self, number):
            self.number = number

    async def number(record):
        return record.number

    def key(record):
        return ("record", record.number)

    for replayed in (0, 3):
        results = asyncpar.map(number, [Record(x) for x in range(3)], key=key, journal=path)
        assert await results == [0, 1, 2]
        assert results.statistics().replayed == replayed
    assert await stored(path) == {("record", x): x for x in range(3)}


async def test_an_item_without_a_key(path):
    """Its error comes after the results before it, says what to do, and nothing behind it is run."""
    count = Counted()
    source = iter([1, 2, object(), *range(5000)])
    with pytest.raises(JournalError, match=r"an item of type object cannot be found again .* pass key="):
        async with asyncpar.map(
            count.square, source, limit=2000, journal=Journal(path, version=1)
        ) as results:
            assert await taken(results, 2) == [1, 4]
            await anext(results)
    assert count.calls == [1, 2]
    assert await stored(path) == {1: 1, 2: 4}


async def test_a_key_function_that_fails(path):
    with pytest.raises(ZeroDivisionError):
        async with asyncpar.map(double, [4, 2, 0, 1], key=lambda x: 4 // x, journal=path) as results:
            assert await taken(results, 2) == [8, 4]
            await anext(results)
    with pytest.raises(JournalError, match="key= must give a str, bytes, int or tuple"):
        await asyncpar.map(double, [1], key=lambda _: object(), journal=f"{path}2")


async def test_an_error_in_the_source(path):
    source = Source(3, OSError("the source broke"))
    with pytest.raises(OSError, match="the source broke"):
        async with asyncpar.map(double, source.asynchronous(), journal=path) as results:
            assert await taken(results, 3) == [0, 2, 4]
            await anext(results)
    assert await stored(path) == {0: 0, 1: 2, 2: 4}


async def test_failed_calls_are_run_again(path):
    for replayed in (0, 4):
        results = asyncpar.map(fail_on_three, range(5), return_exceptions=True, journal=path)
        assert [type(value) for value in await results] == [int, int, int, ValueError, int]
        assert results.statistics().replayed == replayed


async def test_a_call_that_timed_out_is_not_kept(path):
    async def nap(x):
        await asyncio.sleep(x)
        return x

    await asyncpar.map(nap, [0], journal=path)
    results = await asyncpar.map(nap, [0, 30], timeout=0.05, return_exceptions=True, journal=path)
    assert results[0] == 0
    assert isinstance(results[1], CallTimeoutError)
    assert "nap ran longer" in str(results[1])
    assert await stored(path) == {0: 0}


async def test_a_rate_counts_only_calls(path):
    """What the journal has costs nothing of it, nor does looking for it."""
    async with ThreadPool(1) as pool:
        for on in (None, pool):
            function = double if on is None else f.square
            await asyncpar.map(function, range(50), on=on, journal=path)
            rate = asyncpar.RateLimiter(1, per=60)
            results = asyncpar.map(function, range(51), on=on, journal=path, rate=rate)
            assert (await results)[50] == (100 if on is None else 2500)
            assert not rate.acquire_nowait()


async def test_a_limiter_is_given_back(path):
    limiter = asyncpar.Limiter(3)
    async with ThreadPool(2) as pool:
        for _ in range(2):
            await pool.map(f.square, range(40), limit=limiter, journal=path)
            assert limiter.acquire_nowait(3)
            limiter.release(3)


async def test_what_changes_later_is_kept_as_it_was(path):
    """The consumer may do to a result what it likes."""

    async def make(x):
        return [x]

    async for value in asyncpar.map(make, range(100), journal=path):
        value.append("changed")
    assert await stored(path) == {x: [x] for x in range(100)}


@pytest.mark.parametrize("pool", [None, "thread", "process"])
async def test_large_results(path, pool):
    """They are pickled off the loop's thread, and in the file before they are handed out."""
    async with asyncpar.open_runtime():
        zeros = _zeros if pool is None else np.zeros
        for replayed in (0, 4):
            results = asyncpar.map(zeros, [10, 300_000, 20, 400_000], on=pool, journal=path)
            arrays = await results
            assert [len(array) for array in arrays] == [10, 300_000, 20, 400_000]
            assert results.statistics().replayed == replayed
            for array in arrays:
                if array.flags.writeable:
                    array[:] = 1


async def _zeros(n):
    return np.zeros(n)


async def test_limit_bytes_counts_what_comes_from_the_journal(path):
    async with ProcessPool(2) as pool:
        await pool.map(bytes, [100_000] * 1 + [100_000 + x for x in range(100)], journal=path)
        source = Source(100)
        items = (100_000 + x for x in source.sync())
        async with pool.map(bytes, items, limit_bytes=1_000_000, journal=path) as results:
            got = 0
            async for _ in results:
                got += 1
                assert source.read - got <= 12
        assert got == results.statistics().replayed == 100


@pytest.mark.may_block  # it runs the calls on the loop
@pytest.mark.parametrize("make_pool", [InlinePool, lambda: ThreadPool(2)])
async def test_a_result_that_cannot_be_pickled(path, make_pool):
    """It is the failure of its call, named; the others are kept."""
    async with make_pool() as pool:
        results = await pool.map(_lock_on_three, range(5), return_exceptions=True, journal=path)
    assert isinstance(results[3], SerializationError)
    assert str(results[3]).startswith("a result of ")
    assert "_lock_on_three cannot be kept in the journal: TypeError: cannot pickle" in str(results[3])
    assert await stored(path) == {0: 0, 1: 1, 2: 2, 4: 4}


def _lock_on_three(x):
    return threading.Lock() if x == 3 else x


# What is durable


async def test_what_has_ended_is_in_the_file(path):
    """When the map has ended, before anything is closed."""
    async with asyncpar.map(double, range(2000), journal=path) as results:
        async for _ in results:
            pass
        assert len(await stored(path)) == 2000


async def test_a_batch_is_written_soon(path):
    """Without anything more happening, what has finished is in the file."""
    release = asyncio.Event()

    async def wait(x):
        if x == 3:
            await release.wait()
        return x

    async with asyncpar.map(wait, range(4), journal=Journal(path, version=1)) as results:
        await taken(results, 3)
        found = {}
        while len(found) < 3:
            await asyncio.sleep(0.01)
            found = await stored(path)
        assert found == {0: 0, 1: 1, 2: 2}
        release.set()


async def test_cancelling_keeps_what_has_finished(path):
    finished = []

    async def work(x):
        await asyncio.sleep(0.001 if x < 20 else 30)
        finished.append(x)
        return x

    async def run():
        await asyncpar.map(work, range(40), journal=path)

    task = asyncio.ensure_future(run())
    await until(lambda: len(finished) == 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await stored(path) == {x: x for x in range(20)}


async def test_a_map_that_is_dropped_keeps_what_has_finished(path):
    """Nobody waits for it; the next map on the file does."""
    async for value in asyncpar.map(double, range(1000), journal=path):
        if value == 100:
            break
    gc.collect()
    results = asyncpar.map(double, range(51), journal=path)
    assert await results == [2 * x for x in range(51)]
    assert results.statistics().replayed == 51


@pytest.mark.may_block  # it runs the calls on the loop
async def test_a_pool_that_closes_in_the_middle_gives_the_file_back(path):
    async with InlinePool() as pool:
        results = pool.map(f.square, itertools.count(), journal=path)
        assert await taken(results, 10) == [x * x for x in range(10)]
    with pytest.raises(asyncpar.PoolClosedError):
        async for _ in results:
            pass
    async with InlinePool() as pool:
        again = pool.map(f.square, range(10), journal=path)
        assert await again == [x * x for x in range(10)]
        assert again.statistics().replayed == 10


def test_a_program_that_ends_in_the_middle_keeps_what_has_finished(path):
    """Even where nobody closes anything: by sys.exit, in the middle of a map."""
    program = f"""
import asyncio, sys
import asyncpar

async def double(x):
    return 2 * x

async def main():
    results = asyncpar.map(double, range(100), journal={str(path)!r})
    async for value in results:
        if value == 60:
            loop.stop()
            await asyncio.sleep(1)

loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
sys.stderr.close()
sys.exit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=150)
    assert done.returncode == 3
    assert set(range(31)) <= set(read(path))


@pytest.mark.may_block  # the test's own transaction
async def test_a_slow_disk_holds_the_map_back(path, monkeypatch):
    """While the file is locked, no more than the backlog runs; then the map goes on."""
    monkeypatch.setattr(session, "BACKLOG_ROWS", 40)
    count = Counted()
    journal = Journal(path, version=1)
    await asyncpar.map(count.square, [-1], journal=journal)
    blocker = sqlite3.connect(path, isolation_level=None)
    async with asyncpar.map(count.square, itertools.count(), limit=10, journal=journal) as results:
        await taken(results, 1)
        blocker.execute("BEGIN IMMEDIATE")
        before = len(count.calls)
        task = asyncio.ensure_future(taken(results, 500))
        await asyncio.sleep(0.3)
        assert len(count.calls) <= before + 40 + 10 + 10
        blocker.execute("COMMIT")
        assert len(await task) == 500
    blocker.close()


# Functions and versions


def job(source):
    space = {"__name__": "job"}
    exec(source, space)
    return space["f"]


OLD = "async def f(x, n=1):\n    return x + n"


async def test_a_changed_function_is_refused(path):
    await asyncpar.map(job(OLD), range(3), journal=path)
    with pytest.raises(JournalError) as caught:
        await asyncpar.map(job(OLD.replace("+", "-")), range(3), journal=path)
    assert str(caught.value) == (
        f"the journal {path} holds 3 results of job.f, but its code changed since. Nothing was run. "
        f"To compute them anew: asyncpar journal forget {path} job.f. If they are still right: "
        f"asyncpar journal accept {path} job.f. To keep both: another path"
    )
    with pytest.raises(JournalError, match="the defaults of its parameters changed since"):
        await asyncpar.map(job(OLD.replace("n=1", "n=2")), range(3), journal=path)
    with pytest.raises(JournalError, match="this map asks for version '2'"):
        await asyncpar.map(job(OLD), range(3), journal=Journal(path, version=2))
    assert await asyncpar.map(job(OLD), range(4), journal=path) == [1, 2, 3, 4]


async def test_a_changed_function_without_results_is_taken(path):
    await asyncpar.map(job(OLD), [], journal=path)
    assert await asyncpar.map(job(OLD.replace("+", "-")), [1], journal=path) == [0]


async def test_a_version_allows_changes(path):
    await asyncpar.map(job(OLD), range(3), journal=Journal(path, version="a"))
    results = asyncpar.map(job(OLD.replace("+", "-")), range(3), journal=Journal(path, version="a"))
    assert await results == [1, 2, 3]
    assert results.statistics().replayed == 3


async def test_one_file_holds_many_functions(path):
    assert await asyncpar.map(job(OLD), range(3), journal=path) == [1, 2, 3]
    assert await asyncpar.map(double, range(3), journal=path) == [0, 2, 4]
    async with InlinePool() as pool:
        for n in (1, 2):
            partial = [x * n for x in range(3)]
            assert await pool.map(int.__mul__, range(3), [n] * 3, journal=path) == partial
    await off_the_loop(_check_reading, path)


def _check_reading(path):
    with Journal(path) as journal:
        assert len(journal) == 12
        assert {result.function for result in journal} == {
            "job.f",
            f"{__name__}.double",
            "builtins.int.__mul__",
        }
        assert journal.get(double, 2) == 4
        assert journal.get(double, 9) is None
        assert journal.get(int.__mul__, (2, 2)) == 4
        assert journal.get(f.square, 2, default="none") == "none"
        with pytest.raises(JournalError, match="an item of type object cannot be in a journal"):
            journal.get(double, object())
        with pytest.raises(JournalError, match="its code changed"):
            journal.get(job(OLD.replace("+", "-")), 1)


async def test_context_variables_do_not_hide_the_function(path):
    """A pool that carries context wraps functions; the journal looks through that."""
    async with ProcessPool(1) as pool:
        await pool.map(f.square, range(5), journal=path)
    async with ThreadPool(1) as pool:
        results = pool.map(f.square, range(5), journal=path)
        await results
    assert results.statistics().replayed == 5


# Sharing


async def test_two_maps_at_once_share_a_journal(path):
    journal = Journal(path)
    async with ThreadPool(2) as pool:
        pages = asyncpar.map(double, range(300), journal=journal)
        squares = pool.map(f.square, pages, journal=journal)
        assert await squares == [4 * x * x for x in range(300)]
    assert len(await off_the_loop(_all, path)) == 600
    assert await off_the_loop(files, path) == ["run.journal"]


async def test_two_maps_at_once_on_one_path(path):
    async with asyncpar.map(double, range(3), journal=path):
        with pytest.raises(
            JournalError,
            match=r"in use by another map of this program: give both maps one asyncpar.Journal\(",
        ):
            await asyncpar.map(double, range(3), journal=path)


async def test_maps_one_after_the_other(path):
    for n in range(20):
        assert await asyncpar.map(double, range(n), journal=path) == [2 * x for x in range(n)]
    assert await off_the_loop(files, path) == ["run.journal"]


async def test_reading_while_a_map_writes(path):
    release = asyncio.Event()

    async def wait(x):
        if x == 2:
            await release.wait()
        return x

    async with asyncpar.map(wait, range(3), journal=Journal(path, version=1)) as results:
        await taken(results, 2)
        while len(await stored(path)) < 2:
            await asyncio.sleep(0.01)
        release.set()
        assert await taken(results, 1) == [2]
    assert await off_the_loop(files, path) == ["run.journal"]


# The class


def test_reading_needs_the_block(path):
    with pytest.raises(JournalError, match="there is no journal"), Journal(path):
        pass
    with pytest.raises(JournalError, match=r"use it inside 'with asyncpar.Journal"):
        len(Journal(path))
    assert bool(Journal(path))
    assert repr(Journal(path)) == f"Journal({str(path)!r})"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"journal": 7}, "journal= takes a path or an asyncpar.Journal, not int"),
        ({"key": str}, "key= says what an item is in a journal: pass journal= too"),
        ({"journal": "a", "key": "id"}, "key= takes a function of the item, not str"),
    ],
)
def test_senseless_arguments(arguments, message):
    with pytest.raises(TypeError, match=message):
        asyncpar.map(double, [], **arguments)


def test_senseless_journals(path):
    with pytest.raises(TypeError, match="a Journal takes a path, not int"):
        Journal(3)
    with pytest.raises(TypeError, match="version= must be a str or int, not float"):
        Journal(path, version=1.5)


async def test_large_items_are_not_kept_beside_their_results(path):
    await asyncpar.map(double, ["a" * 10_000, "b"], journal=path)
    assert [result.item for result in await off_the_loop(_all, path)] == [None, "b"]


def _all(path):
    with Journal(path) as journal:
        return list(journal)


async def test_a_result_whose_class_is_gone_is_computed_again(path, caplog, monkeypatch):
    module = types.ModuleType("passing")
    module.Thing = type("Thing", (), {"__module__": "passing"})
    monkeypatch.setitem(sys.modules, "passing", module)

    async def make(x):
        return getattr(sys.modules["passing"], "Thing", int)() if x else "plain"

    await asyncpar.map(make, [0, 1], journal=path)
    del module.Thing
    results = asyncpar.map(make, [0, 1], journal=path)
    assert await results == ["plain", 0]
    assert results.statistics().replayed == 1
    assert "1 results in the journal" in caplog.text
    assert "computed again" in caplog.text
    assert await stored(path) == {0: "plain", 1: 0}


async def test_progress_tells_what_came_from_the_journal(path, capsys):
    await asyncpar.map(double, range(30), journal=path)
    await asyncpar.map(double, range(40), journal=path, progress="doubles")
    assert "doubles: 40 of 40, 30 from the journal, " in capsys.readouterr().err
