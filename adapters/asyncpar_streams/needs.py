"""How much device memory a call takes: as declared, or as measured; and bytes in words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from asyncpar.chunks import Function

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def parse_bytes(size: int | str, name: str) -> int:
    """Bytes, of a number or of a text such as ``"8 GiB"``; ``name`` is the argument's, for the error."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    unit = UNITS.get((match[2] or "B").upper()) if match else None
    if match is None or unit is None or not float(match[1]):
        raise ValueError(
            f"{name}= takes a number of bytes, or text such as '8 GiB' or '500 MB', not {size!r}"
        )
    return int(float(match[1]) * unit)


def show_bytes(size: int) -> str:
    """``1.5 GiB``; whole bytes below 1 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} bytes"


def arrays_bytes(values: Any) -> int:
    """Bytes of the arrays among arguments."""
    return sum(_sizes(values))


def _sizes(value: Any) -> Iterator[int]:
    if type(value) in (list, tuple):
        for inner in value:
            yield from _sizes(inner)
    elif type(value) is dict:
        yield from _sizes(list(value.values()))
    else:
        size = getattr(value, "nbytes", 0)
        yield size if isinstance(size, int) else 0


class Needs:
    """What each function was seen or said to take."""

    def __init__(self) -> None:
        self._declared: dict[Callable[..., Any], int | Callable[..., int]] = {}
        self._seen: WeakKeyDictionary[Function, tuple[int, int]] = WeakKeyDictionary()

    def declare(self, function: Callable[..., Any], memory: int | str | Callable[..., int]) -> None:
        """See ``StreamPool.declare``."""
        if not callable(function):
            raise TypeError(f"declare() takes a function and its memory, not {type(function).__name__}")
        self._declared[function] = memory if callable(memory) else parse_bytes(memory, "memory")

    def of(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any]) -> int | None:
        """Bytes that a call will take; ``None``: not known.

        As much as the hungriest before it; more, in proportion, if its arguments are larger than those were.
        """
        declared = self._declared.get(function.call)
        if declared is not None:
            return declared(*args, **kwargs) if callable(declared) else declared
        seen = self._seen.get(function)
        if seen is None:
            return None
        peak, given = seen
        now = arrays_bytes((args, kwargs))
        return peak if not given or now <= given else -(-peak * now // given)

    def learn(self, function: Function, args: Sequence[Any], kwargs: dict[str, Any], peak: int) -> None:
        """A call had allocated this many bytes at most."""
        if peak >= self._seen.get(function, (0, 0))[0]:
            self._seen[function] = peak, arrays_bytes((args, kwargs))
