"""What the pools on GPU streams have in common: ``asyncpar_cupy``, ``asyncpar_opencl`` and ``asyncpar_numba``.

    device     ``Device`` and ``Stream``: what a library supplies
    pool       ``StreamPool``
    slot       a thread that owns a stream: submits a call, and waits until the device has done it
    site       a device with its slots, and who may run there
    budget     bytes of memory, and the call that runs alone after they did not suffice (no I/O)
    needs      how much memory a function takes: declared, or learnt
    pinned     a bounded pool of pinned host buffers, for libraries that have such
    transfer   arrays of arguments and results on their way to a device and back
    batching   calls of one function that are stacked and run once
    isolated   a slot whose device lives in a worker process, and ``far``, its far side

A library's pool is a ``Device``, a ``Stream``, and a ``StreamPool`` that names its device.
"""

from __future__ import annotations

from asyncpar_streams.device import Device, Memory, Stream
from asyncpar_streams.pool import StreamPool, StreamStatistics

__all__ = ["Device", "Memory", "Stream", "StreamPool", "StreamStatistics"]
