"""The process pool when things die, hang, are cancelled or grow too large."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import random
import signal
import socket
import time

import anyio
import numpy as np
import psutil
import pytest

from asyncpar import BrokenPoolError, CallTimeoutError, MemoryLimitError, ProcessPool, WorkerLostError
from asyncpar.pool import MOST_CALLS
from asyncpar.process.layout import CANCELS, RING
from asyncpar.process.pool import DEPTH
from asyncpar.testing import functions as f
from tests import process_functions as far
from tests.waiting import until


async def read_when(path, n: int) -> list[str]:
    """The lines of a file, once there are ``n``."""
    give_up = time.monotonic() + 50
    while time.monotonic() < give_up:
        if os.access(path, os.R_OK):
            with open(path) as file:
                lines = file.read().splitlines()
            if len(lines) >= n:
                return lines
        await asyncio.sleep(0.005)
    raise AssertionError(f"{path} has not got {n} lines")


# Deaths


@pytest.mark.parametrize(
    ("how", "number", "code", "words"),
    [
        ("exit", None, 7, "exited with code 7 while"),
        ("segfault", signal.SIGSEGV, None, "was killed by SIGSEGV while"),
        ("SIGKILL", signal.SIGKILL, None, "was killed by SIGKILL while"),
        ("SIGTERM", signal.SIGTERM, None, "was killed by SIGTERM while"),
        ("SIGABRT", signal.SIGABRT, None, "was killed by SIGABRT while"),
    ],
)
async def test_a_lost_worker_is_named(how, number, code, words, capfd):
    async with ProcessPool(2) as pool:
        pids = {await pool.run(far.pid) for _ in range(10)} | set(pool.pids)
        with pytest.raises(WorkerLostError) as caught:
            await pool.run(far.die, how)
        error = caught.value
        assert (error.signal, error.exitcode, error.function) == (number, code, "tests.process_functions.die")
        assert error.pid in pids
        assert str(error).startswith(f"worker {error.pid} {words} it ran tests.process_functions.die; ")
        assert "run it again with retries= if that is safe" in str(error)
        assert ("the machine ran out of memory" in str(error)) == (how == "SIGKILL")
        assert ("native code crashed" in str(error)) == (how in ("segfault", "SIGABRT"))
        assert await pool.map(far.double, range(100)) == [2 * x for x in range(100)]
        assert error.pid not in pool.pids
        assert pool.statistics().lost == 1


@pytest.mark.parametrize("chunksize", [None, 500])
async def test_exactly_the_running_call_is_lost(chunksize):
    async with ProcessPool(2) as pool:
        found = await pool.map(far.die_at_13, range(20_000), return_exceptions=True, chunksize=chunksize)
        lost = [i for i, x in enumerate(found) if isinstance(x, WorkerLostError)]
        assert lost == [13_000]
        assert all(x == 2 * i for i, x in enumerate(found) if i != 13_000)


async def test_the_lost_call_of_a_partial_has_the_functions_name():
    async with ProcessPool(1) as pool:
        die = functools.partial(functools.partial(far.die_at, where=3))
        for found in (await pool.map(die, [3], return_exceptions=True))[0], await lost(pool.run(die, 3)):
            assert "while it ran tests.process_functions.die_at; " in str(found)


async def lost(call):
    with pytest.raises(WorkerLostError) as caught:
        await call
    return caught.value


async def test_exactly_the_running_one_of_many_calls_is_lost():
    async with ProcessPool(2) as pool:
        await pool.run(far.die_at, 0, 1)
        calls = [pool.run(far.die_at, x, 1300) for x in range(2000)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [i for i, x in enumerate(found) if x != 2 * i] == [1300]
        assert isinstance(found[1300], WorkerLostError)


async def test_workers_killed_at_random_through_20_000_calls():
    async with ProcessPool(2) as pool:
        kills = 0

        async def kill() -> None:
            nonlocal kills
            while True:
                await asyncio.sleep(0.05)
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(random.choice([p.pid for p in pool.places if p.served]), signal.SIGKILL)
                    kills += 1

        killer = asyncio.create_task(kill())
        try:
            # However quick the machine is, workers are killed in it.
            numbers = itertools.takewhile(lambda x: x < 20_000 or kills < 3, itertools.count())
            found = await pool.map(far.counted, numbers, retries=50)
        finally:
            killer.cancel()
        assert len(found) >= 20_000
        assert found == [x * x for x in range(len(found))]
        assert await pool.map(far.double, range(10)) == [2 * x for x in range(10)]


async def test_workers_that_die_at_start_again_and_again_break_the_pool():
    with pytest.raises(BrokenPoolError):
        async with ProcessPool(2, initializer=far.exit_at_start) as pool:
            await pool.run(far.double, 1)


async def test_an_initializer_that_fails_breaks_the_pool_with_its_error():
    async with ProcessPool(2, initializer=far.start_badly) as pool:
        with pytest.raises(BrokenPoolError, match=r"^the initializer failed in a worker$") as caught:
            await pool.run(far.double, 1)
        assert isinstance(caught.value.__cause__, RuntimeError)
        with pytest.raises(BrokenPoolError):
            await pool.map(far.double, range(10))


async def test_the_pool_heals_from_the_death_of_its_zygote(tmp_path):
    path = str(tmp_path / "never")
    async with ProcessPool(2) as pool:
        assert await pool.run(far.double, 1) == 2
        task = asyncio.create_task(pool.run(f.hold, path))
        await until(lambda: f.lines(f"{path}.begun"))
        os.kill(pool.nursery.process.pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError):
            await task
        assert await pool.map(far.double, range(1000)) == [2 * x for x in range(1000)]


@pytest.mark.may_block
async def test_a_call_that_grows_too_large_fails_alone():
    async with ProcessPool(2, memory_limit=100 << 20) as pool:
        assert await pool.run(far.eat, 10) == 10 << 20
        with pytest.raises(
            MemoryLimitError,
            match=r"bytes while it ran tests\.process_functions\.eat, over memory_limit=104,857,600",
        ):
            await pool.run(far.eat, 300, 50)
        assert await pool.run(far.double, 1) == 2


@pytest.mark.parametrize("most", [1, 3])
async def test_workers_are_replaced_after_max_calls(most):
    async with ProcessPool(2, max_calls=most) as pool:
        found = await asyncio.gather(*[pool.run(far.pid) for _ in range(12)])
        found += await pool.map(far.pid, range(12))
        assert max(found.count(pid) for pid in found) <= most
        assert len(found) == 24


@pytest.mark.may_block
async def test_a_worker_is_ready_before_one_goes_after_max_calls(tmp_path):
    path = str(tmp_path / "log")
    async with ProcessPool(1, max_calls=4, initializer=functools.partial(far.introduces, path)) as pool:
        pids = [await pool.run(far.pid) for _ in range(3)]
        first, second = await read_when(path, 2)  # its initializer has run, though the first goes on
        pids += [await pool.run(far.pid) for _ in range(2)]
        assert pids == [int(first)] * 4 + [int(second)]


@pytest.mark.may_block
async def test_a_worker_is_ready_before_one_is_killed_for_a_cancelled_call(tmp_path):
    path, starts = str(tmp_path / "log"), str(tmp_path / "starts")
    async with ProcessPool(1, grace=0.2, initializer=functools.partial(far.introduces, starts)) as pool:
        kill, killed = pool._kill, []
        pool._kill = lambda *what: killed.append(
            what
        )  # the rest of the grace is as long as the machine needs
        task = asyncio.create_task(pool.run(far.swallows, path))
        await read_when(path, 1)
        task.cancel()
        _, second = await read_when(starts, 2)
        await until(lambda: killed)
        assert not task.done()
        kill(*killed[0])
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pool.run(far.pid) == int(second)


async def test_one_good_worker_does_not_hide_that_the_others_die_at_start(tmp_path):
    start = functools.partial(far.start_once, str(tmp_path / "started"))
    with pytest.raises(
        BrokenPoolError, match=r"^5 workers in a row died at start, the last exited with code 9; "
    ):
        async with ProcessPool(2, initializer=start) as pool:
            while True:
                assert await pool.map(far.double, range(10)) == [2 * x for x in range(10)]


async def test_idle_workers_that_are_killed_have_not_died_at_start(monkeypatch):
    monkeypatch.setattr("asyncpar.process.pool.SETTLED_SECONDS", 0.1)
    async with ProcessPool(6) as pool:
        while len(pool.pids) < 6:
            await asyncio.sleep(0.01)
        await until(lambda: all(place.ready <= pool.loop.time() for place in pool.places))
        await asyncio.sleep(0.2)
        before = pool.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        while set(before) & set(pool.pids):
            await asyncio.sleep(0.01)
        assert await pool.map(far.double, range(100)) == [2 * x for x in range(100)]


async def test_a_broken_pool_ends_what_still_runs(tmp_path):
    start = functools.partial(far.start_alone, str(tmp_path / "started"))
    async with ProcessPool(2, initializer=start) as pool:
        calls = [
            pool.run(far.busy, str(tmp_path / "started"), 1000.0) for _ in range(2)
        ]  # one for each worker
        for error in await asyncio.gather(*calls, return_exceptions=True):
            assert str(error) == "the initializer failed in a worker"
        while pool.pids:
            await asyncio.sleep(0.01)


async def test_a_stopped_zygote_holds_up_nobody_but_new_workers():
    async with ProcessPool(1) as pool:
        assert await pool.run(far.double, 1) == 2
        pool.nursery.control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is
        zygote = pool.nursery.process.pid
        os.kill(zygote, signal.SIGSTOP)
        try:
            async with contextlib.AsyncExitStack() as stack:
                entering = [asyncio.create_task(pool.actor(list).__aenter__()) for _ in range(30)]
                await until(lambda: pool.nursery._out)
                assert await pool.run(far.double, 2) == 4
                os.kill(zygote, signal.SIGCONT)
                for actor in await asyncio.gather(*entering):
                    stack.push_async_exit(actor)
                    assert await actor.run(len) == 0
        finally:
            os.kill(zygote, signal.SIGCONT)


async def test_a_large_initializer_fits():
    start = functools.partial(len, b"x" * 3_000_000)
    async with ProcessPool(2, initializer=start) as pool:
        assert await pool.run(far.double, 1) == 2


# Cancelling


@pytest.mark.parametrize("spinning", [False, True])
@pytest.mark.may_block
async def test_a_cancelled_call_is_interrupted_and_cleans_up(tmp_path, spinning):
    path = str(tmp_path / "log")
    async with ProcessPool(1, grace=50) as pool:
        task = asyncio.create_task(pool.run(far.cleans_up, path, spinning))
        (line,) = await read_when(path, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await read_when(path, 2))[1] == "cleaned up"
        assert f"started {await pool.run(far.pid)}" == line  # the worker lives on


@pytest.mark.may_block
async def test_a_call_that_swallows_the_interrupt_is_killed_after_the_grace(tmp_path):
    path = str(tmp_path / "log")
    async with ProcessPool(1, grace=0.2) as pool:
        task = asyncio.create_task(pool.run(far.swallows, path))
        (line,) = await read_when(path, 1)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun > 0.15
        assert f"started {await pool.run(far.pid)}" != line
        assert pool.statistics().running == 0


@pytest.mark.may_block
async def test_a_cancelled_async_function_is_cancelled_there(tmp_path):
    path = str(tmp_path / "log")
    async with ProcessPool(1, grace=50) as pool:
        task = asyncio.create_task(pool.run(far.tidy, path))
        await read_when(path, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await read_when(path, 2) == ["started", "cancelled"]
        assert await pool.run(far.slowly, 1) == 2


@pytest.mark.may_block
async def test_an_async_function_that_blocks_its_loop_is_killed_after_the_grace(tmp_path):
    path = str(tmp_path / "log")
    async with ProcessPool(1, grace=0.2) as pool:
        task = asyncio.create_task(pool.run(far.stuck, path))
        (line,) = await read_when(path, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert f"started {await pool.run(far.pid)}" != line


async def test_asyncio_timeout_stops_a_call():
    async with ProcessPool(1) as pool:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.run(far.nap, 30)
        assert await pool.run(far.double, 1) == 2


@pytest.mark.may_block
async def test_a_cancelled_call_that_has_not_started_never_runs(tmp_path):
    path, go_on = str(tmp_path / "log"), str(tmp_path / "go on")
    async with ProcessPool(1) as pool:
        await pool.run(far.marks, path)  # its cost is known: the next ones may travel together
        tasks = [asyncio.create_task(pool.run(far.marks, path, go_on)) for _ in range(4)]
        await read_when(path, 2)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.sleep(0)  # their cancellation is on its way
        far.note(go_on, "")
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [False, True, True, True]
    assert len(await read_when(path, 2)) == 2


@pytest.mark.may_block
async def test_a_call_is_told_once_to_stop_however_often_it_is_cancelled(tmp_path):
    """As anyio's scopes do, in each turn of the loop."""
    path = str(tmp_path / "log")
    told: list[int] = []
    async with ProcessPool(1, grace=50) as pool:
        (place,) = pool.places
        scope = anyio.CancelScope()

        async def cancel() -> None:
            await read_when(path, 1)
            scope.cancel()
            await asyncio.sleep(0.2)  # many turns
            told.append(place.link.words[CANCELS])
            pool._kill(place, *asked[0])  # the grace is over

        interrupt, asked = pool._interrupt, []

        def ask(*what):
            asked.append(what)
            return interrupt(*what)

        pool._interrupt = ask
        task = asyncio.create_task(cancel())
        with scope:
            await pool.run(far.swallows, path)
        await task
        assert scope.cancelled_caught
        assert told == [1]


