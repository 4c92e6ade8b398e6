"""What the workers run. Imports nothing heavy: the peers' workers load this module."""

from __future__ import annotations

import mmap
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STAMP = struct.Struct("d")
_held: dict[int, Any] = {}


def trivial(value: Any) -> Any:
    return value


def spin(iterations: int) -> int:
    """A fixed amount of work, not of time: on a busy core it takes longer, and that shows."""
    value = 0
    for i in range(iterations):
        value ^= i
    return value


def spin_many(iterations: int, calls: int) -> None:
    for _ in range(calls):
        spin(iterations)


def each(function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """A chunk made by hand."""
    return [function(item) for item in items]


def ends(array: Any) -> int:
    """The first and the last byte, so that both are known to have arrived."""
    return int(array[0]) * 256 + int(array[-1])


def at(array: Any, index: int) -> int:
    return int(array[index])


def held_array(nbytes: int, mark: int) -> Any:
    """An array that this worker holds, changed in every call so that no cache can answer."""
    array = _held.get(nbytes)
    if array is None:
        import numpy as np

        array = _held[nbytes] = np.ones(nbytes, "u1")
    array[0] = mark
    return array


def burn(path: str, seconds: float) -> None:
    """Keep a core busy, and leave the time (shared by all processes) in the file at `path`."""
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), STAMP.size) as page:
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            STAMP.pack_into(page, 0, now)


def burn_deaf(path: str, seconds: float) -> None:
    """The same, ignoring every interruption short of SIGKILL."""
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        try:
            burn(path, left)
        except BaseException:
            continue


async def as_coroutine(function: Callable[..., Any], *args: Any) -> Any:
    """For the peer whose workers run coroutine functions only."""
    return function(*args)
