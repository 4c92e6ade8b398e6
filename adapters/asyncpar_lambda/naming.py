"""Functions and classes travel as ``module:name``; each side looks such a name up under rules of its own.

The worker imports only what its deployment allows (``Allowed``). The client imports nothing on account of an answer:
it finds what its program has imported already (``Imported``).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterable
from typing import Any, Literal

from asyncpar.errors import describe
from asyncpar_lambda.errors import CodecError, RefusedError

Kind = Literal["function", "dataclass", "enum", "namedtuple", "exception"]

ALWAYS = frozenset(("_functools:reduce", "asyncpar.folding:_fold_async"))
"""What ``reduce`` sends: they call what they are given, which is on the list or refused."""


class Names:
    """How one side names things, and finds what a name means.

    :param main: the name under which workers import the user's script, for what is in ``__main__`` here
    """

    def __init__(self, main: str | None = None) -> None:
        self.main = main

    def name(self, value: Any) -> str:
        """``module:qualname`` of a function or class.

        :raises CodecError: it cannot be found by a name
        """
        qualname = getattr(value, "__qualname__", None)
        module = getattr(value, "__module__", None) or getattr(
            getattr(value, "__objclass__", None), "__module__", None
        )
        if not isinstance(qualname, str) or not isinstance(module, str):
            raise CodecError(f"{describe(value)} has no name to be found by: use a function of a module")
        if "<" in qualname:
            what = "a lambda" if "<lambda>" in qualname else "defined inside a function"
            raise CodecError(
                f"{qualname} is {what}, which a worker cannot find: define it at the top of a module, "
                "or open the pool with functions='by_value'"
            )
        if module == "__main__":
            if self.main is None:
                raise CodecError(
                    f"{qualname} is in __main__, which has no file that was deployed: put it in a module, "
                    "or open the pool with functions='by_value'"
                )
            module = self.main
        return f"{module}:{qualname}"

    def find(self, name: str, kind: Kind) -> Any:
        """What the name means here.

        :raises CodecError: nothing that may be used here
        """
        raise NotImplementedError


class Imported(Names):
    """The client's side: finds what this program has imported, and imports nothing."""

    def find(self, name: str, kind: Kind) -> Any:
        module, qualname = split(name)
        if module == self.main:
            module = "__main__"
        if module not in sys.modules:
            raise CodecError(f"the answer holds a {name}: import {module} in this program to receive it")
        return _walk(sys.modules[module], qualname, name)


class Allowed(Names):
    """The worker's side: finds what the deployment allows, and imports it.

    :param patterns: ``"module:function"``, or ``"module:*"`` for all that a module itself defines, and if it is a
        package, the modules in it. Data classes, enumerations and exceptions are found in any module that is named.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        super().__init__()
        self.exact = {pattern for pattern in patterns if not pattern.endswith(":*")}
        self.whole = {pattern[:-2] for pattern in patterns if pattern.endswith(":*")}
        self.modules = {split(pattern)[0] for pattern in self.exact}
        self._found: dict[tuple[str, Kind], Any] = {}

    def covers(self, module: str) -> bool:
        """Whether a ``"module:*"`` is for this module, or for a package that it is in.

        A package's ``__main__`` is a program: to import it is to run it.
        """
        parts = module.split(".")
        if module in self.whole or any(part.startswith("__") for part in parts):
            return module in self.whole
        return any(".".join(parts[:end]) in self.whole for end in range(1, len(parts)))

    def check(self, name: str) -> None:
        """Refuse a function that is not on the list; imports nothing.

        :raises RefusedError: with the reason ``"not allowed"``
        """
        module, _ = split(name)
        if name not in self.exact and not self.covers(module) and name not in ALWAYS:
            raise RefusedError(
                "not allowed",
                f"{name} is not on the allow-list of this deployment, which is "
                f"{', '.join(sorted(self.exact | {f'{module}:*' for module in self.whole})) or 'empty'}; "
                "add it to allow= and deploy again",
            )

    def find(self, name: str, kind: Kind) -> Any:
        found = self._found.get((name, kind))
        if found is None:
            found = self._found[name, kind] = self._find(name, kind)
        return found

    def _find(self, name: str, kind: Kind) -> Any:
        module, qualname = split(name)
        if kind == "function":
            self.check(name)
        elif not (
            module in self.modules or self.covers(module) or (kind == "exception" and module == "builtins")
        ):
            raise CodecError(
                f"{name} is in no module that this deployment allows; add '{name}' to allow= and deploy again"
            )
        try:
            imported = importlib.import_module(module)
        except Exception as error:  # a module may raise anything when it is imported
            raise CodecError(
                f"{module} cannot be imported in the worker: {type(error).__name__}: {error}"
            ) from error
        found = _walk(imported, qualname, name)
        if kind == "function" and name not in self.exact and name not in ALWAYS:
            self._check_home(found, module, name)
        return found

    def _check_home(self, found: Any, module: str, name: str) -> None:
        """Refuse what a module has only imported from where no ``"module:*"`` is for it."""
        home = getattr(found, "__module__", None) or module
        if home != module and not self.covers(home):
            raise RefusedError(
                "not allowed",
                f"{name} comes from {home}, which no '...:*' on the allow-list is for; add '{name}' to allow=",
            )


def check_patterns(patterns: Iterable[str]) -> None:
    """Whether an allow-list may be given so.

    :raises ValueError: a pattern is none; the message says how to write it
    """
    for pattern in patterns:
        try:
            split(pattern.removesuffix(":*") + ":any" if pattern.endswith(":*") else pattern)
        except CodecError:
            raise ValueError(
                f'{pattern!r}: name what may be called, as "module:function" or "module:*", in names that Python can import'
            ) from None


def split(name: str) -> tuple[str, str]:
    """``("module", "qualname")``.

    :raises CodecError: it is no such name
    """
    module, colon, qualname = name.partition(":")
    parts = [*module.split("."), *qualname.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise CodecError(f"{name!r} is no name of a function; write it as 'module:function'")
    if any(part.startswith("__") for part in qualname.split(".")):
        raise CodecError(
            f"{name!r} reaches inside Python: only a module's own functions and classes are found"
        )
    return module, qualname


def _walk(module: Any, qualname: str, name: str) -> Any:
    """Through classes only: never through a module into what it has imported."""
    value = module
    for part in qualname.split("."):
        if value is not module and not isinstance(value, type):
            raise CodecError(f"{name} does not lead through classes")
        try:
            value = getattr(value, part)
        except AttributeError:
            raise CodecError(f"there is no {name}") from None
    return value


def bound(function: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """What a partial or a method of an object really calls, and the arguments that it adds in front."""
    if type(function) is functools.partial:
        inner, args, kwargs = bound(function.func)
        return inner, (*args, *function.args), {**kwargs, **function.keywords}
    owner = getattr(function, "__self__", None)
    if owner is None or isinstance(owner, type(sys)) or not hasattr(function, "__name__"):
        return function, (), {}
    if isinstance(owner, type):  # a class method: found through its class
        return function, (), {}
    return getattr(type(owner), function.__name__), (owner,), {}
