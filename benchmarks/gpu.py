"""What awaiting costs on streams, without a GPU: PyOpenCL on PoCL, and CuPy on the tests' software GPU.

    python -m benchmarks.gpu opencl [REPORT.md]
    python -m tests.fakegpu -m benchmarks.gpu cupy [REPORT.md]      # in the environment that `make integration` makes

Compared in one process, interleaved, each value the median over the rounds: the pool; the bare library, which blocks;
and that in `loop.run_in_executor`.
"""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUNDS, CALLS, JOBS = 7, 100, 24
SMALL, LARGE = 16, 1 << 18  # items of the arrays
SOURCE = """
kernel void spin(global float *x, int n) {
    int i = get_global_id(0); float a = x[i];
    for (int k = 0; k < n; k++) a = a * 1.0000001f + 1e-7f;
    x[i] = a;
}
"""


def spin(x: Any, n: int) -> Any:
    """A kernel of n steps for each of its elements."""
    from asyncpar_opencl import current_queue, kernel

    x.add_event(
        kernel(SOURCE, "spin")(current_queue(), x.shape, None, x.data, np.int32(n), wait_for=x.events)
    )
    return x


class OpenCL:
    """PyOpenCL by itself, and the pool on it."""

    name = "PyOpenCL on PoCL"
    note = "PoCL's device is the processor, which everything else shares"

    def __init__(self) -> None:
        from asyncpar_opencl.device import OpenCLDevice

        self.device = OpenCLDevice(0)
        self.device.open()
        self.stream = self.device.stream()

    def pool(self, streams: int) -> Any:
        """The pool that is measured."""
        from asyncpar_opencl import OpenCLPool

        return OpenCLPool(streams=streams)

    def job(self, x: Any, n: int) -> Any:
        """What the pool runs."""
        return spin(x, n)

    def bare(self, array: Any, n: int) -> Any:
        """Copy in, run, copy out and wait, as one writes it without a pool; in one thread at a time."""
        cl, queue = self.device.cl, self.stream.queue
        x = cl.array.to_device(queue, array)
        run = self.stream.kernel(SOURCE, "spin", "")
        run(queue, x.shape, None, x.data, np.int32(n), wait_for=x.events).wait()
        return x.get()

    def close(self) -> None:
        """Give the device back."""
        self.stream.close()
        self.device.close()


class CuPy:
    """CuPy by itself, and the pool on it. A job computes for 2 ms and its arrays take half a ms, each way."""

    name = "CuPy on a software GPU"
    note = (
        "Its streams are threads; copies and a job's kernel take the time that a device's would, but no processor: "
        "0.5 ms for each copy of 1 MiB, 2 ms for the kernel of such a job"
    )

    def __init__(self) -> None:
        import cupy

        from tests.fakegpu import control

        self.cupy, self.control = cupy, control
        control.set_speed(2e9)
        self.stream = cupy.cuda.Stream(non_blocking=True)
        self.pinned = {size: self._pinned(size) for size in (SMALL, LARGE)}

    def _pinned(self, size: int) -> Any:
        memory = self.cupy.cuda.alloc_pinned_memory(4 * size)
        return np.frombuffer(memory, np.float32, size)

    def pool(self, streams: int) -> Any:
        """The pool that is measured."""
        from asyncpar_cupy import CuPyPool

        return CuPyPool(streams=streams)

    def job(self, x: Any, n: int) -> Any:
        """What the pool runs."""
        if n > 1:
            self.control.delay(n * 1e-5)
        return x

    def bare(self, array: Any, n: int) -> Any:
        """As one writes it without a pool: a pinned buffer, asynchronous copies, a synchronise, a copy of the result."""
        pinned = self.pinned[array.size]
        with self.stream:
            pinned[:] = array
            x = self.cupy.empty(array.size, np.float32)
            x.set(pinned, stream=self.stream)
            self.job(x, n).get(stream=self.stream, out=pinned, blocking=False)
            self.stream.synchronize()
        return pinned.copy()

    def close(self) -> None:
        """Give the device back."""
        self.control.reset()


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    await action()
    return time.perf_counter() - begun


