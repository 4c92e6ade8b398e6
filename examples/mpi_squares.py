"""Scatter, square, gather on MPI ranks, with objects and with buffers, while the loop does other things.

On one rank, or on several: ``mpiexec -n 4 python -m mpi4py examples/mpi_squares.py``.
"""

from __future__ import annotations

import asyncio

import numpy as np
from mpi4py import MPI

import asyncpar
from asyncpar_mpi import Comm

NUMBERS = 12


async def objects(comm: Comm) -> None:
    """Small letters: any object, here a list for each rank."""
    parts = None
    if comm.rank == 0:
        parts = [list(part) for part in np.array_split(np.arange(NUMBERS).tolist(), comm.size)]
    mine = await comm.scatter(parts)
    squares = await comm.gather([int(x) ** 2 for x in mine])
    if squares is not None:  # on rank 0
        print("objects:", [x for part in squares for x in part])


async def buffers(comm: Comm) -> None:
    """Capitals: arrays, which are copied as they are; each rank has a part of the same size."""
    numbers = np.arange(float(NUMBERS)) if comm.rank == 0 else None
    mine = np.empty(NUMBERS // comm.size)
    await comm.Scatter(numbers, mine)
    squares = np.empty(NUMBERS) if comm.rank == 0 else None
    await comm.Gather(mine**2, squares)
    if squares is not None:
        print("buffers:", squares.astype(int).tolist())


async def main() -> None:
    async with Comm(MPI.COMM_WORLD) as comm:
        if comm.rank == 0:
            print(f"{comm.size} rank{'s' * (comm.size > 1)}:")
        await objects(comm)
        await buffers(comm)

        # two tasks, each with a channel of its own: ranks may come to their operations in any order
        async with comm.dup() as other:

            async def total(channel: Comm, value: int, after: float) -> int:
                await asyncio.sleep(after)
                return int(await channel.allreduce(value))

            pause = 0.01 * comm.rank
            ones, hundreds = await asyncpar.gather(total(comm, 1, pause), total(other, 100, 0.02 - pause))
        if comm.rank == 0:
            print("two sums at once are right:", (ones, hundreds) == (comm.size, 100 * comm.size))


if __name__ == "__main__":
    asyncpar.run(main)
