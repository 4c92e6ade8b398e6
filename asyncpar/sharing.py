"""Constants that many calls use: sent once to each worker, however many calls name them."""

from __future__ import annotations

import itertools
import threading
from typing import Any, Generic, TypeVar

from asyncpar import residence
from asyncpar.errors import SerializationError

T = TypeVar("T")
_numbers = itertools.count(1)
packing = threading.local()
"""``packing.shared`` is the list of constants named by what is being pickled in this thread, if anything is."""


class Shared(Generic[T]):
    """Stands for a constant in the arguments of calls; the calls see the object itself.

    On a process pool the object is pickled once, its large buffers go to shared memory, and every worker
    maps them: nothing is copied for a call. What a worker changes in such a buffer others see: treat it as
    read-only. On pools within this process the calls get the very object, if it is an argument of its own.
    """

    __slots__ = ("__weakref__", "number", "value")

    def __init__(self, value: T) -> None:
        self.value = value
        self.number = next(_numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        shared = getattr(packing, "shared", None)
        if shared is None:
            raise SerializationError(
                "a Shared can be sent only to a pool of asyncpar, as an argument of a call"
            )
        shared.append(self)
        return residence.constant, (self.number,)

    def __repr__(self) -> str:
        return f"<Shared {type(self.value).__name__} number {self.number}>"


def share(value: T) -> Shared[T]:
    """A constant to pass to many calls: ``await pool.map(score, items, itertools.repeat(share(model)))``.

    It is sent to a worker when a call there first names it, and dropped there when the ``Shared`` is.
    """
    return Shared(value)


def unwrap(args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments for a call in this process: each ``Shared`` among them replaced by its object."""
    if any(type(a) is Shared for a in args):
        args = [a.value if type(a) is Shared else a for a in args]
    if kwargs and any(type(a) is Shared for a in kwargs.values()):
        kwargs = {k: a.value if type(a) is Shared else a for k, a in kwargs.items()}
    return args, kwargs
