"""OpenCL as a ``Device``: a context, and an out-of-order queue for each slot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from asyncpar.errors import BrokenPoolError
from asyncpar_opencl.current import here
from asyncpar_opencl.pocl import name_processor
from asyncpar_streams.device import Array, Device, Memory, Stream
from asyncpar_streams.needs import show_bytes

NO_LIBRARY = 'no OpenCL device: PyOpenCL is not installed. pip install "asyncpar[opencl]"'
NO_DEVICE = (
    "no OpenCL device: PyOpenCL is installed, but there is no driver. Install that of the GPU, or use the processor: "
    'pip install "pyopencl[pocl]"'
)
LOST = frozenset({-2, -34, -36})
"""CL_DEVICE_NOT_AVAILABLE, CL_INVALID_CONTEXT, CL_INVALID_COMMAND_QUEUE: none of them is a call's own mistake here."""
OUT_OF_MEMORY = frozenset({-4, -6, -61})
"""CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY, CL_INVALID_BUFFER_SIZE (larger than a device's largest)."""


def find_devices() -> list[Any]:
    """The ``pyopencl.Device`` of every platform, GPUs first.

    :raises BrokenPoolError: there is none, or no PyOpenCL; the message says what to install
    """
    try:
        import pyopencl
    except ImportError as error:
        raise BrokenPoolError(NO_LIBRARY) from error
    found: list[Any] = []
    try:
        platforms = pyopencl.get_platforms()
    except pyopencl.LogicError:  # what the loader says when no driver is registered
        platforms = []
    for platform in platforms:
        found += platform.get_devices()
    if not found:
        raise BrokenPoolError(NO_DEVICE)
    found.sort(key=lambda device: not device.type & pyopencl.device_type.GPU)
    return found


def describe_devices() -> list[str]:
    """What there is, a line for each device, for ``asyncpar.device()``.

    :raises BrokenPoolError: as ``find_devices``
    """
    return [
        f"OpenCL device {number}: {device.name.strip()}, {show_bytes(device.global_mem_size)} ({device.platform.name})"
        for number, device in enumerate(find_devices())
    ]


class OpenCLDevice(Device):
    """A device of OpenCL, with a context of its own."""

    def open(self) -> None:
        import pyopencl
        import pyopencl.array

        found = find_devices()
        if self.number >= len(found):
            raise BrokenPoolError(f"no OpenCL device {self.number}: there are {len(found)}, numbered from 0")
        device = found[self.number]
        name_processor(device)
        self.cl = pyopencl
        self.name = f"OpenCL device {self.number} ({device.name.strip()})"
        self.size = device.global_mem_size
        self.context = pyopencl.Context([device])
        self.lock = threading.Lock()
        self.programs: dict[tuple[str, str], Any] = {}

    def stream(self) -> OpenCLStream:
        return OpenCLStream(self)

    def home(self, value: Any) -> int | None:
        # The pool has opened the device before it asks, so an array's class is there to compare with.
        if not hasattr(self, "cl") or not isinstance(value, self.cl.array.Array):
            return None
        number: int | None = getattr(value, "asyncpar_device", None)
        return self.number if number is None else number

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, self.cl.Error) and error.code in OUT_OF_MEMORY

    def asked(self, error: BaseException) -> int | None:
        asked: int | None = getattr(error, "asked", None)
        return asked

    def fault(self, error: BaseException) -> bool:
        if not isinstance(error, self.cl.Error):
            return False
        if error.code in LOST:
            return True
        try:  # -5 is a launch's own mistake on one driver, and on another what follows an illegal address
            self.cl.enqueue_marker(self.cl.CommandQueue(self.context)).wait()
        except self.cl.Error:
            return True
        return False

    def trim(self) -> None:
        """Nothing is cached."""

    def memory(self) -> Memory:
        return Memory(None, None, self.size)  # OpenCL tells no more

    def close(self) -> None:
        self.programs.clear()
        del self.context

    def program(self, source: str, options: str) -> Any:
        """A built program; one thread builds it, others wait."""
        key = source, options
        with self.lock:
            if key not in self.programs:
                self.programs[key] = self.cl.Program(self.context, source).build(options)
            return self.programs[key]


