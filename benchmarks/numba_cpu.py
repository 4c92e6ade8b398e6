"""The sum of squares of arrays, by numba's kernels: `python -m benchmarks.numba_cpu [ROUNDS]`.

Serial and parallel (prange) kernels called as they are, which holds the event loop up, and awaited on threads and
processes. One large array, which only a parallel kernel can share among cores, and many small ones. All ways in turns,
in an order that is shuffled for each round; medians, and the ratio to the serial kernel of the same round. A ticker that
is due every millisecond tells how late the event loop is at most.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack

import numba
import numpy as np
from numba import njit, prange

import asyncpar
from asyncpar_numba import NumbaThreadPool

LARGE, SMALL, MANY = 40_000_000, 250_000, 64


@njit("f8(f8[::1])", nogil=True)
def serial(array):
    total = 0.0
    for i in range(array.size):
        total += array[i] ** 2
    return total


@njit("f8(f8[::1])", nogil=True, parallel=True)
def parallel(array):
    total = 0.0
    for i in prange(array.size):
        total += array[i] ** 2
    return total


@njit("f8(Array(f8, 1, 'C', readonly=True))")
def serial_readonly(array):
    """In a worker process, where large arguments are looked at and not copied."""
    total = 0.0
    for i in range(array.size):
        total += array[i] ** 2
    return total


@njit("f8(f8[::1])", nogil=True)
def serial_sines(array):
    total = 0.0
    for i in range(array.size):
        total += math.sin(array[i]) ** 2
    return total


@njit("f8(f8[::1])", nogil=True, parallel=True)
def parallel_sines(array):
    total = 0.0
    for i in prange(array.size):
        total += math.sin(array[i]) ** 2
    return total


@njit("f8(Array(f8, 1, 'C', readonly=True))")
def serial_sines_readonly(array):
    total = 0.0
    for i in range(array.size):
        total += math.sin(array[i]) ** 2
    return total


async def tick(late):
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.001
        await asyncio.sleep(0.001)
        late.append(loop.time() - due)


async def timed(way, arrays, expected):
    """Seconds, and the most that the loop was late."""
    late = []
    ticker = asyncio.ensure_future(tick(late))
    await asyncio.sleep(0.005)
    began = time.perf_counter()
    totals = await way(arrays)
    seconds = time.perf_counter() - began
    await asyncio.sleep(0.002)  # a tick that the loop held up
    ticker.cancel()
    assert np.allclose(list(totals), expected)
    return seconds, max(late)


async def measure(title, arrays, ways, rounds, each=lambda x: x):
    """Print a table."""
    expected = [float(np.dot(each(array), each(array))) for array in arrays]
    found = {name: [] for name in ways}
    for number in range(rounds + 1):
        names = list(ways)
        random.shuffle(names)
        for name in names:
            outcome = await timed(ways[name], arrays, expected)
            if number:  # the first round warms up
                found[name].append(outcome)
    base = [seconds for seconds, _ in found[next(iter(ways))]]
    print(
        f"\n## {title}\n\n| | median | times the serial kernel's speed | the loop late by, at most |\n|---|---|---|---|"
    )
    for name, outcomes in found.items():
        ratios = [one / seconds for one, (seconds, _) in zip(base, outcomes, strict=True)]
        print(
            f"| {name} | {1e3 * statistics.median(s for s, _ in outcomes):.1f} ms "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {1e3 * statistics.median(late for _, late in outcomes):.1f} ms |"
        )


def called(function):
    """As it is, on the loop's thread."""

    async def way(arrays):
        return [function(array) for array in arrays]

    return way


def mapped(pool, function):
    return lambda arrays: pool.map(function, arrays)


def executed(executor, function):
    loop = asyncio.get_running_loop()
    return lambda arrays: asyncio.gather(
        *[loop.run_in_executor(executor, function, array) for array in arrays]
    )


async def main(rounds):
    async with AsyncExitStack() as stack:
        each = await stack.enter_async_context(NumbaThreadPool())
        whole = await stack.enter_async_context(NumbaThreadPool(1))
        processes = await stack.enter_async_context(asyncpar.ProcessPool(preload=[__spec__.name]))
        executor = stack.enter_context(ThreadPoolExecutor(each.workers))
        print(
            f"numba {numba.__version__} on {numba.threading_layer()}, "
            f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs"
        )

        def ways(serial, parallel, readonly):
            return {
                "serial kernel, called": called(serial),
                "parallel kernel, called": called(parallel),
                "serial kernel, run_in_executor": executed(executor, serial),
                "serial kernel, NumbaThreadPool()": mapped(each, serial),
                "parallel kernel, NumbaThreadPool(1)": mapped(whole, parallel),
                "parallel kernel, NumbaThreadPool()": mapped(each, parallel),
                "serial kernel, ProcessPool()": mapped(processes, readonly),
            }

        squares = ways(serial, parallel, serial_readonly)
        sines = ways(serial_sines, parallel_sines, serial_sines_readonly)
        large = [np.linspace(0, 1, LARGE)]
        many = [np.linspace(0, n, SMALL) for n in range(MANY)]
        await measure(f"Squares: one array of {LARGE:,} numbers", large, squares, rounds)
        await measure(f"Squares: {MANY} arrays of {SMALL:,} numbers", many, squares, rounds)
        await measure(f"Sines, squared: {MANY} arrays of {SMALL:,} numbers", many, sines, rounds, np.sin)


if __name__ == "__main__":
    asyncpar.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 15)
