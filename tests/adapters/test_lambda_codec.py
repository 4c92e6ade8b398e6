"""Plain data arrive as they were; nothing else is built, and nothing is run, whatever the bytes say."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import functools
import os
import pickle
import traceback
import uuid
import zoneinfo
from typing import NamedTuple

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncpar
from asyncpar_lambda import codec, exceptions, naming
from asyncpar_lambda.errors import CodecError, RefusedError, RemoteError


@dataclasses.dataclass
class Point:
    x: float
    y: float = 0.0
    seen: list[int] = dataclasses.field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        built.append(self)


built: list[object] = []


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    name: str
    inner: tuple[int, ...] = ()


class Pair(NamedTuple):
    left: int
    right: object


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Level(enum.IntEnum):
    LOW = 1


class Right(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 8
    BOTH = READ | WRITE  # a name of its own, for two that are set


class Mask(enum.IntFlag):
    """Keeps bits that no member is for."""

    LOW = 1
    HIGH = 1 << 70


class OwnError(Exception):
    """Its constructor does not take its args."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code, self.reason = code, reason


def helper(x: int) -> int:
    return x + 1


def again(value, **options):
    return codec.loads(codec.dumps(value), **options)


# What arrives

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())  # lone surrogates too: file names may hold them
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(dt.UTC) | st.timezones())
    | st.timedeltas()
    | st.builds(range, st.integers(), st.integers(), st.integers(min_value=1))
    | st.sampled_from(Colour)
    | st.sampled_from(Level)
    | st.integers(0, 15).map(lambda bits: Right(bits & 11))
    | st.integers(0, 1 << 80).map(Mask)
)
hashable = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4).map(collections.OrderedDict)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | st.dictionaries(st.text(), st.integers()).map(collections.Counter)
        | st.builds(Pair, st.integers(), inner)
        | st.builds(Frozen, st.text(), st.lists(st.integers()).map(tuple))
    ),
    max_leaves=20,
)


@given(values)
def test_plain_data_arrive_as_they_were(value):
    got = again(value)
    assert got == value
    assert _types(got) == _types(value)


def _types(value):
    """The types, all the way down."""
    if isinstance(value, dict):
        inner = [(_types(k), _types(v)) for k, v in value.items()]
    elif isinstance(value, (list, tuple)):
        inner = [_types(v) for v in value]
    elif isinstance(value, (set, frozenset)):
        inner = sorted(repr(_types(v)) for v in value)
    else:
        inner = []
    return (type(value).__name__, inner)


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        -0.0,
        2**63 - 1,
        2**64 - 1,
        2**64,
        -(2**63),
        -(2**63) - 1,
        10**400,
        "",
        b"",
        [],
        (),
        {},
        set(),
    ],
)
def test_the_edges_of_types(value):
    got = again(value)
    assert got == value
    assert type(got) is type(value)


def test_nan_is_nan():
    assert again(float("nan")) != again(float("nan"))


def test_bytes_like_objects_arrive_as_bytes():
    assert again(bytearray(b"ab")) == b"ab"
    assert again(memoryview(b"ab")) == b"ab"


def test_a_moment_keeps_its_zone_by_name():
    zone = zoneinfo.ZoneInfo("Europe/Berlin")
    twice = dt.datetime(2026, 10, 25, 2, 30, tzinfo=zone, fold=1)
    got = again(twice)
    assert (got, got.fold, got.tzinfo) == (twice, 1, zone)


arrays = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(10)[::2],
    np.array(7, "u1"),
    np.zeros((0, 3)),
    np.array(["a", "bcd"]),
    np.array([b"x", b"yz"]),
    np.array(["2026-01-01", "NaT"], "M8[D]"),
    np.array([1 + 2j], "c8"),
    np.array([True, False]),
    np.array([1, 2], ">i4"),
]


@pytest.mark.parametrize("array", arrays, ids=lambda a: f"{a.dtype}{a.shape}")
def test_numpy_arrays(array):
    got = again({"a": array})["a"]
    np.testing.assert_array_equal(got, array)
    assert (got.dtype, got.shape, got.flags.writeable) == (array.dtype, array.shape, True)
    if array.ndim == 2 and array.size:
        assert got.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize(
    "scalar",
    [
        np.float64(1.5),
        np.int32(-1),
        np.bool_(True),
        np.str_("x"),
        np.datetime64("2026-01-01"),
        np.complex64(1j),
    ],
)
def test_numpy_scalars_keep_their_type(scalar):
    got = again(scalar)
    assert got == scalar
    assert type(got) is type(scalar)


