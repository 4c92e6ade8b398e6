"""Plain data as bytes and back: msgpack, with extension types for what Python's users pass.

None, bool, int of any size, float, str, bytes, list, dict, tuple, set, frozenset, complex, range, ``Counter``,
``OrderedDict``, dates and times, ``Decimal``, ``UUID``, enumerations, data classes, named tuples, exceptions, NumPy
arrays and scalars; functions by their name. All arrive as what they were, but bytearray and memoryview as bytes.

To decode runs no code that the bytes choose: a class is found under the rules of ``naming``, made without its
constructor, and gets only the fields that it declares. Nothing is unpickled unless the caller hands over a function
that does so.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import msgpack

from asyncpar.errors import describe
from asyncpar_lambda.errors import CodecError
from asyncpar_lambda.exceptions import build_error, describe_error, expect
from asyncpar_lambda.naming import Imported, Names

MAX_BYTES = 256 << 20
"""The largest message that is decoded; a larger one is refused unread."""
DEEPEST = 100
"""How deep tuples, sets, objects and the like may be nested within each other."""

TUPLE, SET, FROZENSET, BIGINT, COMPLEX, RANGE, COUNTER, ORDERED = range(1, 9)
DATETIME, DATE, TIME, TIMEDELTA, DECIMAL, UUID = range(9, 15)
ENUM, DATACLASS, NAMEDTUPLE, EXCEPTION, ARRAY, SCALAR = range(15, 21)
FUNCTION, CONSTANT, PICKLED = range(21, 24)

NUMERIC_KINDS = "biufcSUMm"
"""The NumPy types that are plain memory: no objects, no records."""


def dumps(
    value: Any,
    names: Names | None = None,
    *,
    share: Callable[[Any], str] | None = None,
    pickle: Callable[[Any], bytes] | None = None,
) -> bytes:
    """The value as bytes.

    :param names: how functions and classes are named; by default as modules are named here
    :param share: takes a ``Shared`` and returns the id under which the other side finds it
    :param pickle: takes what is no plain data (``functions="by_value"``); without it that is an error
    :raises CodecError: something in it is no plain data; the message names it
    """
    return Encoder(names or Imported(), share, pickle).pack(value)


def loads(
    data: bytes,
    names: Names | None = None,
    *,
    constant: Callable[[str], Any] | None = None,
    unpickle: Callable[[bytes], Any] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """The value that ``dumps`` made bytes of.

    :param constant: finds a shared constant by its id
    :param unpickle: for senders that are trusted to run any code; without it pickled data are refused
    :raises CodecError: too large, malformed, or something that may not be built here
    """
    if len(data) > max_bytes:
        raise CodecError(
            f"a message of {len(data):,} bytes was not decoded: at most {max_bytes:,} are allowed"
        )
    return Decoder(names or Imported(), constant, unpickle).unpack(data)


class Encoder:
    """Packs values; what msgpack does not know passes through ``extend``."""

    def __init__(
        self, names: Names, share: Callable[[Any], str] | None, pickle: Callable[[Any], bytes] | None
    ) -> None:
        self.names, self.share, self.pickle = names, share, pickle
        self.depth = 0

    def pack(self, value: Any) -> bytes:
        """One value."""
        try:
            data: Any = msgpack.packb(
                value, default=self.extend, strict_types=True, unicode_errors="surrogatepass"
            )
        except CodecError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise CodecError(f"{describe(value)} cannot be sent as plain data: {error}") from error
        return bytes(data)

    def extend(self, value: Any) -> msgpack.ExtType:
        """What msgpack has no type for."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise CodecError(f"{describe(value)} is nested more than {DEEPEST} deep, or contains itself")
        try:
            made = self._plain(value)
            if made is None:
                made = self._object(value)
        except CodecError:
            if self.pickle is None:
                raise
            made = None
        finally:
            self.depth -= 1
        if made is None:
            made = PICKLED, self._pickled(value)
        return msgpack.ExtType(*made)

    def _plain(self, value: Any) -> tuple[int, bytes] | None:
        kind = type(value)
        if kind is tuple:
            return TUPLE, self.pack(list(value))
        if kind is int:
            return BIGINT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)
        if kind is set or kind is frozenset:
            return (SET if kind is set else FROZENSET), self.pack(list(value))
        if kind is complex:
            return COMPLEX, self.pack([value.real, value.imag])
        if kind is range:
            return RANGE, self.pack([value.start, value.stop, value.step])
        pack = _BY_TYPE.get((kind.__module__, kind.__qualname__))
        return None if pack is None else pack(self, value)

    def _object(self, value: Any) -> tuple[int, bytes] | None:
        """Instances of the user's classes, functions, arrays."""
        kind = type(value)
        if kind.__module__ == "numpy":
            return self._numpy(value)
        if isinstance(value, BaseException):
            return EXCEPTION, self.pack(describe_error(value, self.pack))
        if dataclasses.is_dataclass(kind):
            fields = {
                f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)
            }
            return DATACLASS, self.pack([self.names.name(kind), fields])
        if _is_enum(kind):
            named = value.name in kind.__members__
            return ENUM, self.pack([self.names.name(kind), value.name if named else value.value])
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            return NAMEDTUPLE, self.pack([self.names.name(kind), list(value)])
        if kind.__module__ == "asyncpar.sharing" and self.share is not None:
            return CONSTANT, self.share(value).encode()
        if callable(value) and hasattr(value, "__qualname__"):
            return FUNCTION, self.names.name(value).encode()
        return None

    def _numpy(self, value: Any) -> tuple[int, bytes] | None:
        numpy = sys.modules["numpy"]
        if type(value) is numpy.ndarray:
            if value.dtype.kind not in NUMERIC_KINDS:
                return None
            order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
            return ARRAY, self.pack([value.dtype.str, list(value.shape), order, value.tobytes(order)])
        if isinstance(value, numpy.generic) and value.dtype.kind in NUMERIC_KINDS:
            return SCALAR, self.pack([value.dtype.str, value.tobytes()])
        if callable(value) and hasattr(value, "__qualname__"):
            return FUNCTION, self.names.name(value).encode()
        return None

    def _pickled(self, value: Any) -> bytes:
        if self.pickle is None:
            raise CodecError(
                f"{describe(value)} ({type(value).__qualname__}) is no plain data: pass numbers, text, bytes, lists, "
                "dicts, dates, data classes or NumPy arrays, or open the pool with functions='by_value'"
            )
        try:
            return self.pickle(value)
        except Exception as error:
            raise CodecError(
                f"{describe(value)} cannot be pickled: {type(error).__name__}: {error}"
            ) from error


