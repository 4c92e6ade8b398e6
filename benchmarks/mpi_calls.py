"""MPIPool beside mpi4py.futures, turn by turn in one job: `mpiexec -n 4 python -m mpi4py -m benchmarks.mpi_calls`.

Each round every rank takes part in both: rank 0 measures, the others serve. A row has the median of the rounds, the ratio,
and the goal. The CPU that an idle rank takes is measured on ours alone.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from mpi4py import MPI
from mpi4py.futures import MPICommExecutor

from asyncpar_mpi import MPIPool, serve

CALLS, ITEMS, TRIPS, BIG = 5_000, 200_000, 200, 100_000_000
CHUNKSIZES = (100, 300, 1_000, 3_000, 10_000)
ROUNDS = int(os.environ.get("ROUNDS", "3"))
Row = dict[str, float]


def increment(x: int) -> int:
    return x + 1


def same(x: Any) -> Any:
    return x


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spent() -> tuple[int, float]:
    """Which rank this is, and the CPU seconds that it has taken; slow enough that each rank runs one."""
    time.sleep(0.05)
    return os.getpid(), sum(os.times()[:2])


def theirs(executor: Any) -> Row:
    row: Row = {}
    list(executor.map(increment, range(100)))
    row["calls"] = CALLS / timed(
        lambda: [f.result() for f in [executor.submit(increment, i) for i in range(CALLS)]]
    )

    async def awaited() -> None:
        calls = [asyncio.wrap_future(executor.submit(increment, i)) for i in range(CALLS)]
        await asyncio.gather(*calls)

    row["awaited"] = CALLS / timed(lambda: asyncio.run(awaited()))
    row["trip"] = statistics.median(timed(executor.submit(increment, 1).result) for _ in range(TRIPS))
    row["map"] = max(
        ITEMS / timed(lambda size=size: list(executor.map(increment, range(ITEMS), chunksize=size)))  # type: ignore[misc]
        for size in CHUNKSIZES
    )
    data = bytearray(BIG)
    row["big"] = min(timed(executor.submit(same, data).result) for _ in range(2))
    return row


async def ours(comm: MPI.Intracomm) -> Row:
    import numpy as np

    row: Row = {}
    clock = time.perf_counter
    async with MPIPool(comm) as pool:
        await asyncio.gather(*[pool.run(increment, i) for i in range(100)])
        began = clock()
        await asyncio.gather(*[pool.run(increment, i) for i in range(CALLS)])
        row["awaited"] = row["calls"] = CALLS / (clock() - began)
        trips = []
        for _ in range(TRIPS):
            began = clock()
            await pool.run(increment, 1)
            trips.append(clock() - began)
        row["trip"] = statistics.median(trips)
        began = clock()
        assert len(await pool.map(increment, range(ITEMS))) == ITEMS
        row["map"] = ITEMS / (clock() - began)
        data = np.zeros(BIG, "u1")
        bigs = []
        for _ in range(2):
            began = clock()
            back = await pool.run(same, data)
            bigs.append(clock() - began)
            assert len(back) == BIG
            del back
        row["big"] = min(bigs)
        before = dict(await asyncio.gather(*[pool.run(spent) for _ in range(pool.workers)]))
        mine = spent()[1]
        await asyncio.sleep(2)
        row["rank 0 idle"] = (spent()[1] - mine) / 2
        after = dict(await asyncio.gather(*[pool.run(spent) for _ in range(pool.workers)]))
        row["idle"] = max((after[rank] - before[rank]) / 2 for rank in after.keys() & before.keys())
    return row


def report(rows: list[tuple[Row, Row]]) -> None:
    def median(side: int, key: str) -> float:
        return statistics.median(row[side][key] for row in rows)

    print(f"{MPI.Get_library_version().splitlines()[0][:40].strip()}, {MPI.COMM_WORLD.size} ranks, {os.cpu_count()} cores, "
          f"{ROUNDS} rounds")  # fmt: skip
    print(f"{'':34}{'asyncpar':>12}{'mpi4py':>12}{'ratio':>8}  goal")
    for name, key, scale, unit, goal in (
        ("trivial calls, awaited, 1/s", "awaited", 1, ",.0f", "12 times"),
        ("trivial calls, beside submit, 1/s", "calls", 1, ",.0f", "12 times"),
        ("round trip, ms", "trip", 1e3, ".3f", "a tenth"),
        ("map untuned / best chunksize, 1/s", "map", 1, ",.0f", "1"),
        ("100 MB there and back, s", "big", 1, ".3f", "0.3 s"),
    ):
        us, them = median(1, key) * scale, median(0, key) * scale
        print(f"{name:34}{us:>12{unit}}{them:>12{unit}}{us / them:>8.2f}  {goal}")
    for name, key in (
        ("idle rank, share of a core", "idle"),
        ("idle rank 0, share of a core", "rank 0 idle"),
    ):
        print(f"{name:34}{median(1, key):>12.3f}{'':20}  under 0.05")


def main() -> None:
    comm = MPI.COMM_WORLD
    rows: list[tuple[Row, Row]] = []
    for _ in range(ROUNDS):
        with MPICommExecutor(comm, root=0) as executor:
            them = theirs(executor) if executor is not None else {}
        comm.Barrier()
        if comm.rank == 0:
            rows.append((them, asyncio.run(ours(comm))))
        else:
            serve(comm)
    if comm.rank == 0:
        report(rows)


if __name__ == "__main__":
    main()
