"""asyncpar on Dask: calls run on the workers of a Dask cluster, in micro-chunks.

``pool`` is all there is: the rest is ``asyncpar.engine`` and, on the workers, ``asyncpar.far``.
"""

from __future__ import annotations

from asyncpar_dask.pool import DaskPool

__all__ = ["DaskPool"]
