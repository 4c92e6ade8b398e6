"""Kernels that wait for what another thread writes, so that tests can tell what runs beside what."""

from __future__ import annotations

import ctypes

import numba
import numpy as np
from numba import njit, prange

numba.get_num_threads()  # starts the threading layer, which keeps a semaphore for good

LIBC = ctypes.CDLL(None)
# Through C functions, since the compiler may keep what it knows of an array in registers.
usleep, is_set, fill = LIBC.usleep, LIBC.strlen, LIBC.memset
usleep.argtypes, usleep.restype = [ctypes.c_uint], ctypes.c_int
is_set.argtypes, is_set.restype = [ctypes.c_size_t], ctypes.c_size_t
fill.argtypes, fill.restype = [ctypes.c_size_t, ctypes.c_int, ctypes.c_size_t], ctypes.c_size_t


class Flags:
    """Two flags that kernels know by their addresses: of strings that are empty or not."""

    def __init__(self, first: int, second: int) -> None:
        self.bytes = np.zeros((2, 2), np.uint8)
        self.bytes[:, 0] = first, second
        self.first, self.second = (self.bytes[row].ctypes.data for row in range(2))

    def __getitem__(self, row: int) -> int:
        return int(self.bytes[row, 0])

    def set(self, row: int) -> None:
        self.bytes[row, 0] = 1


@njit
def meet_holding_the_gil(mine, other):
    fill(mine, 1, 1)
    while not is_set(other):
        usleep(1000)


@njit(nogil=True)
def meet(mine, other):
    """Set the one flag, and return when the other is set."""
    fill(mine, 1, 1)
    while not is_set(other):
        usleep(1000)


@njit(parallel=True)
def meet_in_parallel(mine, other):
    for _ in prange(2):
        fill(mine, 1, 1)
        while not is_set(other):
            usleep(1000)


@njit(parallel=True, nogil=True)
def sum_squares(array):
    total = 0.0
    for i in prange(array.size):
        total += array[i] ** 2
    return total


@njit(nogil=True)
def rooted(array):
    """Parallel in what it calls."""
    return sum_squares(array) ** 0.5


def threads_and_sum(array):
    return numba.get_num_threads(), sum_squares(array)


class Summer:
    """An actor's class."""

    def threads(self):
        return numba.get_num_threads()
