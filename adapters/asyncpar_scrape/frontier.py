"""What a crawl has to visit, and in which order: hosts take turns. Blocking: for the store's thread.

An address is known by a number of 64 bits, the hash of its canonical form: an index of these is what finds duplicates, on
disk, so that memory does not grow with the addresses (two of 10^7 share a number with a chance of 3 in a million). What was
handed out keeps its state in the file until its outcome is written: after a kill it is taken again, and nothing else is.

What cannot be asked yet waits here, not on its way: it is put back with a time, until which its host has no turn.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

from asyncpar_scrape.addresses import Addresses, host_of, number_of
from asyncpar_scrape.database import (
    DONE,
    FAILED,
    SITEMAP,
    STATEMENT_ROWS,
    Counts,
    count,
    insert,
    known,
)
from asyncpar_scrape.traps import Traps

RECENT = 50_000
"""Addresses that are known to be in the file without looking, in each of two generations: about 4 MB each."""
READ_AHEAD = 32
"""Addresses of one host that are read with one statement."""
NONE: Addresses = {}


class Entry(NamedTuple):
    """A page to visit.

    :ivar id: its number in the store
    :ivar depth: links between it and a start address; ``SITEMAP`` for a sitemap
    :ivar host: the hash of its host
    :ivar tries: how often it was tried in this run
    """

    id: int
    url: str
    depth: int
    host: int
    tries: int = 0


class Outcome(NamedTuple):
    """What became of a page: an error, or items (as JSON texts) and links.

    :ivar sitemaps: of its site, to be visited, too
    """

    entry: Entry
    error: str | None = None
    items: Sequence[str] = ()
    links: Mapping[int, str] = NONE
    sitemaps: Mapping[int, str] = NONE


class _Host:
    """A host of which pages are handed out or read ahead."""

    __slots__ = ("due", "last", "out", "ready")

    def __init__(self) -> None:
        self.last = 0  # the page read last
        self.out = 0
        self.due = 0.0  # when it has its next turn
        self.ready: deque[Entry] = deque()


class Frontier:
    """The pages to visit, handed out host by host in turns, in a file that is open for writing.

    Memory holds a number for each host that has pages waiting, and a few addresses of those that are being visited.
    Times are those of one clock, in seconds.

    :arg per_host: pages of one host that may be handed out at once
    :arg max_pages: pages that are handed out in all, those of earlier runs included
    :arg max_per_pattern: links of one pattern that are taken in all; see ``traps``
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        per_host: int,
        max_pages: int | None = None,
        max_per_pattern: int | None = None,
    ) -> None:
        self.connection = connection
        self.per_host = per_host
        self.out = 0
        self.counts = count(connection)
        self._left = inf if max_pages is None else max_pages - self.counts.done - self.counts.failed
        self._hosts: dict[int, _Host] = {}
        found = connection.execute("SELECT DISTINCT host FROM pages WHERE state = 0")
        self._ring = deque(host for (host,) in found)
        self._listed = set(self._ring)
        self._away: list[tuple[float, int]] = []
        self._young: set[int] = set()
        self._old: set[int] = set()
        self._traps = Traps(max_per_pattern)
        if max_per_pattern is not None:
            for (url,) in connection.execute("SELECT url FROM pages WHERE depth > 0"):
                self._traps.full(url)

    # -- adding

    def add(self, *found: tuple[Mapping[int, str], int]) -> None:
        """Let addresses, each with its depth, wait for their visit, unless they are known already or in a trap."""
        fresh: dict[int, tuple[str, int]] = {}
        young, old = self._young, self._old
        for addresses, depth in found:
            for key in [key for key in addresses if key not in young and key not in old]:
                fresh.setdefault(key, (addresses[key], depth))
        if not fresh:
            return
        self._remember(fresh)
        for key in known(self.connection, list(fresh)):
            del fresh[key]
        rows: list[Any] = []
        refused: dict[str, int] = {}
        for key, (url, depth) in fresh.items():
            pattern = self._traps.full(url) if depth > 0 else None
            if pattern is not None:
                refused[pattern] = refused.get(pattern, 0) + 1
                continue
            host = number_of(host_of(url))
            rows += (key, host, depth, url)
            self._list(host)
        insert(self.connection, "INSERT INTO pages (key, host, depth, url)", 4, rows)
        self.connection.executemany(
            "INSERT INTO traps VALUES (?, ?) ON CONFLICT DO UPDATE SET refused = refused + excluded.refused",
            refused.items(),
        )
        self.counts = self.counts._replace(
            waiting=self.counts.waiting + len(rows) // 4, refused=self.counts.refused + sum(refused.values())
        )

    def _remember(self, keys: Iterable[int]) -> None:
        if len(self._young) >= RECENT:
            self._old, self._young = self._young, set()
        self._young.update(keys)

    def _list(self, number: int) -> None:
        """Give a host its turns, unless it has them or is away."""
        host = self._hosts.get(number)
        if number not in self._listed and (host is None or not host.due):
            self._listed.add(number)
            self._ring.append(number)

    # -- handing out

    def take(self, most: int, now: float) -> list[Entry]:
        """Pages to visit, at most so many: one of each host in turn. What was settled must have been written."""
        self._call_back(now)
        taken: list[Entry] = []
        most = int(min(most, self._left))
        while self._ring and len(taken) < most:
            number = self._ring.popleft()
            host = self._hosts.get(number)
            if host is None:
                host = self._hosts[number] = _Host()
            if not host.due and host.out < self.per_host and (host.ready or self._read_ahead(number, host)):
                taken.append(host.ready.popleft())
                host.out += 1
                self._ring.append(number)
                continue
            self._listed.discard(number)  # until a page of it is settled, or found, or it comes back
            if not host.out and not host.due:
                del self._hosts[number]
        self.out += len(taken)
        self._left -= len(taken)
        return taken

    def put_back(self, entry: Entry, due: float) -> None:
        """A page that was handed out waits again, and so does its host until that time."""
        host = self._hosts[entry.host]
        host.ready.appendleft(entry)
        host.out -= 1
        self.out -= 1
        self._left += 1
        if due > host.due:
            host.due = due
            heapq.heappush(self._away, (due, entry.host))

    def due(self) -> float:
        """When the next host that is away comes back; ``inf``: none is away."""
        return self._away[0][0] if self._away else inf

    def _call_back(self, now: float) -> None:
        while self._away and self._away[0][0] <= now:
            due, number = heapq.heappop(self._away)
            host = self._hosts.get(number)
            if host is not None and host.due == due:  # else it is away for longer, or has come back
                host.due = 0.0
                self._list(number)

    def _read_ahead(self, number: int, host: _Host) -> bool:
        found = self.connection.execute(
            "SELECT id, url, depth FROM pages WHERE state = 0 AND host = ? AND id > ? ORDER BY id LIMIT ?",
            (number, host.last, READ_AHEAD),
        ).fetchall()
        host.ready.extend(Entry(page, url, depth, number) for page, url, depth in found)
        if found:
            host.last = found[-1][0]
        return bool(found)

    def exhausted(self) -> bool:
        """Whether there is nothing to hand out, and no page is out whose links may add something."""
        return not self.out and (self._left <= 0 or (not self._ring and not self._away))

    # -- settling

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Write what became of pages."""
        failed = [(outcome.error, outcome.entry.id) for outcome in outcomes if outcome.error is not None]
        done = [outcome for outcome in outcomes if outcome.error is None]
        if failed:
            self.connection.executemany(
                f"UPDATE pages SET state = {FAILED}, error = ? WHERE id = ?",  # noqa: S608
                failed,
            )
        for at in range(0, len(done), STATEMENT_ROWS):
            some = [outcome.entry.id for outcome in done[at : at + STATEMENT_ROWS]]
            marks = ", ".join("?" * len(some))
            self.connection.execute(f"UPDATE pages SET state = {DONE} WHERE id IN ({marks})", some)  # noqa: S608
        values = [value for outcome in done for item in outcome.items for value in (outcome.entry.id, item)]
        insert(self.connection, "INSERT INTO items (page, value)", 2, values)
        before = self.counts
        self.counts = Counts(
            before.waiting - len(outcomes),
            before.done + len(done),
            before.failed + len(failed),
            before.items + len(values) // 2,
            before.refused,
        )
        self.add(*((outcome.links, outcome.entry.depth + 1) for outcome in done))
        self.add(*((outcome.sitemaps, SITEMAP) for outcome in outcomes))
        for outcome in outcomes:
            host = self._hosts[outcome.entry.host]
            host.out -= 1
            host.due = 0.0  # something is known of it now: it is looked at again
            self.out -= 1
            self._list(outcome.entry.host)
