"""Kernels whose signatures are given, so that numba compiles them when this module is imported."""

from __future__ import annotations

import os

from numba import get_num_threads, njit, prange
from numba.np.ufunc import parallel


@njit("f8(i8)", parallel=True)
def total(n):
    s = 0.0
    for i in prange(n):
        s += i
    return s


IMPORTED_BY = os.getpid()


def total_and_threads(n):
    """The value, and how it was computed: the process that compiled it, the layer, and its number of threads."""
    return total(n), os.getpid() != IMPORTED_BY, parallel._threading_layer, get_num_threads()