async def lateness(action: Callable[[], Awaitable[object]]) -> float:
    """By how many seconds a ticker of 1 ms was late, at worst, meanwhile."""
    task = asyncio.ensure_future(action())
    worst = 0.0
    while not task.done():
        begun = time.perf_counter()
        await asyncio.sleep(1e-3)
        worst = max(worst, time.perf_counter() - begun - 1e-3)
    await task
    return worst


async def measure(library: OpenCL | CuPy) -> dict[str, float]:
    """Medians over the rounds: microseconds a call, jobs a second, milliseconds."""
    small, large = np.ones(SMALL, np.float32), np.ones(LARGE, np.float32)
    loop, found = asyncio.get_running_loop(), {}
    rows: dict[str, list[float]] = {}
    with ThreadPoolExecutor(1) as executor:
        async with library.pool(1) as one, library.pool(4) as four:

            async def bare() -> None:
                for _ in range(CALLS):
                    library.bare(small, 1)

            async def executed() -> None:
                for _ in range(CALLS):
                    await loop.run_in_executor(executor, library.bare, small, 1)

            async def pooled() -> None:
                for _ in range(CALLS):
                    await one.run(library.job, small, 1)

            async def serial() -> None:
                for _ in range(JOBS):
                    library.bare(large, 200)

            async def pipeline() -> None:
                await four.map(library.job, [large] * JOBS, [200] * JOBS)

            for each in (bare, executed, pooled, serial, pipeline):  # compiled and warm
                await each()
            for _ in range(ROUNDS):
                for each in (bare, executed, pooled, serial, pipeline):
                    rows.setdefault(each.__name__, []).append(await timed(each))
                rows.setdefault("late", []).append(await lateness(pipeline))
    for name in ("bare", "executed", "pooled"):
        found[name] = median(rows[name]) / CALLS * 1e6
    found["pooled/executed"] = median(a / b for a, b in zip(rows["pooled"], rows["executed"], strict=True))
    found["serial/pipeline"] = median(a / b for a, b in zip(rows["serial"], rows["pipeline"], strict=True))
    found["late"] = median(rows["late"]) * 1e3
    return found


def report(library: OpenCL | CuPy, found: dict[str, float]) -> str:
    """The table, as Markdown."""
    return f"""# {library.name}

By `python -m benchmarks.gpu`, Python {platform.python_version()}, {os.cpu_count()} CPUs: medians of {ROUNDS} rounds, ways interleaved in one
process. {library.note}. This says what awaiting costs, and nothing about a GPU.

| | |
|---|---|
| one call ({SMALL} floats in, next to no work, out), bare and blocking | {found["bare"]:.0f} us |
| the same in `loop.run_in_executor` | {found["executed"]:.0f} us |
| the same awaited on the pool, one stream | {found["pooled"]:.0f} us |
| pool over executor, ratio of the same round | {found["pooled/executed"]:.2f} |
| {JOBS} jobs of 1 MiB: bare one after another, over a map on 4 streams | {found["serial/pipeline"]:.2f} |
| a ticker of 1 ms beside these 4 streams is late by, at worst in a round | {found["late"]:.1f} ms |
"""


def main() -> None:
    """Measure, print, and write the report if a path is given."""
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in LIBRARIES:
        raise SystemExit(f"usage: python -m benchmarks.gpu {' | '.join(LIBRARIES)} [REPORT.md]")
    library = LIBRARIES[sys.argv[1]]()
    try:
        text = report(library, asyncio.run(measure(library)))
    finally:
        library.close()
    print(text)
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(text)


LIBRARIES: dict[str, type[OpenCL | CuPy]] = {"opencl": OpenCL, "cupy": CuPy}

if __name__ == "__main__":
    main()