class OpenCLStream(Stream):
    """An out-of-order queue, and the events that its slot's call waits for.

    Its own events are waited for, and not only a marker, which on PoCL reports success behind a command that failed.
    No event is dropped before its command has ended: PyOpenCL would wait for it with the GIL held. And no callback is set:
    PoCL never calls one whose command failed (https://github.com/pocl/pocl/issues/1430).
    """

    def __init__(self, device: OpenCLDevice) -> None:
        self.device, self.cl = device, device.cl
        out_of_order = self.cl.command_queue_properties.OUT_OF_ORDER_EXEC_MODE_ENABLE
        [raw] = device.context.devices
        self.queue = self.cl.CommandQueue(device.context, properties=raw.queue_properties & out_of_order)
        self.events: list[Any] = []
        self.arrays: list[Any] = []
        self.kernels: dict[tuple[str, str, str], Any] = {}
        self.allocated = self.most = 0
        here.stream = self

    def begin(self) -> None:
        self.allocated = self.most = 0

    def end(self) -> int | None:
        self.events.clear()
        self.arrays.clear()
        return self.most

    def allocate(self, size: int) -> Any:
        """A buffer, as arrays of this stream allocate theirs; counted."""
        try:
            buffer = self.cl.Buffer(self.device.context, self.cl.mem_flags.READ_WRITE, size)
        except self.cl.Error as error:
            error.asked = size
            raise
        self._count(size)
        return buffer

    def _count(self, size: int) -> None:
        self.allocated += size
        self.most = max(self.most, self.allocated)

    def upload(self, array: Array) -> Any:
        contiguous = np.ascontiguousarray(array)
        made = self.cl.array.to_device(self.queue, contiguous, allocator=self.allocate, async_=True)
        self.arrays.append(made)
        self.events += made.events
        return made

    def adopt(self, array: Any) -> Any:
        if array.context != self.device.context:
            raise ValueError(
                f"this array does not lie on {self.device.name} as this pool opened it: arrays of another pool or "
                "context go through the host (array.get())"
            )
        made = array.with_queue(self.queue)
        made.allocator = self.allocate
        self.arrays.append(made)
        return made

    def stack(self, arrays: Sequence[Any]) -> Any:
        made = self.cl.array.stack(arrays, axis=0, queue=self.queue)
        self.arrays.append(made)
        return made

    def download(self, array: Any) -> Callable[[], Array]:
        if not array.flags.forc:
            array = array.copy(self.queue)
        self.arrays.append(array)
        host, event = array.get_async(self.queue)
        self.events.append(event)
        return lambda: host

    def synchronize(self, value: Any) -> None:
        for array in (*self.arrays, *self._found(value)):
            self.events += array.events if hasattr(array, "events") else [array]
        self.queue.flush()
        self.events.append(self.cl.enqueue_marker(self.queue))
        error: BaseException | None = None
        for event in self.events:  # each: after the first failure others may still run
            try:
                event.wait()
            except self.cl.Error as failed:
                error = error or failed
        if error is not None:
            raise error

    def _found(self, value: Any) -> list[Any]:
        """Arrays and events in a result."""
        if type(value) in (list, tuple):
            return [found for inner in value for found in self._found(inner)]
        if type(value) is dict:
            return self._found(list(value.values()))
        return [value] if isinstance(value, (self.cl.array.Array, self.cl.Event)) else []

    def kernel(self, source: str, name: str, options: str) -> Any:
        """See ``current.kernel``."""
        key = source, name, options
        if key not in self.kernels:
            self.kernels[key] = self.cl.Kernel(self.device.program(source, options), name)
        return self.kernels[key]

    def close(self) -> None:
        here.stream = None
        self.kernels.clear()
        self.queue.finish()
