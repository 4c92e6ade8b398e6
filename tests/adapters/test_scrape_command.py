"""`asyncpar scrape`: runs a file's crawler, lists errors, writes items."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from rich.console import Console

from asyncpar_scrape import CrawlStatistics, StoreError, cli, display
from asyncpar_scrape.database import connect
from asyncpar_scrape.frontier import Entry, Frontier, Outcome
from asyncpar_scrape.links import address_of
from asyncpar_scrape.output import export
from asyncpar_scrape.tally import HostStatistics
from tests.adapters import scrape_site
from tests.programs import environment

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
        env=environment(), timeout=150,
    )  # fmt: skip


def test_a_job_runs(tmp_path):
    """It reports, refuses to begin anew, and writes the items out."""
    with scrape_site.in_a_process(tmp_path / "served", 12) as port:
        start = f"http://127.0.0.1:{port}/0"
        (tmp_path / "job.py").write_text(JOB.format(start=start))
        done = asyncpar(tmp_path, "job.py", "--out", "out.jsonl")
        assert done.returncode == 0, done.stderr
        assert "10 pages, 10 items, 13 failed, 0 waiting; this run: 23 in" in done.stderr
        again = asyncpar(tmp_path, "job.py")
        assert again.returncode == 1
        assert "holds a crawl already: to go on with it pass resume=True (--resume)" in again.stderr
        retried = asyncpar(tmp_path, "job.py", "--retry-errors")
        assert "this run: 13 in" in retried.stderr
    items = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {item["title"] for item in items} == {f"page {n}" for n in range(12)} - {"page 5", "page 7"}
    listed = asyncpar(tmp_path, "errors", "out.sqlite").stdout.splitlines()
    assert len(listed) == 13
    assert any(line.endswith("/5\tValueError: no such number") for line in listed)


WAITING = """
import time
from pathlib import Path
from asyncpar_scrape import Crawler
from tests.adapters.scrape_job import Get, tree

def parse(page):
    if page.url.endswith("/3") and not Path("go").exists():
        Path("there").touch()
        time.sleep(1000)
    return tree(page)

