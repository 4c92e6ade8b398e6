"""A simulation that runs until it is good enough: an endless source, and a stream that is left early.

Each call has its own seed and the results come in order, so the answer is the same on any number of workers.
"""

from __future__ import annotations

import itertools
import math
import random

import asyncpar

DARTS = 20_000
WANTED = 0.002  # standard error of the estimate


def hits(seed: int) -> int:
    """How many of the darts land in the quarter circle."""
    throw = random.Random(seed).random
    return sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(DARTS))


async def main() -> None:
    async with asyncpar.ProcessPool() as pool:
        inside, thrown, share, error = 0, 0, 0.0, 1.0
        async with pool.map(hits, itertools.count()) as batches:
            async for batch in batches:
                inside, thrown = inside + batch, thrown + DARTS
                share = inside / thrown
                error = 4 * math.sqrt(share * (1 - share) / thrown)
                if error < WANTED:
                    break
        print(f"pi is {4 * share:.4f} ± {error:.4f}, after {thrown:,} darts on {pool.workers} workers")


if __name__ == "__main__":
    asyncpar.run(main)
