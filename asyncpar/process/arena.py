"""Shared memory for buffers of 64 KiB and more: one sparse file, mapped by every process.

Region 0 belongs to the loop's process, region *i* to the worker in slot *i*. Whoever owns a
region allocates in it; the other side gets offsets, reads in place, and says when it is done.
A slab is a power of two of bytes and is used again when free, because fresh pages cost six
times a warm copy. Imports almost nothing: workers use it too.
"""

from __future__ import annotations

import _thread
import mmap
import os
import pickle
import sys
from collections import defaultdict
from collections.abc import Callable

from asyncpar.process.layout import BLOCK, OUT_OF_BAND

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

REGIONS = (8 << 30, 1 << 30, 128 << 20, 16 << 20)
"""Bytes of a region: the first for which there is address space. What does not fit travels in the pickle."""
KEEP_WARM = 256 << 20
"""Free bytes a region keeps for the next buffers; what is over goes back to the system."""
PIECE = 1 << 20
NORESERVE = 0x4000 if sys.platform == "linux" else 0
Refs = list[int]  # offset, size, offset, size, ...


def shared_file(size: int) -> int:
    """A descriptor of a nameless file of ``size`` bytes that lives in memory where possible."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("asyncpar", os.MFD_CLOEXEC)
    else:  # macOS: unlinked at once, so that nothing can be left behind
        import tempfile

        fd, path = tempfile.mkstemp(prefix="asyncpar-")
        os.unlink(path)
    try:
        os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        raise
    return fd


class Arena:
    """The mapping, and the allocator of one region in it."""

    def __init__(self, fd: int, slots: int, region: int) -> None:
        size = os.fstat(fd).st_size
        self.fd = fd
        self.map = mmap.mmap(fd, size, flags=mmap.MAP_SHARED | NORESERVE)
        self._lock = _thread.allocate_lock()  # the loop's process allocates in two threads
        self._base = BLOCK * (slots + 1)
        self._region = size // (slots + 1) - BLOCK
        self.own(region)

    @staticmethod
    def size(slots: int, region: int) -> int:
        """Bytes of the file for so many worker slots, with regions of so many bytes."""
        return (BLOCK + region) * (slots + 1)

    def own(self, region: int, live: dict[int, int] | None = None) -> None:
        """Allocate in this region from now on; ``live`` are slabs in it that are still read."""
        self.start = self._base + self._region * region
        self.end = self.start + self._region
        self.live: dict[int, int] = dict(live or {})  # offset -> size class
        self.top = max((at + (1 << size) for at, size in self.live.items()), default=self.start)
        self.free_slabs: defaultdict[int, list[int]] = defaultdict(list)
        self.warm = 0

    def block(self, slot: int) -> memoryview:
        """The control block of the worker in this slot."""
        return memoryview(self.map)[BLOCK * slot : BLOCK * (slot + 1)]

    def allocate(self, nbytes: int) -> int | None:
        """The offset of a slab of at least ``nbytes``, or ``None`` when the region is full."""
        size = max(16, (nbytes - 1).bit_length())
        with self._lock:
            if self.free_slabs[size]:
                at = self.free_slabs[size].pop()
                self.warm -= 1 << size
            else:
                at = self.top
                if at + (1 << size) > self.end:
                    return None
                self.top += 1 << size
            self.live[at] = size
        return at

    def free(self, at: int) -> None:
        """Give a slab back; nobody may read it any more."""
        size = self.live.pop(at)
        self.warm += 1 << size
        if self.warm > KEEP_WARM and hasattr(mmap, "MADV_REMOVE"):
            self.map.madvise(mmap.MADV_REMOVE, at, 1 << size)
        self.free_slabs[size].append(at)

    def put(self, buffer: memoryview) -> int | None:
        """Copy a contiguous buffer into a new slab and return its offset, or ``None`` when full."""
        at = self.allocate(buffer.nbytes)
        if at is not None:
            self._copy(at, buffer)
        return at

    def _copy(self, at: int, buffer: memoryview) -> None:
        numpy = sys.modules.get("numpy")
        if numpy is not None and hasattr(numpy, "copyto"):  # frees the GIL while it copies
            numpy.copyto(numpy.frombuffer(self.map, "u1", buffer.nbytes, at), numpy.frombuffer(buffer, "u1"))
            return
        for start in range(0, buffer.nbytes, PIECE):  # the GIL can change hands between pieces
            piece = buffer[start : start + PIECE]
            self.map[at + start : at + start + piece.nbytes] = piece

    def view(self, at: int, nbytes: int) -> Any:
        """A writable buffer over a slab, able to carry weak references: alive while anything reads it."""
        numpy = sys.modules.get("numpy")
        if numpy is not None and hasattr(numpy, "frombuffer"):
            return numpy.frombuffer(self.map, "u1", nbytes, at)
        import ctypes

        return (ctypes.c_ubyte * nbytes).from_buffer(self.map, at)

    def close(self) -> None:
        """Close the file. Where results in it are still read, the mapping goes with the last of them."""
        os.close(self.fd)
        try:
            self.map.close()
        except BufferError:
            pass


class Packer:
    """Pickles values, each by itself; what is large goes to shared memory."""

    def __init__(self, arena: Arena, dump: Callable[..., bytes] = pickle.dumps) -> None:
        self.arena, self.dump = arena, dump
        self.refs: Refs = []
        self.out_of_band = self._out_of_band  # bound once

    def pack(self, value: object) -> tuple[bytes, Refs]:
        """The payload and the slabs it names.

        Without slabs it is a plain pickle, with slabs a pickle of ``(inner pickle or None, slabs)``, ``None`` meaning
        that the first slab is it.
        """
        try:
            data: bytes | None = self.dump(value, protocol=5, buffer_callback=self.out_of_band)
            assert data is not None
            if not self.refs and len(data) < OUT_OF_BAND:
                return data, []
            if len(data) >= OUT_OF_BAND:
                at = self.arena.put(memoryview(data))
                if at is not None:
                    self.refs[:0] = (at, len(data))
                    data = None
        except BaseException:  # the user's __reduce__ may raise anything: no slab may be lost
            refs, self.refs = self.refs, []
            for at in refs[::2]:
                self.arena.free(at)
            raise
        refs, self.refs = self.refs, []
        if not refs:
            assert data is not None
            return data, refs
        return pickle.dumps((data, refs), 5), refs

    def _out_of_band(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        at = self.arena.put(raw) if raw.nbytes >= OUT_OF_BAND else None
        if at is None:
            return True  # small, or the region is full: in the pickle itself
        self.refs += (at, raw.nbytes)
        return False


def pack(arena: Arena, value: object, dump: Callable[..., bytes] = pickle.dumps) -> tuple[bytes, Refs]:
    """See ``Packer.pack``."""
    return Packer(arena, dump).pack(value)


def unpack(arena: Arena, payload: bytes, keep: Callable[[int, Any], object]) -> Any:
    """The value of a payload that names slabs; ``keep(offset, view)`` is called for each lent view."""
    data, refs = pickle.loads(payload)
    at = refs[::2]
    views = [arena.view(offset, size) for offset, size in zip(at, refs[1::2], strict=True)]
    for offset, view in zip(at, views, strict=True):
        keep(offset, view)
    buffers = [memoryview(view).cast("B") for view in views]
    if data is None:
        return pickle.loads(buffers[0], buffers=buffers[1:])
    return pickle.loads(data, buffers=buffers)


def slabs(payload: bytes) -> list[int]:
    """The offsets that a payload names."""
    refs: Refs = pickle.loads(payload)[1]
    return refs[::2]
