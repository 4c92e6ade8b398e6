"""What is in the file, row by row. Blocking, for threads and for commands.

A row has a checksum over its key, function, item and value, which is verified whenever it is read: a row that fails it
counts as not there. Rows are numbered in the order in which calls finished, so that a file with damaged pages can be
read around them.
"""

from __future__ import annotations

import json
import os
import pickle
import sqlite3
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from asyncpar.errors import JournalError

APPLICATION = 0x61706A6C  # "apjl": how `file` and we tell a journal from other SQLite files
FORMAT = 1
SCHEMA = """
CREATE TABLE functions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, label TEXT NOT NULL, salt BLOB NOT NULL UNIQUE, version TEXT
);
CREATE TABLE results (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, function INTEGER NOT NULL, item BLOB NOT NULL,
    value BLOB NOT NULL, checksum BLOB NOT NULL
);
"""
MOST_ITEM_BYTES = 4096
"""An item whose pickle is larger is not kept beside its result: the key says which it was."""
Row = tuple[bytes, int, bytes, bytes, bytes]
"""key, function, item, value, checksum"""


class Result(NamedTuple):
    """A kept result.

    :ivar function: ``module.qualname``, with the arguments of a partial
    :ivar item: the item, what ``key=`` gave for it, or a tuple where several iterables were mapped; ``None`` if its
        pickle takes more than 4 KiB or cannot be read in this program
    :ivar value: what the function returned
    :ivar key: 16 bytes, the same for the same item of the same function
    """

    function: str
    item: Any
    value: Any
    key: bytes


class Kept(NamedTuple):
    """A function in a journal. ``version`` is ``None`` after ``asyncpar journal accept``."""

    id: int
    name: str
    label: str
    salt: bytes
    version: dict[str, str] | None


def checksum(key: bytes, function: int, item: bytes, value: bytes) -> bytes:
    """8 bytes over a whole row: a damaged one passes with a chance of 1 in 10**19."""
    state = blake2b(b"%b %d %d " % (key, function, len(item)), digest_size=8)
    state.update(item)
    state.update(value)
    return state.digest()


def is_sound(row: Row) -> bool:
    """Whether a row is as it was written."""
    key, function, item, value, written = row
    return checksum(key, function, item, value) == written


def problem(path: Path, error: BaseException) -> JournalError:
    """What an error of SQLite means for the user of a journal, and what to do."""
    text = str(error)
    if "disk is full" in text or getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR_WRITE"):
        advice = "make room and run again: what it holds is used, and nothing of it is lost"
    elif "malformed" in text or "not a database" in text:
        advice = (
            f"it is damaged, or no journal. Take another path; 'asyncpar journal export {path} saved.journal' "
            "saves what can be read of it into a new journal"
        )
    elif "readonly" in text or "unable to open" in text:
        advice = "look at the permissions of the file and of its folder, which must be writable"
    else:
        advice = "run again once that is mended: what the journal holds is used"
    return JournalError(f"the journal {path} cannot be used: {text}; {advice}")


def check_path(path: Path) -> None:
    """Refuse what is not there, for those who only read."""
    if not path.is_file():
        raise JournalError(f"there is no journal {path}")


def connect(path: Path, *, write: bool = False, damaged: bool = False) -> sqlite3.Connection:
    """An open journal. A writer makes the file if it is not there; readers may be many, beside a writer too.

    :param damaged: read a file whose end is missing, too

    :raises JournalError: it is no journal, of a newer format, or cannot be opened
    """
    if not write:
        check_path(path)
    try:
        try:
            return _open(path, "rwc" if write else "ro", damaged=damaged)
        except sqlite3.OperationalError as error:
            if write or not getattr(error, "sqlite_errorname", "").startswith("SQLITE_READONLY"):
                raise
            return _open(path, "rw", damaged=damaged)  # a killed run left something to roll back first
    except sqlite3.Error as error:
        raise problem(path, error) from error


