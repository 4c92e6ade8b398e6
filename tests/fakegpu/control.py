"""What tests turn and read of the software GPU, in this process. A stream of ``None`` is CuPy's current one."""

from __future__ import annotations

import ctypes
import enum
import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

ILLEGAL_ADDRESS = 700
CAPACITY = 1 << 30
"""Bytes of each device, if a test says nothing else."""

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_size_t
_SIGNATURES: dict[str, tuple[Any, ...]] = {
    "delay": (_POINTER, ctypes.c_double),
    "hold": (_POINTER, ctypes.c_int),
    "gate": (ctypes.c_int, ctypes.c_int),
    "fault": (_POINTER, ctypes.c_int),
    "clear": (),
    "set_speed": (ctypes.c_double,),
    "set_driver_lock": (ctypes.c_int,),
    "set_capacity": (_SIZE,),
    "memory": (ctypes.c_int, *[ctypes.POINTER(_SIZE)] * 4),
    "trace": (ctypes.c_int,),
    "steps": (_POINTER,),
    "free_in_order": (_POINTER, _POINTER),
}


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libamdhip64.so.7")
    for name, types in _SIGNATURES.items():
        function = getattr(library, f"fakegpu_{name}")
        function.argtypes, function.restype = types, None
    library.fakegpu_steps.restype = _SIZE
    return library


def _handle(stream: Any) -> int:
    if stream is None:
        import cupy

        stream = cupy.cuda.get_current_stream()
    return int(stream.ptr)


def delay(seconds: float, stream: Any = None) -> None:
    """Submit a kernel that takes so long."""
    _library().fakegpu_delay(_handle(stream), seconds * 1e6)


def hold(gate: int, stream: Any = None) -> None:
    """Submit a kernel that takes until ``open_gate(gate)``. There are 64 gates."""
    _library().fakegpu_hold(_handle(stream), gate)


def open_gate(gate: int) -> None:
    """Let what is held by this gate end, and what comes to it from now on."""
    _library().fakegpu_gate(gate, 1)


def fault(stream: Any = None, error: int = ILLEGAL_ADDRESS) -> None:
    """Submit a kernel that leaves its device with a sticky error."""
    _library().fakegpu_fault(_handle(stream), error)


def set_speed(bytes_per_second: float) -> None:
    """Of copies between host and device, in each direction; 0: as fast as memory."""
    _library().fakegpu_set_speed(bytes_per_second / 1e6)


def set_driver_lock(on: bool) -> None:
    """Whether callbacks run with a lock for which every call of the driver waits."""
    _library().fakegpu_set_driver_lock(on)


def set_capacity(size: int) -> None:
    """Bytes of each device."""
    _library().fakegpu_set_capacity(size)


def reset() -> None:
    """All as at the start: no error, no delay, gates closed, no trace."""
    library = _library()
    library.fakegpu_clear()
    library.fakegpu_trace(0)
    for gate in range(64):
        library.fakegpu_gate(gate, 0)
    set_speed(0)
    set_driver_lock(False)
    set_capacity(CAPACITY)


@dataclass(frozen=True)
class Memory:
    """Bytes of one device; ``pinned`` are the host's."""

    used: int
    peak: int
    capacity: int
    pinned: int


def memory(device: int = 0) -> Memory:
    """What is allocated now."""
    values = [_SIZE() for _ in range(4)]
    _library().fakegpu_memory(device, *map(ctypes.byref, values))
    return Memory(*(value.value for value in values))


class Kind(enum.IntEnum):
    """What an operation does."""

    COPY_IN = 0
    COPY_OUT = 1
    COPY_INSIDE = 2
    KERNEL = 3
    DELAY = 4


class Step(ctypes.Structure):
    """An operation: the handle of its stream, and the ticks at which it began and ended.

    A tick is the beginning or the end of some operation, so that ticks tell an order and no times.
    """

    _fields_ = [(name, ctypes.c_uint64) for name in ("stream", "kind", "began", "ended")]
    stream: int
    kind: int
    began: int
    ended: int

    def overlaps(self, other: Step) -> bool:
        """Whether one began before the other had ended."""
        return self.began < other.ended and other.began < self.ended


@contextmanager
def trace() -> Iterator[list[Step]]:
    """The operations that end inside the block, at most 65536; they are in the list when it is left."""
    found: list[Step] = []
    _library().fakegpu_trace(1)
    try:
        yield found
    finally:
        first = ctypes.POINTER(Step)()
        count = _library().fakegpu_steps(ctypes.byref(first))
        found.extend(Step.from_buffer_copy(first[i]) for i in range(count))
        _library().fakegpu_trace(0)


class OrderedAllocator:
    """A CuPy allocator that poisons what is freed, in the order of the stream on which it was allocated.

    As CuPy's own pool would give the memory to another array of that stream at once: work that another stream has not
    begun yet then reads poison, as it would read the other array's contents.
    """

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._streams: dict[int, int] = {}
        self._lock = threading.Lock()
        self._allocator = cupy.cuda.PythonFunctionAllocator(self._allocate, self._free)

    @contextmanager
    def used(self) -> Iterator[None]:
        """All arrays that are made inside the block come from here."""
        self._cupy.cuda.set_allocator(self._allocator.malloc)
        try:
            yield
        finally:
            self._cupy.cuda.set_allocator(self._cupy.get_default_memory_pool().malloc)

    def _allocate(self, size: int, _device: int) -> int:
        pointer: int = self._cupy.cuda.runtime.malloc(size)
        with self._lock:
            self._streams[pointer] = _handle(None)
        return pointer

    def _free(self, pointer: int, _device: int) -> None:
        with self._lock:
            stream = self._streams.pop(pointer)
        _library().fakegpu_free_in_order(pointer, stream)
