"""Items by their content: bytes that are the same for the same content, in every run. No I/O.

Unlike a pickle, the encoding depends neither on the order of a set or a dict, nor on which objects are identical. It
says the type of everything, so that 1, True, 1.0 and "1" differ, and is never the beginning of another one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import singledispatch
from hashlib import blake2b
from struct import pack
from types import EllipsisType, NoneType
from typing import Any

DIGEST_BYTES = 16
"""128 bits: that two of 10**12 items meet has a chance of 1 in 10**14."""
SUPPORTED = (
    "None, bool, int, float, complex, str, bytes, tuple, list, dict, set, range, datetime, Decimal, Fraction, UUID, "
    "paths, enums, named tuples, frozen dataclasses and NumPy arrays"
)


class NotCanonicalError(TypeError):
    """A value whose content is not defined here; the message names its type."""


def encode(value: Any) -> bytes:
    """The content of a value.

    :raises NotCanonicalError: it is, or holds, something of a type that is not listed in ``SUPPORTED``
    """
    try:
        return _encode(value)
    except RecursionError:
        raise NotCanonicalError("it holds itself, or is nested too deeply") from None


def digest(content: bytes, salt: bytes = b"") -> bytes:
    """16 bytes that stand for so much content, of the things that this salt (16 bytes at most) stands for."""
    return blake2b(content, digest_size=DIGEST_BYTES, salt=salt).digest()


def _encode(value: Any) -> bytes:
    exact = _EXACT.get(type(value))
    return exact(value) if exact is not None else _encode_kind(value)


def _sized(tag: bytes, body: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(body), body)


def _many(tag: bytes, parts: Iterable[bytes]) -> bytes:
    return _sized(tag, b"".join(parts))


def _text(text: str) -> bytes:
    return _sized(b"s", text.encode("utf-8", "surrogatepass"))


def _float(number: float) -> bytes:
    return b"f" + (pack(">d", number) if number == number else b"nan.....")  # noqa: PLR0124 - every NaN is one


def _pairs(mapping: dict[Any, Any]) -> bytes:
    return _many(b"{", sorted(_encode(key) + _encode(value) for key, value in mapping.items()))


def _set(tag: bytes) -> Callable[[Any], bytes]:
    return lambda value: _many(tag, sorted(map(_encode, value)))


def _range(value: range) -> bytes:
    steps = (len(value), *value[:1], *(value[1:2] and (value.step,)))
    return _many(b"r", map(_encode, steps))


_EXACT: dict[type[Any], Callable[[Any], bytes]] = {
    NoneType: lambda _: b"N",
    EllipsisType: lambda _: b"E",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"i%x;" % value,
    float: _float,
    complex: lambda value: b"c" + _float(value.real) + _float(value.imag),
    str: _text,
    bytes: lambda value: _sized(b"b", value),
    bytearray: lambda value: _sized(b"B", value),
    tuple: lambda value: _many(b"(", map(_encode, value)),
    list: lambda value: _many(b"[", map(_encode, value)),
    dict: _pairs,
    set: _set(b"<"),
    frozenset: _set(b">"),
    range: _range,
}


def _named(tag: bytes, kind: type[Any], *parts: Any) -> bytes:
    """What belongs to a class, by the class's name."""
    return _many(tag, (_text(f"{kind.__module__}.{kind.__qualname__}"), *map(_encode, parts)))


def _encode_kind(value: Any) -> bytes:
    kind = type(value)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return _named(b"n", kind, tuple(value))
    parameters: Any = getattr(kind, "__dataclass_params__", None)
    if parameters is not None:
        if not parameters.frozen:
            raise NotCanonicalError(
                f"{kind.__qualname__} is a dataclass that can change: declare it @dataclass(frozen=True)"
            )
        fields = {name: getattr(value, name) for name in kind.__dataclass_fields__}
        return _named(b"d", kind, fields)
    if kind.__module__ == "numpy" or kind.__module__.startswith("numpy."):
        return _numpy(value)
    _register_library()
    return _library(value)


def _numpy(value: Any) -> bytes:
    numpy: Any = sys.modules["numpy"]
    if not isinstance(value, (numpy.ndarray, numpy.generic)) or isinstance(value, numpy.ma.MaskedArray):
        raise _unknown(value)
    if value.dtype.hasobject:
        raise NotCanonicalError("it is a NumPy array of Python objects")
    data = numpy.ascontiguousarray(value).reshape(-1).view(numpy.uint8) if value.size else b""
    content = blake2b(data, digest_size=32).digest()  # the array itself may be large
    tag = b"a" if isinstance(value, numpy.ndarray) else b"g"
    described = repr(value.dtype.descr)
    return _many(tag, (_text(described), _encode(tuple(map(int, value.shape))), content))


def _unknown(value: Any) -> NotCanonicalError:
    kind = type(value)
    return NotCanonicalError(f"{kind.__module__}.{kind.__qualname__} is not among the types known by content")


@singledispatch
def _library(value: Any) -> bytes:
    raise _unknown(value)


def _register_library() -> None:
    """Types of the library that few items have: their modules are imported here, once."""
    if len(_library.registry) > 1:
        return
    from datetime import date, datetime, time, timedelta, timezone
    from decimal import Decimal
    from enum import Enum, Flag
    from fractions import Fraction
    from pathlib import PurePath, PureWindowsPath
    from uuid import UUID
    from zoneinfo import ZoneInfo

    def exactly(tag: bytes, kind: type[Any], parts: Callable[[Any], tuple[Any, ...]]) -> None:
        def write(value: Any) -> bytes:
            if type(value) is not kind:  # what a subclass adds is not known
                raise _unknown(value)
            return _named(tag, kind, *parts(value))

        _library.register(kind, write)

    def path(value: PurePath) -> bytes:
        return _many(b"p", (_encode(isinstance(value, PureWindowsPath)), _text(str(value))))

    def member(value: Enum) -> bytes:
        return _named(b"e", type(value), value.value if isinstance(value, Flag) else value.name)

    exactly(b"t", timedelta, lambda v: (v.days, v.seconds, v.microseconds))
    exactly(b"t", timezone, lambda v: (v.utcoffset(None), v.tzname(None)))
    exactly(b"t", ZoneInfo, lambda v: (v.key,))
    exactly(b"t", date, lambda v: (v.isoformat(),))
    exactly(b"t", time, lambda v: (v.replace(tzinfo=None).isoformat(), v.fold, v.tzinfo))
    exactly(b"t", datetime, lambda v: (v.replace(tzinfo=None).isoformat(), v.fold, v.tzinfo))
    exactly(b"t", Decimal, lambda v: (str(v),))
    exactly(b"t", Fraction, lambda v: (v.numerator, v.denominator))
    exactly(b"t", UUID, lambda v: (v.bytes,))
    _library.register(PurePath, path)
    _library.register(Enum, member)
