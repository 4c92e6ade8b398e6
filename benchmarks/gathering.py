"""`asyncpar.map` of coroutines beside a semaphore and `gather`: microseconds an item, over what the coroutine itself takes.

    PYTHONPATH=. python -m benchmarks.gathering

Each item is one `await asyncio.sleep(0)`; 100 at once. The cost of the same coroutine, awaited one by one, is taken off both.
The two take turns; medians of five rounds are printed, and the highest memory of each by tracemalloc, in a run of its own.
"""

from __future__ import annotations

import asyncio
import statistics
import time
import tracemalloc

import asyncpar

ITEMS = 100_000
ROUNDS = 5


async def item(number):
    await asyncio.sleep(0)
    return number


async def alone():
    for number in range(ITEMS):
        await item(number)


async def mapped():
    async for _ in asyncpar.map(item, range(ITEMS), limit=100, ordered=False):
        pass


async def gathered():
    semaphore = asyncio.Semaphore(100)

    async def one(number):
        async with semaphore:
            return await item(number)

    await asyncio.gather(*[one(number) for number in range(ITEMS)])


async def timed(work):
    begun = time.perf_counter()
    await work()
    return 1e6 * (time.perf_counter() - begun) / ITEMS


async def peak(work):
    tracemalloc.start()
    await work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e6


async def main() -> None:
    rounds = [[await timed(work) for work in (alone, mapped, gathered)] for _ in range(ROUNDS)]
    print(
        f"{ITEMS:,} items, 100 at once, medians of {ROUNDS} rounds\n\n| | us an item | peak memory, MB |\n|---|---|---|"
    )
    for index, work in ((1, mapped), (2, gathered)):
        cost = statistics.median(one[index] - one[0] for one in rounds)
        name = "asyncpar.map" if work is mapped else "semaphore and gather"
        print(f"| {name} | {cost:.1f} | {await peak(work):.1f} |")


if __name__ == "__main__":
    asyncio.run(main())
