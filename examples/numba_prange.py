"""Numba's parallel loops beside a process pool: who gets the cores is said once, on the pool.

A `prange` kernel starts a thread for every core. In each of several workers that would be cores x workers threads
which take turns; so a worker's numba, BLAS and OpenMP get `threads_per_worker` threads, one unless told otherwise.

Needs numba: pip install "asyncpar[numba]"
"""

from __future__ import annotations

import numpy as np
from numba import get_num_threads, njit, prange

import asyncpar


@njit(parallel=True)
def sum_of_roots(n: int) -> float:
    total = 0.0
    for i in prange(n):
        total += np.sqrt(i)
    return total


def threads_and_sum(n: int) -> tuple[int, float]:
    total = sum_of_roots(n)
    return get_num_threads(), total


async def report(title: str, workers: int, threads_per_worker: int, calls: int) -> None:
    async with asyncpar.ProcessPool(
        workers, threads_per_worker=threads_per_worker, preload=["numba"]
    ) as pool:
        answers = await pool.map(threads_and_sum, [1_000_000] * calls)
    threads = {threads for threads, _ in answers}
    print(f"{title}: {workers} workers, {threads} threads in each, sum {answers[0][1]:.0f}")
    assert threads == {threads_per_worker}


async def main() -> None:
    await report("many calls, each on a core ", workers=2, threads_per_worker=1, calls=8)
    await report("one call, on several cores ", workers=1, threads_per_worker=2, calls=1)


if __name__ == "__main__":
    asyncpar.run(main)
