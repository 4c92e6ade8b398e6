"""Limits that maps, pools and tasks share: how many at a time (`Limiter`), how many per second (`RateLimiter`).

Both keep one line, first come first served, in which two kinds of users stand:

- a task that waits in `acquire()` has one place in it, and leaves it with what it asked for;
- a callback given to `subscribe()` has one place in it, and each time that place comes to the front it is called:
  this is its turn, in which `acquire_nowait()` gives it what is free. Then it goes to the back.

So neither kind can starve the other: between two turns of a callback every task that stood before it is served, and a
task waits for at most one turn of each callback. Out of turn, `acquire_nowait()` is refused while anyone stands in
line who wants more.

Neither class is thread-safe: use an object from one event loop's thread at a time.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from math import isfinite
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Limiter", "LimiterStatistics", "RateLimiter", "RateLimiterStatistics"]


class LimiterStatistics(NamedTuple):
    """What `Limiter.statistics()` returns."""

    total: int
    """How many tokens there are."""
    in_use: int
    """How many of them are taken."""
    waiting: int
    """How many tasks wait in `acquire()`."""


class RateLimiterStatistics(NamedTuple):
    """What `RateLimiter.statistics()` returns."""

    calls: int
    """How many starts a window allows."""
    per: float
    """The window's length, in seconds."""
    started: int
    """How many starts lie in the window that ends now."""
    waiting: int
    """How many tasks wait in `acquire()`."""


class _TaskPlace:
    """The place in line of a task that waits for `n`."""

    __slots__ = ("future", "granted", "loop", "n", "served_in")

    def __init__(self, loop: asyncio.AbstractEventLoop, n: int) -> None:
        self.loop, self.n = loop, n
        self.future = loop.create_future()
        self.granted = False
        self.served_in = 0


class _CallbackPlace:
    """The place in line of a callback: whatever is free is worth a call."""

    __slots__ = ("callback", "context", "loop", "n", "served_in")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], object]) -> None:
        self.loop, self.callback = loop, callback
        # The deal runs in the context of whoever freed something; the callback must not.
        self.context = contextvars.copy_context()
        self.n = 1
        self.served_in = 0

    def call(self) -> None:
        try:
            self.context.run(self.callback)
        except Exception as exc:  # as the loop does with a callback of its own
            message = f"asyncpar: {self.callback!r}, subscribed to a limiter, failed"
            self.loop.call_exception_handler({"message": message, "exception": exc})


