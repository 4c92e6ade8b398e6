"""How long what cannot be reached is asked again. No I/O, and time is an argument."""

from __future__ import annotations

import random

MOST_PAUSE = 10.0
"""Seconds; the longest pause before something is tried again."""
QUIET = 60.0
"""Seconds without any attempt that end a spell: longer than any pause."""


class Patience:
    """Failures in a row, and since when. ``now`` is in seconds on any clock that does not go back.

    A success ends such a spell, and so does a time as long as the patience, and not less than ``QUIET``, in which
    nobody asked.

    :param seconds: after which a spell is too long; 0 for the first failure
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.attempts = 0
        self._since = self._last = 0.0

    def failed(self, now: float) -> None:
        """It did not work now."""
        if not self.attempts or now - self._last > max(self.seconds, QUIET):
            self.attempts, self._since = 0, now
        self.attempts += 1
        self._last = now

    def succeeded(self) -> None:
        """It worked."""
        self.attempts = 0

    @property
    def over(self) -> bool:
        """Whether the spell is too long."""
        return self.attempts > 0 and self._last - self._since >= self.seconds

    def __str__(self) -> str:
        times = f"{self.attempts:,} attempt{'s' * (self.attempts != 1)}"
        return f"{times} in {self._last - self._since:.1f} s"


def pause(attempt: int) -> float:
    """Seconds to wait after so many failures: between 0 and 0.1, 0.2, 0.4, ... up to 10 (full jitter)."""
    return random.uniform(0, min(MOST_PAUSE, 0.05 * 2 ** min(attempt, 20)))
