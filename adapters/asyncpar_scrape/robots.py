"""robots.txt, read once for each site and kept for a while (RFC 9309)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from asyncpar_scrape.failures import AddressError, FetchError, RobotsError, StatusError
from asyncpar_scrape.robotsfile import CostlyError, Rules, parse

KEPT = 24 * 3600.0
"""Seconds for which a file is used, by RFC 9309's advice."""
KEPT_FAILURE = 300.0
"""Seconds after which a file that could not be read is tried again."""
KNOWN_SITES = 1000
KNOWN_CHARACTERS = 5_000_000
"""Of the files of all known sites: parsed, each takes some tens of bytes."""


class _Site:
    __slots__ = ("lock", "rules", "until", "why")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.rules: Rules | None = None
        self.why: Exception | None = None
        self.until = 0.0


class Robots:
    """What sites allow.

    :arg read: reads an address; raises ``FetchError``
    :arg agent: the name of the robot, to find its rules by
    """

    def __init__(self, read: Callable[[str], Awaitable[bytes]], agent: str) -> None:
        self._read, self._agent = read, agent
        self._sites: OrderedDict[str, _Site] = OrderedDict()
        self._characters = 0

    async def check(self, site: str, url: str) -> float:
        """The site's Crawl-delay in seconds, or 0.

        :raises RobotsError: the address is forbidden, or the file could not be read
        """
        rules = await self.rules(site)
        if not await rules.allow(url, self._agent):
            raise RobotsError(f"{site}/robots.txt forbids {url} to {self._agent}; robots=False ignores it")
        return rules.delay(self._agent)

    async def rules(self, site: str) -> Rules:
        """The site's rules; it is read by the first who asks, while the others wait.

        :raises RobotsError: it could not be read (a status of 500 and above, 429, no connection, a time-out)
        """
        known = self._sites.get(site)
        if known is None:
            known = self._sites[site] = _Site()
        self._sites.move_to_end(site)
        async with known.lock:
            if time.monotonic() >= known.until:
                await self._load(site, known)
        if known.rules is None:
            raise RobotsError(
                f"{site}/robots.txt could not be read, which forbids the whole site: {known.why}; "
                "robots=False ignores it"
            )
        return known.rules

    async def _load(self, site: str, known: _Site) -> None:
        rules = None
        try:
            rules = await parse(await self._read(f"{site}/robots.txt"))
        except AddressError:
            raise  # there is no such site, for us
        except (FetchError, CostlyError) as error:
            if isinstance(error, StatusError) and error.status < 500 and error.status != 429:
                rules = await parse(b"")  # there is none: all is allowed
            else:
                known.why = error
        self._characters += _size(rules) - _size(known.rules)
        known.rules = rules
        known.until = time.monotonic() + (KEPT_FAILURE if rules is None else KEPT)
        self._forget()

    def _forget(self) -> None:
        """Drop the site that was not used for longest, while there are too many."""
        while len(self._sites) > KNOWN_SITES or (
            self._characters > KNOWN_CHARACTERS and len(self._sites) > 1
        ):
            name, oldest = next(iter(self._sites.items()))
            if oldest.lock.locked():
                return
            self._characters -= _size(oldest.rules)
            del self._sites[name]


def _size(rules: Rules | None) -> int:
    return 0 if rules is None else rules.size
