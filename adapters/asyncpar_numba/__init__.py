"""asyncpar with numba: kernels on the cores of this machine, and on its GPU.

    threads    NumbaThreadPool, and compile_for
    layer      which threads numba runs parallel loops on, and what they bear
    streams    NumbaCUDAPool (no module here is named cuda: numba-cuda takes any "numba.cuda" for its own)
    device     a CUDA device and its streams, as numba-cuda reaches them; current_stream

On processes numba needs no adapter: ``asyncpar.ProcessPool`` has ``threads_per_worker``. Names are loaded at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_numba.device import current_stream as current_stream
    from asyncpar_numba.streams import NumbaCUDAPool as NumbaCUDAPool
    from asyncpar_numba.threads import NumbaThreadPool as NumbaThreadPool
    from asyncpar_numba.threads import compile_for as compile_for

_HOME = {
    "NumbaCUDAPool": "asyncpar_numba.streams",
    "NumbaThreadPool": "asyncpar_numba.threads",
    "compile_for": "asyncpar_numba.threads",
    "current_stream": "asyncpar_numba.device",
}

__all__ = ["NumbaCUDAPool", "NumbaThreadPool", "compile_for", "current_stream"]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(home), name)
