"""Clocks and gauges: ideal cores, memcpy, resident memory, the CPU that other programs take."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.functions import spin, spin_many

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def timed(function: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def iterations_for(seconds: float) -> int:
    """How much `spin` fills so many seconds of this core."""
    trial = 10_000
    spin(trial)
    return max(1, int(trial * seconds / statistics.median(timed(spin, trial) for _ in range(31))))


def memcpy(nbytes: int) -> Callable[[], float]:
    """A measurement of one plain copy of so many bytes between warm pages."""
    import numpy as np

    source, target = np.ones(nbytes, "u1"), np.zeros(nbytes, "u1")
    return lambda: timed(np.copyto, target, source)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class IdealCores:
    """Plain processes that do the same work with nothing between them: what no pool can beat."""

    def __init__(self, workers: int) -> None:
        command = [sys.executable, "-m", "benchmarks.meters"]
        pipe = subprocess.PIPE
        self.processes = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) for _ in range(workers)
        ]
        self.seconds(1000, 10 * workers)

    def seconds(self, iterations: int, calls: int) -> float:
        """From the first start to the last end of `calls` shared out evenly; waking them is not counted."""
        for process in self.processes:
            stream(process.stdin).write(f"{iterations} {calls / len(self.processes)}\n")
        lines = [stream(process.stdout).readline() for process in self.processes]
        times = [tuple(map(float, line.split())) for line in lines]
        return max(end for _, end in times) - min(start for start, _ in times)

    def close(self) -> None:
        """Killed, since workers forked meanwhile hold the pipes open and no end of input would come."""
        for process in self.processes:
            process.kill()
            process.communicate()


def stream(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def serve_ideal() -> None:
    for line in sys.stdin:
        iterations, calls = line.split()
        start = time.perf_counter()
        spin_many(int(iterations), round(float(calls)))
        print(start, time.perf_counter(), flush=True)


def busy_seconds() -> float:
    """CPU time that all programs (and the hypervisor's other guests) took since boot."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, line.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def own_seconds() -> float:
    """CPU time of this process and of all it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class ForeignCPU:
    """The share of the machine that others took between `start` and `share`."""

    def __init__(self) -> None:
        self.wall, self.busy, self.own = time.perf_counter(), busy_seconds(), own_seconds()

    def share(self) -> float:
        wall = time.perf_counter() - self.wall
        foreign = (busy_seconds() - self.busy) - (own_seconds() - self.own)
        return max(0.0, foreign / (wall * (os.cpu_count() or 1)))


if __name__ == "__main__":
    serve_ideal()