def test_a_data_class_is_made_without_its_constructor():
    point = Point(1.0, 2.0)
    point.seen.append(3)
    built.clear()
    got = again(point)
    assert got == point
    assert built == []


def test_functions_travel_by_name():
    assert again([helper, len, str.split, functools.reduce]) == [helper, len, str.split, functools.reduce]


def test_a_script_has_another_name_on_the_worker(monkeypatch):
    names = naming.Imported(main="words")
    monkeypatch.setattr(helper, "__module__", "__main__")
    assert names.name(helper) == "words:helper"
    import __main__

    monkeypatch.setattr(__main__, "helper", helper, raising=False)
    assert names.find("words:helper", "function") is helper


# Exceptions


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as caught:
        caught.add_note("a note")
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3),
        KeyError("k"),
        FileNotFoundError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("several", [ValueError(1), TypeError(2)]),
    ],
    ids=lambda e: type(e).__name__,
)
def test_builtin_exceptions_arrive_as_themselves(error):
    got = again(raised(error))
    assert type(got) is type(error)
    assert str(got) == str(error)
    assert got.__notes__ == ["a note"]
    if isinstance(error, OSError):
        assert got.filename == "name"
    if isinstance(error, ExceptionGroup):
        assert [repr(e) for e in got.exceptions] == [repr(e) for e in error.exceptions]


def test_an_exception_keeps_attributes_and_causes():
    got = again(raised(OwnError(7, reason="it was missing"), KeyError("key")))
    assert (type(got), got.code, got.reason, str(got)) == (
        OwnError,
        7,
        "it was missing",
        "it was missing (7)",
    )
    assert repr(got.__cause__) == "KeyError('key')"
    assert "it was missing" in "".join(traceback.format_exception(got))


def test_what_an_exception_holds_and_cannot_travel_becomes_text():
    error = ValueError(object(), 2)
    error.handle = open(os.devnull)  # noqa: SIM115
    error.handle.close()
    got = again(error)
    assert got.args[0].startswith("<object object")
    assert got.args[1] == 2
    assert not hasattr(got, "handle")


def test_an_exception_that_is_not_here_says_what_it_was():
    got = exceptions.build_error(
        [["nowhere.at:AllError", "it broke", [], {}, ["note"], ""]], naming.Imported()
    )
    assert isinstance(got, RemoteError)
    assert got.type_name == "nowhere.at:AllError"
    assert str(got) == "nowhere.at:AllError: it broke"
    assert got.__notes__ == ["note"]


@pytest.mark.parametrize(
    "error", [RefusedError("expired", "too late"), RemoteError("m:E", "broke"), CodecError("no")]
)
def test_our_own_errors_travel_between_processes(error):
    error.add_note("a note")
    for got in (again(error), pickle.loads(pickle.dumps(error))):
        assert (type(got), str(got), got.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("error", [KeyboardInterrupt("now"), SystemExit(3)])
def test_what_would_stop_a_loop_arrives_as_a_runtime_error(error):
    got = again(error)
    assert type(got) is RuntimeError
    assert type(error).__name__ in str(got)


# What is refused


class Opaque:
    pass


class Touchy:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Opaque(), "no plain data: pass numbers, text"),
        ([1, {"a": (Touchy(),)}], "Touchy.* is no plain data"),
        (lambda: 1, "a lambda, which a worker cannot find: define it at the top of a module"),
        (np.array([object()]), "no plain data"),
        (collections.defaultdict(list), "no plain data"),
        (iter([]), "no plain data"),
        (open, None),
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_is_no_plain_data_is_named(value, words):
    if words is None:
        codec.dumps(value)
        return
    with pytest.raises(CodecError, match=words):
        codec.dumps(value)
    assert issubclass(CodecError, asyncpar.SerializationError)


def test_what_contains_itself_is_refused():
    for make in (list, tuple):
        inner: list[object] = []
        inner.append(make([inner]))
        with pytest.raises(CodecError):
            codec.dumps(inner)


def test_by_value_only_what_is_no_plain_data_is_pickled():
    data = codec.dumps([1, Opaque()], pickle=pickle.dumps)
    with pytest.raises(CodecError, match="pickled data were refused: deploy with functions='by_value'"):
        codec.loads(data)
    one, opaque = codec.loads(data, unpickle=pickle.loads)
    assert (one, type(opaque)) == (1, Opaque)


def test_a_message_that_is_too_large_is_not_decoded():
    with pytest.raises(CodecError, match=r"a message of 1,0\d\d bytes was not decoded: at most 100"):
        codec.loads(codec.dumps(b"x" * 1000), max_bytes=100)


def ext(code: int, value: object) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, value if isinstance(value, bytes) else codec.dumps(value)))


class Ran(Exception):
    """Some code ran that had to stay still."""


