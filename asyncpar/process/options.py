"""What a process pool is told when it is made: checks, and what workers have to know of the user's program."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from asyncpar.errors import UnsupportedError


def check(
    workers: int | None,
    start: str,
    memory_limit: int | None,
    max_calls: int | None,
    threads_per_worker: int | None,
    grace: float,
    preload: Sequence[str],
    functions: str,
) -> None:
    """Refuse what makes no sense, at the call that said it."""
    _positive("workers", workers)
    _positive("memory_limit", memory_limit)
    _positive("max_calls", max_calls)
    _positive("threads_per_worker", threads_per_worker)
    if not isinstance(grace, (int, float)) or not grace >= 0:
        raise ValueError(f"grace= must be a number of seconds of at least 0, not {grace!r}")
    if start not in ("zygote", "spawn"):
        raise ValueError(f"start= must be 'zygote' or 'spawn', not {start!r}")
    if functions not in ("by_reference", "by_value"):
        raise ValueError(f"functions= must be 'by_reference' or 'by_value', not {functions!r}")
    if memory_limit is not None and not os.path.exists("/proc/self/statm"):
        raise UnsupportedError("memory_limit= needs /proc (Linux); it is not available on this system")
    if isinstance(preload, str):
        raise TypeError(f"preload= takes a sequence of module names: preload=({preload!r},)")


def _positive(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}= must be at least 1, not {value}")


def program() -> dict[str, Any]:
    """What a worker has to know of this program to find its functions."""
    # Workers know the user's script by this name, and so what they send back from it.
    sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
    return {
        "main": main_location(),
        "path": list(sys.path),
        "argv": list(sys.argv),
        "flags": subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
    }


def main_location() -> tuple[str, str] | None:
    """Where a worker finds the user's script: as multiprocessing's spawn does it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return "module", spec.name
    path = getattr(main, "__file__", None)
    return ("path", os.path.abspath(path)) if path else None


class Context:
    """The context variables whose values calls see, and where workers find them: by module and name."""

    def __init__(self, variables: Sequence[Any]) -> None:
        self.variables = [(variable, _locate(variable)) for variable in variables]

    def __bool__(self) -> bool:
        return bool(self.variables)

    def values(self) -> list[tuple[tuple[str, str], Any]]:
        """Those that are set now."""
        return [(where, variable.get()) for variable, where in self.variables if _is_set(variable)]


def _locate(variable: Any) -> tuple[str, str]:
    if not isinstance(variable, contextvars.ContextVar):
        raise TypeError(f"context= takes ContextVar objects, not {type(variable).__name__}")
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return module_name, name
    raise ValueError(f"context= takes module-level variables; {variable.name!r} was found in no module")


_UNSET = object()


def _is_set(variable: Any) -> bool:
    return variable.get(_UNSET) is not _UNSET
