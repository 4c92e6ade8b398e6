"""One robots.txt, as Protego reads it, within bounds: a hostile file holds neither the loop nor the memory."""

from __future__ import annotations

import asyncio
import re
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from protego import Protego

MOST_BYTES = 512 * 1024
"""What is read of a file; RFC 9309 asks for 500 KiB at least. What follows does not count."""
MOST_RULES = 100_000
"""Rules of all agents. Each agent of a group has all rules of it, so that 100 KB may make ten million."""
MOST_WILDCARDS = 10_000
"""Each is looked for in each address."""
LONG = 16 * 1024
"""Characters that take some milliseconds to parse; 512 KiB take up to a third of a second."""
SLOW_RULES = 2_000
"""Rules that take as long, however short the file is."""
SLOW_CHECK = 500_000
"""Wildcards times characters of an address that take as long to compare."""
AGENT = re.compile(r"\s*user[-\s]*agent", re.IGNORECASE)
RULE = re.compile(r"\s*(dis)?allow\s*:", re.IGNORECASE)


class CostlyError(Exception):
    """The file has more rules than are kept; the message says how many it may have."""


class _Cost(NamedTuple):
    rules: int
    wildcards: int


class Rules:
    """What a file allows.

    :ivar size: its characters
    """

    def __init__(self, parsed: Protego, size: int, wildcards: int) -> None:
        self.size = size
        self._parsed, self._wildcards = parsed, wildcards

    async def allow(self, url: str, agent: str) -> bool:
        """Whether the agent may ask this address."""
        if self._wildcards * len(url) > SLOW_CHECK:
            return await asyncio.to_thread(self._parsed.can_fetch, url, agent)
        return self._parsed.can_fetch(url, agent)

    def delay(self, agent: str) -> float:
        """The Crawl-delay in seconds; 0 without one that makes sense."""
        delay = float(self._parsed.crawl_delay(agent) or 0)
        return delay if 0 < delay < inf else 0.0

    def sitemaps(self) -> list[str]:
        """The sitemaps that it names, as they stand there."""
        return list(self._parsed.sitemaps)


async def parse(data: bytes) -> Rules:
    """Read a file.

    :raises CostlyError: it has too many rules
    """
    text = data.decode("utf-8-sig", "replace")
    if len(text) > LONG or _cost(text).rules > SLOW_RULES:
        return await asyncio.to_thread(_parse, text)
    return _parse(text)


def _parse(text: str) -> Rules:
    from protego import Protego

    cost = _cost(text)
    if cost.rules > MOST_RULES or cost.wildcards > MOST_WILDCARDS:
        raise CostlyError(f"it has over {MOST_RULES:,} rules or {MOST_WILDCARDS:,} wildcards")
    return Rules(Protego.parse(text), len(text), cost.wildcards)


def _cost(text: str) -> _Cost:
    """How many rules and wildcards Protego would make of it, or more."""
    agents = rules = wildcards = 0
    ended = True  # a group's lines of agents
    for line in text.splitlines():
        line = line.partition("#")[0]
        if AGENT.match(line):
            agents = 1 + 1 if ended else agents + 1 + 1  # one with an asterisk counts twice
            ended = False
        elif line:
            rules += agents
            wildcards += line.count("*")
            ended = ended or RULE.match(line) is not None
    return _Cost(rules, wildcards)
