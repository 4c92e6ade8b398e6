"""What numba-cuda supplies to ``asyncpar_streams``: a device, real or numba's simulator, and its streams."""

from __future__ import annotations

import sys
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from asyncpar.errors import BrokenPoolError
from asyncpar_streams.device import Array, Device, Memory, Stream
from asyncpar_streams.pinned import PinnedBuffers, staged, view_of

OUT_OF_MEMORY = 2
STICKY = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})
"""Codes after which a process must be started again, by the descriptions of ``CUresult`` in CUDA's driver API:
uncorrectable memory, illegal address, launch time-out, context destroyed, assert, hardware stack, illegal instruction,
misaligned address, address space, program counter, launch failure."""

_slot = threading.local()
_simulating = threading.Lock()


def current_stream() -> Any:
    """The numba stream of the call that runs in this thread: ``kernel[blocks, threads, current_stream()](...)``.

    Copies and new arrays take it, too: ``cuda.device_array(n, stream=current_stream())``. What a call submits elsewhere
    (numba's default stream, if none is named) it is not waited for.

    :raises RuntimeError: no call of a ``NumbaCUDAPool`` runs in this thread
    """
    stream = getattr(_slot, "stream", None)
    if stream is None:
        raise RuntimeError(
            "current_stream() is for functions that a NumbaCUDAPool runs: await pool.run(function)"
        )
    return stream


def describe_devices() -> list[str]:
    """What there is, a line for each device, for ``asyncpar.device()``. Takes a second, the first time.

    :raises BrokenPoolError: as from opening a ``NumbaCUDAPool``
    """
    first = NumbaDevice()
    first.open()
    others = [NumbaDevice(number) for number in range(1, len(first.cuda.gpus))]
    for device in others:
        device.open()
    return [device.name for device in (first, *others)]


class NumbaDevice(Device):
    """A CUDA device as numba-cuda reaches it, or the one that numba simulates (NUMBA_ENABLE_CUDASIM=1)."""

    def __init__(self, number: int = 0) -> None:
        super().__init__(number)
        self.name = f"CUDA device {number}"
        self.cuda: Any = None
        self.driver: Any = None  # the module
        self.simulated = False
        self.pinned = PinnedBuffers(self._pin)

    def open(self) -> None:
        try:
            self.cuda = import_module("numba.cuda")
        except ImportError as error:
            raise BrokenPoolError(f"no numba: {error}. Install it with: {INSTALL}") from error
        self.simulated = bool(import_module("numba").config.ENABLE_CUDASIM)
        self.driver = import_module("numba.cuda.cudadrv.driver")
        if self.simulated:
            self.most_streams = 1  # it is not thread-safe
        elif find_spec("numba_cuda") is None:
            raise BrokenPoolError(f"no numba-cuda, which runs kernels on a GPU. Install it with: {INSTALL}")
        elif not self.cuda.is_available():
            raise BrokenPoolError(f"no CUDA device: {_reason(self.cuda)}. {ADVICE}")
        count = len(self.cuda.gpus)
        if self.number >= count:
            raise BrokenPoolError(f"no CUDA device {self.number}: numba finds {count}, counted from 0")
        if self.simulated:
            self.name = "numba's CUDA simulator"
        else:
            self.name = f"CUDA device {self.number} ({_text(self.cuda.gpus[self.number].name)})"

    def stream(self) -> Stream:
        self.cuda.select_device(self.number)
        return SimulatedStream(self) if self.simulated else NumbaStream(self)

    def home(self, value: Any) -> int | None:
        if not getattr(value, "__cuda_ndarray__", False) or not type(value).__module__.startswith("numba."):
            return None
        if self.simulated:
            return 0
        number: int = value.gpu_data.context.device.id
        return number

    def out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, MemoryError) or self._code(error) == OUT_OF_MEMORY

    def fault(self, error: BaseException) -> bool:
        return self._code(error) in STICKY

    def _code(self, error: BaseException) -> int | None:
        """The driver's code, of an error of the driver's."""
        return int(getattr(error, "code", 0)) if isinstance(error, self.driver.CudaAPIError) else None

    def trim(self) -> None:
        self.pinned.trim()
        if not self.simulated:
            context = self.cuda.current_context()
            context.memory_manager.deallocations.clear()  # of memory, which numba frees in batches
            context.deallocations.clear()  # of events

    def memory(self) -> Memory:
        if self.simulated:
            return Memory(sys.maxsize, 0)  # it is the host's memory, and numba counts none
        context = self.cuda.current_context()
        allocations = getattr(context.memory_manager, "allocations", {})
        return Memory(
            int(context.get_memory_info().free), sum(mem.size for mem in list(allocations.values()))
        )

    def close(self) -> None:
        try:
            self.trim()
        except self.driver.CudaAPIError:  # of a device that is broken
            pass

    def _pin(self, size: int) -> Array:
        buffer: Array = self.cuda.pinned_array(size, np.uint8)
        return buffer


