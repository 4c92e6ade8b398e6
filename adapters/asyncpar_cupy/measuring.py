"""The bytes that a thread has CuPy's memory pool allocate."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def make_meter() -> Any:
    """A ``cupy.cuda.MemoryHook``, to be entered in a thread: CuPy asks hooks of the thread that allocates or frees."""
    cupy: Any = import_module("cupy")  # by name: type checkers do not have it

    class Meter(cupy.cuda.MemoryHook):  # type: ignore[misc]
        """Counts what is allocated after ``start``; what was there before may be freed unseen."""

        name = "asyncpar"

        def start(self) -> None:
            self.live: dict[int, int] = {}
            self.bytes = self.peak = 0

        def malloc_postprocess(self, *, mem_size: int, pmem_id: int, **_: Any) -> None:
            if pmem_id:  # 0: the allocation failed
                self.live[pmem_id] = mem_size
                self.bytes += mem_size
                self.peak = max(self.peak, self.bytes)

        def free_postprocess(self, *, pmem_id: int, **_: Any) -> None:
            self.bytes -= self.live.pop(pmem_id, 0)

    meter = Meter()
    meter.start()
    return meter
