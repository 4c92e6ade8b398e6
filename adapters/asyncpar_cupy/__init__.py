"""CuPy on the streams of a GPU, as awaitables.

    pool       ``CuPyPool``
    device     a device and its streams, for ``asyncpar_streams``
    measuring  the bytes that a thread has CuPy allocate

CuPy is imported when a pool opens.
"""

from __future__ import annotations

from asyncpar_cupy.pool import CuPyPool

__all__ = ["CuPyPool"]