@pytest.mark.may_block
async def test_as_many_cancelled_calls_as_a_worker_can_have_never_run(tmp_path):
    """Each cancelled by itself, while the worker cannot look."""
    path = str(tmp_path / "log")
    async with ProcessPool(1) as pool:
        for _ in range(100):
            await pool.run(far.deaf_or_counts, path, 0)
        pool._function(far.deaf_or_counts).seconds = 1e-6  # however slow the machine was
        calls = [asyncio.create_task(pool.run(far.deaf_or_counts, path, deaf)) for deaf in (1, *[0] * 300)]
        await read_when(path, 1)
        assert pool.statistics().queued < 200  # the others are with the worker
        assert DEPTH * MOST_CALLS < RING
        for call in calls[1:]:
            call.cancel()
        await asyncio.sleep(0)
        far.note(path, "go on")
        await asyncio.wait(calls)
        assert await pool.run(far.deaf_or_counts, path, 0) == 101


@pytest.mark.may_block
async def test_large_arguments_of_a_caller_that_goes_while_they_are_pickled_leave_nothing():
    array = np.ones(1 << 20, np.uint8)
    async with ProcessPool(1) as pool:
        slow = far.SlowToPickle(array)
        task = asyncio.create_task(pool.run(far.identity, slow))
        while not slow.begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        slow.go_on.set()
        while not any(pool.nursery.arena.free_slabs.values()):  # it was packed all the same
            await asyncio.sleep(0.001)
        assert not pool.nursery.arena.live


