"""Actors and streams on processes: what a death costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback

import pytest

import asyncpar
from asyncpar.testing import functions as f
from tests.waiting import until


class Cell:
    """An actor that can say where it lives."""

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deaf(self, path: str) -> None:
        f.mark(path)
        end = time.monotonic() + 100
        while time.monotonic() < end:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(1)


class Keeper:
    """Keeps what it is given."""

    def __init__(self, n: object) -> None:
        self.n = n

    def keep(self, n: object) -> object:
        self.n = n
        return n


async def test_an_actor_has_a_process_of_its_own():
    async with asyncpar.ProcessPool(1) as pool, pool.actor(Cell) as cell:
        assert await cell.run(Cell.pid) not in {os.getpid(), await pool.run(os.getpid)}


async def test_a_dead_actor_says_so_now_and_later_and_the_pool_goes_on():
    async with asyncpar.ProcessPool(1) as pool:
        async with pool.actor(Cell) as cell:
            with pytest.raises(asyncpar.WorkerLostError, match="SIGKILL"):
                await cell.run(Cell.die)
            with pytest.raises(asyncpar.WorkerLostError):
                await cell.run(Cell.pid)
        assert await pool.run(int) == 0


async def test_a_dead_actor_is_named_and_counted_and_told_what_helps():
    async with asyncpar.ProcessPool(1) as pool:
        async with pool.actor(Cell) as cell:
            with pytest.raises(asyncpar.WorkerLostError) as caught:
                await cell.run(Cell.die)
            later = []
            for _ in range(3):
                with pytest.raises(asyncpar.WorkerLostError) as again:
                    await cell.run(Cell.pid)
                later.append(again.value)
        assert caught.value.function == f"{__name__}.Cell.die"
        assert f"while it ran {__name__}.Cell.die; " in str(caught.value)
        assert str(caught.value).endswith("what lived in it is gone: open the actor or the stream again")
        assert "retries=" not in str(caught.value)
        assert pool.statistics().lost == 1
        assert [str(error) for error in later] == [str(caught.value)] * 3
        depths = [len(traceback.extract_tb(error.__traceback__)) for error in later]
        assert depths == depths[:1] * 3
        assert (later[0].signal, later[0].pid) == (signal.SIGKILL, caught.value.pid)


async def test_what_cannot_travel_to_an_actor_is_named_as_the_user_does():
    async with asyncpar.ProcessPool(1) as pool:
        with pytest.raises(
            asyncpar.SerializationError, match=r"argument n= of tests.test_actor.Keeper cannot be pickled"
        ):
            async with pool.actor(Keeper, n=(i for i in "abc")):
                pass
        async with pool.actor(Keeper, 1) as keeper:
            with pytest.raises(
                asyncpar.SerializationError, match=r"argument 1 of tests.test_actor.Keeper.keep cannot"
            ):
                await keeper.run(Keeper.keep, (i for i in "abc"))
            with pytest.raises(
                asyncpar.SerializationError, match="<lambda> is a lambda, which workers cannot"
            ):
                await keeper.run(lambda keeper: 1)
            assert await keeper.run(Keeper.keep, 2) == 2


async def test_lambdas_are_refused_where_they_are_passed():
    async with asyncpar.ProcessPool(1) as pool:
        advice = (
            r"<lambda> is a lambda, which workers cannot import.* open the pool with functions='by_value'"
        )
        with pytest.raises(asyncpar.SerializationError, match=advice):
            pool.actor(lambda: 1)
        with pytest.raises(asyncpar.SerializationError, match=advice):
            pool.stream(lambda: [1])
        with pytest.raises(asyncpar.SerializationError, match=advice):
            await pool.reduce(lambda a, b: a + b, [1, 2, 3])
    async with asyncpar.ProcessPool(1, functions="by_value") as pool:
        assert [x async for x in pool.stream(lambda: range(3))] == [0, 1, 2]
        assert await pool.reduce(lambda a, b: a + b, [1, 2, 3]) == 6


@pytest.mark.parametrize("before", [0, 5])
async def test_a_streams_error_brings_the_workers_traceback(before):
    async with asyncpar.ProcessPool(1) as pool:
        got = []
        with pytest.raises(ValueError, match="the stream broke") as caught:
            async for item in pool.stream(f.count_and_fail, before):
                got.append(item)
        assert got == list(range(before))
        assert "in count_and_fail" in caught.value.__notes__[0]


async def test_an_actor_whose_idle_worker_was_killed_says_so():
    async with asyncpar.ProcessPool(1) as pool, pool.actor(Cell) as actor:
        pid = await actor.run(Cell.pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            asyncpar.WorkerLostError,
            match=f"worker {pid} was killed by SIGKILL, and what lived in it is gone",
        ):
            while True:
                await actor.run(Cell.pid)
                await asyncio.sleep(0.001)
        with pytest.raises(asyncpar.WorkerLostError):
            await actor.run(Cell.pid)


async def test_an_actor_whose_call_had_to_be_killed_says_so(tmp_path):
    path = str(tmp_path / "begun")
    async with asyncpar.ProcessPool(1, grace=0.05) as pool, pool.actor(Cell) as actor:
        call = asyncio.ensure_future(actor.run(Cell.deaf, path))
        await until(lambda: f.lines(path))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        with pytest.raises(asyncpar.WorkerLostError, match="killed by SIGKILL"):
            await actor.run(Cell.pid)
