"""The items of a store as JSON lines, CSV, Parquet, or a SQLite table. Blocking, for threads and commands."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from asyncpar_scrape.database import StoreError

BATCH = 10_000
"""Items that are held at a time."""


def export(connection: sqlite3.Connection, target: Path) -> int:
    """Write all items in the format that the suffix says, in place of what the file held; how many these are.

    CSV, Parquet and SQLite need items that are dicts: their columns are the keys of all items, in order of appearance;
    what is not text or a number is JSON there.

    :raises StoreError: no such format; ``pyarrow`` is missing; an item is no dict
    """
    check_format(target)
    write = _FORMATS[target.suffix]
    unfinished = target.with_name(target.name + ".part")
    unfinished.unlink(missing_ok=True)
    try:
        written = write(connection, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


def check_format(target: Path) -> None:
    """Whether there is a format for this file.

    :raises StoreError: there is none
    """
    if target.suffix not in _FORMATS:
        raise StoreError(f"the suffix of {target} must say the format: {', '.join(_FORMATS)}")


def texts(connection: sqlite3.Connection) -> Iterator[str]:
    """The items as JSON texts, in the order in which their pages were done."""
    for (text,) in connection.execute("SELECT value FROM items ORDER BY id"):
        yield text


def _to_lines(connection: sqlite3.Connection, target: Path) -> int:
    written = 0
    with target.open("w", encoding="utf-8") as stream:
        for written, text in enumerate(texts(connection), 1):  # noqa: B007
            stream.write(text + "\n")
    return written


def _rows(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    for text in texts(connection):
        item = json.loads(text)
        if not isinstance(item, dict):
            raise StoreError(f"an item is no dict, and has no columns: {text[:80]}; export to .jsonl")
        yield item


def _columns(connection: sqlite3.Connection) -> list[str]:
    columns: dict[str, None] = {}
    for row in _rows(connection):
        columns.update(dict.fromkeys(row))
    return list(columns)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else value


def _to_csv(connection: sqlite3.Connection, target: Path) -> int:
    written = 0
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, _columns(connection))
        writer.writeheader()
        for written, row in enumerate(_rows(connection), 1):  # noqa: B007
            writer.writerow({key: _cell(value) for key, value in row.items()})
    return written


def _to_sqlite(connection: sqlite3.Connection, target: Path) -> int:
    columns = _columns(connection)
    if not columns:
        raise StoreError("there are no items, and so no columns: export to .jsonl")
    names = ", ".join('"' + column.replace('"', '""') + '"' for column in columns)
    made = sqlite3.connect(target, isolation_level=None)
    try:
        made.execute("BEGIN")
        made.execute(f"CREATE TABLE items ({names})")
        made.executemany(
            f"INSERT INTO items VALUES ({', '.join('?' * len(columns))})",  # noqa: S608
            ([_cell(row.get(column)) for column in columns] for row in _rows(connection)),
        )
        written = made.total_changes
        made.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"the items do not fit into a table of SQLite: {error}; export to .jsonl") from error
    finally:
        made.close()
    return written


def _to_parquet(connection: sqlite3.Connection, target: Path) -> int:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise StoreError('Parquet needs pyarrow: pip install "asyncpar[parquet]"') from None
    try:
        schema = pa.unify_schemas(
            [pa.RecordBatch.from_pylist(batch).schema for batch in _batches(_rows(connection))],
            promote_options="permissive",
        )
        written = 0
        with pq.ParquetWriter(target, schema) as writer:
            for batch in _batches(_rows(connection)):
                writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
                written += len(batch)
    except pa.ArrowException as error:
        raise StoreError(
            f"the items are of types that do not go together in a table: {error}; export to .jsonl"
        ) from error
    return written


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(rows, BATCH)):
        # from_pylist takes the columns from the first item; some may be in later ones only.
        columns = dict.fromkeys(key for row in batch for key in row)
        yield [{key: row.get(key) for key in columns} for row in batch]


_FORMATS: dict[str, Callable[[sqlite3.Connection, Path], int]] = {
    ".jsonl": _to_lines,
    ".csv": _to_csv,
    ".sqlite": _to_sqlite,
    ".parquet": _to_parquet,
}
