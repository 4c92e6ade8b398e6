"""robots.txt, read once for each site and kept for a while (RFC 9309)."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING

from asyncpar_scrape.failures import AddressError, FetchError, RobotsError, StatusError

if TYPE_CHECKING:
    from protego import Protego

MOST_BYTES = 512 * 1024
"""What is read of a file; RFC 9309 asks for 500 KiB at least. What follows does not count."""
LONG = 16 * 1024
"""Characters that take some milliseconds to parse; 512 KiB take up to a third of a second."""
KEPT = 24 * 3600.0
"""Seconds for which a file is used, by RFC 9309's advice."""
KEPT_FAILURE = 300.0
"""Seconds after which a file that could not be read is tried again."""
KNOWN_SITES = 1000


class _Site:
    __slots__ = ("lock", "rules", "until", "why")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.rules: Protego | None = None
        self.why: FetchError | None = None
        self.until = 0.0


class Robots:
    """What sites allow.

    :arg read: reads an address; raises ``FetchError``
    :arg agent: the name of the robot, to find its rules by
    """

    def __init__(self, read: Callable[[str], Awaitable[bytes]], agent: str) -> None:
        self._read, self._agent = read, agent
        self._sites: OrderedDict[str, _Site] = OrderedDict()

    async def check(self, site: str, url: str) -> float:
        """The site's Crawl-delay in seconds, or 0.

        :raises RobotsError: the address is forbidden, or the file could not be read
        """
        rules = await self.rules(site)
        if not rules.can_fetch(url, self._agent):
            raise RobotsError(f"{site}/robots.txt forbids {url} to {self._agent}; robots=False ignores it")
        delay = float(rules.crawl_delay(self._agent) or 0)
        return delay if 0 < delay < inf else 0.0

    async def rules(self, site: str) -> Protego:
        """The site's rules; it is read by the first who asks, while the others wait.

        :raises RobotsError: it could not be read (a status of 500 and above, 429, no connection, a time-out)
        """
        known = self._sites.get(site)
        if known is None:
            known = self._sites[site] = _Site()
            self._forget()
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
        from protego import Protego

        try:
            text = (await self._read(f"{site}/robots.txt")).decode("utf-8", "replace")
            long = len(text) > LONG
            known.rules = await asyncio.to_thread(Protego.parse, text) if long else Protego.parse(text)
        except AddressError:
            raise  # there is no such site, for us
        except FetchError as error:
            if isinstance(error, StatusError) and error.status < 500 and error.status != 429:
                known.rules = Protego.parse("")  # there is none: all is allowed
            else:
                known.rules, known.why = None, error
        known.until = time.monotonic() + (KEPT_FAILURE if known.rules is None else KEPT)

    def _forget(self) -> None:
        if len(self._sites) > KNOWN_SITES:
            name, oldest = next(iter(self._sites.items()))
            if not oldest.lock.locked():
                del self._sites[name]