INSTALL = "pip install 'asyncpar[numba-cuda]'"
ADVICE = "It needs NVIDIA's driver; without a GPU, NUMBA_ENABLE_CUDASIM=1 has numba simulate one"


def _reason(cuda: Any) -> str:
    return " ".join(str(cuda.cuda_error() or "none is found").split()).rstrip(".")


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


class CopyingStream(Stream):
    """What a real and a simulated stream have in common: arrays on their way, through pinned buffers."""

    def __init__(self, device: NumbaDevice) -> None:
        self.device = device
        self.stream = self._make()
        self._held: list[Any] = []  # host arrays that the device reads, until the call's end
        self._buffers: list[Array] = []
        _slot.stream = self.stream

    @abstractmethod
    def _make(self) -> Any:
        """A numba stream."""

    def end(self) -> None:
        self._held.clear()
        buffers, self._buffers = self._buffers, []
        for buffer in buffers:
            self.device.pinned.give(buffer)

    def upload(self, array: Array) -> Any:
        buffer = self._take(array.nbytes)
        source = np.array(array, order="C", copy=None) if buffer is None else staged(array, buffer)
        self._held.append(source)
        return self.device.cuda.to_device(source, stream=self.stream)

    def adopt(self, array: Any) -> Any:
        return array.bind(self.stream)

    def stack(self, arrays: Sequence[Any]) -> Any:
        first = arrays[0]
        stacked = self.device.cuda.device_array(
            (len(arrays), *first.shape), dtype=first.dtype, stream=self.stream
        )
        for row, array in enumerate(arrays):
            stacked[row : row + 1].copy_to_device(array.reshape(1, *array.shape), stream=self.stream)
        return stacked

    def download(self, array: Any) -> Callable[[], Array]:
        buffer = self._take(array.nbytes) if array.is_c_contiguous() else None
        if buffer is None:
            host = array.copy_to_host(stream=self.stream)
            return lambda: host
        view = view_of(buffer, tuple(array.shape), array.dtype)
        array.copy_to_host(view, stream=self.stream)
        return view.copy

    def _take(self, size: int) -> Array | None:
        """A pinned buffer until the call's end."""
        buffer = self.device.pinned.take(size)
        if buffer is not None:
            self._buffers.append(buffer)
        return buffer

    def close(self) -> None:
        _slot.stream = None


class SimulatedStream(CopyingStream):
    """A stream of the simulator, which runs everything at once, and in one thread of a process at a time."""

    def _make(self) -> Any:
        return self.device.cuda.stream()

    def begin(self) -> None:
        _simulating.acquire()

    def end(self) -> None:
        super().end()
        _simulating.release()

    def synchronize(self, value: Any) -> None:
        """Nothing is under way."""


class NumbaStream(CopyingStream):
    """A slot's stream on a real device.

    It is non-blocking: work on numba's default stream does not hold it up. It lives until the last array that is bound
    to it is gone, since numba copies such an array on its stream where none is named.
    """

    def __init__(self, device: NumbaDevice) -> None:
        self.calls = device.driver.driver  # the driver API's functions, which raise CudaAPIError
        self.binding = device.driver.binding
        super().__init__(device)
        flags = self.binding.CUevent_flags
        self.done = self.calls.cuEventCreate(
            int(flags.CU_EVENT_BLOCKING_SYNC | flags.CU_EVENT_DISABLE_TIMING)
        )
        self.before = device.cuda.event(timing=False)

    def _make(self) -> Any:
        handle = self.calls.cuStreamCreate(int(self.binding.CUstream_flags.CU_STREAM_NON_BLOCKING))
        stream = self.device.cuda.external_stream(int(handle))
        weakref.finalize(stream, self.binding.cuStreamDestroy, handle).atexit = False
        return stream

    def adopt(self, array: Any) -> Any:
        number = self.device.home(array)
        if number != self.device.number:
            raise ValueError(
                f"an array on CUDA device {number} was passed to a call on device {self.device.number}: "
                "copy it there, or let all arrays of a call lie on one device"
            )
        self.before.record(array.stream)
        self.before.wait(self.stream)
        return super().adopt(array)

    def synchronize(self, value: Any) -> None:
        self.calls.cuEventRecord(self.done, self.stream.handle)
        self.calls.cuEventSynchronize(self.done)

    def close(self) -> None:
        super().close()
        for end in (self.stream.synchronize, lambda: self.calls.cuEventDestroy(self.done)):
            try:
                end()
            except self.device.driver.CudaAPIError:  # of a device that is broken
                pass