class _Line(ABC):
    """Those who want something scarce, first come first served."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._places: OrderedDict[_TaskPlace | _CallbackPlace, None] = OrderedDict()
        self._wanted = 0  # the least that would help somebody in line; 0: nobody was refused
        self._deals = 0
        self._in_turn = False
        self._dealing_on: asyncio.AbstractEventLoop | None = None

    async def acquire(self, n: int = 1) -> None:
        """Take `n`, after all who came before; wait until there is room.

        Returns without giving way to other tasks when there is room at once. Cancelling gives up the place in line;
        nothing is taken then, not even when the cancellation and the grant meet.

        :raises ValueError: `n` is not between 1 and all there is.
        """
        if self.acquire_nowait(n):
            return
        place = _TaskPlace(asyncio.get_running_loop(), n)
        self._places[place] = None
        self._refuse(n)
        try:
            await place.future
        except BaseException:  # cancelled: the place in line is given up
            self._leave(place)
            raise
        self._start(n)

    def acquire_nowait(self, n: int = 1) -> bool:
        """Take `n` and return True if that can be done now and overtakes nobody; else return False.

        Whoever gets False and has subscribed is called when it is worth another try. Such a try is for what is free
        at that moment: to be sure to get `n` > 1 beside users of 1, wait in `acquire(n)`.

        :raises ValueError: `n` is not between 1 and all there is.
        """
        self._check(n)
        overtakes = self._wanted and self._places and not self._in_turn
        if overtakes or self._room() < n:
            self._refuse(n)
            return False
        self._reserve(n)
        self._start(n)
        return True

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Give `callback` a place in line, for users who do not wait in a task; return a function that ends it.

        First subscribe, then try `acquire_nowait()`: after it returned False, `callback()` is called on the running
        event loop as soon as there is room, in the caller's context, in its turn; it then takes what it wants with
        `acquire_nowait()`. It may be called when it wants nothing. What it raises goes to the loop's exception
        handler. Ending the subscription twice does no harm.
        """
        place = _CallbackPlace(asyncio.get_running_loop(), callback)
        self._places[place] = None
        return lambda: self._leave(place)

    @abstractmethod
    def _room(self) -> int:
        """How many are free now, whoever wants them."""

    @abstractmethod
    def _reserve(self, n: int) -> None:
        """Set `n` aside for one who is about to start."""

    @abstractmethod
    def _start(self, n: int) -> None:
        """The one for whom `n` was set aside starts now."""

    @abstractmethod
    def _unreserve(self, n: int) -> None:
        """The one for whom `n` was set aside was cancelled."""

    def _plan(self) -> None:
        """Somebody in line was refused: see to it that a deal comes when it helps."""
        if self._room() >= self._wanted:
            self._deal_soon()

    def _waiting(self) -> int:
        return sum(isinstance(place, _TaskPlace) for place in self._places)

    def _check(self, n: int) -> None:
        if _integer("n", n) > self._most:
            message = (
                f"n must be at most {self._most}, which is all there is, not {n}: it would wait for ever"
            )
            raise ValueError(message)

    def _refuse(self, n: int) -> None:
        if self._places:
            self._wanted = min(self._wanted or n, n)
            self._plan()

    def _leave(self, place: _TaskPlace | _CallbackPlace) -> None:
        if isinstance(place, _TaskPlace) and place.granted:
            self._unreserve(place.n)
        self._places.pop(place, None)
        # Those behind may fit where this one did not.
        self._deal_soon()

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop of the first in line; places that a closed loop left behind are dropped."""
        while self._places:
            place = next(iter(self._places))
            if not place.loop.is_closed():
                return place.loop
            del self._places[place]
        return None

    def _deal_soon(self) -> None:
        loop = self._loop()
        if loop is None:
            self._wanted = 0
        elif self._wanted and loop is not self._dealing_on:
            self._dealing_on = loop
            loop.call_soon(self._deal)

    def _deal(self) -> None:
        """Serve the line from its front, until there is too little left or every callback has had a turn."""
        self._dealing_on = None
        self._wanted = 0
        self._deals += 1
        while self._places:
            first = next(iter(self._places))
            if first.served_in == self._deals:
                break
            if self._room() < first.n:
                self._wanted = first.n
                break
            self._serve(first)
        if self._wanted:
            self._plan()

    def _serve(self, place: _TaskPlace | _CallbackPlace) -> None:
        if isinstance(place, _CallbackPlace):
            self._give_turn(place)
            return
        del self._places[place]
        if not place.future.done():  # else it was cancelled, and its task is about to learn it
            place.granted = True
            self._reserve(place.n)
            place.future.set_result(None)

    def _give_turn(self, place: _CallbackPlace) -> None:
        place.served_in = self._deals
        self._in_turn = True
        try:
            place.call()
        except BaseException:  # KeyboardInterrupt leaves through the loop; run again, it has others to serve
            self._wanted = 1
            self._deal_soon()
            raise
        finally:
            self._in_turn = False
            if place in self._places:
                self._places.move_to_end(place)


class Limiter(_Line):
    """A number of tokens that bounds how many calls are in flight, shared by all who take from it.

    >>> limiter = Limiter(10)
    >>> async with limiter:              # one token, for as long as the block runs
    ...     await call()

    A call that waits for a token while it holds one of the same limiter can wait for ever: give what is nested a
    limiter of its own.

    :param total: how many tokens there are, at least 1.
    :raises ValueError: `total` is below 1.
    :raises TypeError: `total` is not an int.
    """

    def __init__(self, total: int) -> None:
        super().__init__(_integer("total", total))
        self._in_use = 0

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return self._most

    def release(self, n: int = 1) -> None:
        """Give back `n` tokens; those who wait get them in the next pass of the event loop.

        :raises RuntimeError: fewer than `n` tokens are taken.
        """
        if _integer("n", n) > self._in_use:
            message = f"release({n}) with {self._in_use} tokens in use: release once what was acquired once"
            raise RuntimeError(message)
        self._unreserve(n)
        if self._wanted:
            self._plan()

    def statistics(self) -> LimiterStatistics:
        """Return how many tokens there are, how many are in use, and how many tasks wait."""
        return LimiterStatistics(total=self._most, in_use=self._in_use, waiting=self._waiting())

    async def __aenter__(self) -> Self:
        if not self.acquire_nowait():
            await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Limiter total={self._most} in_use={self._in_use} waiting={self._waiting()}>"

    def _room(self) -> int:
        return self._most - self._in_use

    def _reserve(self, n: int) -> None:
        self._in_use += n

    def _start(self, n: int) -> None:
        pass

    def _unreserve(self, n: int) -> None:
        self._in_use -= n


class RateLimiter(_Line):
    """At most `calls` starts in any `per` seconds (a sliding window, not a bucket that bursts), shared by all.

    >>> rate = RateLimiter(100, per=60)
    >>> await rate.acquire()
    >>> await call()

    A start counts from the moment when `acquire()` returns, so that a busy event loop cannot squeeze two closer together.

    :param calls: how many starts a window allows, at least 1.
    :param per: the window's length in seconds.
    :param clock: a function that returns seconds and never goes back; for tests. The default is not the loop's own
        clock because uvloop's stands still while a callback runs.
    :raises ValueError: `calls` is below 1, or `per` is not above 0.
    :raises TypeError: `calls` is not an int, or `per` is not a number.
    """

    def __init__(self, calls: int, per: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(_integer("calls", calls))
        self._per = _seconds("per", per)
        self._clock = clock
        self._starts: deque[float] = deque()
        self._reserved = 0
        self._timer: asyncio.TimerHandle | None = None

    def delay(self) -> float:
        """Return in how many seconds the next start may be allowed: 0.0 if now.

        Those who wait in `acquire()` now go first, and are counted as long as they fit into one window.
        """
        ahead = sum(place.n for place in self._places if isinstance(place, _TaskPlace))
        return self._delay(min(ahead + 1, self._most))

    def statistics(self) -> RateLimiterStatistics:
        """Return the limit, how much of it is used up now, and how many tasks wait."""
        started = self._most - self._room()
        return RateLimiterStatistics(
            calls=self._most, per=self._per, started=started, waiting=self._waiting()
        )

    def __repr__(self) -> str:
        return f"<RateLimiter calls={self._most} per={self._per} waiting={self._waiting()}>"

    def _room(self) -> int:
        now = self._clock()
        while self._starts and self._starts[0] + self._per <= now:
            self._starts.popleft()
        return self._most - self._reserved - len(self._starts)

    def _delay(self, n: int) -> float:
        missing = n - self._room()
        if missing <= 0:
            return 0.0
        if missing > len(self._starts):  # more than have started: the others are about to
            return self._per
        return max(0.0, self._starts[missing - 1] + self._per - self._clock())

    def _reserve(self, n: int) -> None:
        self._reserved += n

    def _start(self, n: int) -> None:
        self._reserved -= n
        self._starts.extend([self._clock()] * n)

    def _unreserve(self, n: int) -> None:
        self._reserved -= n

    def _plan(self) -> None:
        loop = self._loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._room() >= self._wanted:
            self._deal_soon()
        elif loop is not None:
            self._timer = loop.call_later(self._delay(self._wanted), self._plan)


def _integer(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r:.100} ({type(value).__name__})")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def _seconds(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {value!r:.100} ({type(value).__name__})")
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{name} must be a number of seconds above 0, not {value}")
    return float(value)
