"""What the tests have ``CuPyPool`` run. In a module, since workers of an isolated pool import it."""

from __future__ import annotations

import threading

import cupy as cp
import numpy as np

from tests.fakegpu import control

MIB = 1 << 20
SCALE = cp.ElementwiseKernel("T x, T factor", "T y", "y = x * factor + 1", "scale")
SUM_OF_SQUARES = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "sum_of_squares")
AXPY = cp.RawKernel(
    """extern "C" __global__ void axpy(const float *x, float a, float *y, int n) {
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) y[i] += a * x[i];
    }""",
    "axpy",
)


def ufuncs(x):
    return cp.sqrt(cp.abs(x)) * 2 + x


def elementwise(x):
    return SCALE(x, x.dtype.type(3))


def reductions(x):
    return x.sum(), x.mean(axis=0), x.max(axis=1), x.argmax(), SUM_OF_SQUARES(x)


def raw(x, y):
    AXPY(((x.size + 63) // 64,), (64,), (x, np.float32(2), y, np.int32(x.size)))
    return y


def double(x):
    return x * 2


def add(x, y):
    return x + y


def ones(n):
    return cp.ones(n)


def nothing():
    return None


def device_of(x):
    return x.data.device_id, cp.cuda.runtime.getDevice()


def stream_here():
    return threading.get_ident(), cp.cuda.get_current_stream().ptr


def hold_and_double(x, gate):
    control.hold(gate)
    return x * 2


def delay_and_double(x, seconds):
    control.delay(seconds)
    return x * 2


def fill(n, value):
    return cp.full(n, value)


def hungry(size, seconds):
    kept = cp.empty(size, np.uint8)
    control.delay(seconds)
    cp.cuda.get_current_stream().synchronize()  # so that it is held meanwhile
    return kept.nbytes


def break_device():
    control.delay(0.001)
    control.fault()


class Total:
    """State on the device."""

    def __init__(self, n):
        self.total = cp.zeros(n)

    def add(self, x):
        self.total += x
        return self.total
