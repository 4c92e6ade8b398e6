"""What the demo costs: how late the event loop was, and how much memory was in use."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

TICK = 0.005  # seconds between two looks at the loop
LOOK = 0.2  # seconds between two looks at memory: each costs about a millisecond for each process


class Meter:
    """What was measured in a block.

    Attributes:
        seconds: How long it took.
        lag: By how many seconds the loop was late at worst to run something that was due.
    """

    seconds = 0.0
    lag = 0.0


@asynccontextmanager
async def measured() -> AsyncGenerator[Meter]:
    """Measure the block; read the result after it."""
    meter = Meter()
    ticker = asyncio.create_task(_tick(meter))
    await asyncio.sleep(0)  # the ticker starts now, and sees a block that never awaits
    started = time.perf_counter()
    try:
        yield meter
    finally:
        meter.seconds = time.perf_counter() - started
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker


async def _tick(meter: Meter) -> None:
    while True:
        due = time.perf_counter() + TICK
        try:
            await asyncio.sleep(TICK)
        finally:  # when the block ends, too
            meter.lag = max(meter.lag, time.perf_counter() - due)


class PeakMemory:
    """The most memory that this process and its descendants had at once during the block, as far as was seen.

    A page that several processes share is counted once: workers share much with the process they were forked from.

    Args:
        without: A process whose memory is not counted, and whose descendants' is not.

    Attributes:
        parent: Bytes of this process at the peak of all together; None where the system does not say (no /proc).
        workers: Bytes of the others at the same moment.
    """

    def __init__(self, without: int) -> None:
        self.parent: int | None = None
        self.workers: int | None = None
        self._without = without
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="asyncpar: memory of the demo", daemon=True)

    async def __aenter__(self) -> Self:
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        await asyncio.to_thread(self._thread.join)

    def _watch(self) -> None:
        while not self._ended.wait(LOOK):
            with suppress(OSError):
                self._look()

    def _look(self) -> None:
        parent = _memory(os.getpid())
        workers = sum(map(_memory, descendants(os.getpid(), self._without)))
        if parent + workers > (self.parent or 0) + (self.workers or 0):
            self.parent, self.workers = parent, workers


def descendants(pid: int, without: int) -> list[int]:
    """Return the processes that descend from `pid`; not `without`, nor those that descend from it."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    return list(_below(pid, children, without))


def _below(pid: int, children: dict[int, list[int]], without: int) -> Iterator[int]:
    for child in children.get(pid, ()):
        if child != without:
            yield child
            yield from _below(child, children, without)


def _parents() -> Iterable[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended
                # The name, in parentheses, may hold spaces; the parent is the second field after it.
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])


def _memory(pid: int) -> int:
    """Return the bytes a process has in memory, its part of what it shares with others; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
