"""`asyncpar journal`: what a file of results holds, to other formats, and what of it is to be forgotten or kept."""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.table import Table

from asyncpar.cli.errors import CommandError
from asyncpar.errors import JournalError
from asyncpar.journal import rows
from asyncpar.journal.export import Exported, export, write_lines
from asyncpar.journal.locking import Lock, is_held

P = ParamSpec("P")
T = TypeVar("T")


def _told(command: Callable[P, T]) -> Callable[P, T]:
    """What is wrong with a journal is one line on stderr."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except JournalError as error:
            raise CommandError(str(error)) from error

    return wrapped


@_told
def show(path: Path, *, check: bool) -> int:
    """Print the functions and how many results each has; 1 if results are damaged.

    Args:
        path: The journal.
        check: Read every result and say how many are damaged.
    """
    with closing(rows.connect(path)) as connection:
        try:
            damaged = sum(row is None for row in rows.all_rows(connection)) if check else 0
            print_functions(connection)
        except sqlite3.Error as error:
            raise rows.problem(path, error) from error
    writer = is_held(path)
    state = "nobody writes to it" if writer is None else f"process {writer} writes to it"
    print(f"{path}: {rows.file_bytes(path):,} bytes; {state}")
    if check:
        print(f"damaged: {damaged:,}" if damaged else "every result is sound")
    return int(damaged > 0)


def print_functions(connection: sqlite3.Connection) -> None:
    """A table with a line for each function."""
    counts = dict(connection.execute("SELECT function, count(*) FROM results GROUP BY function"))
    table = Table("function", "results", "version")
    for function in rows.functions(connection):
        table.add_row(function.label, f"{counts.get(function.id, 0):,}", _version(function.version))
    Console().print(table)


def _version(version: dict[str, str] | None) -> str:
    if version is None:
        return "that of the next run"
    return version.get("version") or f"code {version['code'][:8]}, Python {version['python']}"


@_told
def write_out(path: Path, output: Path | None) -> int:
    """Write the results to a file, or as JSON lines to stdout; 1 if some could not be read."""
    with closing(rows.connect(path, damaged=True)) as connection:
        try:
            done = write_lines(connection, sys.stdout) if output is None else export(connection, output)
            sys.stdout.flush()
        except sqlite3.Error as error:
            raise rows.problem(path, error) from error
        except BrokenPipeError:  # as of `| head`, which has what it wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
    return _report(done)


def _report(done: Exported) -> int:
    print(f"{done.written:,} results written", file=sys.stderr)
    if done.left_out:
        print(
            f"{done.left_out:,} left out: damaged, or of classes that cannot be imported here (run this where the program "
            "can import them)",
            file=sys.stderr,
        )
    return int(done.left_out > 0)


@_told
def forget(path: Path, function: str | None, *, yes: bool) -> int:
    """Remove the results of a function, or all."""
    return _change(path, function, "forget", yes=yes)


@_told
def accept(path: Path, function: str | None, *, yes: bool) -> int:
    """Let the next run take the results as those of its version."""
    return _change(path, function, "accept", yes=yes)


def _change(path: Path, function: str | None, verb: str, *, yes: bool) -> int:
    rows.check_path(path)
    lock = Lock(path)
    try:
        with closing(rows.connect(path, write=True)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE").close()
            chosen = _choose(connection, path, function)
            count = sum(_count(connection, one.id) for one in chosen)
            what = f"{count:,} results of {', '.join(one.label for one in chosen) or 'no function'}"
            if not yes and not _confirmed(f"{verb} {what}?"):
                return 1
            for one in chosen:
                _apply(connection, one.id, verb)
            if verb == "forget":
                connection.execute("VACUUM")
    except sqlite3.Error as error:
        raise rows.problem(path, error) from error
    finally:
        lock.release()
    print(f"{'forgot' if verb == 'forget' else 'accepted'} {what}")
    return 0


def _choose(connection: sqlite3.Connection, path: Path, name: str | None) -> list[rows.Kept]:
    known = rows.functions(connection)
    chosen = [one for one in known if name is None or name in (one.name, one.label)]
    if name is not None and not chosen:
        there = ", ".join(one.name for one in known) or "no function"
        raise CommandError(f"{path} holds no results of {name!r}; it holds those of {there}", exit_code=2)
    return chosen


def _count(connection: sqlite3.Connection, function: int) -> int:
    [(count,)] = connection.execute("SELECT count(*) FROM results WHERE function = ?", (function,))
    return int(count)


def _apply(connection: sqlite3.Connection, function: int, verb: str) -> None:
    if verb == "accept":
        connection.execute("UPDATE functions SET version = NULL WHERE id = ?", (function,))
        return
    connection.execute("BEGIN")
    connection.execute("DELETE FROM results WHERE function = ?", (function,))
    connection.execute("DELETE FROM functions WHERE id = ?", (function,))
    connection.execute("COMMIT")


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("there is nobody to ask here: pass --yes", exit_code=2)
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
