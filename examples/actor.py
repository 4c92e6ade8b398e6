"""An actor: an object that is made once, lives in one worker and keeps its state between calls.

For what is slow to load or must not be copied for every call: a model, a connection, an index. Calls run one at a
time, in order.
"""

from __future__ import annotations

import os
from bisect import bisect_left, insort

import asyncpar


class Median:
    """Keeps every number it has seen, sorted."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.numbers: list[float] = []

    def add(self, *numbers: float) -> int:
        for number in numbers:
            insort(self.numbers, number)
        return len(self.numbers)

    def value(self) -> float:
        return self.numbers[len(self.numbers) // 2]

    def rank(self, number: float) -> int:
        return bisect_left(self.numbers, number)

    def pid(self) -> int:
        return os.getpid()


async def main() -> None:
    async with asyncpar.ProcessPool(1) as pool, pool.actor(Median, "latency") as median:
        await median.run(Median.add, 5.0, 1.0, 9.0)
        count = await median.run(Median.add, 3.0, 7.0)  # a type checker knows the arguments and the int
        print(f"{count} numbers in process {await median.run(Median.pid)}; this one is {os.getpid()}")
        print("their median:", await median.run(Median.value))
        print("numbers below 8:", await median.run(Median.rank, 8.0))


if __name__ == "__main__":
    asyncpar.run(main)
