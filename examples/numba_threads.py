"""A numba kernel that frees the GIL, on threads: all cores, and nothing is pickled or copied.

Needs numba: pip install "asyncpar[numba]"
"""

from __future__ import annotations

import time

import numpy as np
from numba import njit

import asyncpar

ROWS, COLUMNS, BANDS = 240, 320, 8


@njit(nogil=True)
def mandelbrot(image: np.ndarray, first: int, last: int) -> int:
    """Fill the rows from first to last in place; return how many points are in the set."""
    inside = 0
    for row in range(first, last):
        for column in range(image.shape[1]):
            c = complex(-2.2 + 3 * column / image.shape[1], -1.2 + 2.4 * row / image.shape[0])
            z, steps = 0j, 0
            while steps < 300 and z.real * z.real + z.imag * z.imag < 4:
                z, steps = z * z + c, steps + 1
            image[row, column] = steps
            inside += steps == 300
    return inside


async def main() -> None:
    image = np.zeros((ROWS, COLUMNS), np.int32)
    edges = [ROWS * band // BANDS for band in range(BANDS + 1)]
    async with asyncpar.ThreadPool() as threads:
        begun = time.perf_counter()
        await threads.run(mandelbrot, image, 0, 0)  # compiles, off the loop's thread
        print(f"compiled in {time.perf_counter() - begun:.1f} s")

        begun = time.perf_counter()
        counts = await threads.map(mandelbrot, [image] * BANDS, edges[:-1], edges[1:])
        print(
            f"{BANDS} bands in {1e3 * (time.perf_counter() - begun):.0f} ms, {sum(counts):,} points in the set"
        )
    for line in image[::24, ::8]:
        print("".join(" .:-=+*#%@"[min(9, steps // 8)] for steps in line))


if __name__ == "__main__":
    asyncpar.run(main)
