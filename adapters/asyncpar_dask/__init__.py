"""asyncpar on Dask: calls run on the workers of a Dask cluster, in micro-chunks.

    pool      DaskPool
    worker    the far side

The rest is ``asyncpar.engine`` and, on the workers, ``asyncpar.far``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_dask.pool import DaskPool as DaskPool

__all__ = ["DaskPool"]


def __getattr__(name: str) -> Any:
    """The pool is loaded at first use: workers import this package too."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asyncpar_dask.pool import DaskPool

    return DaskPool
