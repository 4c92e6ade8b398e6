"""A CUDA device as CuPy reaches it, and its streams.

Completion is waited for with a blocking event in the slot's thread, which gives up the GIL. Not with
``launch_host_func`` nor ``add_callback``: the driver calls these with a lock held for which another thread may wait in a
call that holds the GIL (LMCache issue 2952, numba-cuda issue 317), and after an error of the device it does not call the
first at all (the documentation of ``cuLaunchHostFunc``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from asyncpar.errors import BrokenPoolError
from asyncpar_cupy.measuring import make_meter
from asyncpar_streams.device import Array, Device, Memory, Stream
from asyncpar_streams.pinned import PinnedBuffers, staged, view_of

NO_CUPY = (
    "CuPy is not installed: pip install 'asyncpar[cupy]' for CUDA 13, or the package that fits your driver "
    "(cupy-cuda12x; cupy-rocm-7-0 for AMD's GPUs)"
)
NO_DEVICE = (
    "no CUDA device: CuPy {version} finds no GPU, or no driver for one. nvidia-smi must list the GPU; if it does not, "
    "install NVIDIA's driver (in a container: start it with --gpus all). If it does, install the CuPy that fits the "
    "driver: pip install 'asyncpar[cupy]' for CUDA 13, cupy-cuda12x for CUDA 12. Without a GPU, OpenCLPool of "
    "asyncpar_opencl runs on the processor: pip install 'asyncpar[opencl-cpu]'"
)
OUT_OF_MEMORY = 2  # of cudaError_t and CUresult


def find_cupy() -> Any:
    """CuPy, where it finds a device.

    :raises BrokenPoolError: it is not installed, or finds none; the message says what to install
    """
    try:
        cupy: Any = import_module("cupy")  # by name: type checkers do not have it
    except ModuleNotFoundError as error:
        raise BrokenPoolError(NO_CUPY) from error
    except ImportError as error:  # a library of CUDA's or ROCm's is missing; CuPy tells at length
        raise BrokenPoolError(f"CuPy cannot be imported: {str(error).strip().splitlines()[-1]}") from error
    if not cupy.cuda.is_available():
        raise BrokenPoolError(NO_DEVICE.format(version=cupy.__version__))
    return cupy


def name_of_device(cupy: Any, number: int) -> str:
    """``CUDA device 0 (NVIDIA H100)``; HIP in place of CUDA where CuPy was built for AMD."""
    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(number)["name"].decode()
    return f"{'HIP' if runtime.is_hip else 'CUDA'} device {number} ({name})"


def describe_devices() -> list[str]:
    """What there is, a line for each device, for ``asyncpar.device()``.

    :raises BrokenPoolError: as ``find_cupy``
    """
    cupy = find_cupy()
    count = cupy.cuda.runtime.getDeviceCount()
    return [f"{name_of_device(cupy, number)}, CuPy {cupy.__version__}" for number in range(count)]


class CuPyDevice(Device):
    """See ``Device``."""

    cupy: Any = None
    pinned: PinnedBuffers

    def open(self) -> None:
        cupy = find_cupy()
        count = cupy.cuda.runtime.getDeviceCount()
        if self.number >= count:
            raise BrokenPoolError(
                f"no CUDA device {self.number}: this machine has {count}, numbered from 0 (see nvidia-smi)"
            )
        self.name = name_of_device(cupy, self.number)
        self.cupy = cupy
        self.pinned = PinnedBuffers(self._pinned_buffer)

    def _pinned_buffer(self, size: int) -> Array:
        """Not of CuPy's own pool of pinned memory, which has no bound and would give a freed buffer away at once."""
        import numpy as np

        cuda = self.cupy.cuda
        memory = cuda.PinnedMemoryPointer(cuda.PinnedMemory(size), 0)
        return np.frombuffer(memory, np.uint8, size)

    def stream(self) -> Stream:
        return CuPyStream(self)

    def home(self, value: Any) -> int | None:
        return value.data.device_id if isinstance(value, self.cupy.ndarray) else None

    def out_of_memory(self, error: BaseException) -> bool:
        if isinstance(error, self.cupy.cuda.memory.OutOfMemoryError):
            return True
        return self._of_cuda(error) and getattr(error, "status", None) == OUT_OF_MEMORY

    def asked(self, error: BaseException) -> int | None:
        return getattr(error, "_size", None)

    def _of_cuda(self, error: BaseException) -> bool:
        cuda = self.cupy.cuda
        return isinstance(error, (cuda.runtime.CUDARuntimeError, cuda.driver.CUDADriverError))

    def fault(self, error: BaseException) -> bool:
        """After a sticky error every call of the driver fails. So whatever the error is, a small one is made.

        It is one that gives up the GIL, and the stream has just been waited for.
        """
        try:
            self.cupy.cuda.get_current_stream().synchronize()
        except Exception as found:
            return self._of_cuda(found)
        return False

    def trim(self) -> None:
        self.pinned.trim()
        self.cupy.get_default_pinned_memory_pool().free_all_blocks()
        with self.cupy.cuda.Device(self.number):
            self.cupy.get_default_memory_pool().free_all_blocks()

    def memory(self) -> Memory:
        with self.cupy.cuda.Device(self.number):
            free, _ = self.cupy.cuda.runtime.memGetInfo()
            return Memory(free, self.cupy.get_default_memory_pool().total_bytes())

    def close(self) -> None:
        if self.cupy is None:
            return
        try:
            self.trim()
        except Exception:  # after a fault nothing can be freed before the process ends
            return


