"""What a journal costs: `python -m benchmarks.journal [ITEMS]`.

Trivial items, so that everything else is the journal's: each number is of the journal, the map and two pickles. A ticker
that is due every 5 ms tells how late the event loop is meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import asyncpar


def square(x):
    return x * x


async def square_async(x):
    return x * x


async def tick(late):
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.005
        await asyncio.sleep(0.005)
        late.append(loop.time() - due)


async def measure(name, make, count):
    """Read a map as a stream, and print what that took."""
    late = []
    ticker = asyncio.ensure_future(tick(late))
    began = time.perf_counter()
    got = 0
    async with make() as results:
        async for _ in results:
            got += 1
    seconds = time.perf_counter() - began
    ticker.cancel()
    assert got == count
    late.sort()
    half, most = statistics.median(late), late[int(0.99 * len(late))]
    print(
        f"{name:44} {count / seconds:10,.0f} /s {seconds / count * 1e6:8.2f} us an item"
        f"   late p50 {half * 1e3:5.2f} ms, p99 {most * 1e3:5.2f} ms"
    )


async def main(count):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.journal")
        async with asyncpar.ProcessPool() as pool:
            await pool.map(square, range(10_000))
            items = range(count)
            few = range(min(count, 200_000))
            await measure("processes, without", lambda: pool.map(square, few), len(few))
            await measure("processes, first run", lambda: pool.map(square, items, journal=path), count)
            await measure(
                "processes, all from the journal", lambda: pool.map(square, items, journal=path), count
            )
            await measure("coroutines, without", lambda: asyncpar.map(square_async, few), len(few))
            await measure(
                "coroutines, first run", lambda: asyncpar.map(square_async, few, journal=path), len(few)
            )
            await measure(
                "coroutines, all from it", lambda: asyncpar.map(square_async, few, journal=path), len(few)
            )
        size = os.stat(path).st_size
    print(
        f"{size:,} bytes for {count + len(few):,} results; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:,} KiB"
    )


if __name__ == "__main__":
    asyncpar.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