def _open(path: Path, mode: str, *, damaged: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True, isolation_level=None, timeout=10.0, cached_statements=32,
    )  # fmt: skip
    connection.text_factory = _text
    try:
        if damaged:
            connection.execute(
                "PRAGMA writable_schema = ON"
            )  # nothing is written; but SQLite checks less then
        _check_format(connection, path, write=mode == "rwc")
        if mode == "rwc":
            # A commit is safe from the death of the process at once, and from that of the machine after a checkpoint.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA wal_autocheckpoint = 4000")
            connection.execute("PRAGMA cache_size = -16384")
        connection.execute("PRAGMA cell_size_check = ON")
    except BaseException:  # whatever it is, the file must not stay open
        connection.close()
        raise
    return connection


def _text(data: bytes) -> str:
    """A damaged row may say of any bytes that they are text."""
    return data.decode(errors="replace")


def _check_format(connection: sqlite3.Connection, path: Path, *, write: bool) -> None:
    [(application,)] = connection.execute("PRAGMA application_id")
    [(version,)] = connection.execute("PRAGMA user_version")
    [(tables,)] = connection.execute("SELECT count(*) FROM sqlite_schema")
    if not tables and not application:
        if write:
            connection.executescript(
                f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {SCHEMA} COMMIT;"
            )
            return
        raise JournalError(f"{path} holds no journal: it is empty")
    if application != APPLICATION:
        raise JournalError(f"{path} is an SQLite file of something else than a journal: take another path")
    if version != FORMAT:
        raise JournalError(
            f"{path} has format {version} of a newer asyncpar, and this one knows {FORMAT}: upgrade it"
        )


def functions(connection: sqlite3.Connection) -> list[Kept]:
    """The functions that have, or had, results."""
    found = connection.execute("SELECT id, name, label, salt, version FROM functions ORDER BY id")
    return [
        Kept(number, name, label, salt, None if version is None else json.loads(version))
        for number, name, label, salt, version in found
    ]


def all_rows(connection: sqlite3.Connection) -> Iterator[Row | None]:
    """Every row in the order in which calls finished, and ``None`` for what is damaged."""
    last: int | None = 0
    while last is not None:
        try:
            rows = connection.execute(
                "SELECT id, key, function, item, value, checksum FROM results WHERE id > ? ORDER BY id",
                (last,),
            )
            for number, *row in rows:
                last = number
                yield (*row,) if _is_typed(row) and is_sound((*row,)) else None
            return
        except sqlite3.DatabaseError:  # a damaged page: go on behind it
            yield None
            last = _next_readable(connection, last or 0)


def _is_typed(row: list[Any]) -> bool:
    return list(map(type, row)) == [bytes, int, bytes, bytes, bytes]


def _next_readable(connection: sqlite3.Connection, last: int) -> int | None:
    """The number before the next row that can be read, found in steps that double."""
    step = 1
    while step < 1 << 62:
        try:
            found = connection.execute(
                "SELECT id FROM results WHERE id > ? ORDER BY id LIMIT 1", (last + step,)
            ).fetchone()
        except sqlite3.DatabaseError:
            step *= 2
            continue
        if found is None:
            return None
        low, high = step // 2, step
        while high - low > 1:
            middle = (low + high) // 2
            try:
                connection.execute(
                    "SELECT id, value FROM results WHERE id > ? ORDER BY id LIMIT 1", (last + middle,)
                )
                high = middle
            except sqlite3.DatabaseError:
                low = middle
        return last + high
    return None


def load(row: Row, labels: dict[int, str]) -> Result:
    """The row as its reader wants it.

    :raises JournalError: its value cannot be unpickled in this program
    """
    key, function, item, value, _ = row
    label = labels.get(function, "?")
    try:
        kept = pickle.loads(value)
    except Exception as error:  # unpickling runs code of whatever was pickled
        raise JournalError(
            f"a result of {label} cannot be read in this program: {type(error).__name__}: {error}; "
            "its classes must be importable here, under the names that they had"
        ) from error
    return Result(label, load_item(item), kept, key)


def load_item(item: bytes) -> Any:
    """The item, where that was kept and can be read."""
    try:
        return pickle.loads(item) if item else None
    except Exception:  # its class is not there, say; the result is what counts
        return None


def file_bytes(path: Path) -> int:
    """What the journal takes on the disk, with what is not yet merged into the file."""
    total = 0
    for name in (path, Path(f"{path}-wal")):
        try:
            total += os.stat(name).st_size  # noqa: PTH116 - one of them may be gone a moment later
        except FileNotFoundError:
            continue
    return total
