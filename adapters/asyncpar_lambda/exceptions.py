"""Exceptions as plain data and back: their type by its name, arguments, attributes, notes, and what they were raised from.

When they are built again, ``__init__`` is called only of built-in types: a user's may take other arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncpar.errors import chain, describe
from asyncpar_lambda.errors import CodecError, RemoteError
from asyncpar_lambda.naming import Names

Pack = Callable[[Any], bytes]
"""Encodes a value, or raises."""


def describe_error(error: BaseException, pack: Pack) -> list[Any]:
    """An exception and what it was raised from: ``[type, message, args, attributes, notes, how]`` each."""
    return [[*_describe_one(link, pack), how] for link, how in chain(error)]


def _describe_one(error: BaseException, pack: Pack) -> list[Any]:
    kind = type(error)
    try:
        message = str(error)
    except Exception as reason:  # the user's __str__ may do anything
        message = f"<no message: {type(reason).__name__}>"
    args = error.args
    if isinstance(error, OSError) and error.filename is not None and len(args) == 2:
        args = (*args, error.filename)
    state = {
        name: value for name, value in error.__dict__.items() if name != "__notes__" and _fits(value, pack)
    }
    return [
        f"{kind.__module__}:{kind.__qualname__}",
        message,
        [value if _fits(value, pack) else describe(value) for value in args],
        state,
        [str(note) for note in getattr(error, "__notes__", ())],
    ]


def _fits(value: Any, pack: Pack) -> bool:
    try:
        pack(value)
    except Exception:  # its properties and __repr__ may raise anything
        return False
    return True


def build_error(links: list[Any], names: Names) -> BaseException:
    """The exception that ``describe_error`` described; a ``RemoteError`` in place of a type that is not here."""
    if not links:
        raise CodecError("malformed data: an exception without a type")
    made: list[BaseException] = []
    for link in links:
        if len(expect(link, list)) != 6:
            raise CodecError("malformed data: an exception in parts")
        name, message, args, state, notes, how = link
        error = _build_one(expect(name, str), message, expect(args, list), expect(state, dict), names)
        for note in expect(notes, list):
            error.add_note(expect(note, str))
        if made and how == "cause":
            made[-1].__cause__ = error
        elif made:
            made[-1].__context__ = error
        made.append(error)
    return made[0]


def _build_one(
    name: str, message: Any, args: list[Any], state: dict[str, Any], names: Names
) -> BaseException:
    try:
        cls = names.find(name, "exception")
    except CodecError:
        return RemoteError(name, str(message))
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        raise CodecError(f"{name} is no exception")
    if not issubclass(cls, Exception):
        return RuntimeError(f"the call raised {cls.__name__}: {message}")  # it would stop the loop here
    try:
        # Built-in types keep their arguments in the constructor; the user's own may take others than args.
        error = cls(*args) if cls.__module__ == "builtins" else cls.__new__(cls, *args)
        if cls.__module__ != "builtins":
            error.args = tuple(args)
    except Exception:  # arguments that had to be replaced by their text
        return RemoteError(name, str(message))
    error.__dict__.update(state)
    return error


def expect(value: Any, kind: type) -> Any:
    """The value, if it is of just this type.

    :raises CodecError: it is not
    """
    if type(value) is not kind:
        raise CodecError(f"malformed data: {type(value).__name__} where {kind.__name__} belongs")
    return value
