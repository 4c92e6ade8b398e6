"""Actors and streams on processes: what a death costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

import pytest

import asyncpar


class Cell:
    """An actor that can say where it lives."""

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def deaf(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(1)


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


async def test_an_actor_whose_idle_worker_was_killed_says_so():
    async with asyncpar.ProcessPool(1) as pool, pool.actor(Cell) as actor:
        pid = await actor.run(Cell.pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            asyncpar.WorkerLostError,
            match=f"worker {pid} was killed by SIGKILL, and what lived in it is gone",
        ):
            for _ in range(1000):
                await actor.run(Cell.pid)
                await asyncio.sleep(0.001)
        with pytest.raises(asyncpar.WorkerLostError):
            await actor.run(Cell.pid)


async def test_an_actor_whose_call_had_to_be_killed_says_so():
    async with asyncpar.ProcessPool(1, grace=0.05) as pool, pool.actor(Cell) as actor:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await actor.run(Cell.deaf)
        with pytest.raises(asyncpar.WorkerLostError, match="killed by SIGKILL"):
            await actor.run(Cell.pid)
