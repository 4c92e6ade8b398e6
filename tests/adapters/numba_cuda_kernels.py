"""Numba's CUDA kernels, plain ones, and functions that launch them on the stream of their call."""

from __future__ import annotations

from typing import Any

from numba import cuda

from asyncpar_numba import current_stream

Cuda: Any = cuda  # its types are not for us
THREADS = 32


@Cuda.jit
def scale(source, target, factor):
    i = Cuda.grid(1)
    if i < target.size:
        target[i] = source[i] * factor


@Cuda.jit
def scale_rows(source, target, factor):
    i = Cuda.grid(1)
    if i < target.shape[0]:
        for column in range(target.shape[1]):
            target[i, column] = source[i, column] * factor


@Cuda.jit
def beyond(array):
    array[array.size + 5] = 1


def scaled(array: Any, factor: int = 2) -> Any:
    """A new array of the device."""
    stream = current_stream()
    target = Cuda.device_array(array.shape, dtype=array.dtype, stream=stream)
    scale[-(-array.size // THREADS), THREADS, stream](array, target, factor)
    return target


def scaled_in_a_dict(arrays, factor):
    return {"scaled": [scaled(array, factor) for array in arrays], "factor": factor}


def rows_scaled(array):
    """Of a stack of arrays, as micro-batches are."""
    stream = current_stream()
    target = Cuda.device_array(array.shape, dtype=array.dtype, stream=stream)
    scale_rows[-(-array.shape[0] // THREADS), THREADS, stream](array, target, 2)
    return target


def write_beyond(array):
    beyond[1, 1, current_stream()](array)
    return array


class Weights:
    """State on the device."""

    def __init__(self, factor):
        self.factor = factor
        self.last = None

    def scaled(self, array):
        self.last = scaled(array, self.factor)
        return self.last

    def scaled_again(self):
        self.last = scaled(self.last, self.factor)
        return self.last.copy_to_host(stream=current_stream())
