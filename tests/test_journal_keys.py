"""What an item and a function are to a journal: the same content, the same key, in every run."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import operator
import pathlib
import subprocess
import sys
import uuid
import zoneinfo
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar.errors import JournalError
from asyncpar.journal.canonical import NotCanonicalError, digest, encode
from asyncpar.journal.identity import changes, identify

PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text() | st.binary()
    | st.dates() | st.datetimes() | st.timedeltas() | st.decimals(allow_nan=False) | st.fractions() | st.uuids()
)  # fmt: skip
HASHABLE = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=8,
)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HASHABLE, inner, max_size=4),
    max_leaves=12,
)


def same(a, b):
    """Whether two values are the same content: of the same type all the way down, bit for bit; every NaN is one."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return repr(a) == repr(b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, dict):
        return len(a) == len(b) and all(any(same(x, y) for y in b.items()) for x in a.items())
    if isinstance(a, decimal.Decimal):
        return str(a) == str(b)
    return a == b


@given(VALUES, VALUES)
def test_the_same_content_has_the_same_key_and_no_other_has(a, b):
    assert (encode(a) == encode(b)) == same(a, b)


@given(VALUES)
def test_a_copy_has_the_same_key(value):
    """What counts is the content, not the object, nor the order in which a dict or set was filled."""

    def copy(value):
        if isinstance(value, dict):
            return {copy(key): copy(value[key]) for key in reversed(list(value))}
        if isinstance(value, (list, tuple, set, frozenset)):
            return type(value)(map(copy, list(value)))
        return value

    assert encode(copy(value)) == encode(value)


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_no_content_begins_another(some, others):
    """Concatenated, they are told apart again: so a tuple cannot look like another one."""
    joined, other = b"".join(map(encode, some)), b"".join(map(encode, others))
    assert (joined == other) == same(some, others)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Tint(enum.IntEnum):
    RED = 1


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass(frozen=True)
class Config:
    name: str
    steps: int = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Other:
    name: str
    steps: int = 3


DIFFERENT = [  # naive times are items, too
    None, True, False, 1, 0, 1.0, 0.0, -0.0, float("nan"), float("inf"), 1j, "1", "", b"1", b"", bytearray(b"1"), (1,), [1], {1},
    frozenset({1}), {1: 1}, {}, (), [], ((),), ..., range(3), Colour.RED, Colour.BLUE, Tint.RED, Mode.READ, Mode.READ | Mode.WRITE,
    Point(1, 2), (1, 2), Config("a"), Config("b"), Other("a"), decimal.Decimal(1), decimal.Decimal("1.0"), fractions.Fraction(1),
    pathlib.Path("a"), "a", pathlib.PureWindowsPath("a"), uuid.UUID(int=1), dt.date(2020, 1, 1), dt.datetime.fromisoformat("2020-01-01"),
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    dt.time(1), dt.timedelta(1), dt.datetime.fromisoformat("2020-01-01").replace(fold=1),
    np.float64(1), np.int64(1), np.bool_(True), np.array([1.0]), np.array([1]), np.array([[1]]), np.array([], dtype=np.int8),
    np.array(["1"]), np.array(1), np.datetime64("2020-01-01"),
]  # fmt: skip


def test_what_differs_has_another_key():
    """1, True, 1.0, "1" and b"1" are five items, and so on."""
    assert len({encode(value) for value in DIFFERENT}) == len(DIFFERENT)


def test_the_same_array_has_the_same_key():
    """However it lies in memory."""
    array = np.arange(12.0).reshape(3, 4)
    assert (
        encode(array)
        == encode(np.asfortranarray(array))
        == encode(np.arange(24.0).reshape(3, 8)[:, :4] * 0 + array)
    )
    assert encode(array) != encode(array.T)
    assert encode(array) != encode(array.astype("f4"))
    assert encode(range(0, 5, 2)) == encode(range(0, 6, 2))
    assert encode(pathlib.Path("a")) == encode(pathlib.PurePosixPath("a"))


