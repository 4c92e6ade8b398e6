"""The SQLite file of a crawl: what is in it, and how it is opened, counted and read. Blocking."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WAITING, DONE, FAILED = range(3)
SITEMAP = -1
"""The depth of a sitemap; what it lists has that of a start address, 0."""
APPLICATION = 0x61707363  # "apsc": how `file` and we tell a store from other SQLite files
SCHEMA = """
CREATE TABLE pages (
    id INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, host INTEGER NOT NULL, depth INTEGER NOT NULL,
    url TEXT NOT NULL, state INTEGER NOT NULL DEFAULT 0, error TEXT
);
CREATE INDEX waiting ON pages (host, id) WHERE state = 0;
CREATE INDEX failed ON pages (id) WHERE state = 2;
CREATE TABLE items (id INTEGER PRIMARY KEY, page INTEGER NOT NULL, value TEXT NOT NULL);
CREATE TABLE traps (pattern TEXT PRIMARY KEY, refused INTEGER NOT NULL) WITHOUT ROWID;
"""
STATEMENT_ROWS = 100
"""Rows in one INSERT. Older SQLite takes 999 parameters."""
CACHE_KIB = 8 * 1024
"""SQLite's own memory; the system keeps the file, too."""


class StoreError(Exception):
    """A crawl's store cannot be used; the message says why and what to do."""


class Counts(NamedTuple):
    """The pages of a store by their state, its items, and the addresses that were refused as traps."""

    waiting: int = 0
    done: int = 0
    failed: int = 0
    items: int = 0
    refused: int = 0


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


def insert(connection: sqlite3.Connection, head: str, width: int, values: list[Any]) -> None:
    """Insert rows of so many columns, which follow one another in ``values``.

    One statement writes many: SQLite gives up the GIL for each, and in a busy program gets it back late.
    """
    row = f"({', '.join('?' * width)})"
    step = width * STATEMENT_ROWS
    for at in range(0, len(values), step):
        some = values[at : at + step]
        connection.execute(f"{head} VALUES {', '.join([row] * (len(some) // width))}", some)


def known(connection: sqlite3.Connection, keys: Sequence[int]) -> set[int]:
    """Which of these addresses are in the store."""
    found: set[int] = set()
    for at in range(0, len(keys), STATEMENT_ROWS):
        some = keys[at : at + STATEMENT_ROWS]
        query = f"SELECT key FROM pages WHERE key IN ({', '.join('?' * len(some))})"  # noqa: S608
        found.update(key for (key,) in connection.execute(query, some))
    return found


def count(connection: sqlite3.Connection) -> Counts:
    """The pages by state, the items, and what was refused. It reads all pages."""
    by_state = dict(connection.execute("SELECT state, count(*) FROM pages GROUP BY state"))
    [(items,)] = connection.execute("SELECT count(*) FROM items")
    [(refused,)] = connection.execute("SELECT coalesce(sum(refused), 0) FROM traps")
    return Counts(by_state.get(WAITING, 0), by_state.get(DONE, 0), by_state.get(FAILED, 0), items, refused)


def errors(connection: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """The pages that failed, each with its error."""
    yield from connection.execute(f"SELECT url, error FROM pages WHERE state = {FAILED} ORDER BY id")  # noqa: S608


def traps(connection: sqlite3.Connection) -> Iterator[tuple[str, int]]:
    """The patterns that have had as many addresses as they may, each with how many more were refused."""
    yield from connection.execute("SELECT pattern, refused FROM traps ORDER BY refused DESC")


def retry_errors(connection: sqlite3.Connection) -> int:
    """Let the pages that failed wait again; how many these are."""
    return connection.execute(
        f"UPDATE pages SET state = {WAITING}, error = NULL WHERE state = {FAILED}"  # noqa: S608
    ).rowcount
