"""What a crawl has to visit, has visited and has found, in one SQLite file.

Blocking: for the store's thread and for commands.

An address is known by a number of 64 bits, its hash: an index of these is what finds duplicates, on disk, so that
memory does not grow with the addresses (two of 10^7 share a number with a chance of 3 in a million). What was handed
out keeps its state in the file until its outcome is written: after a kill it is taken again, and nothing else is.

One statement writes many rows: SQLite gives up the GIL for each, and in a busy program gets it back late.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

WAITING, DONE, FAILED = range(3)
APPLICATION = 0x61707363  # "apsc": how `file` and we tell a store from other SQLite files
SCHEMA = """
CREATE TABLE pages (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, host INTEGER NOT NULL, depth INTEGER NOT NULL,
    url TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE INDEX waiting ON pages (host, id) WHERE state = 0;
CREATE INDEX failed ON pages (id) WHERE state = 2;
CREATE TABLE items (id INTEGER PRIMARY KEY, page INTEGER NOT NULL, value TEXT NOT NULL);
"""
STATEMENT_ROWS = 100
"""Rows in one INSERT. Older SQLite takes 999 parameters."""
CACHE_KIB = 64 * 1024
"""SQLite's own memory: the part of the index that is in use, at 10^7 addresses."""
RECENT = 100_000
"""Addresses that are known to be in the file without looking, in each of two generations: about 10 MB each."""
READ_AHEAD = 32
"""Addresses of one host that are read with one statement."""


class StoreError(Exception):
    """A crawl's store cannot be used; the message says why and what to do."""


class Entry(NamedTuple):
    """A page to visit.

    :ivar id: its number in the store
    :ivar url: its address
    :ivar depth: links between it and a start address
    :ivar host: the hash of its host
    """

    id: int
    url: str
    depth: int
    host: int


class Outcome(NamedTuple):
    """What became of a page: an error, or items (as JSON texts) and links (absolute, in canonical form)."""

    entry: Entry
    error: str | None = None
    items: Sequence[str] = ()
    links: Sequence[str] = ()


class Counts(NamedTuple):
    """The pages of a store by their state, and its items."""

    waiting: int
    done: int
    failed: int
    items: int


def number_of(text: str) -> int:
    """A hash of 64 bits, as SQLite's signed integer."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def host_of(url: str) -> str:
    """Host and port of an absolute address."""
    return url.split("/", 3)[2] if url.count("/") >= 2 else ""


def connect(path: str | Path, *, write: bool = False) -> sqlite3.Connection:
    """Open a store; ``""`` is a temporary one that is gone when it is closed.

    :raises StoreError: there is none, or the file is something else
    """
    name = str(path)
    if not write and not Path(name).is_file():
        raise StoreError(f"there is no store {name}: give the file that store= named")
    try:
        made = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        try:
            _prepare(made, name, write)
        except BaseException:  # whatever it is, the file must not stay open
            made.close()
            raise
    except sqlite3.Error as error:
        raise StoreError(f"the store {name} cannot be used: {error}") from error
    return made


def _prepare(made: sqlite3.Connection, name: str, write: bool) -> None:
    [(application,)] = made.execute("PRAGMA application_id").fetchall()
    [(tables,)] = made.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    if application != APPLICATION and (tables or not write):
        raise StoreError(f"{name} is not the store of a crawl: give another path")
    made.execute("PRAGMA busy_timeout = 5000").close()
    if not write:
        return
    made.execute("PRAGMA journal_mode = WAL").close()
    made.execute("PRAGMA synchronous = NORMAL")  # a kill loses nothing; a power cut loses the last commits
    made.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    if not tables:
        made.executescript(f"BEGIN; {SCHEMA} PRAGMA application_id = {APPLICATION}; COMMIT;")


class _Host:
    """A host of which pages are handed out or read ahead."""

    __slots__ = ("last", "out", "ready")

    def __init__(self) -> None:
        self.last = 0  # the page read last
        self.out = 0
        self.ready: deque[tuple[int, str, int]] = deque()


class Frontier:
    """The pages to visit, handed out host by host in turns, in a file that is open for writing.

    Memory holds a number for each host that has pages waiting, and a few addresses of those that are being visited.

    :arg per_host: pages of one host that may be handed out at once
    :arg max_pages: pages that are handed out in all, those of earlier runs included
    """

    def __init__(
        self, connection: sqlite3.Connection, *, per_host: int, max_pages: int | None = None
    ) -> None:
        self.connection = connection
        self.per_host = per_host
        self.out = 0
        self.counts = count(connection)
        self._left = (1 << 62) if max_pages is None else max_pages - self.counts.done - self.counts.failed
        self._hosts: dict[int, _Host] = {}
        found = connection.execute("SELECT DISTINCT host FROM pages WHERE state = 0")
        self._ring = deque(host for (host,) in found)
        self._listed = set(self._ring)
        self._young: set[int] = set()
        self._old: set[int] = set()

    # -- adding

    def add(self, urls: Iterable[tuple[str, int]]) -> None:
        """Let addresses, each with its depth, wait for their visit, unless they are known already."""
        rows: list[Any] = []
        for url, depth in urls:
            quick = hash(url)  # a tenth of the cost of the number, and as good within one run
            if quick in self._young or quick in self._old:
                continue
            self._remember(quick)
            host = number_of(host_of(url))
            rows += (number_of(url), host, depth, url)
            self._list(host)
        before = self.connection.total_changes
        _insert(self.connection, "INSERT OR IGNORE INTO pages (key, host, depth, url)", 4, rows)
        self.counts = self.counts._replace(
            waiting=self.counts.waiting + self.connection.total_changes - before
        )

    def _remember(self, quick: int) -> None:
        if len(self._young) >= RECENT:
            self._old, self._young = self._young, set()
        self._young.add(quick)

    def _list(self, host: int) -> None:
        if host not in self._listed:
            self._listed.add(host)
            self._ring.append(host)

    # -- handing out

    def take(self, most: int) -> list[Entry]:
        """Pages to visit, at most so many: one of each host in turn. What was settled must have been written."""
        taken: list[Entry] = []
        most = min(most, self._left)
        while self._ring and len(taken) < most:
            number = self._ring.popleft()
            host = self._hosts.get(number)
            if host is None:
                host = self._hosts[number] = _Host()
            if host.out < self.per_host and (host.ready or self._read_ahead(number, host)):
                taken.append(Entry(*host.ready.popleft(), number))
                host.out += 1
                self._ring.append(number)
                continue
            self._listed.discard(number)  # until a page of it is settled, or found
            if not host.out:
                del self._hosts[number]
        self.out += len(taken)
        self._left -= len(taken)
        return taken

    def _read_ahead(self, number: int, host: _Host) -> bool:
        found = self.connection.execute(
            "SELECT id, url, depth FROM pages WHERE state = 0 AND host = ? AND id > ? ORDER BY id LIMIT ?",
            (number, host.last, READ_AHEAD),
        ).fetchall()
        host.ready.extend(found)
        if found:
            host.last = found[-1][0]
        return bool(found)

    def exhausted(self) -> bool:
        """Whether there is nothing to hand out, and no page is out whose links may add something."""
        return not self.out and (not self._ring or self._left <= 0)

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
        _insert(self.connection, "INSERT INTO items (page, value)", 2, values)
        known = self.counts
        self.counts = Counts(
            known.waiting - len(outcomes),
            known.done + len(done),
            known.failed + len(failed),
            known.items + len(values) // 2,
        )
        self.add((link, outcome.entry.depth + 1) for outcome in done for link in outcome.links)
        for outcome in outcomes:
            self.out -= 1
            self._hosts[outcome.entry.host].out -= 1
            self._list(outcome.entry.host)


def _insert(connection: sqlite3.Connection, head: str, width: int, values: list[Any]) -> None:
    """Insert rows of so many columns, which follow one another in ``values``."""
    row = f"({', '.join('?' * width)})"
    step = width * STATEMENT_ROWS
    for at in range(0, len(values), step):
        some = values[at : at + step]
        connection.execute(f"{head} VALUES {', '.join([row] * (len(some) // width))}", some)


def count(connection: sqlite3.Connection) -> Counts:
    """The pages by state, and the items. It reads all pages."""
    by_state = dict(connection.execute("SELECT state, count(*) FROM pages GROUP BY state"))
    [(items,)] = connection.execute("SELECT count(*) FROM items")
    return Counts(by_state.get(WAITING, 0), by_state.get(DONE, 0), by_state.get(FAILED, 0), items)


def errors(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """The pages that failed, each with its error."""
    yield from connection.execute(f"SELECT url, error FROM pages WHERE state = {FAILED} ORDER BY id")  # noqa: S608


def retry_errors(connection: sqlite3.Connection) -> int:
    """Let the pages that failed wait again; how many these are."""
    return connection.execute(
        f"UPDATE pages SET state = {WAITING}, error = NULL WHERE state = {FAILED}"  # noqa: S608
    ).rowcount
