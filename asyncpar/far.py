"""Chunks on an engine that others wrote: packed on one side, run on the other. Both sides import this.

A value travels in a pickle of its own, so that one that cannot be pickled or unpickled fails alone, and so that a call
sees the same whatever it travelled with; plain values share one pickle. Buffers of 64 KiB and more leave the pickle, for
the engine to carry without a copy where it can. The other side sees them read-only.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from asyncpar import residence
from asyncpar.chunks import is_async
from asyncpar.errors import foreign
from asyncpar.process.packing import plain
from asyncpar.process.transit import dump_error, load_error, unloadable, unpicklable_result

Dump = Callable[..., bytes]
BUFFER = 64 << 10
"""Bytes from which a buffer travels beside its pickle."""
_here = threading.local()


class Parcels:
    """Values on their way: one pickle for all, or one each with its buffers."""

    __slots__ = ("content",)

    def __init__(self, content: bytes | list[tuple[bytes, list[Any]]]) -> None:
        self.content = content

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        content = self.content
        if protocol < 5 and not isinstance(content, bytes):  # Dask's scheduler asks for that
            content = [(data, [bytes(buffer) for buffer in buffers]) for data, buffers in content]
        return Parcels, (content,)

    def weight(self) -> int:
        """Bytes in all."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return sum(len(data) + sum(memoryview(b).nbytes for b in buffers) for data, buffers in self.content)

    def open(self, what: str) -> list[Any]:
        """The values; ``Broken`` for each that cannot be unpickled."""
        if isinstance(self.content, bytes):
            values: list[Any] = pickle.loads(self.content)
            return values
        return [_open(what, *parcel) for parcel in self.content]


class Broken(NamedTuple):
    """Stands for a value that could not be unpickled."""

    error: BaseException


def _open(what: str, data: bytes, buffers: list[Any]) -> Any:
    try:
        return pickle.loads(data, buffers=[memoryview(buffer).toreadonly() for buffer in buffers])
    except Exception as error:  # the user's classes may raise anything
        return Broken(unloadable(what, error))


def pack(values: Sequence[Any], dump: Dump) -> tuple[Parcels, dict[int, Exception]]:
    """The values that can be pickled, and the errors of the others by their index."""
    if plain(values):
        return Parcels(pickle.dumps(list(values), 5)), {}
    parcels: list[tuple[bytes, list[Any]]] = []
    errors: dict[int, Exception] = {}
    for index, value in enumerate(values):
        try:
            parcels.append(_pack_one(value, dump))
        except Exception as error:  # the user's __reduce__ may raise anything
            errors[index] = error
    return Parcels(parcels), errors


def _pack_one(value: Any, dump: Dump) -> tuple[bytes, list[Any]]:
    buffers: list[Any] = []

    def stays(buffer: pickle.PickleBuffer) -> bool:
        if memoryview(buffer).nbytes < BUFFER:
            return True
        buffers.append(buffer)
        return False

    return dump(value, 5, buffer_callback=stays), buffers


class Request:
    """A chunk, as it travels."""

    __slots__ = ("dump", "functions", "items", "kind", "numbers")

    def __init__(
        self, kind: str, functions: list[bytes], items: Parcels, numbers: list[int], dump: Dump
    ) -> None:
        self.kind = kind  # "map", "star", or "singles": (index of the function, arguments, keywords) each
        self.functions = functions
        self.items = items
        self.numbers = numbers  # of the constants that it names
        self.dump = dump  # for its results


class Reply:
    """What became of a chunk's calls, in order; those that are missing were not started."""

    __slots__ = ("errors", "pid", "seconds", "values")

    def __init__(self, values: Parcels, errors: dict[int, bytes], seconds: float) -> None:
        self.values = values  # of the calls without an error
        self.errors = errors
        self.seconds = seconds
        self.pid = os.getpid()

    def open(self) -> tuple[list[Any], dict[int, BaseException]]:
        """Values and errors on this side, as ``Chunk.deliver`` takes them."""
        good = self.values.open("a result")
        errors = {index: load_error(data) for index, data in self.errors.items()}
        values: list[Any] = []
        following = iter(good)
        for index in range(len(good) + len(errors)):
            value = None if index in errors else next(following)
            if type(value) is Broken:
                errors[index], value = value.error, None
            values.append(value)
        return values, errors


def run_chunk(request: Request, *constants: Any) -> Reply:
    """Run each call, whatever becomes of the others."""
    _here.constants = dict(zip(request.numbers, constants, strict=True))
    residence.find_constant = _find_constant
    begun = time.perf_counter()
    values, errors = _run(request)
    seconds = time.perf_counter() - begun
    kept = [index for index in range(len(values)) if index not in errors]
    packed, unsendable = pack([values[index] for index in kept], request.dump)
    for position, error in unsendable.items():
        index = kept[position]
        errors[index] = unpicklable_result(values[index], error)
    _here.constants = {}
    return Reply(packed, {i: dump_error(error, request.dump) for i, error in errors.items()}, seconds)


def _find_constant(number: int) -> Any:
    return _here.constants[number].value


class Constant:
    """A shared object, for an engine to keep: it travels to a worker once, and its calls see this very object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _run(request: Request) -> tuple[list[Any], dict[int, BaseException]]:
    """Values and errors of the calls; of fewer than there are, if one was interrupted."""
    functions = [_open("the function", blob, []) for blob in request.functions]
    values: list[Any] = []
    errors: dict[int, BaseException] = {}
    for index, item in enumerate(request.items.open("an argument")):
        values.append(None)
        try:
            values[index] = _call(*_prepared(request.kind, functions, item))
        except KeyboardInterrupt as interrupt:  # the engine's way to stop this: what follows goes elsewhere
            errors[index] = foreign(interrupt)
            break
        except Exception as error:  # the call's own
            errors[index] = error
        except BaseException as error:  # the call's own, too: it must not end the worker
            errors[index] = foreign(error)
    return values, errors


def _prepared(
    kind: str, functions: list[Any], item: Any
) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
    if type(item) is Broken:
        raise item.error
    number, args, kwargs = item if kind == "singles" else (0, item if kind == "star" else (item,), {})
    function = functions[number]
    if type(function) is Broken:
        raise function.error
    return function, args, kwargs


def _call(function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if not is_async(function):
        return function(*args, **kwargs)
    runner: asyncio.Runner | None = getattr(_here, "runner", None)
    if runner is None:
        runner = _here.runner = asyncio.Runner()
    return runner.run(function(*args, **kwargs))


def leave() -> None:
    """Close the event loop that async calls had in this thread, if they had one."""
    runner: asyncio.Runner | None = _here.__dict__.pop("runner", None)
    if runner is not None:
        runner.close()
