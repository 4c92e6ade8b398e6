"""asyncpar on OpenCL, through PyOpenCL: NVIDIA, AMD and Intel GPUs, and with PoCL the processor itself.

    pool      ``OpenCLPool``
    device    ``OpenCLDevice`` and ``OpenCLStream``: a context, and an out-of-order queue for each slot
    current   ``current_queue``, ``keep``, ``kernel``: for functions that run on the pool
    pocl      what PoCL's wheel needs on processors that are newer than it

The rest is ``asyncpar_streams``.
"""

from __future__ import annotations

from asyncpar_opencl.current import current_queue, keep, kernel
from asyncpar_opencl.pool import OpenCLPool

__all__ = ["OpenCLPool", "current_queue", "keep", "kernel"]
