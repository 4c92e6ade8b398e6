"""Builds CUDA's driver library over the software GPU, for numba-cuda."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.fakegpu.build import FLAGS, HERE

SOURCES = ("streams.c", "memory.c", "control.c", "cuda.c")


def build(folder: Path) -> Path:
    """Make libcuda.so.1 in a folder; needs gcc."""
    library = folder / "libcuda.so.1"
    sources = [HERE / source for source in SOURCES]
    subprocess.run(["gcc", *FLAGS, "-o", library, *sources, "-ldl", "-Wl,-soname,libcuda.so.1"], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """What numba-cuda and cuda.bindings find the library by."""
    return {"LD_LIBRARY_PATH": str(library.parent), "NUMBA_CUDA_DRIVER": str(library)}
