"""``Journal``: a file of results, to be given to maps and to be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from asyncpar.errors import JournalError

if TYPE_CHECKING:
    import sqlite3

    from asyncpar.journal.rows import Result
    from asyncpar.journal.writer import Writer

_ending: WeakValueDictionary[Path, Writer] = WeakValueDictionary()
"""Writers that are about to close their file, for maps on the same file that begin meanwhile."""
_MISSING: Any = object()


class Journal:
    """A file that keeps the results of maps: ``pool.map(f, items, journal=Journal("run.journal", version="2"))``.

    A path does the same as a ``Journal`` of that path without a version. Maps that run at the same time on one file must
    share one ``Journal``. The file is open while a map uses it; another process that wants it meanwhile is refused.

    To read results, also while a map runs::

        with asyncpar.Journal("run.journal") as journal:
            for result in journal:
                print(result.item, result.value)

    Reading blocks: in a running event loop use ``asyncpar.to_thread``. Results are pickles: read no file of somebody
    whom you would not let run code.

    :param path: the file; a map makes it if it is not there
    :param version: stands for the function's code, defaults, and what is bound in it: then results are of a changed
        function when the version has changed, and only then. By default the code itself is compared.
    """

    def __init__(self, path: str | os.PathLike[str], *, version: str | int | None = None) -> None:
        if not isinstance(path, (str, os.PathLike)):
            raise TypeError(f"a Journal takes a path, not {type(path).__name__}")
        if version is not None and (isinstance(version, bool) or not isinstance(version, (str, int))):
            raise TypeError(f"version= must be a str or int, not {type(version).__name__}")
        self.path = Path(path).absolute()
        self.version = None if version is None else str(version)
        self._users = 0
        self._writer: Writer | None = None
        self._connection: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    # -- for maps: all on the loop's thread

    def _acquire(self) -> Writer:
        from asyncpar.journal.writer import Writer

        if self._writer is None or not self._users:
            self._writer = Writer(self.path)
            self._writer.start(_ending.pop(self.path, None))
        self._users += 1
        return self._writer

    def _release(self, writer: Writer, ended: Callable[[], None]) -> None:
        self._users -= 1
        if self._users:
            writer.put(ended)
            return
        writer.on_end.append(ended)
        _ending[self.path] = writer
        self._writer = None
        writer.close()

    # -- reading

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End reading. Maps that use the journal are not concerned."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> sqlite3.Connection:
        from asyncpar.journal import rows

        if self._connection is None:
            self._connection = rows.connect(self.path)
        return self._connection

    def _reading(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(
                f"this Journal is not open for reading: use it inside 'with asyncpar.Journal({str(self.path)!r}) as journal:'"
            )
        return self._connection

    def __iter__(self) -> Iterator[Result]:
        """Every result, in the order in which calls finished. Damaged rows are left out.

        :raises JournalError: a value cannot be unpickled in this program
        """
        from asyncpar.journal import rows

        connection = self._reading()
        labels = {function.id: function.label for function in rows.functions(connection)}
        return (rows.load(row, labels) for row in rows.all_rows(connection) if row is not None)

    def __len__(self) -> int:
        """How many results there are."""
        import sqlite3

        from asyncpar.journal import rows

        try:
            [(count,)] = self._reading().execute("SELECT count(*) FROM results")
        except sqlite3.Error as error:
            raise rows.problem(self.path, error) from error
        return int(count)

    def __bool__(self) -> bool:
        """Always true: an empty journal is one, too."""
        return True

    def get(self, function: Callable[..., Any], item: Any, *, default: Any = None) -> Any:
        """The result that a map of ``function`` has kept for this item, or ``default``.

        With several iterables ``item`` is a tuple, as it is in the results. Of maps with ``key=``, whatever that gave.

        :raises JournalError: the results of this function are of another version, or the item has no key
        """
        import sqlite3

        from asyncpar.journal import rows
        from asyncpar.journal.lookup import find

        try:
            return find(self._reading(), self.path, function, self.version, item, default)
        except sqlite3.Error as error:
            raise rows.problem(self.path, error) from error

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write every result to ``.jsonl``, ``.parquet`` (with the extra ``parquet``) or another ``.journal``.

        What cannot be read is left out. Returns how many results were written.

        :raises JournalError: the suffix says no format, or there is such a file already
        """
        from asyncpar.journal.export import export

        return export(self._reading(), Path(path)).written


def open_journal(journal: Any) -> Journal:
    """The ``Journal`` that ``journal=`` means."""
    if isinstance(journal, Journal):
        return journal
    if isinstance(journal, (str, os.PathLike)):
        return Journal(journal)
    raise TypeError(f"journal= takes a path or an asyncpar.Journal, not {type(journal).__name__}")