class CuPyStream(Stream):
    """See ``Stream``. It does not block the default stream, nor is it blocked by it, but where ``begin`` says so."""

    def __init__(self, device: CuPyDevice) -> None:
        self.device, self.cupy = device, device.cupy
        cuda = self.cupy.cuda
        cuda.Device(device.number).use()
        self.stream = cuda.Stream(non_blocking=True)
        self.stream.use()
        self.before = cuda.Event(disable_timing=True)
        self.done = cuda.Event(block=True, disable_timing=True)
        self.meter = make_meter()
        self.meter.__enter__()
        self.buffers: list[Array] = []
        self.held: list[Any] = []

    def begin(self) -> None:
        """Behind what is on the default stream, on the device.

        An array that was passed may still be in the making there. And memory that a call on this stream had allocated,
        and that was dropped after a use on the default stream, is this stream's again at once, although that use may
        not have begun (CuPy issue 8068).
        """
        self._follow_default_stream()
        self.meter.start()

    def _follow_default_stream(self) -> None:
        self.before.record(self.cupy.cuda.Stream.null)
        self.stream.wait_event(self.before)

    def end(self) -> int:
        for buffer in self.buffers:
            self.device.pinned.give(buffer)
        self.buffers.clear()
        self.held.clear()
        return int(self.meter.peak)

    def upload(self, array: Array) -> Any:
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            return self.upload(array.T).T
        target = self.cupy.empty(array.shape, array.dtype)
        buffer = self._buffer(array.nbytes)
        target.set(array if buffer is None else staged(array, buffer), self.stream)
        return target

    def _buffer(self, size: int) -> Array | None:
        buffer = self.device.pinned.take(size)
        if buffer is not None:
            self.buffers.append(buffer)
        return buffer

    def adopt(self, array: Any) -> Any:
        source = array.data.device_id
        if source == self.device.number:
            return array
        with self.cupy.cuda.Device(source):
            made = self.cupy.cuda.Event(disable_timing=True)
            made.record(self.cupy.cuda.Stream.null)
        self.stream.wait_event(made)
        return self.cupy.asarray(array)

    def stack(self, arrays: Sequence[Any]) -> Any:
        return self.cupy.stack(arrays)

    def download(self, array: Any) -> Callable[[], Array]:
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            finish = self.download(array.T)
            return lambda: finish().T
        whole = self.cupy.asarray(array, order="C")
        self.held.append(whole)
        buffer = self._buffer(whole.nbytes)
        if buffer is None:
            host: Array = whole.get(self.stream)
            return lambda: host
        view = view_of(buffer, whole.shape, whole.dtype)
        whole.get(self.stream, out=view, blocking=False)
        return view.copy

    def synchronize(self, value: Any) -> None:
        self.done.record(self.stream)
        self.done.synchronize()

    def close(self) -> None:
        try:
            self.stream.synchronize()
        except Exception:  # the device's error, which the calls have had
            pass
        self.meter.__exit__()
        self.cupy.cuda.Stream.null.use()
