"""The sum of squares on every core: a numba kernel with `prange`, awaited, and its speed-up measured.

The same loop in Python, compiled, and compiled with a parallel loop. The event loop goes on meanwhile: its ticks are
counted. Compiling takes a second, and is awaited, too.

Needs numba: pip install "asyncpar[numba]"
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import numpy as np
from numba import njit, prange

import asyncpar
from asyncpar_numba import NumbaThreadPool, compile_for

Array = np.ndarray
ITEMS = 20_000_000
FEWER = 100_000  # items for Python, which takes so much longer


def plain(array: Array) -> float:
    total = 0.0
    for x in array:
        total += x * x
    return total


@njit(nogil=True)  # else the event loop would stand still
def serial(array: Array) -> float:
    total = 0.0
    for i in range(array.size):
        total += array[i] ** 2
    return total


@njit(parallel=True, nogil=True)
def sum_squares(array: Array) -> float:
    total = 0.0
    for i in prange(array.size):
        total += array[i] ** 2
    return total


async def tick(ticks: list[float]) -> None:
    while True:
        ticks.append(time.perf_counter())
        await asyncio.sleep(0.001)


async def fastest(pool: asyncpar.Pool, function: Callable[[Array], float], array: Array) -> float:
    """Nanoseconds per item, of five runs."""
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        total = await pool.run(function, array)
        times.append(1e9 * (time.perf_counter() - begun) / array.size)
        assert np.isclose(total, np.dot(array, array))
    return min(times)


async def main() -> None:
    array = np.linspace(0, 1, ITEMS)
    ticks: list[float] = []
    ticker = asyncio.create_task(tick(ticks))
    async with NumbaThreadPool(1) as pool:  # one worker: a parallel kernel has all cores
        await pool.run(compile_for, serial, array)
        await pool.run(compile_for, sum_squares, array)
        python = await fastest(pool, plain, array[:: ITEMS // FEWER])
        one = await fastest(pool, serial, array)
        all_cores = await fastest(pool, sum_squares, array)
        threads = pool.threads_per_worker
    ticker.cancel()
    print(f"Python                {python:7.2f} ns an item")
    print(f"njit                  {one:7.2f} ns, {python / one:.0f} times as fast")
    print(f"njit, prange          {all_cores:7.2f} ns on {threads} threads, {one / all_cores:.1f} times njit")
    print(f"the event loop ticked {len(ticks)} times meanwhile")


if __name__ == "__main__":
    asyncpar.run(main)
