"""The journal's thread, the only one that touches the file while maps run.

It looks up items, pickles what is large, and writes. The event loop puts requests into its queue and is called back; it
never waits for the disk. Requests are served in order, so that a lookup sees what was kept before it, committed or not.

One statement writes many rows: SQLite gives up the GIL for each statement, and in a busy program gets it back late.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from asyncpar.errors import JournalError
from asyncpar.journal import rows
from asyncpar.journal.canonical import digest, encode
from asyncpar.journal.identity import Identity, changes
from asyncpar.journal.locking import Lock
from asyncpar.process.encoding import heavy

BATCH_ROWS = 500
"""A commit holds no more than about so many results, so that with those that come meanwhile (`session.BACKLOG_ROWS`)
less than 1,000 wait to be written."""
BATCH_SECONDS = 0.05
STATEMENT_ROWS = 100
"""Rows in one INSERT, keys in one SELECT. Older SQLite takes 999 parameters."""
INSERT = "INSERT OR IGNORE INTO results (key, function, item, value, checksum) VALUES "
ROW = "(?, ?, ?, ?, ?)"
SELECT = "SELECT id, key, function, item, value, checksum FROM results WHERE key IN ({})"
MISSING: Any = object()

Key = tuple[bytes, bytes]
"""The digest of an item, and its pickle, for readers of the journal."""


class Looked:
    """The answer to a lookup: for each item its result, or ``MISSING`` and its key."""

    __slots__ = ("damaged", "error", "keys", "nbytes", "values")

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.keys: list[Key] = []
        self.nbytes = 0
        self.damaged = 0
        self.error: JournalError | None = None
        """That the item behind the last one has no key."""


class Writer:
    """A thread with an open journal. Everything is asked for by ``put``, and answered by calls from the thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failure: JournalError | None = None
        self.on_failure: list[Callable[[JournalError], None]] = []
        self.on_end: list[Callable[[], None]] = []
        self.on_exit: list[Callable[[], None]] = []
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._connection: sqlite3.Connection
        self._pending: list[rows.Row] = []
        self._committed: dict[Callable[[int, int], None], list[int]] = {}  # rows and bytes, by whom to tell
        self._open = False  # a transaction
        self._uncommitted = 0
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._run, name=f"asyncpar: journal {path.name}", daemon=True)

    def start(self, after: Writer | None) -> None:
        """Open the file, once the writer that had it before has ended."""
        self._after = after
        atexit.register(self.finish)  # a program that ends in the middle of a map keeps what has finished
        self._thread.start()

    def put(self, request: Callable[[], None]) -> None:
        """Have the thread do this."""
        self._queue.put(request)

    def close(self) -> None:
        """Commit and end, soon."""
        self._queue.put(None)

    def finish(self) -> None:
        """Commit and end, now: for a program that ends."""
        for ship in self.on_exit:
            ship()
        self.close()
        self._thread.join(10.0)

    # -- the thread

    def _run(self) -> None:
        after, self._after = self._after, None
        if after is not None:
            after._thread.join()
        lock = None
        try:
            lock = Lock(self.path)
            self._connection = rows.connect(self.path, write=True)
        except JournalError as error:
            self._fail(error)
        try:
            self._serve()
        finally:
            if hasattr(self, "_connection"):
                self._close_file()
            if lock is not None:
                lock.release()
            atexit.unregister(self.finish)
            for tell in self.on_end:
                tell()

    def _serve(self) -> None:
        while True:
            try:
                if self._open or self._committed:
                    request = self._queue.get(timeout=max(0.0, self._deadline - time.monotonic()))
                else:
                    request = self._queue.get()
            except Empty:
                self.commit()
                continue
            if request is None:
                self.commit()
                return
            self._guarded(request)
            if self._uncommitted >= BATCH_ROWS or (self._open and time.monotonic() >= self._deadline):
                self.commit()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except JournalError as error:
            self._fail(error)
        except (
            Exception
        ) as error:  # of SQLite, mostly; a thread that died would leave its maps waiting for ever
            self._fail(rows.problem(self.path, error))

    def _fail(self, error: JournalError) -> None:
        """The file cannot be used any more: what was not committed is gone, and every map is told."""
        if self.failure is None:
            self.failure = error
        if hasattr(self, "_connection"):
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
        self._pending.clear()
        self._open = False
        for tell in self.on_failure:
            tell(self.failure)
        self._answer_commits()

    def _close_file(self) -> None:
        # One plain file is left. Where that does not work now (a reader, a full disk), the next writer takes it up.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout = 0")
            self._connection.execute("PRAGMA journal_mode = DELETE").close()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    # -- functions

    def know(self, identity: Identity) -> int:
        """The number of a function in the file.

        :raises JournalError: its results there are of another version
        """
        found = self._connection.execute(
            "SELECT id, version, (SELECT count(*) FROM results WHERE function = functions.id) FROM functions "
            "WHERE salt = ?",
            (identity.salt,),
        ).fetchone()
        version = json.dumps(identity.version)
        if found is None:
            self._begin()
            made = self._connection.execute(
                "INSERT INTO functions (name, label, salt, version) VALUES (?, ?, ?, ?)",
                (identity.name, identity.label, identity.salt, version),
            ).lastrowid
            assert made is not None
            return made
        number, old, count = found
        changed = changes(json.loads(old), identity.version) if old is not None and count else ""
        if changed:
            raise self._refusal(identity, changed, count)
        if old != version:
            self._begin()
            self._connection.execute("UPDATE functions SET version = ? WHERE id = ?", (version, number))
        return int(number)

    def _refusal(self, identity: Identity, changed: str, count: int) -> JournalError:
        where = f"{self.path} {identity.name}"
        return JournalError(
            f"the journal {self.path} holds {count:,} results of {identity.label}, but {changed}. Nothing was run. "
            f"To compute them anew: asyncpar journal forget {where}. If they are still right: "
            f"asyncpar journal accept {where}. To keep both: another path"
        )

    # -- looking up

    def look_up(self, salt: bytes, items: list[Any], *, star: bool, by_key: bool) -> Looked:
        """What is kept of these items' results, up to the first item that has no key."""
        looked = Looked()
        if self.failure is not None:
            looked.error = self.failure
            return looked
        for item in items:
            try:
                content = b"*" + encode(item) if star and not by_key else encode(item)
            except Exception as error:  # no content, or a class of the user's that fails
                looked.error = no_key(item, error, by_key=by_key)
                break
            looked.keys.append((digest(content, salt), b""))
        looked.values = [MISSING] * len(looked.keys)
        found = self._find([key for key, _ in looked.keys], looked) if looked.keys else {}
        for index, (key, _) in enumerate(looked.keys):
            if key in found:
                looked.values[index] = found[key]
            else:
                looked.keys[index] = (key, pickled_item(items[index]))
        return looked

    def _find(self, keys: list[bytes], looked: Looked) -> dict[bytes, Any]:
        self._write()
        found: dict[bytes, Any] = {}
        bad: list[int] = []
        for at in range(0, len(keys), STATEMENT_ROWS):
            some = keys[at : at + STATEMENT_ROWS]
            some += [b""] * (STATEMENT_ROWS - len(some))  # so that it is always the same statement
            for number, *row in self._connection.execute(_SELECT, some).fetchall():
                try:
                    found[row[0]] = self._value((*row,))
                except Exception:  # damaged, or of a class that is not there any more: computed again
                    bad.append(number)
                else:
                    looked.nbytes += len(row[3])
        if bad:
            looked.damaged += len(bad)
            self._begin()
            self._connection.executemany("DELETE FROM results WHERE id = ?", [(number,) for number in bad])
        return found

    @staticmethod
    def _value(row: rows.Row) -> Any:
        if not rows.is_sound(row):
            raise ValueError("its checksum is wrong")
        return pickle.loads(row[3])

    # -- writing

    def keep(
        self, function: int, new: list[tuple[Key, bytes]], committed: Callable[[int, int], None]
    ) -> None:
        """Keep results of a function; ``committed`` is called with how many rows and bytes once they are."""
        nbytes = sum(len(value) for _, value in new)
        if self.failure is not None:
            committed(len(new), nbytes)
            return
        if not self._committed and not self._open:
            self._deadline = time.monotonic() + BATCH_SECONDS
        counts = self._committed.setdefault(committed, [0, 0])
        counts[0] += len(new)
        counts[1] += nbytes
        for (key, item), value in new:
            self._pending.append((key, function, item, value, rows.checksum(key, function, item, value)))
        self._uncommitted += len(new)

    def _begin(self) -> None:
        if not self._open:
            self._connection.execute("BEGIN IMMEDIATE")
            self._open = True
            if not self._committed:
                self._deadline = time.monotonic() + BATCH_SECONDS

    def _write(self) -> None:
        """Hand what was kept to SQLite, as yet uncommitted."""
        if not self._pending:
            return
        self._begin()
        pending, self._pending = self._pending, []
        whole = len(pending) - len(pending) % STATEMENT_ROWS
        for at in range(0, whole, STATEMENT_ROWS):
            values = [value for row in pending[at : at + STATEMENT_ROWS] for value in row]
            self._connection.execute(_INSERT_MANY, values)
        if whole < len(pending):
            rest = pending[whole:]
            self._connection.execute(
                INSERT + ", ".join([ROW] * len(rest)), [value for row in rest for value in row]
            )

    def commit(self) -> None:
        """End the batch."""
        self._guarded(self._commit)

    def _commit(self) -> None:
        self._write()
        if self._open:
            self._connection.execute("COMMIT")
            self._open = False
        self._answer_commits()

    def _answer_commits(self) -> None:
        self._uncommitted = 0
        committed, self._committed = self._committed, {}
        for answer, (count, nbytes) in committed.items():
            answer(count, nbytes)


_SELECT = SELECT.format(", ".join("?" * STATEMENT_ROWS))
_INSERT_MANY = INSERT + ", ".join([ROW] * STATEMENT_ROWS)


def no_key(item: Any, error: Exception, *, by_key: bool) -> JournalError:
    """Why an item cannot be found again, and what to do."""
    if by_key:
        return JournalError(f"key= must give a str, bytes, int or tuple of such for each item: {error}")
    return JournalError(
        f"an item of type {type(item).__name__} cannot be found again in a journal: {error}; pass key=, a function of "
        "the item that gives a str, bytes, int or tuple which says what it is"
    )


def pickled_item(item: Any) -> bytes:
    """The item for readers of the journal, if it is small."""
    if heavy(item):
        return b""
    try:
        made = pickle.dumps(item, 5)
    except Exception:  # it is only for show
        return b""
    return made if len(made) <= rows.MOST_ITEM_BYTES else b""
