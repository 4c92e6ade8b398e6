"""Collective operations awaited beside mpi4py's blocking ones, in one job.

    python benchmarks/mpi_collectives.py [RANKS]

Starts itself under mpiexec, once on asyncio and once on uvloop; default: 4 ranks. What rank 0 sees. Blocking ones are fastest where nothing
else is to be done: their ranks spin.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import subprocess
import sys
import time
from pathlib import Path


def blocking(comm, run, times):
    taken = []
    for _ in range(times):
        comm.Barrier()
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return taken


async def awaited(comm, run, times):
    taken = []
    for _ in range(times):
        comm.Barrier()
        began = time.perf_counter()
        await run()
        taken.append(time.perf_counter() - began)
    return taken


async def longest_turn(comm, run):
    """Seconds that another task waits at most for its turn meanwhile: the least of three, as ranks share cores."""
    longest = []
    for _ in range(3):
        comm.Barrier()
        running = asyncio.ensure_future(run())
        turns = [time.perf_counter()]
        while not running.done():
            await asyncio.sleep(0)
            turns.append(time.perf_counter())
        await running
        longest.append(max(after - before for before, after in itertools.pairwise(turns)))
    return min(longest)


async def main(loop):
    import numpy as np
    from mpi4py import MPI

    from asyncpar_mpi import Comm

    world = MPI.COMM_WORLD.Dup()
    small, large, huge = np.ones(1), np.ones(1_000_000), np.ones(10_000_000)
    sums = {array.size: np.empty_like(array) for array in (small, large, huge)}
    async with Comm() as comm:
        cases = [
            ("barrier", 100, comm.barrier, world.Barrier),
            ("allreduce(1), object", 100, lambda: comm.allreduce(1), lambda: world.allreduce(1)),
            ("bcast(small object)", 100, lambda: comm.bcast(small), lambda: world.bcast(small)),
        ]
        for label, array, times in (("8 B", small, 100), ("8 MB", large, 9), ("80 MB", huge, 5)):
            total = sums[array.size]
            cases += [
                (f"Allreduce {label}", times, lambda a=array, t=total: comm.Allreduce(a, t),
                 lambda a=array, t=total: world.Allreduce(a, t)),
                (f"Bcast {label}", times, lambda a=array: comm.Bcast(a), lambda a=array: world.Bcast(a)),
            ]  # fmt: skip
            if array is not small:
                cases.append(
                    (
                        f"bcast object with {label}",
                        times,
                        lambda a=array: comm.bcast(a),
                        lambda a=array: world.bcast(a),
                    )
                )
        if world.rank == 0:
            print(
                f"\n{world.size} ranks, {loop}, {MPI.Get_library_version().split(chr(10))[0].strip()[:40]}; median (min), ms"
            )
            print(f"{'':28}{'awaited':>20}{'longest turn':>14}{'blocking':>20}", flush=True)
        for label, times, ours, theirs in cases:
            one = await awaited(world, ours, times)
            turn = await longest_turn(world, ours)
            two = blocking(world, theirs, times)
            if world.rank == 0:
                cells = [
                    f"{statistics.median(each) * 1e3:.2f} ({min(each) * 1e3:.2f})" for each in (one, two)
                ]
                print(f"{label:28}{cells[0]:>20}{turn * 1e3:>14.2f}{cells[1]:>20}", flush=True)


def start(ranks):
    launcher = Path(sys.executable).with_name("mpiexec")
    for loop in ("asyncio", "uvloop"):
        command = [
            "timeout",
            "300",
            launcher,
            "-n",
            ranks,
            sys.executable,
            "-m",
            "mpi4py",
            __file__,
            "--on",
            loop,
        ]
        subprocess.run([str(word) for word in command], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--on"]:
        if sys.argv[2] == "uvloop":
            import uvloop

            uvloop.run(main("uvloop"))
        else:
            asyncio.run(main("asyncio"))
    else:
        start(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