def _datetime(encoder: Encoder, value: Any) -> tuple[int, bytes]:
    """The zone by its name where it has one, else as an offset."""
    zone = getattr(value.tzinfo, "key", None)
    text = value.replace(tzinfo=None).isoformat() if zone else value.isoformat()
    return (DATETIME if hasattr(value, "year") else TIME), encoder.pack([text, value.fold, zone])


def _text(code: int) -> Callable[[Encoder, Any], tuple[int, bytes]]:
    return lambda encoder, value: (code, str(value).encode())


_BY_TYPE: dict[tuple[str, str], Callable[[Encoder, Any], tuple[int, bytes]]] = {
    ("datetime", "datetime"): _datetime,
    ("datetime", "time"): _datetime,
    ("datetime", "date"): _text(DATE),
    ("datetime", "timedelta"): lambda e, v: (TIMEDELTA, e.pack([v.days, v.seconds, v.microseconds])),
    ("decimal", "Decimal"): _text(DECIMAL),
    ("uuid", "UUID"): lambda _, v: (UUID, v.bytes),
    ("collections", "Counter"): lambda e, v: (COUNTER, e.pack(dict(v))),
    ("collections", "OrderedDict"): lambda e, v: (ORDERED, e.pack(dict(v))),
}


class Decoder:
    """Unpacks values; extension types pass through ``extend``."""

    def __init__(
        self,
        names: Names,
        constant: Callable[[str], Any] | None,
        unpickle: Callable[[bytes], Any] | None,
    ) -> None:
        self.names, self.constant, self.unpickle = names, constant, unpickle
        self.depth = 0

    def unpack(self, data: bytes) -> Any:
        """One value."""
        try:
            return msgpack.unpackb(
                data, ext_hook=self.extend, strict_map_key=False, unicode_errors="surrogatepass"
            )
        except CodecError:
            raise
        except (ValueError, TypeError, OverflowError, RecursionError, ArithmeticError, LookupError) as error:
            raise CodecError(f"malformed data: {type(error).__name__}: {error}") from error
        except msgpack.UnpackException as error:
            raise CodecError(f"malformed data: {type(error).__name__} {error}") from error

    def extend(self, code: int, data: bytes) -> Any:
        """The value of one extension type."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise CodecError(f"the data are nested more than {DEEPEST} deep")
        try:
            return self._extended(code, data)
        finally:
            self.depth -= 1

    def _extended(self, code: int, data: bytes) -> Any:
        if code in _SEQUENCES:
            return _SEQUENCES[code](self._list(data))
        if code in _BY_CODE:
            return _BY_CODE[code](self, data)
        if code in (DATETIME, TIME):
            return self._moment(code, data)
        if code in (ARRAY, SCALAR):
            return self._numpy(code, data)
        if code == CONSTANT and self.constant is not None:
            return self.constant(data.decode())
        return self._instance(code, data)

    def _instance(self, code: int, data: bytes) -> Any:
        if code not in (DATACLASS, NAMEDTUPLE, ENUM):
            raise CodecError(f"extension type {code} is not known: client and worker differ in version")
        name, content = self._list(data, 2)
        expect(name, str)
        if code == DATACLASS:
            return _build_dataclass(self.names.find(name, "dataclass"), name, content)
        if code == ENUM:
            cls = self.names.find(name, "enum")
            if not isinstance(cls, type) or not _is_enum(cls):
                raise CodecError(f"{name} is no enumeration")
            if type(content) is str:
                return cls[content]  # type: ignore[index]
            return _combined(cls, name, content)
        cls = self.names.find(name, "namedtuple")
        fields = getattr(cls, "_fields", None)
        if not (isinstance(cls, type) and issubclass(cls, tuple) and isinstance(fields, tuple)):
            raise CodecError(f"{name} is no named tuple")
        if len(expect(content, list)) != len(fields):
            raise CodecError(f"{name} has {len(fields)} fields here and {len(content)} there: deploy again")
        return tuple.__new__(cls, content)

    def _function(self, name: str) -> Any:
        function = self.names.find(name, "function")
        if not callable(function):
            raise CodecError(f"{name} is not callable")
        return function

    def _pickled(self, data: bytes) -> Any:
        if self.unpickle is None:
            raise CodecError(
                "pickled data were refused: deploy with functions='by_value' if whoever holds the key may run any code"
            )
        try:
            return self.unpickle(data)
        except Exception as error:
            raise CodecError(
                f"an argument cannot be unpickled in the worker: {type(error).__name__}: {error}"
            ) from error

    def _moment(self, code: int, data: bytes) -> Any:
        import datetime as dt

        text, fold, zone = self._list(data, 3)
        kind = dt.datetime if code == DATETIME else dt.time
        value = kind.fromisoformat(text).replace(fold=fold)
        if zone is not None:
            import zoneinfo

            value = value.replace(tzinfo=zoneinfo.ZoneInfo(zone))
        return value

    def _numpy(self, code: int, data: bytes) -> Any:
        try:
            import numpy as np
        except ImportError:
            raise CodecError(
                "a NumPy array arrived where NumPy is not installed: add numpy to the requirements and deploy again"
            ) from None
        kind, *rest, content = self._list(data, 4 if code == ARRAY else 2)
        dtype = np.dtype(expect(kind, str))
        if dtype.kind not in NUMERIC_KINDS or dtype.hasobject:
            raise CodecError(f"an array of {dtype} is not decoded")
        if code == SCALAR:
            return np.frombuffer(expect(content, bytes), dtype, 1)[0] if dtype.itemsize else dtype.type()
        shape, order = rest
        count = 1
        for size in expect(shape, list):
            if expect(size, int) < 0:
                raise CodecError("an array's shape is negative")
            count *= size
        if len(expect(content, bytes)) != count * dtype.itemsize:
            raise CodecError("an array's shape does not fit its content")
        if not content:
            return np.zeros(shape, dtype, order=order)
        return np.frombuffer(bytearray(content), dtype).reshape(shape, order=order)

    def _list(self, data: bytes, length: int | None = None) -> list[Any]:
        value = expect(self.unpack(data), list)
        if length is not None and len(value) != length:
            raise CodecError(f"malformed data: {len(value)} parts where {length} belong")
        return value  # type: ignore[no-any-return]

    def _dict(self, data: bytes) -> dict[Any, Any]:
        return expect(self.unpack(data), dict)  # type: ignore[no-any-return]


_SEQUENCES: dict[int, Callable[[list[Any]], Any]] = {TUPLE: tuple, SET: set, FROZENSET: frozenset}


def _counter(decoder: Decoder, data: bytes) -> Any:
    import collections

    return collections.Counter(decoder._dict(data))


def _ordered(decoder: Decoder, data: bytes) -> Any:
    import collections

    return collections.OrderedDict(decoder._dict(data))


def _date(_: Decoder, data: bytes) -> Any:
    import datetime as dt

    return dt.date.fromisoformat(data.decode())


def _timedelta(decoder: Decoder, data: bytes) -> Any:
    import datetime as dt

    return dt.timedelta(*decoder._list(data, 3))


def _decimal(_: Decoder, data: bytes) -> Any:
    import decimal

    return decimal.Decimal(data.decode())


def _uuid(_: Decoder, data: bytes) -> Any:
    import uuid

    return uuid.UUID(bytes=data)


_BY_CODE: dict[int, Callable[[Decoder, bytes], Any]] = {
    BIGINT: lambda _, data: int.from_bytes(data, "big", signed=True),
    COMPLEX: lambda decoder, data: complex(*decoder._list(data, 2)),
    RANGE: lambda decoder, data: range(*decoder._list(data, 3)),
    COUNTER: _counter,
    ORDERED: _ordered,
    DATE: _date,
    TIMEDELTA: _timedelta,
    DECIMAL: _decimal,
    UUID: _uuid,
    FUNCTION: lambda decoder, data: decoder._function(data.decode()),
    PICKLED: lambda decoder, data: decoder._pickled(data),
    EXCEPTION: lambda decoder, data: build_error(decoder._list(data), decoder.names),
}


def _is_enum(kind: type) -> bool:
    enum = sys.modules.get("enum")
    return enum is not None and issubclass(kind, enum.Enum)


def _combined(cls: Any, name: str, content: Any) -> Any:
    """Flags that are set together, or none: they have a value and no name of their own."""
    import enum

    if not issubclass(cls, enum.Flag):
        raise CodecError(f"{name} has no member {content!r}")
    return cls(expect(content, int))


def _build_dataclass(cls: Any, name: str, content: Any) -> Any:
    """An instance with these fields, made without its constructor, as unpickling would."""
    if not isinstance(cls, type) or not dataclasses.is_dataclass(cls):
        raise CodecError(f"{name} is no data class")
    declared = {field.name for field in dataclasses.fields(cls)}
    unknown = set(expect(content, dict)) - declared
    if unknown:
        raise CodecError(f"{name} has no field {min(map(repr, unknown))} here: client and worker differ")
    made = object.__new__(cls)
    for field, value in content.items():
        object.__setattr__(made, field, value)
    return made
