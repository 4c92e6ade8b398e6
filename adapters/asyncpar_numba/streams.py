"""``NumbaCUDAPool``: numba's CUDA kernels on the streams of a device."""

from __future__ import annotations

from asyncpar_numba.device import NumbaDevice
from asyncpar_streams.pool import StreamPool


class NumbaCUDAPool(StreamPool):
    """Runs functions that launch ``numba.cuda`` kernels, on the streams of CUDA devices.

    Kernels are the user's plain ones. The function launches them on the call's stream::

        def doubled(x):
            double[blocks, threads, current_stream()](x)
            return x

        await pool.run(doubled, numpy_array)        # NumPy in, NumPy out; the function gets an array of the device

    The parameters are those of ``StreamPool``. How much memory a function takes is not learnt, since numba does not
    tell: with ``memory=``, ``declare`` it. Needs numba-cuda. Without a GPU, numba's simulator (NUMBA_ENABLE_CUDASIM=1
    in the environment) runs the same program, slowly, one call at a time: it is not thread-safe.

    :raises BrokenPoolError: from opening: no such device; the message says what to install
    """

    @classmethod
    def make_device(cls, number: int) -> NumbaDevice:
        return NumbaDevice(number)
