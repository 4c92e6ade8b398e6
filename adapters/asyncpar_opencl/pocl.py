"""What PoCL's wheel needs on processors that are newer than it.

The wheel of 2022 holds LLVM 14, which calls every later processor "generic", a name that its own compiler then refuses:
no kernel can be built (https://github.com/pocl/pocl/issues/1049). PoCL has no option for it. The name is a field of its
record of the device, a ``char *``: it is found there by its value, and set to a processor that LLVM 14 knows.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from pathlib import Path
from typing import Any

NEWEST = {"avx512f": b"x86-64-v4", "avx2": b"x86-64-v3"}
"""Flags of a processor, and the name of one that has no more than it: PoCL's library for AVX-512 or AVX2 fits it."""
RECORD = 1024
"""Bytes of a device's record in which the field is looked for; PoCL 3.0 has it at 640."""
_NAMES: dict[bytes, ctypes.Array[ctypes.c_char]] = {}


def name_processor(device: Any) -> bool:
    """Name the processor of a ``pyopencl.Device``, if it is PoCL's and has none; whether that was done."""
    if not is_nameless(device):
        return False
    name = _processor()
    place = _field(device.int_ptr) if name is not None else None
    if name is None or place is None:
        return False
    kept = _NAMES.setdefault(name, ctypes.create_string_buffer(name))
    ctypes.c_void_p.from_address(place).value = ctypes.addressof(kept)
    return True


def is_nameless(device: Any) -> bool:
    """Whether this is PoCL on a processor that it does not know."""
    version: str = device.version.strip()
    return "PoCL" in version and "-generic" in version


def _processor() -> bytes | None:
    if platform.machine() != "x86_64":
        return None
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    return next((name for flag, name in NEWEST.items() if flag in flags), None)


def _field(record: int) -> int | None:
    """The address of the first pointer in the record to the text "generic"."""
    with Path("/proc/self/mem").open(
        "rb", buffering=0
    ) as memory:  # unlike a pointer's use, a bad read is an error
        memory.seek(record)
        for index, (pointer,) in enumerate(struct.iter_unpack("Q", memory.read(RECORD))):
            try:
                memory.seek(pointer)
                if memory.read(8) == b"generic\0":
                    return record + 8 * index
            except (OSError, OverflowError, ValueError):
                continue
    return None
