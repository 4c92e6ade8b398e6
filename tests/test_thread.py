"""The thread pool, beyond the contract: nothing is copied, context is seen, what runs cannot be stopped."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import asyncpar
from asyncpar import ThreadPool
from asyncpar.cpus import usable_cpus
from tests.waiting import until


async def test_arguments_and_results_are_the_very_objects():
    async with ThreadPool(1) as pool:
        thing = object()
        assert await pool.run(lambda x: x, thing) is thing


async def test_lambdas_and_closures_run():
    async with ThreadPool(2) as pool:
        n = 3
        assert await pool.map(lambda x: x + n, range(4)) == [3, 4, 5, 6]


async def test_calls_run_in_threads_named_for_the_pool():
    async with ThreadPool(2) as pool:
        name = await pool.run(lambda: threading.current_thread().name)
    assert name.startswith("asyncpar-thread-")


async def test_threads_start_when_they_are_needed():
    async with ThreadPool(8) as pool:
        assert len(pool.places) == 0
        await pool.run(int)
        assert 1 <= len(pool.places) <= 2


async def test_no_more_threads_than_workers():
    async with ThreadPool(3) as pool:
        await pool.map(lambda _: time.sleep(0.002), range(30))
        assert len(pool.places) <= 3


async def test_the_cancelled_callers_thread_stays_busy_and_close_waits_for_it():
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait(50)
        ended.set()

    async with ThreadPool(1) as pool:
        call = asyncio.ensure_future(pool.run(work))
        await until(begun.is_set)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert not ended.is_set()
        assert pool.statistics().running == 1
        pool.loop.call_later(0.1, go_on.set)  # while it closes
    assert ended.is_set()


async def test_no_thread_starts_for_a_map_that_has_nothing_to_run():
    async def quiet():
        await asyncio.sleep(30)
        yield 1

    async with ThreadPool(8) as pool, pool.map(abs, quiet()):
        await asyncio.sleep(0.01)
        assert len(pool.places) == 0


async def test_the_default_count_follows_the_usable_cpus():
    assert ThreadPool().workers == min(32, usable_cpus() + 4)


@pytest.mark.parametrize(
    ("workers", "error", "words"),
    [
        (0, ValueError, "at least 1, not 0"),
        (-1, ValueError, "not -1"),
        (1.5, TypeError, "not float"),
        (True, TypeError, "bool"),
    ],
)
def test_a_senseless_number_of_workers(workers, error, words):
    with pytest.raises(error, match=words):
        ThreadPool(workers)


async def test_error_has_the_traceback_of_the_function():
    def broken() -> None:
        raise KeyError("x")

    async with ThreadPool(1) as pool:
        with pytest.raises(KeyError) as caught:
            await pool.run(broken)
    names = [entry.name for entry in caught.traceback]
    assert names[-1] == "broken"


async def test_an_async_function_runs_on_a_loop_of_the_thread():
    async def where() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async with ThreadPool(1) as pool:
        assert await pool.run(where) != threading.get_ident()


async def test_a_map_of_blocking_calls_uses_all_threads():
    everyone = threading.Barrier(10)
    async with ThreadPool(10) as pool:
        assert sorted(await pool.map(lambda _: everyone.wait(50), range(10))) == list(range(10))


async def test_to_thread_uses_the_default_pool():
    async with asyncpar.open_runtime():
        assert await asyncpar.to_thread(threading.get_ident) != threading.get_ident()
