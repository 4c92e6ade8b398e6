"""Which function, and which version of it: what the results in a journal are results of. No I/O.

The name and whatever is bound (arguments of a partial, an object of a bound method, variables of a closure) are the
*identity*: another one has results of its own. The code and the defaults are the *version*: results of another version
are refused. The code is what Python runs, so comments, formatting, docstrings and annotations do not count (a swap that
is broken over two lines does: the compiler makes other code of it, and to refuse is the safe mistake). It is that
of the function alone: what the function calls is not looked at.
"""

from __future__ import annotations

import dis
import functools
import sys
from bisect import bisect_left
from collections.abc import Callable
from types import CodeType, FunctionType, MethodType
from typing import Any, NamedTuple

from asyncpar.errors import JournalError, describe
from asyncpar.journal.canonical import NotCanonicalError, digest, encode

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
JUMPS = frozenset((*dis.hasjrel, *dis.hasjabs))
PAIRS = {
    "LOAD_FAST_LOAD_FAST": ("LOAD_FAST", "LOAD_FAST"),
    "STORE_FAST_LOAD_FAST": ("STORE_FAST", "LOAD_FAST"),
    "STORE_FAST_STORE_FAST": ("STORE_FAST", "STORE_FAST"),
}


class Identity(NamedTuple):
    """A function as a journal knows it.

    :ivar name: ``module.qualname``
    :ivar label: the same with what is bound, for people
    :ivar salt: 16 bytes that stand for name and bound
    :ivar version: what must not have changed: named parts and their digests
    """

    name: str
    label: str
    salt: bytes
    version: dict[str, str]


def identify(function: Callable[..., Any], version: str | None, key: Callable[..., Any] | None) -> Identity:
    """The identity of a function that is mapped, keyed by its items or by ``key`` of them.

    :param version: stands for the code, the defaults, and whatever is bound and not known by content
    :raises JournalError: something bound, or a default, is not known by content, and there is no version
    """
    parts = _Parts(strict=version is None)
    parts.add(function)
    if version is not None:
        made = {"version": version}
    else:
        made = {
            "code": _hex(parts.code),
            "defaults": _hex(parts.defaults),
            "python": PYTHON,
            "key": _digest_of(key) if key is not None else "",
        }
    bound = ", ".join(parts.shown)
    label = f"{parts.name}({bound})" if bound else parts.name
    salt = digest(encode((parts.name, tuple(parts.bound), key is not None)))
    return Identity(parts.name, label, salt, made)


def changes(old: dict[str, str], new: dict[str, str]) -> str:
    """What differs between two versions, in words; nothing if they are the same."""
    if old == new:
        return ""
    if "version" in old or "version" in new:
        was, now = (
            f"version {v['version']!r}" if "version" in v else "the version that its code makes"
            for v in (old, new)
        )
        return f"they are of {was}, and this map asks for {now}"
    if old["python"] != new["python"]:
        return (
            f"they are of Python {old['python']}, whose code cannot be compared with that of {new['python']}"
        )
    parts = {"code": "its code", "defaults": "the defaults of its parameters", "key": "the key= of the map"}
    changed = [words for part, words in parts.items() if old[part] != new[part]]
    return f"{' and '.join(changed)} changed since"


def _hex(parts: list[bytes]) -> str:
    return digest(encode(parts)).hex()


def _digest_of(key: Callable[..., Any]) -> str:
    parts = _Parts(strict=False)
    parts.add(key)
    return digest(encode((parts.name, tuple(parts.bound), parts.code, parts.defaults))).hex()


