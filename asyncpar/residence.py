"""What lives in a worker between calls: an actor's object, a stream's generator. Runs on the far side.

Kept by thread, so that the workers of a thread pool have one each, as processes do. Inline pools share a thread:
each enters a home of its own before it runs a call.
"""

from __future__ import annotations

import threading
import time
import types
from collections.abc import Callable

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

_here = threading.local()
_STATELESS = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType, type)


def find_constant(number: int) -> Any:
    """The object behind a ``Shared``; a worker puts its own look-up here."""
    raise LookupError(f"constant {number} is not known outside a worker")


def constant(number: int) -> Any:
    """What a pickled ``Shared`` becomes in a worker."""
    return find_constant(number)


BATCH_SECONDS = 1e-3


def enter(home: dict[str, Any]) -> None:
    """From now on, what lives in this thread is what lives in ``home``."""
    _here.home = home


def _home() -> dict[str, Any]:
    home: dict[str, Any] = _here.__dict__.setdefault("home", {})
    return home


class Wrapper:
    """A call of ours around a function of the user's, whose name it has in messages.

    Equal to another around the same function, so that it travels once, unless that function may change.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", None) or "builtins"

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and self._same(other)

    def _same(self, other: Any) -> bool:
        return isinstance(self.function, _STATELESS) and self.function is other.function

    def __hash__(self) -> int:
        return id(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.function,)


class Settle(Wrapper):
    """Makes the object that lives here from now on."""

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        _home()["value"] = self.function(*args, **kwargs)


class Invoke(Wrapper):
    """Calls a method of the object that lives here."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(_home()["value"], *args, **kwargs)


class InvokeAsync(Wrapper):
    """Awaits an async method of the object that lives here."""

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return await self.function(_home()["value"], *args, **kwargs)


class Iterate(Wrapper):
    """Calls a generator function, whose iterator lives here from now on; true if that is an async one."""

    def __call__(self, *args: Any, **kwargs: Any) -> bool:
        made = self.function(*args, **kwargs)
        asynchronous = hasattr(made, "__aiter__")
        _home()["value"] = made.__aiter__() if asynchronous else iter(made)
        return asynchronous


class Advance(Wrapper):
    """Takes items of the iterator of ``function`` for about a millisecond; and whether it has ended.

    Its error comes after the items that were made before it, by the next call.
    """

    def __call__(self, most: int) -> tuple[list[Any], bool]:
        home = _home()
        _raise_late(home)
        items: list[Any] = []
        end = time.perf_counter() + BATCH_SECONDS
        try:
            while len(items) < most:
                items.append(next(home["value"]))
                if time.perf_counter() > end:
                    break
        except StopIteration:
            return items, True
        except Exception as error:  # the generator's own
            if not items:
                raise
            home["error"] = error
        return items, False


class AdvanceAsync(Wrapper):
    """``Advance`` for an async iterator."""

    async def __call__(self, most: int) -> tuple[list[Any], bool]:
        home = _home()
        _raise_late(home)
        items: list[Any] = []
        end = time.perf_counter() + BATCH_SECONDS
        try:
            while len(items) < most:
                items.append(await anext(home["value"]))
                if time.perf_counter() > end:
                    break
        except StopAsyncIteration:
            return items, True
        except Exception as error:  # the generator's own
            if not items:
                raise
            home["error"] = error
        return items, False


def _raise_late(home: dict[str, Any]) -> None:
    error = home.pop("error", None)
    if error is not None:
        raise error


class Leave(Wrapper):
    """Lets go of what lives here; a generator runs its ``finally`` now."""

    def __call__(self) -> None:
        value = _home().pop("value", None)
        if hasattr(value, "gi_frame"):
            value.close()


class LeaveAsync(Wrapper):
    """``Leave`` for an async iterator."""

    async def __call__(self) -> None:
        value = _home().pop("value", None)
        if hasattr(value, "aclose"):
            await value.aclose()
