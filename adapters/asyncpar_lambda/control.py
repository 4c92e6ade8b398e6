"""How many invocations may be in flight: additive increase, multiplicative decrease. No I/O, and time is an argument.

Lambda starts up to 1,000 environments of a function at once and 1,000 more every 10 seconds, until it meets the
account's or the function's limit; then it answers 429. Nobody tells a client where that limit is, and other functions
of the account move it. So the *window* begins at what Lambda gives at once, grows as fast as Lambda does, and after a
throttle stays a little under the level that was refused, from where it feels its way up.
https://docs.aws.amazon.com/lambda/latest/dg/scaling-behavior.html
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BURST = 1000
"""Environments of one function that Lambda starts at once."""
RAMP = 100.0
"""Environments a second that it adds: 1,000 every 10 seconds."""
DECREASE = 0.9
"""The window after a throttle, as a part of what was in flight. Half, as in TCP, would leave a quarter of a steady
limit unused; a throttled invocation costs only its round trip."""
INCREASE = 0.01
"""How far the window grows, as a part of itself, while it is answered once; at least by one invocation."""
TOLERATED = 0.1
"""The part of starts that may be refused as too many in a second before they are slowed down: refusals are cheap."""
MOST_PAUSE = 10.0
"""Seconds; the longest backoff that is not Lambda's own wish."""
MOST_WISH = 60.0
"""Seconds; the longest ``Retry-After`` that is obeyed to the letter."""

RATE_REASONS = frozenset(
    (
        "CallerRateLimitExceeded",
        "FunctionInvocationRateLimitExceeded",
        "ReservedFunctionInvocationRateLimitExceeded",
    )
)
"""Throttles that say too many were started in a second, not that too many run."""


@dataclass(frozen=True, slots=True)
class ConcurrencyStatistics:
    """The controller at one moment.

    :ivar limit: the most that may ever be in flight
    :ivar window: how many may be in flight now
    :ivar in_flight: how many are
    :ivar ceiling: the level at which Lambda last refused, or ``None``
    :ivar rate: starts a second that are allowed now, or ``None`` for any number
    :ivar paused: seconds until the next start is allowed
    :ivar throttled: throttles so far, by Lambda's reason
    """

    limit: int
    window: int
    in_flight: int
    ceiling: int | None
    rate: float | None
    paused: float
    throttled: Mapping[str, int]


