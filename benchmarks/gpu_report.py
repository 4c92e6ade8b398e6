"""What a GPU does through ``CuPyPool``, beside the least that its copies and its computing take.

    python -m benchmarks.gpu_report                                   # `make test-gpu` runs it, on a machine with a GPU
    python -m tests.fakegpu -m benchmarks.gpu_report --kilobytes 256  # on the software GPU, to see that it runs

The floor of one call is its copies at the bandwidth that was measured with pinned memory, and its computing. The floor
of many is the largest of the three sums: copies in, computing and copies out may all go on at the same time, each by itself
in turns; on the software GPU, which computes on as many processors as there are, calls may beat it. All times are
medians.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from statistics import median

import numpy as np

from asyncpar_cupy import CuPyPool

ROUNDS, CALLS, JOBS = 5, 200, 32


def compute(x):
    for _ in range(8):
        x = x * 1.0001 + 0.5
    return x


def nothing() -> None:
    pass


def seconds_of(submit: Callable[[], object]) -> float:
    """The median time until the device has done what this submits."""
    import cupy as cp

    done, times = cp.cuda.Event(block=True, disable_timing=True), []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        kept = submit()
        done.record()
        done.synchronize()
        times.append(time.perf_counter() - begun)
        del kept
    return median(times[1:])  # the first compiles


def measure_floor(host) -> tuple[float, float, float]:
    """Seconds of copying in, of computing and of copying out, of one array, bare."""
    import cupy as cp
    import cupyx

    with cp.cuda.Stream(non_blocking=True):
        pinned, there = cupyx.empty_like_pinned(host), cp.empty_like(host)
        pinned[...] = host
        copy_in = seconds_of(lambda: there.set(pinned))
        computing = seconds_of(lambda: compute(there))
        copy_out = seconds_of(lambda: there.get(out=pinned, blocking=False))
    return copy_in, computing, copy_out


async def seconds_of_calls(gpu, arrays) -> float:
    begun = time.perf_counter()
    async for _ in gpu.map(compute, arrays, limit=16):
        pass
    return time.perf_counter() - begun


async def seconds_awaited(gpu) -> float:
    begun = time.perf_counter()
    for _ in range(CALLS):
        await gpu.run(nothing)
    return (time.perf_counter() - begun) / CALLS


async def report(device: int, size: int) -> None:
    host = np.ones(size // 8)
    lines, times = [], {}
    async with CuPyPool(device, streams=1) as gpu:
        name = gpu.sites[0].device.name
        copy_in, computing, copy_out = await asyncio.to_thread(measure_floor, host)
        bare = await asyncio.to_thread(seconds_of, nothing)
        awaited = median([await seconds_awaited(gpu) for _ in range(ROUNDS)])
        await seconds_of_calls(gpu, [host])
        one = median([await seconds_of_calls(gpu, [host]) for _ in range(ROUNDS)])
        times[1] = median([await seconds_of_calls(gpu, [host] * JOBS) for _ in range(ROUNDS)])
    async with CuPyPool(device, streams=4) as gpu:
        await seconds_of_calls(gpu, [host] * 4)
        times[4] = median([await seconds_of_calls(gpu, [host] * JOBS) for _ in range(ROUNDS)])
    serial, floor = copy_in + computing + copy_out, max(copy_in, computing, copy_out) * JOBS
    lines += [
        ("to the device, pinned", f"{size / copy_in / 1e9:.2f} GB/s"),
        ("from the device, pinned", f"{size / copy_out / 1e9:.2f} GB/s"),
        ("computing of one call", f"{computing * 1e3:.3f} ms"),
        ("one call: measured, floor", f"{one * 1e3:.3f} ms, {serial * 1e3:.3f} ms"),
        (f"{JOBS} calls on 1 stream", f"{times[1] * 1e3:.2f} ms"),
        (f"{JOBS} calls on 4 streams: measured, floor", f"{times[4] * 1e3:.2f} ms, {floor * 1e3:.2f} ms"),
        ("overlap: one after another, bare, over 4 streams", f"{serial * JOBS / times[4]:.2f}"),
        ("awaiting an empty call, over an event that is waited for", f"{(awaited - bare) * 1e6:.0f} us"),
    ]
    print(f"# {name}, arrays of {size / 1e6:.2f} MB\n\n| | |\n|---|---|")
    print("\n".join(f"| {what} | {value} |" for what, value in lines))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--kilobytes", type=int, default=32_000, help="of each array (default: 32000)")
    given = parser.parse_args()
    asyncio.run(report(given.device, given.kilobytes * 1000))


if __name__ == "__main__":
    main()
