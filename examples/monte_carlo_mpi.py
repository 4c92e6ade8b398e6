"""A bulk job on MPI ranks: an estimate with its error bar at each step, and a plot where matplotlib is installed.

The same script runs on the processes of a laptop (`python examples/monte_carlo_mpi.py`) and on a cluster's ranks
(`asyncpar mpi -n 64 examples/monte_carlo_mpi.py --batches 100000 --plot pi.png`).
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import random
from pathlib import Path

import asyncpar

DARTS = 20_000


def hits(seed: int) -> int:
    """How many of the darts land in the quarter circle."""
    throw = random.Random(seed).random
    return sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(DARTS))


def estimate(inside: int, thrown: int) -> tuple[float, float]:
    """Pi and its standard error."""
    share = inside / thrown
    return 4 * share, 4 * math.sqrt(share * (1 - share) / thrown)


def plot(steps: list[tuple[int, float, float]], path: Path) -> None:
    """The estimate with its error bars, as it got better."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    thrown, values, errors = zip(*steps, strict=True)
    axes.errorbar(thrown, values, yerr=errors, fmt=".", capsize=3)
    axes.axhline(math.pi, linestyle="--")
    axes.set(xscale="log", xlabel="darts", ylabel="estimate of pi")
    figure.savefig(path)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=64, help=f"of {DARTS:,} darts")
    parser.add_argument("--plot", type=Path, help="a file for the plot")
    options = parser.parse_args()
    steps: list[tuple[int, float, float]] = []
    inside = thrown = 0
    async with asyncpar.open_pool() as pool:  # ranks under mpiexec or srun, else processes
        async for batch in pool.map(hits, range(options.batches)):
            inside, thrown = inside + batch, thrown + DARTS
            if (thrown // DARTS) & (thrown // DARTS - 1) == 0:  # after 1, 2, 4, 8, ... batches
                steps.append((thrown, *estimate(inside, thrown)))
                print(f"{thrown:>12,} darts: {steps[-1][1]:.4f} ± {steps[-1][2]:.4f}")
    value, error = estimate(inside, thrown)
    print(f"pi is {value:.4f} ± {error:.4f}")
    if options.plot and importlib.util.find_spec("matplotlib"):
        plot(steps, options.plot)
    elif options.plot:
        print("no plot: pip install matplotlib")


if __name__ == "__main__":
    asyncpar.run(main)
