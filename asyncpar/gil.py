"""Which compiled functions keep the GIL while they run, so that in a thread they stop the event loop as well."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from asyncpar.chunks import name_of

PACKAGE = str(Path(__file__).parent)


def keeps_the_gil(function: Any) -> bool:
    """Whether numba compiled this function and it runs in one go: serial, and without ``nogil``.

    A parallel kernel frees the GIL in its loops, whatever ``nogil`` says. Of what is not numba's nothing is known.
    """
    registry = sys.modules.get(
        "numba.core.registry"
    )  # numba takes a second to import: it is not, if not used
    if registry is None:
        return False
    while hasattr(function, "func") and not hasattr(function, "__code__"):  # a partial, perhaps of a partial
        function = function.func
    dispatcher: Any = getattr(registry, "CPUDispatcher", ())
    if not isinstance(function, dispatcher):
        return False
    options = function.targetoptions
    return not options.get("nogil") and not options.get("parallel")


def warn_if_it_keeps_the_gil(function: Any) -> None:
    """Warn where the user passed it."""
    if keeps_the_gil(function):
        name = name_of(function)
        warnings.warn(
            f"numba compiled {name} to keep the GIL, so that the event loop stands still while it runs in a thread: "
            "write @njit(nogil=True), or run it on a ProcessPool",
            RuntimeWarning,
            stacklevel=_levels_to_the_caller(),
        )


def _levels_to_the_caller() -> int:
    """``stacklevel`` of the first frame that is not ours, seen from the function that calls this."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
