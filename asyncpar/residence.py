"""What lives in a worker between calls: an actor's object, a stream's generator. Runs on the far side.

Kept by thread, so that the workers of a thread pool have one each, as processes do. Inline pools share a thread:
each enters a home of its own before it runs a call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

_here = threading.local()


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


def settle(cls: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Make the object that lives here from now on."""
    _home()["value"] = cls(*args, **kwargs)


def settle_iterator(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Call a generator function; its iterator lives here from now on."""
    _home()["value"] = iter(function(*args, **kwargs))


def call(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method of the object that lives here."""
    return method(_home()["value"], *args, **kwargs)


async def call_async(method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Await an async method of the object that lives here."""
    return await method(_home()["value"], *args, **kwargs)


def advance(most: int) -> tuple[list[Any], bool, BaseException | None]:
    """Items of the iterator for about a millisecond, whether it ended, and the error it ended with."""
    items: list[Any] = []
    end = time.perf_counter() + BATCH_SECONDS
    try:
        while len(items) < most:
            items.append(next(_home()["value"]))
            if time.perf_counter() > end:
                break
    except StopIteration:
        return items, True, None
    except Exception as error:  # the generator's own: it comes after what was made before it
        if not items:
            raise
        return items, True, error
    return items, False, None


def leave() -> None:
    """Let go of what lives here; a generator runs its ``finally`` now."""
    value = _home().pop("value", None)
    close = getattr(value, "close", None)
    if close is not None and hasattr(value, "gi_frame"):
        close()
