"""Calls and the chunks they travel in. No I/O, no event loop.

A *chunk* is the wire unit of every pool: one function with several items (``map``), or several
calls that were made one by one (``run``). A *source* hands out chunks and takes their outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any, Protocol

CO_COROUTINE = 0x80  # of code objects: inspect.CO_COROUTINE, whose module takes 7 ms to import
Errors = dict[int, BaseException]  # index -> error


class Cancelled(BaseException):
    """The outcome of a call that was stopped because nobody wants it any more. Never raised."""


class Function:
    """What a pool knows of a function: its name in messages, and what a call of it costs."""

    __slots__ = ("__weakref__", "blob", "call", "label", "number", "seconds")

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self.label = name_of(call)
        self.seconds: float | None = None
        self.number = 0
        self.blob = b""

    def measured(self, seconds: float, calls: int) -> None:
        """Take ``calls`` that took ``seconds`` together into the running mean."""
        cost = max(seconds / calls, 5e-8)
        old = self.seconds
        self.seconds = cost if old is None else old + 0.3 * (cost - old)


def name_of(call: object) -> str:
    """``module.function``, for messages."""
    inner: Any = call
    while not hasattr(inner, "__qualname__") and hasattr(inner, "func"):  # a partial, perhaps of a partial
        inner = inner.func
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    module = getattr(inner, "__module__", None)
    return name if module in (None, "builtins") else f"{module}.{name}"


def is_async(function: Any) -> bool:
    """Whether calling this gives a coroutine. Looks through partials, methods and callable objects."""
    while hasattr(function, "func") and not hasattr(function, "__code__"):
        function = function.func
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None and not isinstance(function, type):
        code = getattr(getattr(type(function), "__call__", None), "__code__", None)  # noqa: B004
    return bool(code is not None and code.co_flags & CO_COROUTINE)


def not_callable(value: Any) -> TypeError:
    """The error for what was passed in a function's place. A coroutine is closed: nobody will await it."""
    if hasattr(value, "cr_frame"):
        value.close()
        return TypeError(
            f"the first argument must be callable, not a coroutine: pass {value.__qualname__} itself, uncalled"
        )
    return TypeError(
        f"the first argument must be callable, not {type(value).__name__}: pass the function itself"
    )


if TYPE_CHECKING:

    class Source(Protocol):
        """Where chunks come from and where their outcomes go."""

        offered: bool
        """Whether it stands in its pool's row of sources that have something: the pool's alone to set."""

        def take(self, busy: bool) -> Chunk | None:
            """The next chunk, for a place where something runs already (``busy``) or not."""

        def waiting(self) -> bool:
            """Whether something may be left to take."""
            ...

        def deliver(self, chunk: Chunk, first: int, values: Sequence[Any], errors: Errors | None) -> None:
            """Outcomes of the calls from ``first`` on, in order."""

        def requeue(self, chunk: Chunk, first: int) -> None:
            """The calls from ``first`` on never started: they go to another worker."""


class Chunk:
    """Calls that travel together. Whoever runs it answers in order, in one or several parts."""

    __slots__ = (
        "block", "done", "function", "items", "limiter", "offset", "payload", "place", "seq", "singles", "slabs",
        "source", "star", "stops", "timeout", "timer",
    )  # fmt: skip

    def __init__(
        self,
        source: Source,
        items: Sequence[Any],
        function: Function,
        *,
        singles: bool = False,
        star: bool = False,
        timeout: float | None = None,
    ) -> None:
        self.source = source
        self.items = items
        self.function = function
        self.singles = singles  # items are Calls, each with a function of its own
        self.star = star  # items are argument tuples
        self.timeout = timeout
        self.done = 0
        self.seq = 0
        self.stops: Errors | None = None  # calls that were told to stop, and the outcome they get
        self.place: Any = None
        self.block: Any = None
        self.offset = 0
        self.payload = b""
        self.slabs: Sequence[Sequence[int]] = ()  # of each item, the shared memory that it lies in
        self.limiter: Any = None
        self.timer: Any = None  # which looks for the timeout

    @property
    def finished(self) -> bool:
        """Whether every call has an outcome."""
        return self.done >= len(self.items)

    def label(self, index: int) -> str:
        """The name of the function of one call."""
        if self.singles:
            label: str = self.items[index].function.label
            return label
        return self.function.label

    def call(self, index: int) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
        """Function, arguments and keywords of one call, for pools that run it in this process."""
        item = self.items[index]
        if self.singles:
            return item.function.call, item.args, item.kwargs
        return self.function.call, (item if self.star else (item,)), {}

    def deliver(self, values: Sequence[Any], errors: Errors | None = None) -> None:
        """The outcomes of the next ``len(values)`` calls; ``errors`` by index into ``values``."""
        first = self.done
        self.done = first + len(values)
        if self.stops:
            errors = self._with_stops(first, self.done, errors or {})
        self.source.deliver(self, first, values, errors)

    def _with_stops(self, first: int, end: int, errors: Errors) -> Errors:
        """A call that was told to stop ends so, whatever it made of the interrupt."""
        for index, outcome in (self.stops or {}).items():
            if first <= index < end:
                own = errors.get(index - first)
                if own is not None and own is not outcome:
                    outcome.__cause__ = own
                errors[index - first] = outcome
        return errors

    def stopped(self, count: int) -> None:
        """The next ``count`` calls were stopped, as asked."""
        stops = self.stops or {}
        self.deliver([None] * count, {i: stops.get(self.done + i) or Cancelled() for i in range(count)})

    def lost(self, error: BaseException) -> None:
        """The next call is lost with its worker."""
        stop = self.stops.get(self.done) if self.stops else None
        self.deliver([None], {0: stop or error})

    def requeue(self) -> None:
        """The calls that have no outcome yet never started."""
        if not self.finished:
            first, self.done = self.done, len(self.items)
            self.source.requeue(self, first)

    def split(self, first: int) -> Chunk:
        """The calls from ``first`` on, which never started, as a chunk of their own; or this one, if that is all left."""
        if first <= self.done:
            return self
        rest = Chunk(
            self.source,
            self.items[first:],
            self.function,
            singles=self.singles,
            star=self.star,
            timeout=self.timeout,
        )
        rest.block, rest.offset = self.block, self.offset + first
        self.items = self.items[:first]
        return rest

    def stop(self, index: int, outcome: BaseException) -> None:
        """Note what a call that is being stopped will end with."""
        if self.stops is None:
            self.stops = {}
        self.stops.setdefault(index, outcome)
