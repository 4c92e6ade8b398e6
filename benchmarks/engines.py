"""5,000 trivial calls through ``DaskPool`` and ``RayPool``, beside the engine's own submit, on a cluster on this machine.

    .venv/dask/bin/python -m benchmarks.engines dask       # `make integration` makes these environments
    .venv/ray/bin/python -m benchmarks.engines ray

All run on one cluster of two workers and one connection, in turns; the median of three rounds is printed, and the range.
The engine's own way is what its documentation shows for asyncio: submit, and await the future or reference. Of that there
are 1,000 calls a round, since it takes long.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
import time
from contextlib import asynccontextmanager

CALLS = 5000
FEWER = 1000
AT_ONCE = 64
ROUNDS = 3


def increment(x):
    return x + 1


@asynccontextmanager
async def dask():
    """A pool, the engine's own call, and its own map."""
    import distributed

    from asyncpar_dask import DaskPool

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        cluster = await asyncio.to_thread(
            lambda: distributed.LocalCluster(
                n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0",
                local_directory=folder, silence_logs=logging.ERROR,
            )
        )  # fmt: skip
        try:
            async with (
                distributed.Client(cluster.scheduler_address, asynchronous=True) as client,
                DaskPool(client) as pool,
            ):

                async def own(x):
                    return await client.submit(increment, x, pure=False)

                async def own_map(items):
                    return await client.gather(client.map(increment, items, pure=False))

                yield pool, own, own_map
        finally:
            await asyncio.to_thread(cluster.close)


@asynccontextmanager
async def ray():
    """The same for Ray."""
    import ray

    from asyncpar_ray import RayPool

    async with RayPool(workers=2) as pool:
        remote = ray.remote(increment).remote

        async def own(x):
            return await remote(x)

        async def own_map(items):
            return await asyncio.to_thread(lambda: ray.get([remote(x) for x in items]))

        yield pool, own, own_map


async def at_once(call, number):
    """Calls a second, with ``AT_ONCE`` awaited at any time."""
    left = iter(range(number))

    async def lane():
        for x in left:
            assert await call(x) == x + 1

    begun = time.perf_counter()
    await asyncio.gather(*[lane() for _ in range(AT_ONCE)])
    return number / (time.perf_counter() - begun)


async def whole(run, number):
    """Calls a second of a map of all."""
    begun = time.perf_counter()
    assert list(await run(range(number))) == list(range(1, number + 1))
    return number / (time.perf_counter() - begun)


async def measure(engine):
    """Print the table's rows."""
    name = engine.__wrapped__.__name__.title()
    async with engine() as (pool, own, own_map):
        cases = {
            f"{AT_ONCE} at once | {name} alone, await each": lambda: at_once(own, FEWER),
            f"{AT_ONCE} at once | {name}Pool.run": lambda: at_once(lambda x: pool.run(increment, x), CALLS),
            f"all | {name} alone, gather each": lambda: whole(
                lambda items: asyncio.gather(*map(own, items)), FEWER
            ),
            f"all | {name} alone, its map": lambda: whole(own_map, FEWER),
            f"all | {name}Pool.run, gather each": lambda: whole(
                lambda items: asyncio.gather(*[pool.run(increment, x) for x in items]), CALLS
            ),
            f"all | {name}Pool.map": lambda: whole(lambda items: pool.map(increment, items), CALLS),
        }
        for x in range(100):  # what starts, and what is imported, at the first calls
            await asyncio.gather(own(x), pool.run(increment, x))
        rates = {case: [] for case in cases}
        for _ in range(ROUNDS):
            for case, run in cases.items():
                rates[case].append(await run())
    for case, found in rates.items():
        print(f"| {case} | {statistics.median(found):,.0f} /s | {min(found):,.0f} to {max(found):,.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("engine", choices=["dask", "ray"])
    engine = {"dask": dask, "ray": ray}[parser.parse_args().engine]
    print(f"{engine.__name__} {__import__(engine.__name__).__version__}, {os.cpu_count()} CPUs")
    print("\n| calls in flight | | median | range |\n|---|---|---|---|")
    asyncio.run(measure(engine))


if __name__ == "__main__":
    main()