async def test_calls_cancelled_at_every_moment():
    async with ProcessPool(2) as pool:
        for i in range(200):
            task = asyncio.create_task(pool.run(far.spin, 0.0005))
            await asyncio.sleep(random.uniform(0, 0.001))
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if i % 20 == 0:
                assert await pool.run(far.double, i) == 2 * i
        assert await pool.map(far.double, range(1000)) == [2 * x for x in range(1000)]


async def test_the_timeout_of_a_map_is_for_each_call():
    async with ProcessPool(2) as pool:
        await pool.map(far.late, [0.0] * 10)
        found = await pool.map(far.late, [0.0, 50, 0.0, 0.0], timeout=0.4, return_exceptions=True)
        assert [found[0], found[2], found[3]] == [0.0, 0.0, 0.0]
        assert isinstance(found[1], CallTimeoutError)
        assert str(found[1]) == "tests.process_functions.late ran longer than timeout=0.4 seconds"
        with pytest.raises(CallTimeoutError):
            await pool.map(far.late, [0.0, 50], timeout=0.2)
        assert await pool.map(far.double, range(10)) == [2 * x for x in range(10)]


@pytest.mark.may_block
async def test_a_stopped_worker_is_killed_when_the_call_has_timed_out():
    async with ProcessPool(2, grace=0.2) as pool:
        await pool.map(far.stop_itself, [0] * 10)
        found = await pool.map(far.stop_itself, range(6), timeout=0.5, return_exceptions=True)
        assert [x for x in found if not isinstance(x, Exception)] == [0, 1, 2, 4, 5]
        assert isinstance(found[3], CallTimeoutError)
        assert not any(map(is_stopped, pool.pids))