@dataclasses.dataclass
class Loose:
    x: int


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (object(), r"builtins.object is not among the types known by content"),
        (Loose(1), r"Loose is a dataclass that can change: declare it @dataclass\(frozen=True\)"),
        (Text("a"), "Text is not among"),
        ([{1: [object()]}], "builtins.object"),
        (np.array([object()]), "NumPy array of Python objects"),
        (np.ma.array([1]), "MaskedArray is not among"),
        (len, "builtin_function_or_method"),
    ],
)
def test_what_has_no_content_is_refused(value, message):
    with pytest.raises(NotCanonicalError, match=message):
        encode(value)


def test_what_holds_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(NotCanonicalError, match="holds itself"):
        encode(loop)


def test_keys_are_the_same_in_every_process_and_version():
    """Hashes of strings change from run to run; and a journal outlives an upgrade of Python."""
    program = (
        "from asyncpar.journal.canonical import *\n"
        "print(digest(encode(({'b', 'a', 1.5}, {'x': [None, True], 'w': b'y'}, -7, 'é')), b'salt').hex())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "75fd607b90b7703a5e633728a7e85054"


# Functions


def made(source, name="f", **names):
    """A function from source, as another run would have it."""
    space = {"__name__": "job", **names}
    exec(source, space)
    return space[name]


def version(function, key=None):
    return identify(function, None, key).version


def test_comments_docstrings_annotations_and_place_do_not_count():
    one = made("def f(x, n=2):\n    return [x + i for i in range(n)]")
    two = made(
        "import os\n\n\ndef f(x: int, n: int = 2) -> list[int]:\n    '''Says much.'''\n    # and more\n    return [\n        x + i\n        for i in range(n)\n    ]"
    )
    assert version(one) == version(two)
    assert identify(one, None, None).salt == identify(two, None, None).salt


def test_where_the_lines_break_does_not_count():
    one = made(
        "def f(x, n):\n    while x: y = x; z = y\n    try: return x + n + y\n    finally: y = x; x = y"
    )
    two = made(
        "def f(x, n):\n    while x:\n        y = x\n        z = y\n"
        "    try:\n        pass\n        return (\n            x\n            + n\n            + y\n        )\n"
        "    finally:\n        y = x\n        x = y"
    )
    assert version(one) == version(two)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(x, n=2):\n    return [x - i for i in range(n)]", "its code changed since"),
        ("def f(x, n=2):\n    return [x + i + 1 for i in range(n)]", "its code changed since"),
        ("def f(x, n=2):\n    return [x + abs(i) for i in range(n)]", "its code changed since"),
        ("def f(x, n=2):\n    return list(x + i for i in range(n))", "its code changed since"),
        ("def f(x, m=2):\n    return [x + i for i in range(m)]", "its code changed since"),
        ("async def f(x, n=2):\n    return [x + i for i in range(n)]", "its code changed since"),
        (
            "def f(x, n=3):\n    return [x + i for i in range(n)]",
            "the defaults of its parameters changed since",
        ),
        (
            "def f(x, n=True):\n    return [x + i for i in range(n)]",
            "the defaults of its parameters changed since",
        ),
    ],
)
def test_what_a_function_does_counts(source, words):
    old = made("def f(x, n=2):\n    return [x + i for i in range(n)]")
    assert changes(version(old), version(made(source))) == words
    assert identify(old, None, None).salt == identify(made(source), None, None).salt


def test_another_python_is_told_from_other_code():
    old = {**version(made("def f(x): return x")), "python": "3.9"}
    assert "of Python 3.9, whose code cannot be compared" in changes(old, version(made("def f(x): return x")))


