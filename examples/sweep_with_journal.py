"""A parameter sweep that can be stopped, killed and started again: what was computed is not computed twice.

Each point of the sweep is kept in a file as it finishes. Here the first run is stopped half-way; the second takes up where
that ended, and a third, over a finer grid, computes only what is new.
"""

import itertools
import tempfile
from pathlib import Path

import asyncpar


def ising_energy(temperature: float, size: int, sweeps: int = 15) -> float:
    """The mean energy of a small Ising model, by Metropolis's algorithm."""
    import random

    chance = random.Random(f"{temperature} {size}")
    spins = [[1] * size for _ in range(size)]
    energy = -2 * size * size
    total = 0
    for _ in range(sweeps * size * size):
        x, y = chance.randrange(size), chance.randrange(size)
        around = spins[x - 1][y] + spins[(x + 1) % size][y] + spins[x][y - 1] + spins[x][(y + 1) % size]
        change = 2 * spins[x][y] * around
        if change <= 0 or chance.random() < 2.718281828 ** (-change / temperature):
            spins[x][y] *= -1
            energy += change
        total += energy
    return total / (sweeps * size * size) / size**2


async def sweep(
    pool: asyncpar.Pool, journal: Path, temperatures: list[float], stop_after: int | None = None
) -> dict[tuple[float, int], float]:
    """All temperatures at all sizes; the first energies, if the sweep is stopped."""
    points = list(itertools.product(temperatures, [8, 12]))
    energies: dict[tuple[float, int], float] = {}
    async with pool.map(ising_energy, *zip(*points, strict=True), journal=journal, limit=4) as results:
        async for energy in results:
            energies[points[len(energies)]] = energy
            if len(energies) == stop_after:
                break
    print(f"{len(energies)} of {len(points)} points, {results.statistics().replayed} from the journal")
    return energies


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "sweep.journal")
        coarse, fine = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5], [1.0 + i / 4 for i in range(11)]
        async with asyncpar.ProcessPool() as pool:
            await sweep(pool, journal, coarse, stop_after=6)  # as if it had been killed
            await sweep(pool, journal, coarse)
            energies = await sweep(pool, journal, fine)
        for temperature in coarse:
            print(f"T = {temperature}: energy {energies[temperature, 12]:+.2f} a spin")


if __name__ == "__main__":
    asyncpar.run(main)