class Concurrency:
    """The window. ``now`` is in seconds on any clock that does not go back.

    :param limit: the most that may ever be in flight: the user's wish, or the function's reserved concurrency if that
        is less
    :param burst: what Lambda starts at once
    :param ramp: what it adds, a second
    :param uniform: ``random.uniform``, for tests
    """

    def __init__(
        self,
        limit: int,
        *,
        burst: int = BURST,
        ramp: float = RAMP,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.limit = limit
        self.in_flight = 0
        self.throttles: Counter[str] = Counter()
        self._window = float(min(limit, burst))
        self._ramp = ramp
        self._uniform = uniform
        self._ceiling: float | None = None
        self._decreased = -math.inf  # when the window last shrank
        self._grown = -math.inf  # when it last grew by the ramp
        self._resume = -math.inf  # no start before this
        self._set_back = -math.inf  # when it last could not be reached
        self._row = 0  # throttles and such since the last success
        self._pace: Pace | None = None
        self._recent = Recent()

    # -- what may start

    def room(self, now: float) -> int:
        """How many invocations may be started now."""
        if now < self._resume:
            return 0
        self._climb(now)
        room = max(0, int(self._window) - self.in_flight)
        return min(room, self._pace.room(now)) if self._pace is not None else room

    def delay(self, now: float) -> float | None:
        """Seconds after which there may be room though nothing has ended; ``None``: only an end makes room."""
        if now < self._resume:
            return self._resume - now
        if self.in_flight < int(self._window):
            return self._pace.delay(now) if self._pace is not None else 0.0
        return 1 / self._ramp if self._climbing() and self._window < self.limit else None

    def begin(self, now: float) -> None:
        """An invocation is started."""
        if not self.in_flight:
            self._grown = max(self._grown, now)  # an idle time does not count as a ramp
        self.in_flight += 1
        self._recent.started(now)
        if self._pace is not None:
            self._pace.take(now)

    # -- how it ended

    def succeeded(self, now: float) -> None:
        """It was answered, whatever the answer is."""
        full = self.in_flight >= 0.8 * self._window
        self.in_flight -= 1
        self._row = 0
        if full and not self._climbing():
            self._window = min(float(self.limit), self._window + max(1 / self._window, INCREASE))
        if self._pace is not None and self._pace.relax(now):
            self._pace = None

    def failed(self) -> None:
        """It ended without an answer that says anything about Lambda's limits."""
        self.in_flight -= 1

    def unreachable(self, now: float, began: float) -> bool:
        """It certainly did not start, for a reason that is likely to hit the next one too: wait, longer each time.

        :return: whether that is news: those started before the last such failure have met the same one
        """
        self.in_flight -= 1
        if began < self._set_back:
            return False
        self._set_back = now
        self._row += 1
        self._wait(now)
        return True

    def throttled(self, now: float, began: float, reason: str, wish: float | None = None) -> None:
        """It was refused with status 429.

        :param began: when this invocation was started; those started before the last decrease tell nothing new
        :param reason: Lambda's ``Reason``
        :param wish: its ``Retry-After``, in seconds
        """
        level = self.in_flight
        self.in_flight -= 1
        self.throttles[reason] += 1
        news = began >= self._decreased
        if reason in RATE_REASONS:
            self._slow_down(now)
        elif news:
            self._shrink(level)
        if news:
            self._decreased = now
            self._row += 1
        if wish is not None and wish > 0:
            self._resume = max(self._resume, now + min(wish, MOST_WISH))
        elif news and self._row > 1:
            self._wait(now)

    def statistics(self, now: float) -> ConcurrencyStatistics:
        """The state, as a frozen object."""
        return ConcurrencyStatistics(
            self.limit,
            int(self._window),
            self.in_flight,
            None if self._ceiling is None else int(self._ceiling),
            None if self._pace is None else self._pace.rate,
            max(0.0, self._resume - now),
            dict(self.throttles),
        )

    # -- inside

    def _climbing(self) -> bool:
        """Whether nothing is known of a limit here: never throttled, or well above where that was."""
        return self._ceiling is None or self._window > 1.1 * self._ceiling

    def _climb(self, now: float) -> None:
        """Grow as Lambda does, while the window is in use."""
        since, self._grown = now - self._grown, now
        if self._climbing() and self.in_flight >= 0.8 * self._window and math.isfinite(since):
            self._window = min(float(self.limit), self._window + self._ramp * since)

    def _wait(self, now: float) -> None:
        pause = self._uniform(0, min(MOST_PAUSE, 0.025 * 2 ** min(self._row, 20)))
        self._resume = max(self._resume, now + pause)

    def _shrink(self, level: int) -> None:
        self._ceiling = float(level)
        self._window = max(1.0, min(self._window, DECREASE * level))

    def _slow_down(self, now: float) -> None:
        self._recent.refused(now)
        starts, refusals = self._recent.counts(now)
        if refusals <= TOLERATED * starts:
            return
        accepted = max(1.0, DECREASE * (starts - refusals))
        if self._pace is None:
            self._pace = Pace(accepted, now)
        else:
            self._pace.tighten(now, accepted)


class Recent:
    """How many were started, and refused as too many, in about the last second."""

    def __init__(self) -> None:
        self._second = 0
        self._counts = [0, 0]
        self._before = [0, 0]

    def started(self, now: float) -> None:
        """One more."""
        self._turn(now)
        self._counts[0] += 1

    def refused(self, now: float) -> None:
        """One of them."""
        self._turn(now)
        self._counts[1] += 1

    def counts(self, now: float) -> tuple[float, float]:
        """Both: of this second, and of the last one the part that is less than a second ago."""
        self._turn(now)
        part = 1 - (now - self._second)
        starts, refusals = (count + part * old for count, old in zip(self._counts, self._before, strict=True))
        return starts, refusals

    def _turn(self, now: float) -> None:
        second = math.floor(now)
        if second != self._second:
            self._before = self._counts if second == self._second + 1 else [0, 0]
            self._counts = [0, 0]
            self._second = second


class Pace:
    """Starts a second, after Lambda said that they were too many."""

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self._tokens = 1.0
        self._filled = self._changed = now
        self._eases = 0

    def tighten(self, now: float, accepted: float) -> None:
        """Still too many; once a second, since what was started before the last time says nothing new."""
        if now - self._changed >= 1.0:
            self.rate = min(self.rate, accepted)
            self._changed, self._eases = now, 0

    def relax(self, now: float) -> bool:
        """A start was accepted; true when the pace is no longer needed: ten times higher without complaint."""
        if now - self._changed >= 1.0:
            self._changed = now
            self._eases += 1
            self.rate *= 1.1
        return self._eases > 24

    def room(self, now: float) -> int:
        """How many may start now."""
        most = max(1.0, self.rate / 20)  # a twentieth of a second's worth may start together
        self._tokens = min(most, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        return int(self._tokens)

    def delay(self, now: float) -> float:
        """Seconds until one may start."""
        return max(0.0, (1 - self._tokens) / self.rate) if self.room(now) < 1 else 0.0

    def take(self, now: float) -> None:
        """One starts."""
        self.room(now)
        self._tokens -= 1
