"""asyncpar on Ray: calls run on the workers of a Ray cluster, in micro-chunks.

    pool      RayPool, and the pool of one actor
    session   Ray in this process: started, joined, left

The rest is ``asyncpar.engine`` and, on the workers, ``asyncpar.far``.
"""

from __future__ import annotations

from asyncpar_ray.pool import RayPool

__all__ = ["RayPool"]
