"""Kernels whose signatures are given, so that numba compiles them when this module is imported."""

from __future__ import annotations

import os

import numba
from numba import njit, prange


@njit("f8(i8)", parallel=True)
def total(n):
    s = 0.0
    for i in prange(n):
        s += i
    return s


IMPORTED_BY = os.getpid()


def total_and_threads(n):
    """The value, and how it was computed: the process that compiled it, the layer, and its number of threads."""
    return total(n), os.getpid() != IMPORTED_BY, numba.threading_layer(), numba.get_num_threads()
