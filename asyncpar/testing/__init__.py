"""Tools for tests: of pools, and of programs that use them.

``PoolContract``         the promises that every pool keeps, as a class of tests to inherit from
``FaultyPool``           a pool that loses and delays calls, to see whether a program bears it
``assert_nothing_left``  fails if a block leaves tasks, threads, processes, descriptors or shared memory behind

A pool of your own is tested so (``anyio_mode = "auto"`` in pytest's settings, or pytest-asyncio's auto mode)::

    from asyncpar.testing import PoolContract

    class TestMyPool(PoolContract):
        def make_pool(self) -> MyPool:
            return MyPool(2)

What a pool cannot promise it says by class variables (``stops = False``); tests of that are skipped, and their reasons
begin with ``not promised:``, so that other skips can be told from these.

Names are imported when they are first used: workers import ``asyncpar.testing.functions`` and need nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar.testing.contract import PoolContract as PoolContract
    from asyncpar.testing.faults import FaultyPool as FaultyPool
    from asyncpar.testing.traces import assert_nothing_left as assert_nothing_left

_HOME = {
    "FaultyPool": "asyncpar.testing.faults",
    "PoolContract": "asyncpar.testing.contract",
    "assert_nothing_left": "asyncpar.testing.traces",
}

__all__ = ["FaultyPool", "PoolContract", "assert_nothing_left"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'asyncpar.testing' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
