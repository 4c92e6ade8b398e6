"""`asyncpar journal`, and what a journal's results become elsewhere."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pytest

import asyncpar
from asyncpar import Journal, JournalError
from asyncpar.journal.export import plain

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}


def command(*arguments, **keywords):
    """Run `asyncpar journal` as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "asyncpar", "journal", *map(str, arguments)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=150, check=False, **{"stdin": subprocess.DEVNULL, **keywords},
    )  # fmt: skip


def job(source):
    space = {"__name__": "job"}
    exec(source, space)
    return space["f"]


def fill(path, source="async def f(x): return x + 1", items=range(5), **keywords):
    return asyncpar.run(_fill, path, job(source), items, keywords)


async def _fill(path, function, items, keywords):
    results = asyncpar.map(function, items, journal=path, **keywords)
    return await results, results.statistics().replayed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.journal"


# The command


def test_show(path):
    fill(path)
    fill(Journal(path, version="3"), "async def f(x): return x", [1], key=str)
    done = command("show", path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "job.f" in done.stdout
    assert " 5 " in done.stdout
    assert f"Python {sys.version_info[0]}.{sys.version_info[1]}" in done.stdout
    assert f"run.journal: {path.stat().st_size:,} bytes; nobody writes to it\n" in done.stdout


def test_show_check_finds_damage(path):
    fill(path)
    assert command("show", path, "--check").stdout.endswith("every result is sound\n")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE results SET checksum = x'00' WHERE id = 2")
    done = command("show", path, "--check")
    assert done.returncode == 1
    assert done.stdout.endswith("damaged: 1\n")


@pytest.mark.parametrize("name", ["show", "export", "forget", "accept"])
def test_a_journal_that_is_not_there(path, name):
    done = command(name, path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"asyncpar: there is no journal {path}\n")
    assert not path.exists()


@pytest.mark.parametrize("name", ["show", "export", "forget", "accept"])
def test_a_file_that_is_no_journal(path, name):
    path.write_text("a letter" * 1000)
    done = command(name, path, *(["--yes"] if name in ("forget", "accept") else []))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"asyncpar: the journal {path} cannot be used: file is not a database")
    assert "Traceback" not in done.stderr


def test_a_changed_function_forgotten(path):
    """The way out that the refusal names, word for word."""
    fill(path)
    with pytest.raises(JournalError) as caught:
        fill(path, "async def f(x): return x + 2")
    words = str(caught.value).partition("asyncpar journal forget ")[2].partition(". If")[0].split()
    done = command("forget", *words, "--yes")
    assert (done.returncode, done.stdout) == (0, "forgot 5 results of job.f\n")
    assert fill(path, "async def f(x): return x + 2") == ([2, 3, 4, 5, 6], 0)


def test_a_changed_function_accepted(path):
    fill(path)
    with pytest.raises(JournalError, match="If they are still right: asyncpar journal accept"):
        fill(path, "async def f(x): return 1 + x")
    done = command("accept", path, "job.f", "--yes")
    assert (done.returncode, done.stdout) == (0, "accepted 5 results of job.f\n")
    assert "that of the next run" in command("show", path).stdout
    assert fill(path, "async def f(x): return 1 + x") == ([1, 2, 3, 4, 5], 5)
    with pytest.raises(JournalError):
        fill(path)


def test_forget_asks(path):
    fill(path)
    done = command("forget", path)
    assert (done.returncode, done.stderr) == (2, "asyncpar: there is nobody to ask here: pass --yes\n")
    done = command("forget", path, "job.g", "--yes")
    assert (done.returncode, done.stderr) == (
        2, f"asyncpar: {path} holds no results of 'job.g'; it holds those of job.f\n"
    )  # fmt: skip
    assert fill(path)[1] == 5
    assert command("forget", path, "--yes").returncode == 0
    assert fill(path)[1] == 0


async def test_forget_while_a_map_runs(path):
    """It is refused; showing and exporting are not."""
    async with asyncpar.map(job("async def f(x): return x"), range(100), limit=5, journal=path) as results:
        await anext(results)
        import anyio.to_thread

        done = await anyio.to_thread.run_sync(command, "forget", path, "--yes")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"asyncpar: the journal {path} is in use by process {os.getpid()}: ")
        shown = await anyio.to_thread.run_sync(command, "show", path)
        assert f"process {os.getpid()} writes to it" in shown.stdout
        exported = await anyio.to_thread.run_sync(command, "export", path)
        assert exported.returncode == 0
        assert len(await results) == 99


def test_export_to_stdout(path):
    fill(path)
    done = command("export", path)
    assert done.returncode == 0
    assert list(map(json.loads, done.stdout.splitlines())) == [
        {"function": "job.f", "item": x, "value": x + 1} for x in range(5)
    ]
    assert done.stderr == "5 results written\n"


