"""What a run of a crawl has done so far: pages by host, and errors by kind."""

from __future__ import annotations

import heapq
import math
from collections import Counter, OrderedDict
from typing import NamedTuple

HOSTS = 1000
"""Hosts that are remembered; those that were not visited for longest are forgotten."""
SECONDS = 10.0
"""How far a rate looks back: a page counts for 1/e after so long."""


class HostStatistics(NamedTuple):
    """A host, in this run.

    :ivar host: scheme, host and port
    :ivar pages: pages that were visited, those that failed included
    :ivar rate: pages a second, over the last ten seconds or so
    """

    host: str
    pages: int
    failed: int
    rate: float


class _Host:
    __slots__ = ("at", "failed", "pages", "rate")

    def __init__(self, now: float) -> None:
        self.pages = self.failed = 0
        self.rate, self.at = 0.0, now


class Tally:
    """Counts pages. Times are seconds of one clock, given by the caller."""

    def __init__(self) -> None:
        self.pages = 0
        self.errors: Counter[str] = Counter()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    def add(self, host: str, error: str | None, now: float) -> None:
        """A page was settled; an error is named by its kind."""
        self.pages += 1
        if host not in self._hosts:
            self._hosts[host] = _Host(now)
            if len(self._hosts) > HOSTS:
                self._hosts.popitem(last=False)
        self._hosts.move_to_end(host)
        known = self._hosts[host]
        known.pages += 1
        known.rate = _decayed(known, now) + 1 / SECONDS
        known.at = now
        if error is not None:
            known.failed += 1
            self.errors[error] += 1

    def busiest(self, most: int, now: float) -> list[HostStatistics]:
        """The hosts with most pages a second."""
        found = (HostStatistics(host, h.pages, h.failed, _decayed(h, now)) for host, h in self._hosts.items())
        return heapq.nlargest(most, found, key=lambda host: (host.rate, host.pages))


def _decayed(host: _Host, now: float) -> float:
    return host.rate * math.exp((host.at - now) / SECONDS)
