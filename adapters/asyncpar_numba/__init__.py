"""asyncpar with numba: kernels on the cores of this machine.

    threads    NumbaThreadPool, and compile_for
    layer      which threads numba runs parallel loops on, and what they bear

On processes numba needs no adapter: ``asyncpar.ProcessPool`` has ``threads_per_worker``. Names are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_numba.threads import NumbaThreadPool as NumbaThreadPool
    from asyncpar_numba.threads import compile_for as compile_for

_HOME = {"NumbaThreadPool": "asyncpar_numba.threads", "compile_for": "asyncpar_numba.threads"}

__all__ = ["NumbaThreadPool", "compile_for"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
