"""``OpenCLPool``: a ``StreamPool`` on OpenCL's devices."""

from __future__ import annotations

from asyncpar_opencl.device import OpenCLDevice
from asyncpar_streams.pool import StreamPool


class OpenCLPool(StreamPool):
    """Runs calls on the queues of OpenCL devices, through PyOpenCL.

    NumPy arrays reach a function as ``pyopencl.array.Array`` on the call's queue, which ``asyncpar_opencl.current_queue()``
    returns; arrays that it returns go back as NumPy arrays (see ``StreamPool``, whose arguments are these). Queues are
    out of order: what is not done with these arrays, but with kernels and buffers, names the events that it waits for, and
    gives its own to ``asyncpar_opencl.keep``. Devices are numbered over all platforms, GPUs before others.

    Arrays that stay on the device belong to the pool's context: one pool's arrays are not another's.

    ``memory=`` counts what PyOpenCL's arrays allocate in a call; plain ``Buffer`` objects it cannot see, so ``declare``
    functions that make some.
    """

    @classmethod
    def make_device(cls, number: int) -> OpenCLDevice:
        return OpenCLDevice(number)