crawler = Crawler(parse, Get(), start=["{start}"], store="out.sqlite", workers=1, parse_timeout=999)
"""


def test_ctrl_c(tmp_path):
    """It ends at once, says how to go on, and that is so."""
    with scrape_site.in_a_process(tmp_path / "served", 12) as port:
        (tmp_path / "job.py").write_text(WAITING.format(start=f"http://127.0.0.1:{port}/0"))
        command = [sys.executable, "-m", "asyncpar", "scrape", "job.py"]
        with subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
        ) as job:
            while not (tmp_path / "there").exists():
                assert job.poll() is None
                time.sleep(0.01)
            job.send_signal(signal.SIGINT)
            _, said = job.communicate(timeout=120)
        assert job.returncode == 130
        assert said.endswith("interrupted; --resume goes on with it\n")
        (tmp_path / "go").touch()
        done = asyncpar(tmp_path, "job.py", "--resume")
    assert done.returncode == 0, done.stderr
    assert "11 pages, 11 items, 12 failed, 0 waiting" in done.stderr  # the 23 addresses of the test above


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


def test_a_list_of_addresses(tmp_path):
    """Each page is a line; what failed is told, and taken again."""
    with scrape_site.in_a_process(tmp_path / "served", 20) as port:
        root = f"http://127.0.0.1:{port}"
        (tmp_path / "urls.txt").write_text(f"# pages\n{root}/1\n\n  {root}/2\n{root}/2#twice\n{root}/99\n")
        command = ["--urls", "urls.txt", "--out", "pages.jsonl", "--allow-private", "--delay", "0.01"]
        done = asyncpar(tmp_path, *command, "--user-agent", "test/1.0 (me@example.org)")
        assert done.returncode == 0, done.stderr
        assert "2 pages, 2 items, 1 failed, 0 waiting" in done.stderr
        assert (
            "failed in this run: StatusError 1; all of them: asyncpar scrape errors pages.jsonl.crawl"
            in done.stderr
        )
        lines = [json.loads(line) for line in (tmp_path / "pages.jsonl").read_text().splitlines()]
        assert {(line["url"], line["status"], line["title"]) for line in lines} == {
            (f"{root}/{n}", 200, f"page {n}") for n in (1, 2)
        }
        assert all("<title>" in line["text"] for line in lines)
        listed = asyncpar(tmp_path, "errors", "pages.jsonl.crawl").stdout
        assert listed == f"{root}/99\tStatusError: {root}/99 answered with status 404\n"
        again = asyncpar(tmp_path, *command, "--retry-errors", "--user-agent", "test/1.0 (me@example.org)")
        assert "this run: 1 in" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the file of a crawler, or a list of addresses with --urls FILE"),
        (["--urls", "urls.txt"], "--urls needs --out FILE: .jsonl, .csv, .sqlite or .parquet"),
        (["--urls", "none.txt", "--out", "x.jsonl"], "there is no file 'none.txt'"),
        (
            ["--urls", "urls.txt", "--out", "x.jsonl"],
            "line 2 of urls.txt: 'ftp://b/' is no absolute address of http",
        ),
        (["--urls", "one.txt", "--out", "x.jsonl"], "sites are to know who asks: give user_agent="),
        (["--urls", "one.txt", "--out", "x.xml"], "must say the format"),
    ],
)
def test_what_is_wrong_with_a_list_is_one_line(tmp_path, monkeypatch, arguments, message):
    """Before anything is asked."""
    monkeypatch.delenv("ASYNCPAR_USER_AGENT", raising=False)
    (tmp_path / "urls.txt").write_text("http://a/\nftp://b/\n")
    (tmp_path / "one.txt").write_text("http://a/\n")
    if "x.xml" in arguments:
        arguments = [*arguments, "--user-agent", "test/1.0 (me@example.org)"]
    done = asyncpar(tmp_path, *arguments)
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.jsonl.crawl").exists()


def test_traps_are_listed(tmp_path):
    """Each pattern, with how many of it were refused."""
    with closing(connect(tmp_path / "crawl.sqlite", write=True)) as connection:
        frontier = Frontier(connection, per_host=1, max_per_pattern=2)
        frontier.add((dict(address_of(f"http://a/{n}") for n in range(5)), 1))
    done = asyncpar(tmp_path, "traps", "crawl.sqlite")
    assert (done.stdout, done.returncode) == ("http://a/*\t3\n", 0)


STATISTICS = CrawlStatistics(
    pages=1200, items=3400, failed=2, waiting=50, refused=7, seconds=10.0, visited=1202, under_way=64,
    errors={"StatusError": 2}, hosts=(HostStatistics("http://a.test", 1202, 2, 12.34),), peak_bytes=50_000_000,
)  # fmt: skip


def test_the_report():
    """What was done, what failed and why, and what was refused."""
    assert cli.report(STATISTICS, "out.sqlite").splitlines() == [
        "1,200 pages, 3,400 items, 2 failed, 50 waiting; this run: 1,202 in 10.0 s (120 a second), 50 MB at most without workers",
        "failed in this run: StatusError 2; all of them: asyncpar scrape errors out.sqlite",
        "7 links were refused as traps; see max_per_pattern= and asyncpar scrape traps out.sqlite",
    ]


def test_progress_is_a_line_or_a_table():
    """Lines for logs; on a terminal the busiest hosts and the errors, too."""
    assert display.line(STATISTICS, 80_000_000) == (
        "crawl: 1,200 pages, 3,400 items, 2 failed, 50 waiting, 7 refused as traps, 64 on their way, 120.2 a second, "
        "80 MB, 10 s"
    )
    console = Console(width=100, file=io.StringIO())
    console.print(display._drawn(STATISTICS, 80_000_000))
    drawn = console.file.getvalue()
    assert re.search(r"http://a.test +1,202 +2 +12\.3", drawn)
    assert "errors: StatusError 2" in drawn


def test_the_table_on_a_terminal(tmp_path):
    """A command on a real one draws it, and the report comes after it."""
    master, slave = os.openpty()
    with scrape_site.in_a_process(tmp_path / "served", 20) as port:
        (tmp_path / "urls.txt").write_text("".join(f"http://127.0.0.1:{port}/{n}\n" for n in range(5)))
        command = [
            "scrape",
            "--urls",
            "urls.txt",
            "--out",
            "out.jsonl",
            "--allow-private",
            "--delay",
            "0.01",
            "--user-agent",
        ]
        job = subprocess.Popen(
            [sys.executable, "-m", "asyncpar", *command, "test/1.0 (me@example.org)"], cwd=tmp_path, stderr=slave,
            env=environment(TERM="xterm", COLUMNS="120"),
        )  # fmt: skip
        os.close(slave)
        said = b""
        with open(master, "rb", buffering=0) as terminal:
            try:
                while piece := terminal.read(4096):
                    said += piece
            except OSError:  # how Linux says that the other end is closed
                pass
        assert job.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert re.search(r"host +pages +failed +a second", text)
    assert re.search(rf"http://127\.0\.0\.1:{port} +5 +0", text)
    assert text.rstrip().endswith("5 items written to out.jsonl")


@pytest.fixture
def store(tmp_path):
    """A store with three items."""
    with closing(connect(tmp_path / "crawl.sqlite", write=True)) as connection:
        frontier = Frontier(connection, per_host=1)
        frontier.add((dict([address_of("http://a/")]), 0))
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
