"""A bounded pool of pinned host buffers, through which arrays travel to a device and back without waiting for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from asyncpar_streams.device import Array

MOST_BYTES = 256 << 20
"""Pinned memory of a device, in use and kept. The system cannot swap it, so it is not to grow with the load."""
SMALLEST = 1 << 16


class PinnedBuffers:
    """Buffers of powers of two, kept when given back. Thread-safe.

    :param make: a NumPy array of so many bytes (``uint8``) of pinned memory, which is freed when the array is dropped
    :param most_bytes: of all buffers together
    """

    def __init__(self, make: Callable[[int], Array], most_bytes: int = MOST_BYTES) -> None:
        self._make, self._most_bytes = make, most_bytes
        self._lock = threading.Lock()
        self._kept: dict[int, list[Array]] = {}
        self._bytes = 0

    def take(self, size: int) -> Array | None:
        """A buffer of at least ``size`` bytes; ``None``: none is left, use pageable memory."""
        rounded = max(SMALLEST, 1 << (size - 1).bit_length())
        with self._lock:
            if kept := self._kept.get(rounded):
                return kept.pop()
            if self._bytes + rounded > self._most_bytes:
                self._drop_kept()
            if self._bytes + rounded > self._most_bytes:
                return None
            self._bytes += rounded
        try:
            return self._make(rounded)
        except BaseException:  # whatever the driver raised, the bytes are not in use
            with self._lock:
                self._bytes -= rounded
            raise

    def give(self, buffer: Array) -> None:
        """A buffer that the device does not use any more."""
        with self._lock:
            self._kept.setdefault(buffer.nbytes, []).append(buffer)

    def trim(self) -> None:
        """Free the buffers that nobody uses."""
        with self._lock:
            self._drop_kept()

    @property
    def held(self) -> int:
        """Bytes of all buffers, in use or kept."""
        return self._bytes

    def _drop_kept(self) -> None:
        self._bytes -= sum(size * len(buffers) for size, buffers in self._kept.items())
        self._kept.clear()


def staged(array: Array, buffer: Array) -> Array:
    """The array's contents, copied into a buffer, with its shape and type. NumPy frees the GIL meanwhile."""
    view = view_of(buffer, array.shape, array.dtype)
    np.copyto(view, array)
    return view


def view_of(buffer: Array, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """The beginning of a buffer as an array of this shape and type."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return buffer[:size].view(dtype).reshape(shape)