class Trap:
    """A class that is no data class."""

    def __new__(cls, *args):
        raise Ran

    def __setstate__(self, state):
        raise Ran


HERE = __name__

FORGED = {
    "a pickle": ext(codec.PICKLED, pickle.dumps(1)),
    "no data class": ext(codec.DATACLASS, [f"{HERE}:Trap", {}]),
    "a function as data class": ext(codec.DATACLASS, ["os:system", {"x": 1}]),
    "a field that is not declared": ext(codec.DATACLASS, [f"{HERE}:Point", {"__class__": 1}]),
    "fields that are none": ext(codec.DATACLASS, [f"{HERE}:Point", [1, 2]]),
    "a module that is not imported": ext(codec.DATACLASS, ["antigravity:Flight", {}]),
    "through a module": ext(codec.FUNCTION, f"{HERE}:os.system".encode()),
    "inside Python": ext(codec.FUNCTION, b"builtins:object.__subclasses__"),
    "no name": ext(codec.FUNCTION, b"os system"),
    "a name in no text": ext(codec.FUNCTION, b"\xff\xfe"),
    "no enumeration": ext(codec.ENUM, [f"{HERE}:Trap", "RED"]),
    "an unknown member": ext(codec.ENUM, [f"{HERE}:Colour", "GREEN"]),
    "a member by its value": ext(codec.ENUM, [f"{HERE}:Level", 1]),
    "flags that are none": ext(codec.ENUM, [f"{HERE}:Right", 64]),
    "flags that are no number": ext(codec.ENUM, [f"{HERE}:Right", [1]]),
    "no named tuple": ext(codec.NAMEDTUPLE, [f"{HERE}:Trap", [1]]),
    "too few fields": ext(codec.NAMEDTUPLE, [f"{HERE}:Pair", [1]]),
    "no exception": ext(codec.EXCEPTION, [[f"{HERE}:Trap", "", [], {}, [], ""]]),
    "an exception of no parts": ext(codec.EXCEPTION, []),
    "an exception in parts": ext(codec.EXCEPTION, [["builtins:ValueError"]]),
    "an array of objects": ext(codec.ARRAY, ["|O", [1], "C", b"12345678"]),
    "an array of the wrong size": ext(codec.ARRAY, ["<i8", [1 << 40], "C", b"1"]),
    "an array of a negative size": ext(codec.ARRAY, ["<i8", [-1, -1], "C", b"12345678"]),
    "an array of no type": ext(codec.ARRAY, ["nonsense", [1], "C", b"1"]),
    "an array in a strange order": ext(codec.ARRAY, ["|u1", [1], "K!", b"1"]),
    "a scalar of no size": ext(codec.SCALAR, ["<i8", b"1"]),
    "a zone that is a path": ext(codec.DATETIME, ["2026-01-01", 0, "../../etc/passwd"]),
    "no date": ext(codec.DATE, b"tomorrow"),
    "no number": ext(codec.DECIMAL, b"one"),
    "a UUID of three bytes": ext(codec.UUID, b"abc"),
    "an unhashable key": ext(codec.SET, [[1]]),
    "a set of a dict": ext(codec.SET, {1: 2}),
    "an unknown type": ext(99, b""),
    "a constant that nobody shares": ext(codec.CONSTANT, b"c1"),
    "half a message": codec.dumps([1, 2, 3])[:-1],
    "more than a message": codec.dumps([1]) + b"\x00",
    "nothing": b"",
    "an array longer than the message": b"\xdd\xff\xff\xff\xff",
    "nested without end": b"\x91" * 100_000,
    "nested objects without end": functools.reduce(
        lambda data, _: ext(codec.TUPLE, b"\x91" + data), range(200), b"\xc0"
    ),
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_bytes_that_hold_no_value_build_nothing(data):
    with pytest.raises(CodecError):
        codec.loads(data)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(data):
    try:
        codec.loads(data)
    except CodecError:
        pass


@given(values, st.data())
def test_a_damaged_message_decodes_or_is_refused(value, data):
    message = bytearray(codec.dumps(value))
    place = data.draw(st.integers(0, len(message) - 1))
    message[place] = data.draw(st.integers(0, 255))
    try:
        codec.loads(bytes(message))
    except CodecError:
        pass


# The worker's rules


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's, not imported yet, that notes its import."""
    (tmp_path / "lambda_words.py").write_text(
        "import os\n"
        "from os import getcwd\n"
        "import dataclasses\n"
        "open(os.path.join(os.path.dirname(__file__), 'imported'), 'w').close()\n"
        "@dataclasses.dataclass\n"
        "class Word:\n"
        "    text: str\n"
        "    def upper(self): return self.text.upper()\n"
        "def count(x): return x\n"
        "def secret(x): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    import sys

    sys.modules.pop("lambda_words", None)


def test_only_what_is_listed_is_found(module):
    names = naming.Allowed(["lambda_words:count"])
    with pytest.raises(
        RefusedError,
        match="not allowed: lambda_words:secret is not on the allow-list of this deployment, which is lambda_words:count; add it to allow=",
    ):
        names.find("lambda_words:secret", "function")
    with pytest.raises(RefusedError, match="not allowed"):
        names.find("os:system", "function")
    assert not (module / "imported").exists()
    assert names.find("lambda_words:count", "function")(3) == 3
    assert names.find("lambda_words:Word", "dataclass").__name__ == "Word"


def test_a_whole_module_is_what_it_defines_itself(module):
    names = naming.Allowed(["lambda_words:*"])
    assert names.find("lambda_words:secret", "function")(3) == 3
    assert names.find("lambda_words:Word.upper", "function")
    for name in (
        "lambda_words:getcwd",
        "lambda_words:os.system",
        "lambda_words:Word.__init__",
        "lambda_words:count.__globals__",
    ):
        with pytest.raises((RefusedError, CodecError)):
            names.find(name, "function")
    assert (
        naming.Allowed(["lambda_words:*", "lambda_words:getcwd"]).find("lambda_words:getcwd", "function")
        is os.getcwd
    )


def test_classes_come_from_modules_that_are_named(module):
    names = naming.Allowed(["builtins:pow"])
    with pytest.raises(CodecError, match="in no module that this deployment allows; add 'lambda_words:Word'"):
        names.find("lambda_words:Word", "dataclass")
    assert names.find("builtins:ValueError", "exception") is ValueError
    assert not (module / "imported").exists()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the user's with a module in it, one beside it whose name begins the same, and a program."""
    files = {
        "lambda_shop/__init__.py": "from lambda_shop.till.cash import total\nfrom lambda_shopping import buy\n",
        "lambda_shop/till/__init__.py": "",
        "lambda_shop/till/cash.py": (
            "from os import getcwd\nimport dataclasses\ndef total(x): return x\n"
            "@dataclasses.dataclass\nclass Coin:\n    worth: int\n"
        ),
        "lambda_shop/till/__main__.py": "raise SystemExit('it ran')\ndef main(): pass\n",
        "lambda_shopping.py": "def buy(x): return x\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield "lambda_shop"
    import sys

    for name in [name for name in sys.modules if name.startswith("lambda_shop")]:
        del sys.modules[name]


def test_a_whole_package_is_what_its_modules_define(package):
    names = naming.Allowed([f"{package}:*"])
    assert names.find("lambda_shop.till.cash:total", "function")(3) == 3
    assert names.find("lambda_shop:total", "function")(3) == 3  # from a module of the same package
    assert names.find("lambda_shop.till.cash:Coin", "dataclass").__name__ == "Coin"
    refused = [
        "lambda_shopping:buy", "lambda_shop:buy", "lambda_shop.till.cash:getcwd", "lambda_shop.till.__main__:main",
        "lambda_shop.till.__init__:total",
    ]  # fmt: skip
    for name in refused:
        with pytest.raises(RefusedError, match="not allowed"):
            names.find(name, "function")
    with pytest.raises(CodecError, match="in no module that this deployment allows"):
        names.find("lambda_shopping:Basket", "dataclass")
    inner = naming.Allowed([f"{package}.till:*"])
    assert inner.find("lambda_shop.till.cash:total", "function")(3) == 3
    with pytest.raises(RefusedError, match="not allowed"):
        inner.find("lambda_shop:total", "function")


def test_what_reduce_sends_is_always_found():
    names = naming.Allowed([])
    assert names.find(naming.Names().name(functools.reduce), "function") is functools.reduce


def test_an_empty_list_says_so():
    with pytest.raises(RefusedError, match="which is empty"):
        naming.Allowed([]).check("m:f")


def test_what_a_partial_and_a_method_call():
    assert naming.bound(functools.partial(functools.partial(pow, 2), 3, mod=5)) == (pow, (2, 3), {"mod": 5})
    assert naming.bound("a-b".split) == (str.split, ("a-b",), {})
    assert naming.bound(Frozen) == (Frozen, (), {})
    assert naming.bound(len) == (len, (), {})
    assert naming.bound(dt.date.fromisoformat) == (dt.date.fromisoformat, (), {})
    assert naming.bound(decimal.Decimal) == (decimal.Decimal, (), {})
    assert naming.bound(uuid.uuid4) == (uuid.uuid4, (), {})
