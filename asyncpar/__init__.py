"""asyncpar: every piece of parallel work is an awaitable.

General layout, from the bottom up:

``errors``      the errors, one tree
``limits``      ``Limiter`` and ``RateLimiter``
``chunks``      calls, and the chunks they travel in (no I/O)
``window``      what a map has read and not handed out: order and bounds (no I/O)
``shielding``   cleaning up that is not cut short
``reading``     reads the source of a map, never past the window
``feed``        a running map on a pool;  ``lanes``  on the loop
``pool``        the one protocol: ``run``, ``map``, ``reduce``, ``stream``, ``actor`` over one method that sends a chunk
``results``     ``Results``, the stream of a map
``folding``     ``reduce``;  ``combine``  ``gather``, ``as_completed``, ``first``
``actors``      actors and streams;  ``residence``  their far side
``sharing``     ``share`` and ``Shared``
``inline``, ``thread``, ``process``   the pools
``devices``     ``asyncpar.device()``: what GPUs are found
``journal``     results of a map, kept in a file for the next run
``engine``      what pools on an engine of others share, as Dask;  ``far``  its far side
``mapping``     ``asyncpar.map``;  ``runtime``  ``run``, default pools, ``open_pool``
``testing``     the contract that every pool keeps, and tools for users' tests
``cli``         the command

Names are imported when they are first used: workers import this package too, and need little of it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

    from asyncpar.combine import as_completed as as_completed
    from asyncpar.combine import first as first
    from asyncpar.combine import gather as gather
    from asyncpar.devices import device as device
    from asyncpar.errors import AsyncparError as AsyncparError
    from asyncpar.errors import BrokenPoolError as BrokenPoolError
    from asyncpar.errors import CallTimeoutError as CallTimeoutError
    from asyncpar.errors import JournalError as JournalError
    from asyncpar.errors import MemoryLimitError as MemoryLimitError
    from asyncpar.errors import NestedPoolError as NestedPoolError
    from asyncpar.errors import PoolClosedError as PoolClosedError
    from asyncpar.errors import PoolNotFoundError as PoolNotFoundError
    from asyncpar.errors import SerializationError as SerializationError
    from asyncpar.errors import UnsupportedError as UnsupportedError
    from asyncpar.errors import WorkerLostError as WorkerLostError
    from asyncpar.folding import reduce as reduce
    from asyncpar.inline import InlinePool as InlinePool
    from asyncpar.journal.journal import Journal as Journal
    from asyncpar.limits import Limiter as Limiter
    from asyncpar.limits import RateLimiter as RateLimiter
    from asyncpar.mapping import map as map
    from asyncpar.pool import Pool as Pool
    from asyncpar.process.pool import ProcessPool as ProcessPool
    from asyncpar.results import Results as Results
    from asyncpar.runtime import open_pool as open_pool
    from asyncpar.runtime import open_runtime as open_runtime
    from asyncpar.runtime import run as run
    from asyncpar.runtime import to_process as to_process
    from asyncpar.runtime import to_thread as to_thread
    from asyncpar.sharing import Shared as Shared
    from asyncpar.sharing import share as share
    from asyncpar.thread import ThreadPool as ThreadPool

__version__ = "0.1.0"

_HOMES = {
    "asyncpar.combine": ("as_completed", "first", "gather"),
    "asyncpar.devices": ("device",),
    "asyncpar.errors": (
        "AsyncparError", "BrokenPoolError", "CallTimeoutError", "JournalError", "MemoryLimitError", "NestedPoolError",
        "PoolClosedError", "PoolNotFoundError", "SerializationError", "UnsupportedError", "WorkerLostError",
    ),
    "asyncpar.folding": ("reduce",),
    "asyncpar.inline": ("InlinePool",),
    "asyncpar.journal.journal": ("Journal",),
    "asyncpar.limits": ("Limiter", "RateLimiter"),
    "asyncpar.mapping": ("map",),
    "asyncpar.pool": ("Pool",),
    "asyncpar.process.pool": ("ProcessPool",),
    "asyncpar.results": ("Results",),
    "asyncpar.runtime": ("open_pool", "open_runtime", "run", "to_process", "to_thread"),
    "asyncpar.sharing": ("Shared", "share"),
    "asyncpar.thread": ("ThreadPool",),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AsyncparError", "BrokenPoolError", "CallTimeoutError", "InlinePool", "Journal", "JournalError", "Limiter",
    "MemoryLimitError", "NestedPoolError", "Pool", "PoolClosedError", "PoolNotFoundError", "ProcessPool", "RateLimiter", "Results", "SerializationError", "Shared",
    "ThreadPool", "UnsupportedError", "WorkerLostError", "as_completed", "device", "first", "gather", "map", "open_pool",
    "open_runtime", "reduce", "run", "share", "to_process", "to_thread",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncpar' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