def is_stopped(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


@pytest.mark.may_block
async def test_calls_behind_a_long_one_are_taken_back_by_idle_workers(tmp_path):
    """Trivial calls travel together; when one of them turns out to be long, the others do not wait for it."""
    path = str(tmp_path / "go on")
    async with ProcessPool(2) as pool:
        await pool.map(far.long_if, [("", i) for i in range(2000)])  # it is known to be trivial now
        items = [("", i) for i in range(2000)]
        items[700], ended = (path, 700), []
        async for i in pool.map(far.long_if, items, ordered=False):
            ended.append(i)
            if len(ended) == 1999:
                far.note(path, "go on")  # when all others have ended, and not before
        assert sorted(ended) == list(range(2000))
        assert ended[-1] == 700


@pytest.mark.may_block
async def test_single_calls_behind_a_long_one_are_taken_back_once(tmp_path):
    path = str(tmp_path / "go on")
    runs: dict[int, int] = {}

    async def one(i: int) -> None:
        ended = await pool.run(far.long_if, (path if i == 20 else "", i))
        runs[ended] = runs.get(ended, 0) + 1
        order.append(ended)
        if len(order) == 99:
            far.note(path, "go on")  # when all others have ended, and not before

    async with ProcessPool(2) as pool:
        await asyncio.gather(*(pool.run(far.long_if, ("", i)) for i in range(200)))
        order: list[int] = []
        await asyncio.gather(*(one(i) for i in range(100)))
    assert runs == dict.fromkeys(range(100), 1)
    assert order[-1] == 20


async def test_arrays_and_lists_that_are_taken_back_arrive_whole():
    async with ProcessPool(2) as pool:
        arrays = [np.full(100_000, i % 250, np.uint8) for i in range(60)]
        expected = [int(array[0]) * array.size for array in arrays]
        for long in range(0, 60, 7):
            assert await pool.map(far.total_after, [(0.05 * (i == long), a) for i, a in enumerate(arrays)],
                                  chunksize=10) == expected  # fmt: skip
        await until(lambda: not pool.nursery.arena.live)  # the last worker has come to what was taken from it


@pytest.mark.parametrize("function", [far.annoyed, far.unmoved])
async def test_a_call_that_was_timed_out_ends_so_whatever_it_made_of_the_interrupt(function):
    async with ProcessPool(1, grace=50) as pool:
        await pool.run(function, 0.0)
        found = await pool.map(function, [0.0, 30.0, 0.0], timeout=0.4, return_exceptions=True)
        assert found[::2] == [0.0, 0.0]
        assert isinstance(found[1], CallTimeoutError)
        if function is far.annoyed:
            assert isinstance(found[1].__cause__, ValueError)
            assert str(found[1].__cause__) == "do not disturb"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pool.run(function, 30.0)
        assert await pool.run(function, 0.0) == 0.0
