"""A journal's results in other formats: JSON lines, Parquet, or another journal."""

from __future__ import annotations

import base64
import json
import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from asyncpar.errors import JournalError
from asyncpar.journal import rows
from asyncpar.journal.rows import Result

PARQUET_ROWS = 10_000
"""Results that are held at a time."""


class Exported(NamedTuple):
    """How many results were written, and how many could not be read."""

    written: int
    left_out: int


def export(connection: sqlite3.Connection, target: Path) -> Exported:
    """Write every result that can be read, in the format that the suffix says.

    :raises JournalError: no such format; the file is there already; ``pyarrow`` is missing; the types do not go together
    """
    write = {".jsonl": _to_lines, ".parquet": _to_parquet, ".journal": _to_journal}.get(target.suffix)
    if write is None:
        raise JournalError(f"the suffix of {target} must say the format: .jsonl, .parquet or .journal")
    if target.exists():
        raise JournalError(f"{target} is there already: take another name, or remove it")
    try:
        return write(connection, target)
    except BaseException:  # whatever it was, half a file would be taken for a whole one
        target.unlink(missing_ok=True)
        raise


class _Reading:
    """Iterates over what can be read and counts the rest."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.left_out = 0
        self.written = 0
        self.labels = {function.id: function.label for function in rows.functions(connection)}

    def rows(self) -> Iterator[rows.Row]:
        for row in rows.all_rows(self.connection):
            if row is None:
                self.left_out += 1
            else:
                yield row

    def results(self) -> Iterator[Result]:
        for row in self.rows():
            try:
                result = rows.load(row, self.labels)
            except JournalError:
                self.left_out += 1
                continue
            self.written += 1
            yield result


def write_lines(connection: sqlite3.Connection, stream: TextIO) -> Exported:
    """One JSON object a line, with ``function``, ``item`` and ``value``."""
    reading = _Reading(connection)
    stream.writelines(json.dumps(_record(result), ensure_ascii=False) + "\n" for result in reading.results())
    return Exported(reading.written, reading.left_out)


def _to_lines(connection: sqlite3.Connection, target: Path) -> Exported:
    with target.open("w", encoding="utf-8") as stream:
        return write_lines(connection, stream)


def _record(result: Result) -> dict[str, Any]:
    return {"function": result.function, "item": plain(result.item), "value": plain(result.value)}


def plain(value: Any) -> Any:
    """As near as JSON comes. What it has no form for becomes text: bytes base64, the rest what ``str`` says."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    names = getattr(type(value), "_fields", None) or getattr(type(value), "__dataclass_fields__", None)
    if names is not None:  # a named tuple or a dataclass
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset, range)):
        return [plain(inner) for inner in value]
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return plain(value.tolist())
    for kind in (int, float, str):  # enums that are numbers or text, and the like
        if isinstance(value, kind):
            return kind(value)
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)


def _to_parquet(connection: sqlite3.Connection, target: Path) -> Exported:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise JournalError('Parquet needs pyarrow: pip install "asyncpar[parquet]"') from None
    schema = _schema(pa, connection, target)
    reading = _Reading(connection)
    with pq.ParquetWriter(target, schema) as writer:
        for batch in _batches(reading.results()):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return Exported(reading.written, reading.left_out)


def _schema(pa: Any, connection: sqlite3.Connection, target: Path) -> Any:
    """What fits all results, which is known only after a first look at all of them."""
    schema = None
    for batch in _batches(_Reading(connection).results()):
        try:
            seen = pa.RecordBatch.from_pylist(batch).schema
            schema = (
                seen if schema is None else pa.unify_schemas([schema, seen], promote_options="permissive")
            )
        except pa.ArrowException as error:
            raise JournalError(
                f"the results are of types that do not go together in {target}, a table: {error}; export to .jsonl"
            ) from error
    return (
        schema
        if schema is not None
        else pa.schema([("function", "string"), ("item", "null"), ("value", "null")])
    )


def _batches(results: Iterator[Result]) -> Iterator[list[dict[str, Any]]]:
    while batch := [_record(result) for result in islice(results, PARQUET_ROWS)]:
        yield batch


def _to_journal(connection: sqlite3.Connection, target: Path) -> Exported:
    """The rows as they are, nothing of them is unpickled: what is sound in a damaged journal goes on in a new one."""
    reading = _Reading(connection)
    new = rows.connect(target, write=True)
    try:
        new.execute("PRAGMA journal_mode = DELETE").close()
        new.execute("BEGIN")
        known = connection.execute("SELECT id, name, label, salt, version FROM functions")
        new.executemany("INSERT INTO functions VALUES (?, ?, ?, ?, ?)", known)
        before = new.total_changes
        new.executemany(
            "INSERT OR IGNORE INTO results (key, function, item, value, checksum) VALUES (?, ?, ?, ?, ?)",
            reading.rows(),
        )
        written = new.total_changes - before
        new.execute("COMMIT")
    except sqlite3.Error as error:
        raise rows.problem(target, error) from error
    finally:
        new.close()
    return Exported(written, reading.left_out)