def test_export_to_a_reader_that_has_enough(path):
    fill(path, items=range(20_000))
    done = subprocess.run(
        f"{sys.executable} -m asyncpar journal export {path} | head -n 1",
        shell=True, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ('{"function": "job.f", "item": 0, "value": 1}\n', "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.csv", "the suffix of .*run.csv must say the format: .jsonl, .parquet or .journal"),
        ("run.journal", "run.journal is there already: take another name, or remove it"),
    ],
)
def test_export_to_a_place_that_will_not_do(path, tmp_path, name, message):
    fill(path)
    with Journal(path) as journal, pytest.raises(JournalError, match=message):
        journal.export(tmp_path / name)


# Formats


def test_jsonl(path, tmp_path):
    fill(path)
    with Journal(path) as journal:
        assert journal.export(tmp_path / "run.jsonl") == 5
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert json.loads(lines[4]) == {"function": "job.f", "item": 4, "value": 5}


def test_another_journal(path, tmp_path):
    """Its rows are as good as the first one's, and nothing of them is unpickled."""
    fill(path)
    done = command("export", path, tmp_path / "copy.journal")
    assert (done.returncode, done.stderr) == (0, "5 results written\n")
    assert fill(tmp_path / "copy.journal") == ([1, 2, 3, 4, 5], 5)


def test_parquet(path, tmp_path):
    """One column each for function, item and value; numbers of several types become one that holds all."""
    parquet = pytest.importorskip("pyarrow.parquet")
    source = "import datetime\nasync def f(x): return {'half': x / 2, 'names': ['a'] * x, 'none': None if x else 1}"
    fill(path, source, range(3))
    with Journal(path) as journal:
        assert journal.export(tmp_path / "run.parquet") == 3
    table = parquet.read_table(tmp_path / "run.parquet")
    assert table.column_names == ["function", "item", "value"]
    assert table.to_pylist() == [
        {
            "function": "job.f",
            "item": x,
            "value": {"half": x / 2, "names": ["a"] * x, "none": None if x else 1},
        }
        for x in range(3)
    ]


def test_parquet_of_types_that_do_not_go_together(path, tmp_path):
    pytest.importorskip("pyarrow")
    fill(path, "async def f(x): return x if x else 'nothing'", range(3))
    with (
        Journal(path) as journal,
        pytest.raises(JournalError, match=r"types that do not go together.*export to .jsonl"),
    ):
        journal.export(tmp_path / "run.parquet")
    assert not (tmp_path / "run.parquet").exists()


def test_parquet_of_nothing(path, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    fill(path, items=[])
    with Journal(path) as journal:
        assert journal.export(tmp_path / "run.parquet") == 0
    assert parquet.read_table(tmp_path / "run.parquet").num_rows == 0


def test_parquet_without_pyarrow(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fill(path)
    with Journal(path) as journal, pytest.raises(JournalError, match=r'pip install "asyncpar\[parquet\]"'):
        journal.export(tmp_path / "run.parquet")


def test_results_of_classes_that_are_not_here(path, tmp_path):
    """They are left out, counted, and the exit code says so."""
    script = tmp_path / "job.py"
    script.write_text(
        "import asyncpar\nclass Box:\n    pass\nasync def f(x): return Box() if x == 1 else x\n"
        f"async def main(): await asyncpar.map(f, range(3), journal={str(path)!r})\n"
        "if __name__ == '__main__': asyncpar.run(main)\n"
    )
    subprocess.run([sys.executable, str(script)], env=ENVIRONMENT, check=True)
    done = command("export", path)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr.startswith(
        "2 results written\n1 left out: damaged, or of classes that cannot be imported here"
    )
    with Journal(path) as journal, pytest.raises(JournalError, match="its classes must be importable here"):
        list(journal)


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Box:
    name: str
    at: Point


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None), (True, True), (1, 1), (1.5, 1.5), ("é", "é"), ((1, [2]), [1, [2]]), ({1: {2}}, {"1": [2]}), (b"\xff", "/w=="),
        (Point(1, 2.0), {"x": 1, "y": 2.0}), (Box("a", Point(1, 2.0)), {"name": "a", "at": {"x": 1, "y": 2.0}}),
        (np.arange(3), [0, 1, 2]), (np.float64(1.5), 1.5), (Colour.RED, "Colour.RED"), (Level.LOW, 1),
        (dt.date(2020, 1, 2), "2020-01-02"), (pathlib.Path("a/b"), "a/b"), (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Decimal("1.50"), "1.50"), (range(2), [0, 1]), (1j, "1j"),
    ],
)  # fmt: skip
def test_values_in_json(value, expected):
    assert plain(value) == expected
    assert json.loads(json.dumps(plain(value))) == expected
