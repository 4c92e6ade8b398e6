"""Actors and streams on processes: what a death costs."""

from __future__ import annotations

import os
import signal

import pytest

import asyncpar


class Cell:
    """An actor that can say where it lives."""

    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


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
