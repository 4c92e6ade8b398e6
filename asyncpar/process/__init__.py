"""The process pool.

Loop side: ``pool`` (dispatch, cancelling, healing), ``options`` (what it is told), ``packing`` (calls as frames),
``encoding`` (pickling with good errors), ``place`` (one worker's pipes), ``link`` (its state, no I/O), ``nursery`` (the
zygote's client). Both sides: ``layout`` (frames), ``arena`` (shared memory), ``transit``
(errors, logging). Far side: ``zygote`` (forks workers), ``worker``.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

    from asyncpar.process.pool import ProcessPool as ProcessPool

__all__ = ["ProcessPool"]


def __getattr__(name: str) -> Any:  # workers import this package, and must not import asyncio for it
    if name == "ProcessPool":
        from asyncpar.process.pool import ProcessPool

        return ProcessPool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