class _Parts:
    """Gathers what there is to know of a callable, and of the callables in it."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.name = ""
        self.bound: list[bytes] = []
        self.shown: list[str] = []
        self.code: list[bytes] = []
        self.defaults: list[bytes] = []
        self._seen: set[int] = set()

    def add(self, call: Any) -> None:
        """This callable, and whatever it calls for its caller."""
        if id(call) in self._seen:  # a closure that refers to itself
            return
        self._seen.add(id(call))
        if isinstance(call, functools.partial):
            self.add(call.func)
            for position, value in enumerate(call.args, 1):
                self._bind(f"argument {position}", "", value)
            for name in sorted(call.keywords):
                self._bind(f"argument {name}=", f"{name}=", call.keywords[name])
        elif isinstance(call, MethodType):
            self.add(call.__func__)
            self._bind("the object of the method", "", call.__self__)
        elif isinstance(call, FunctionType):
            self._add_function(call)
        elif isinstance(call, type):
            self._add_class(call)
        else:
            self._add_object(call)

    def _call_it(self, call: Any) -> None:
        if not self.name:
            self.name = f"{getattr(call, '__module__', None) or 'builtins'}.{call.__qualname__}"

    def _add_function(self, function: FunctionType) -> None:
        wrapped = getattr(function, "__wrapped__", None)
        self._call_it(function)
        self.code.append(encode(code_of(function.__code__)))
        for name, value in self._defaults(function):
            self.defaults.append(self._content(f"the default of {name}", value))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                self._bind(f"the variable {name} of the closure", f"{name}=", cell.cell_contents)
            except ValueError:  # not assigned yet
                continue
        if wrapped is not None:
            self.add(wrapped)

    @staticmethod
    def _defaults(function: FunctionType) -> list[tuple[str, Any]]:
        values = function.__defaults__ or ()
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        pairs = list(zip(names[len(names) - len(values) :], values, strict=True))
        return pairs + sorted((function.__kwdefaults__ or {}).items())

    def _add_class(self, cls: type[Any]) -> None:
        self._call_it(cls)
        for name, member in sorted(vars(cls).items()):
            if isinstance(member, FunctionType):
                self.code.append(encode((name, code_of(member.__code__))))

    def _add_object(self, call: Any) -> None:
        inner = getattr(call, "py_func", None) or getattr(
            call, "__wrapped__", None
        )  # numba's, functools' caches
        if inner is not None:
            self.add(inner)
        elif hasattr(call, "__qualname__"):  # of C: its code cannot be seen
            self._call_it(call)
            if not isinstance(owner := getattr(call, "__self__", None), (type(None), type(sys), type)):
                self._bind("the object of the method", "", owner)
        elif isinstance(getattr(type(call), "__call__", None), FunctionType):  # noqa: B004
            self._add_class(type(call))
            self._bind("the callable object", "", call)
        else:
            self._call_it(type(call))
            self._bind("the callable object", "", _reduced(call))

    def _bind(self, what: str, prefix: str, value: Any) -> None:
        self.bound.append(encode(what))
        if not callable(value) or isinstance(value, type) or _by_content(value):
            self.bound.append(self._content(what, value))
            self.shown.append(f"{prefix}{describe(value, 30)}")
        elif id(value) not in self._seen:
            inner = _Parts(strict=self.strict)
            inner._seen = self._seen
            inner.add(value)
            self.bound += [encode(inner.name), *inner.bound]
            self.code += inner.code
            self.defaults += inner.defaults
            self.shown.append(f"{prefix}{inner.name}")

    def _content(self, what: str, value: Any) -> bytes:
        value = getattr(value, "value", value) if type(value).__name__ == "Shared" else value
        if isinstance(value, type):
            return encode(("a class", f"{value.__module__}.{value.__qualname__}"))
        try:
            return encode(value)
        except NotCanonicalError as error:
            if not self.strict:
                return encode(("not by content", f"{type(value).__module__}.{type(value).__qualname__}"))
            raise JournalError(
                f"{what} of {self.name} is not known by content ({error}), so a journal cannot tell whether it has "
                "changed: name a version that stands for it, journal=asyncpar.Journal(path, version=...)"
            ) from None


def _by_content(value: Any) -> bool:
    """A callable that is plain data all the same, as a frozen dataclass with ``__call__`` or an enum is."""
    try:
        encode(value)
    except NotCanonicalError:
        return False
    return True


def _reduced(call: Any) -> Any:
    """What makes an object of C, as ``operator.itemgetter(1)``, again."""
    try:
        made = call.__reduce__()
    except TypeError:
        return call
    if isinstance(made, tuple) and isinstance(made[0], type):
        return (made[0].__qualname__, *made[1:])
    return call


def code_of(code: CodeType) -> list[Any]:
    """What a function does, as plain data: its instructions with what they name, not where they stand."""
    steps: list[Any] = [
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & 0x2AC,
    ]
    steps.append(list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]))
    offsets, instructions = _instructions(code)
    for opcode, opname, value in instructions:
        if isinstance(value, CodeType):
            value = code_of(value)
        elif opcode in JUMPS:
            value = bisect_left(offsets, value)
        elif opcode not in dis.hasconst and not isinstance(value, (str, int, type(None))):
            value = repr(value)
        steps.append((opname, value))
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined] # of which typeshed does not know
        steps.append([bisect_left(offsets, at) for at in (entry.start, entry.end, entry.target)])
        steps.append((entry.depth, entry.lasti))
    return steps


def _instructions(code: CodeType) -> tuple[list[int], list[tuple[int, str, Any]]]:
    """Offsets and instructions, the same wherever the lines break.

    Since Python 3.13 the compiler makes one instruction of two on the same line: such are taken apart. What does
    nothing stands for a line.
    """
    offsets: list[int] = []
    found: list[tuple[int, str, Any]] = []
    for step in dis.get_instructions(code):
        if step.opname in PAIRS:
            parts = [
                (dis.opmap[name], name, value)
                for name, value in zip(PAIRS[step.opname], step.argval, strict=True)
            ]
        else:
            parts = [] if step.opname == "NOP" else [(step.opcode, step.opname, step.argval)]
        offsets += [step.offset + i for i in range(len(parts))]
        found += parts
    return offsets, found
