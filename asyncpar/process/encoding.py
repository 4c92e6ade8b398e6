"""Pickling what users pass, and saying well what cannot be pickled."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Container
from functools import partial
from itertools import islice
from types import FunctionType, MethodType
from typing import Any

from asyncpar.errors import SerializationError, describe, said
from asyncpar.process.options import main_location
from asyncpar.sharing import Shared

HEAVY = 1 << 20
"""Bytes from which arguments are pickled off the loop's thread (copying 1 MiB takes about 0.15 ms)."""
MANY = 20_000
SAMPLE = 64
FEW = 8
PLAIN_NUMBERS = frozenset((int, float, complex, bool, type(None)))
TEXTS = frozenset((str, bytes, bytearray))
CONTAINERS = frozenset((tuple, list, dict, set, frozenset))


def by_value() -> Callable[..., bytes]:
    """``cloudpickle.dumps``."""
    try:
        import cloudpickle
    except ImportError:
        raise ImportError(
            "functions='by_value' needs cloudpickle. Install it with: pip install 'asyncpar[by-value]'"
        ) from None
    dumps: Callable[..., bytes] = cloudpickle.dumps
    return dumps


def heavy(value: Any, known: Container[int] = ()) -> bool:
    """Whether pickling this would hold up the loop, by a quick look that may be wrong.

    :param known: numbers of the constants that are pickled already
    """
    try:
        return _weight(value, known, 4) >= HEAVY
    except Exception:  # the user's attributes may raise anything: pickling will say so
        return False


def _weight(value: Any, known: Container[int], depth: int) -> int:
    """About how many bytes the pickle of this has."""
    kind = type(value)
    if kind in PLAIN_NUMBERS:
        return 8
    if kind in TEXTS:
        return len(value)
    if kind in CONTAINERS:
        return _weight_inside(value, known, depth)
    return _weight_of_object(value, known, depth)


def _weight_of_object(value: Any, known: Container[int], depth: int) -> int:
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        return _weight_inside(value, known, depth)
    if isinstance(value, Shared):
        return 0 if value.number in known else _weight(value.value, known, depth)
    if isinstance(value, partial):
        return _weight((value.args, value.keywords), known, depth)
    if isinstance(value, MethodType):
        return _weight(value.__self__, known, depth)
    state = getattr(value, "__dict__", None)
    if type(state) is not dict or isinstance(value, FunctionType):  # functions are pickled by name
        return 0
    return _weight_inside(state, known, depth)


def _weight_inside(value: Any, known: Container[int], depth: int) -> int:
    """The same of a container: by its first entries, if they are many."""
    size = len(value)
    if size >= MANY:
        return HEAVY
    if not depth:
        return 8 * size
    some = value.values() if isinstance(value, dict) else value
    if size > FEW:
        some = list(islice(some, SAMPLE))
        if PLAIN_NUMBERS.issuperset(map(type, some)):
            return 8 * size
    weight = 0
    for item in some:
        weight += _weight(item, known, depth - 1)
    return weight if size <= SAMPLE else weight * size // SAMPLE


class _Sink:
    """A file that collects frames. Its method is Python code, so that the GIL can change hands between frames."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def write(self, data: Any) -> int:
        part = bytes(data)  # a buffer that found no room in shared memory comes as a PickleBuffer
        self.parts.append(part)
        return len(part)


def dump_yielding(value: Any, protocol: int = 5, buffer_callback: Any = None) -> bytes:
    """``pickle.dumps`` that lets other threads run about every 64 KiB."""
    sink = _Sink()
    pickle.Pickler(sink, protocol, buffer_callback=buffer_callback).dump(value)
    return b"".join(sink.parts)


def found_by_name(function: Any) -> bool:
    """Whether the name of a function leads to it, so that it has no state but its module's."""
    name, module = getattr(function, "__qualname__", None), getattr(function, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def refuse_local(function: Any) -> None:
    """Refuse lambdas, and functions defined inside others, by a look."""
    inner = getattr(function, "func", function)
    if type(inner) is FunctionType and "<" in inner.__qualname__:
        raise _explain_function(inner, TypeError(), by_value=False)


def picklable_by_name(function: Any) -> None:
    """Refuse functions of an interactive session: their name leads nowhere in a worker."""
    inner = getattr(function, "func", function)
    if getattr(inner, "__module__", None) == "__main__" and main_location() is None:
        raise SerializationError(
            f"{getattr(inner, '__qualname__', inner)} was defined in an interactive session, where workers cannot "
            "find it: put it in a module, or open the pool with functions='by_value'"
        )


def explain(
    value: Any, error: BaseException, by_value: bool, label: str = "", keywords: bool = False
) -> SerializationError:
    """The error for something that cannot be pickled: which part of which call, and why."""
    if isinstance(error, SerializationError):
        return error
    if isinstance(error, MemoryError):  # a search would need more of it
        return SerializationError(
            f"the arguments of {label or describe(value)} cannot be pickled: there is no memory left for the pickle; "
            "pass less at a time, or arrays and bytes, which are not copied into it"
        )
    if not label:
        return _explain_function(value, error, by_value)
    if keywords:
        args, kwargs = value
        path, culprit = _find(
            [(f"argument {i + 1}", a) for i, a in enumerate(args)]
            + [(f"argument {k}=", a) for k, a in kwargs.items()]
        )
    elif label == "share()":
        path, culprit = _find([("the object", value)])
    else:
        path, culprit = _find([(f"argument {i + 1}", a) for i, a in enumerate(value)])
    advice = "" if by_value else "; pass plain data, or functions='by_value' if it is a function"
    return SerializationError(
        f"{path} of {label} cannot be pickled: {describe(culprit)} ({type(culprit).__qualname__}): {said(error)}{advice}"
    )


def _explain_function(function: Any, error: BaseException, by_value: bool) -> SerializationError:
    name = getattr(function, "__qualname__", None) or describe(function)
    if "<lambda>" in name or "<locals>" in name:
        kind = "a lambda" if "<lambda>" in name else "defined inside a function"
        return SerializationError(
            f"{name} is {kind}, which workers cannot import: define it at the top of a module, "
            "or open the pool with functions='by_value' (pip install 'asyncpar[by-value]')"
        )
    return SerializationError(f"the function {name} cannot be pickled: {type(error).__name__}: {said(error)}")


def _find(parts: list[tuple[str, Any]], depth: int = 5) -> tuple[str, Any]:
    """The innermost part that cannot be pickled, and its path."""
    for path, part in parts:
        if not _picklable(part):
            inner = _inside(path, part) if depth else []
            if any(not _picklable(value) for _, value in inner):
                return _find(inner, depth - 1)
            return path, part
    return parts[0] if parts else ("the call", None)


def _inside(path: str, part: Any) -> list[tuple[str, Any]]:
    if isinstance(part, dict):
        return [(f"{path}[{key!r}]", value) for key, value in list(part.items())[:1000]]
    if isinstance(part, (list, tuple)):
        return [(f"{path}[{i}]", value) for i, value in enumerate(part[:1000])]
    state = getattr(part, "__dict__", None)
    if isinstance(state, dict) and not callable(part):
        return [(f"{path}.{name}", value) for name, value in state.items()]
    return []


def _picklable(value: Any) -> bool:
    try:
        pickle.dumps(value, 5)
    except Exception:  # the user's __reduce__ may raise anything
        return False
    return True
