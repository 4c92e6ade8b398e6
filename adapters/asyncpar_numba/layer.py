"""Numba's threading layer: the threads that run parallel loops, chosen once in a process.

TBB and OpenMP take parallel loops from several threads at once. Numba's own, ``workqueue``, which is all there is where
neither library is found, ends the process instead: "Concurrent access has been detected".
"""

from __future__ import annotations

import threading
from importlib import import_module
from typing import Any

UNSAFE = "workqueue"
alone = threading.Lock()
"""Held by the one thread of this process that runs parallel kernels, where the layer bears no two."""


def load() -> Any:
    """Numba, with its threading layer started. Takes about a second, the first time."""
    try:
        numba: Any = import_module("numba")
    except ImportError as error:
        raise ImportError(
            "NumbaThreadPool needs numba. Install it with: pip install 'asyncpar[numba]'"
        ) from error
    numba.get_num_threads()  # what starts it; before, threading_layer() has no answer
    return numba


def may_be_parallel(function: Any) -> bool:
    """Whether a call of this function may start a parallel loop: unless all that numba compiled it to has none.

    Numba notes for what is loaded from a cache that the layer is to be started first (``reload_init``), and so for
    each function with a parallel loop in it, or in what it calls.
    """
    overloads = getattr(function, "overloads", None)
    if not overloads:
        return True  # no numba function, or one that is not compiled yet
    return any(compiled.reload_init for compiled in overloads.values())
