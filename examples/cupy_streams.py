"""Signals through a filter on a GPU: copies of one overlap the computing of others. Needs `pip install 'asyncpar[cupy]'`."""

from __future__ import annotations

from typing import Any

import numpy as np

import asyncpar
from asyncpar_cupy import CuPyPool


def smooth(x: Any) -> Any:  # NumPy in, NumPy out; inside it is CuPy's
    return (x[:-2] + x[1:-1] + x[2:]) / 3


def power(x: Any) -> Any:
    return (x * x).mean()


class Average:
    """An actor's state lives on the device."""

    def __init__(self, size: int) -> None:
        import cupy as cp

        self.total, self.n = cp.zeros(size), 0

    def add(self, x: Any) -> Any:
        self.total += x
        self.n += 1
        return self.total / self.n


async def main() -> None:
    rng = np.random.default_rng(1)
    frames = [np.sin(np.linspace(0, 20, 10_000)) + rng.normal(0, 0.3, 10_000) for _ in range(32)]

    async with CuPyPool(device=0, streams=4, memory="256 MiB") as gpu:
        smoothed = await gpu.run(smooth, frames[0])
        assert np.allclose(smoothed, (frames[0][:-2] + frames[0][1:-1] + frames[0][2:]) / 3)

        powers = [float(x) async for x in gpu.map(power, frames, limit=16)]
        assert np.allclose(powers, [np.mean(x * x) for x in frames])

        async with gpu.actor(Average, 10_000) as average:
            means = [await average.run(Average.add, frame) for frame in frames]
        mean = means[-1]
        assert np.allclose(mean, np.mean(frames, axis=0))
        print(f"{len(frames)} frames; power {np.mean(powers):.3f}, of their mean {np.mean(mean * mean):.3f}")

    async with CuPyPool(result="device") as gpu:
        kept = await gpu.run(smooth, frames[0])  # a CuPy array now
        for _ in range(2):
            kept = await gpu.run(smooth, kept)  # and no copies in between
        print("three times smoothed:", kept.shape)


if __name__ == "__main__":
    asyncpar.run(main)
