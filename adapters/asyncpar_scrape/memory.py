"""Memory of this process and of its workers."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def peak() -> int:
    """The most bytes that this process has used."""
    with suppress(OSError):  # the kernel's other figure, getrusage's, begins with that of the parent
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def used(pids: Iterable[int]) -> int:
    """The bytes that processes use now, each with its part of what it shares; 0 where there is no /proc."""
    total = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total
