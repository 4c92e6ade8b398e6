"""`asyncpar scrape`: runs a file's crawler, lists errors, writes items."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from asyncpar_scrape import StoreError
from asyncpar_scrape.database import connect
from asyncpar_scrape.frontier import Entry, Frontier, Outcome
from asyncpar_scrape.links import address_of
from asyncpar_scrape.output import export
from tests.adapters import scrape_site
from tests.programs import ROOT

JOB = """
from asyncpar_scrape import Crawler
from tests.adapters.scrape_job import Get, tree

def parse(page):
    if page.url.endswith("/5"):
        raise ValueError("no such\\nnumber")
    return tree(page)

crawler = Crawler(parse, Get(), start=["{start}"], store="out.sqlite", workers=1)
"""


def asyncpar(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "asyncpar", "scrape", *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"}, timeout=150,
    )  # fmt: skip


def test_a_job_runs(tmp_path):
    """It reports, refuses to begin anew, and writes the items out."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, scrape_site.__file__, str(tmp_path / "served"), "12"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as site:
        start = f"http://127.0.0.1:{site.stdout.readline().strip()}/0"
        (tmp_path / "job.py").write_text(JOB.format(start=start))
        done = asyncpar(tmp_path, "job.py", "--out", "out.jsonl")
        assert done.returncode == 0, done.stderr
        assert "10 pages, 10 items, 13 failed, 0 waiting; this run: 23 in" in done.stderr
        again = asyncpar(tmp_path, "job.py")
        assert again.returncode == 1
        assert "holds a crawl already: to go on with it pass resume=True (--resume)" in again.stderr
        retried = asyncpar(tmp_path, "job.py", "--retry-errors")
        assert "this run: 13 in" in retried.stderr
        site.stdin.close()
    items = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {item["title"] for item in items} == {f"page {n}" for n in range(12)} - {"page 5", "page 7"}
    listed = asyncpar(tmp_path, "errors", "out.sqlite").stdout.splitlines()
    assert len(listed) == 13
    assert any(line.endswith("/5\tValueError: no such number") for line in listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py"], "there is no file 'none.py'"),
        (["a-b.py"], "its name must be that of a Python module, as crawl_docs.py"),
        (["empty.py"], "empty.py defines no crawler: crawler = Crawler(parse, start=[...])"),
        (["errors", "none.sqlite"], "there is no store none.sqlite: give the file that store= named"),
        (["errors", "empty.py"], "empty.py is not the store of a crawl: give another path"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, arguments, message):
    """No traceback, and what to do."""
    (tmp_path / "empty.py").touch()
    (tmp_path / "a-b.py").touch()
    done = asyncpar(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.fixture
def store(tmp_path):
    """A store with three items."""
    with closing(connect(tmp_path / "crawl.sqlite", write=True)) as connection:
        frontier = Frontier(connection, per_host=1)
        frontier.add([(address_of("http://a/"), 0)])
        [entry] = frontier.take(1, 0.0)
        assert isinstance(entry, Entry)
        items = ['{"n":1,"tags":["x"]}', '{"n":2.5,"title":"é"}', '{"n":null}']
        frontier.settle([Outcome(entry, None, items)])
        yield connection


def test_items_in_every_format(store, tmp_path):
    """Each holds all three, and columns that only one of them has."""
    for name in ("a.jsonl", "a.csv", "a.sqlite", "a.parquet"):
        assert export(store, tmp_path / name) == 3
    assert (tmp_path / "a.jsonl").read_text().splitlines()[1] == '{"n":2.5,"title":"é"}'
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream)) == [
            ["n", "tags", "title"], ["1", '["x"]', ""], ["2.5", "", "é"], ["", "", ""],
        ]  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "a.sqlite")) as made:
        assert made.execute("SELECT n, tags, title FROM items").fetchall() == [
            (1, '["x"]', None), (2.5, None, "é"), (None, None, None),
        ]  # fmt: skip
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "a.parquet").to_pylist()[1] == {"n": 2.5, "tags": None, "title": "é"}
    assert not list(tmp_path.glob("*.part"))


def test_an_unknown_format(store, tmp_path):
    """The message names those there are."""
    with pytest.raises(StoreError, match=r"must say the format: \.jsonl, \.csv, \.sqlite, \.parquet"):
        export(store, tmp_path / "a.xml")
