"""A list of which some values cannot be loaded: whatever else pickle can carry is there all the same."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import operator
import pickle
from typing import Any, NamedTuple, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar.process.apart import PartlyReadError, load_values


class Bad:
    """Cannot be loaded."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class BadState:
    """Is made, and then refuses its state."""

    def __getstate__(self) -> int:
        return 1

    def __setstate__(self, state: int) -> None:
        raise LookupError("no such state")


@dataclasses.dataclass
class Point:
    x: Any
    y: Any


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a: Any, b: Any) -> None:
        self.a, self.b = a, b

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slotted) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None  # type: ignore[assignment]


class Named(collections.UserDict[str, Any]):
    pass


class Several(list[Any]):
    """A list that is made with a keyword."""

    def __new__(cls, *items: Any, name: str = "") -> Self:
        return super().__new__(cls)

    def __init__(self, *items: Any, name: str = "") -> None:
        super().__init__(items)
        self.name = name

    def __getnewargs_ex__(self) -> Any:
        return (), {"name": self.name}


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    left: Any
    right: Any


VALUES: list[Any] = [
    1, "text", None, [1, {2: (3, "x")}], {4, 5}, frozenset({6}), 1 << 100, b"bytes", bytearray(b"more"),
    Point(1, [2]), Slotted(1, Point(2, 3)), Named(a=1), Several(1, 2, name="n"), Colour.RED, Pair(1, 2), len, Point,
    dt.datetime(2020, 1, 2, tzinfo=dt.UTC), decimal.Decimal("1.5"), fractions.Fraction(1, 3),
    collections.OrderedDict(a=Point(1, 2)), collections.defaultdict(list, {1: [2]}), collections.deque([1, 2], 3),
    operator.itemgetter(1), range(3), slice(1, 2), 1j, {Pair(1, 2): Colour.RED}, {Point: Pair(1, 2)}, ValueError("v"),
    np.float32(1.5), np.dtype("f4"), pickle.PickleBuffer,
]  # fmt: skip


def same(one: Any, other: Any) -> bool:
    if isinstance(one, (ValueError, operator.itemgetter)):
        return type(one) is type(other) and repr(one) == repr(other)
    return type(one) is type(other) and one == other


def apart(values: Any, *, buffers: Any = None) -> PartlyReadError:
    out: list[pickle.PickleBuffer] = []
    data = pickle.dumps(values, 5, buffer_callback=out.append)
    with pytest.raises(PartlyReadError) as caught:
        load_values(data, buffers=[buffer.raw() for buffer in out])
    return caught.value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_others_are_what_they_were(value):
    found = apart([value, Bad(), value, BadState()])
    assert same(found.values[0], value)
    assert same(found.values[2], value)
    assert {index: type(error) for index, error in found.errors.items()} == {1: ValueError, 3: LookupError}


@given(st.lists(st.sampled_from([*VALUES, Bad()]), max_size=8))
def test_any_of_them_may_be_bad(values):
    found = apart([*values, [Bad()]])
    assert set(found.errors) == {i for i, value in enumerate(values) if isinstance(value, Bad)} | {
        len(values)
    }
    assert all(same(found.values[i], value) for i, value in enumerate(values) if not isinstance(value, Bad))


def test_arrays_and_their_buffers():
    arrays = [np.arange(n, dtype="f8").reshape(2, -1) for n in (2, 4, 6)]
    found = apart([arrays[0], Bad(), functools.partial(max, arrays[1]), [arrays[2], arrays[2]]])
    assert np.array_equal(found.values[0], arrays[0])
    assert np.array_equal(found.values[2].args[0], arrays[1])
    assert found.values[3][0] is found.values[3][1]


def test_what_comes_beside_the_list():
    found = apart(([1, Bad()], {0: b"error"}))
    assert (found.values, found.rest) == ([1, None], {0: b"error"})


def test_what_can_be_loaded_is():
    assert load_values(pickle.dumps([Point(1, 2)], 5)) == [Point(1, 2)]


def test_what_is_no_pickle_is_no_partly_read_list():
    with pytest.raises(pickle.UnpicklingError):
        load_values(b"\x80\x05nonsense.")
