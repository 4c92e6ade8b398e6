"""When a host may be asked: politeness as a plain state, without I/O and without a clock of its own.

Requests to a host start ``delay`` seconds apart at least, and as many as its *room* may run at once. Room begins at 1,
grows by one for as many good answers as it is, and is halved by a failure or when an answer takes twice as long as they
did, and over ``QUICK``. After a failure the host is left alone for a time drawn between 0 and ``BACKOFF`` doubled for each failure in a row
(full jitter), or for as long as its Retry-After says.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from math import inf

BACKOFF = 1.0
"""Seconds that a pause after the first failure takes at most."""
MOST_BACKOFF = 60.0
QUICK = 0.1
"""Seconds in which an answer is quick, whatever is usual: what a busy loop adds must not look like a busy host."""
UNKNOWN = 1.0
"""Seconds that an answer is taken to need of a host that has given none."""
MOST_GUESSED = 1.0
"""Seconds that are added for those who come before: a guess that has to be made again soon."""
KNOWN_HOSTS = 10_000
"""Idle hosts that are remembered; about 300 bytes each."""


class _Host:
    __slots__ = ("delay", "failures", "free_at", "latency", "out", "room")

    def __init__(self) -> None:
        self.out = 0
        self.room = 1.0
        self.delay = 0.0
        self.free_at = -inf  # no request starts before
        self.failures = 0
        self.latency: float | None = None  # of good answers, smoothed; seconds


class Hosts:
    """Whether a host may be asked now, and when. Times are seconds of one clock, given by the caller.

    :arg per_host: requests to one host that may run at once, at most
    :arg delay: seconds between the starts of two requests to a host, at least
    :arg max_failures: failures in a row after which a host is down: until its next pause is over nobody waits for it
    :arg jitter: draws the length of a pause between two bounds; for tests
    """

    def __init__(
        self,
        per_host: int = 4,
        delay: float = 0.5,
        *,
        max_failures: int = 8,
        jitter: random.Random | None = None,
    ) -> None:
        if per_host < 1:
            raise ValueError(f"per_host must be at least 1, not {per_host}")
        if not 0 <= delay < inf:
            raise ValueError(f"delay must be a number of seconds from 0 on, not {delay}")
        if max_failures < 1:
            raise ValueError(f"max_failures must be at least 1, not {max_failures}")
        self.per_host, self.delay, self.max_failures = per_host, delay, max_failures
        self._draw = (jitter or random).uniform
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def wait(self, host: str, now: float) -> float:
        """Seconds until the host may be asked: 0 now, ``inf`` until a request to it has finished."""
        known = self._hosts.get(host)
        if known is None:
            return 0.0
        if known.out >= int(known.room):
            return inf
        return max(0.0, known.free_at - now)

    def is_down(self, host: str, now: float) -> bool:
        """Whether a host has failed so often in a row that it is not worth waiting for the end of its pause."""
        known = self._hosts.get(host)
        return known is not None and known.failures >= self.max_failures and known.free_at > now

    def expect(self, host: str, coming: int, now: float) -> float:
        """Seconds until one more request might begin: a guess, from how it went so far.

        :arg coming: those who want to ask the host, or are asking it
        """
        known = self._hosts.get(host)
        if known is None:
            return min(coming * UNKNOWN, MOST_GUESSED)
        latency = UNKNOWN if known.latency is None else known.latency
        pace = max(self.delay, known.delay, latency / known.room)
        full = pace if known.out >= int(known.room) else 0.0
        return max(full, known.free_at - now) + min(max(0, coming - known.out) * pace, MOST_GUESSED)

    def start(self, host: str, now: float) -> None:
        """A request begins, which ``wait`` allowed."""
        known = self._know(host, now)
        known.out += 1
        known.free_at = max(known.free_at, now + max(self.delay, known.delay))

    def finish(
        self, host: str, now: float, *, seconds: float | None = None, retry_after: float = 0.0
    ) -> None:
        """A request has ended.

        :arg seconds: how long a good answer took to begin; ``None``: it failed
        :arg retry_after: seconds that the host asked to be left alone
        """
        known = self._know(host, now)
        known.out -= 1
        if seconds is None:
            known.failures += 1
            known.room = max(1.0, known.room / 2)
            most = min(MOST_BACKOFF, BACKOFF * 2 ** min(known.failures - 1, 16))
            known.free_at = max(known.free_at, now + max(retry_after, self._draw(0, most)))
            return
        known.failures = 0
        usual = known.latency
        if usual is not None and seconds > max(QUICK, 2 * usual):
            known.room = max(1.0, known.room / 2)
        else:
            known.room = min(float(self.per_host), known.room + 1 / known.room)
        known.latency = seconds if usual is None else usual + (seconds - usual) / 8

    def release(self, host: str) -> None:
        """A request was given up, which says nothing about the host."""
        self._hosts[host].out -= 1

    def slow_down(self, host: str, delay: float, now: float) -> None:
        """The host asks for this delay (Crawl-delay), in seconds; a shorter one than ours changes nothing."""
        known = self._know(host, now)
        known.free_at = max(known.free_at, known.free_at - max(known.delay, self.delay) + delay)
        known.delay = delay

    def _know(self, host: str, now: float) -> _Host:
        known = self._hosts.get(host)
        if known is None:
            known = self._hosts[host] = _Host()
            self._forget(now)
        self._hosts.move_to_end(host)
        return known

    def _forget(self, now: float) -> None:
        """Drop a host that was not used for long and idles; those with a pause ahead or a request out stay."""
        for _ in range(
            8
        ):  # a bounded look: with more hosts busy than are to be remembered, memory grows by them
            if len(self._hosts) <= KNOWN_HOSTS:
                return
            name, oldest = next(iter(self._hosts.items()))
            if oldest.out or oldest.free_at > now:
                self._hosts.move_to_end(name)
            else:
                del self._hosts[name]
