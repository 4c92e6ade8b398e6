"""``CuPyPool``: a ``StreamPool`` on CUDA devices."""

from __future__ import annotations

from asyncpar_cupy.device import CuPyDevice
from asyncpar_streams.pool import StreamPool


class CuPyPool(StreamPool):
    """Runs calls on the streams of CUDA devices, through CuPy.

    NumPy arrays reach a function as CuPy arrays, with a stream of the pool's current; arrays that it returns go back as
    NumPy arrays. CuPy arrays stay on the device (see ``StreamPool``, whose arguments are these). A function is plain CuPy
    code. One that waits for the device itself, as ``cupy.asnumpy(x)`` and ``float(x)`` do, holds up its own stream only.

    A call begins behind all that was submitted before to CuPy's default stream, and to streams that
    ``cupy.cuda.Stream()`` made. What was submitted to streams made with ``non_blocking=True`` is to be waited for before
    its arrays are passed: CuPy does not know who uses an array. With ``devices=``, arrays of another device are copied.

    ``memory=`` counts what CuPy's default memory pool gives to a call; of other allocations ``declare`` tells.
    """

    @classmethod
    def make_device(cls, number: int) -> CuPyDevice:
        return CuPyDevice(number)
