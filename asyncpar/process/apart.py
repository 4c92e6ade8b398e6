"""Reads a list of values of which one cannot be read, so that only that one fails.

The values of a map come in one pickle. If loading it raises, nothing says whose value that was. So it is read again with
notes in the place of everything that is not plain data: a note says how an object would be made, and makes none. From
the notes each value gets a pickle of its own, and is loaded by itself.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Iterable, Sequence
from typing import Any, Self

_NOTHING: Any = object()


class PartlyReadError(Exception):
    """Some values could be read. ``rest`` is what came beside the list of values."""

    def __init__(self, values: list[Any], errors: dict[int, Exception], rest: dict[int, bytes]) -> None:
        super().__init__(values, errors, rest)
        self.values, self.errors, self.rest = values, errors, rest


def load_values(data: Any, *, buffers: Sequence[Any] = ()) -> Any:
    """``pickle.loads`` for a list, or for a list and a dictionary.

    :raises PartlyReadError: some items cannot be loaded
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except Exception as error:  # the user's classes may raise anything
        try:
            noted = _Noting(io.BytesIO(data), buffers=buffers).load()
        except Exception:  # more than notes can tell
            raise error from None
    values, rest = noted if type(noted) is tuple else (noted, {})
    errors: dict[int, Exception] = {}
    for index, value in enumerate(values):
        try:
            values[index] = _made(value)
        except Exception as error:  # this is the one
            values[index], errors[index] = None, error
    raise PartlyReadError(values, errors, rest)


class _Note:
    """How an object would be made: the opcodes of its pickle end in these methods."""

    where = "", ""
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]
    _called = False
    _state: Any = _NOTHING
    _items: list[Any]
    _pairs: list[tuple[Any, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        note = super().__new__(cls)
        note._args, note._kwargs, note._items, note._pairs = args, kwargs, [], []
        return note

    def __init__(self, *_: Any, **__: Any) -> None:
        self._called = True  # not only __new__

    def __setstate__(self, state: Any) -> None:
        self._state = state

    def append(self, item: Any) -> None:
        self._items.append(item)

    def extend(self, items: Iterable[Any]) -> None:
        self._items.extend(items)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._pairs.append((key, value))

    def __reduce_ex__(self, protocol: Any) -> Any:
        cls = type(self)
        made: Any
        if self._called:
            made = cls, self._args
        elif self._kwargs:
            made = copyreg.__newobj_ex__, (cls, self._args, self._kwargs)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
        else:
            made = copyreg.__newobj__, (cls, *self._args)  # type: ignore[attr-defined]
        state = None if self._state is _NOTHING else self._state
        return (
            *made,
            state,
            iter(self._items) if self._items else None,
            iter(self._pairs) if self._pairs else None,
        )


class _Noting(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return type("_Note", (_Note,), {"where": (module, name)})


class _Splitter(pickle.Pickler):
    """Pickles what was noted: globals by their names, buffers by their places."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, 5)
        self.buffers: list[memoryview] = []

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, type) and issubclass(obj, _Note):
            return obj.where
        if isinstance(obj, memoryview):
            self.buffers.append(obj)
            return len(self.buffers) - 1
        return None


class _Joiner(pickle.Unpickler):
    buffers: Sequence[memoryview] = ()

    def persistent_load(self, pid: Any) -> Any:
        return self.buffers[pid] if isinstance(pid, int) else self.find_class(*pid)


def _made(noted: Any) -> Any:
    """The value behind a note."""
    file = io.BytesIO()
    splitter = _Splitter(file)
    splitter.dump(noted)
    file.seek(0)
    joiner = _Joiner(file)
    joiner.buffers = splitter.buffers
    return joiner.load()