def test_a_version_stands_for_the_code():
    one, two = made("def f(x): return x"), made("def f(x): return -x")
    assert identify(one, "2", None) == identify(two, "2", None)
    assert (
        changes({"version": "1"}, {"version": "2"})
        == "they are of version '1', and this map asks for version '2'"
    )
    assert "the version that its code makes" in changes({"version": "1"}, version(one))


def test_what_is_bound_is_another_function():
    """The arguments of a partial, the object of a method, the variables of a closure."""
    f = made("def f(a, x=1, *, n=0): return a + x + n")
    scale = made("def scale(k):\n    def inner(x): return k * x\n    return inner", "scale")

    def salts(*functions):
        return len({identify(function, None, None).salt for function in functions})

    assert salts(f, functools.partial(f, 1), functools.partial(f, 1.0), functools.partial(f, n=1)) == 4
    assert salts(functools.partial(f, n=1, x=2), functools.partial(f, x=2, n=1)) == 1
    assert salts(scale(1), scale(2)) == 2
    assert salts(scale(1), scale(1)) == 1
    assert salts(Point(1, 2).__add__, Point(1, 3).__add__) == 2
    assert salts(Config("a").__eq__, Config("b").__eq__) == 2
    assert identify(functools.partial(f, 1, n=2), None, None).label == "job.f(1, n=2)"


def test_decorated_functions():
    """Of a wrapper and what it wraps both count; caches are looked through."""
    decorate = made(
        "import functools\ndef decorate(f):\n    @functools.wraps(f)\n    def inner(x): return f(x)\n    return inner",
        "decorate",
    )
    f, g = made("def f(x): return x"), made("def f(x): return -x")
    assert version(decorate(f)) == version(decorate(made("def f(x): return x")))
    assert version(decorate(f)) != version(decorate(g))
    assert version(decorate(f)) != version(f)
    assert version(functools.cache(f)) == version(f)
    assert identify(decorate(f), None, None).name == "job.f"


def test_callables_of_every_kind():
    for call, name in [
        (len, "builtins.len"), (int, "builtins.int"), (operator.itemgetter(1), "operator.itemgetter"),
        (np.sin, "numpy.sin"), (Point, f"{__name__}.Point"), ("a".join, "builtins.str.join"), (str.upper, "builtins.str.upper"),
    ]:  # fmt: skip
        assert identify(call, None, None).name == name
    one, other = operator.itemgetter(1), operator.itemgetter(2)
    assert identify(one, None, None).salt != identify(other, None, None).salt
    recursive = made("def outer():\n    def f(x): return f(x - 1) if x else 0\n    return f", "outer")()
    assert identify(recursive, None, None).name == "job.outer.<locals>.f"


def test_key_functions_are_part_of_the_version():
    f = made("def f(x): return x")
    by = [
        identify(f, None, key)
        for key in (None, made("def f(x): return x.a"), made("def f(x): return x.b"), operator.itemgetter(0))
    ]
    assert len({one.version["key"] for one in by}) == 4
    assert by[0].salt != by[1].salt == by[2].salt
    assert changes(by[1].version, by[2].version) == "the key= of the map changed since"


class Thing:
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (
            functools.partial(made("def f(a, x): return x"), object()),
            "argument 1 of job.f is not known by content",
        ),
        (made("def f(x, a=o): return x", o=object()), "the default of a of job.f is not known"),
        (Thing().call, "the object of the method of .*Thing.call is not known"),
        (
            made("def f():\n    a = o\n    def g(x): return a\n    return g", o=object())(),
            "the variable a of the closure of",
        ),
    ],
)
def test_what_cannot_be_compared_needs_a_version(function, what):
    with pytest.raises(
        JournalError, match=rf"{what}.*name a version .* journal=asyncpar.Journal\(path, version=...\)"
    ):
        identify(function, None, None)
    assert identify(function, "1", None).version == {"version": "1"}


def test_a_digest_depends_on_the_salt():
    assert digest(b"a", b"1") != digest(b"a", b"2")
