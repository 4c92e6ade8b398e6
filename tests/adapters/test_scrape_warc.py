"""What was fetched as a WARC file: read again by warcio, appended to, and mended after a kill."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys

import pytest
from warcio.archiveiterator import ArchiveIterator

from asyncpar_scrape import Fetcher, FetchError
from asyncpar_scrape.failures import FetchTimeoutError, StatusError
from asyncpar_scrape.warc import WarcError
from tests.adapters.scrape_faults import Faults
from tests.adapters.scrape_job import Resolver
from tests.adapters.scrape_server import Server, answer
from tests.programs import environment
from tests.waiting import until

AGENT = "test/1.0 (me@example.org)"


def fetcher(path, **options):
    return Fetcher(
        AGENT, **{"delay": 0, "retries": 0, "robots": False, "allow_private": True, "warc": path} | options
    )


def records(path):
    """Type, path, status and body of each record; digests are checked."""
    found = []
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, check_digests="raise"):
            url = record.rec_headers.get_header("WARC-Target-URI") or ""
            status = record.http_headers.get_statuscode() if record.rec_type == "response" else ""
            found.append(
                (record.rec_type, "/" + url.split("/", 3)[-1], status, record.content_stream().read())
            )
    return found


def pages(path):
    return [(where, status, body) for kind, where, status, body in records(path) if kind == "response"]


async def test_requests_and_answers_are_kept(tmp_path):
    """Redirects, errors and robots.txt, too; bodies as they are read."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults(robots=answer(b"User-agent: *\n")) as site, fetcher(path, robots=True) as fetch:
        await fetch(site.url("/gzip"))
        await fetch(site.url("/to-ok"))
        with pytest.raises(StatusError):
            await fetch(site.url("/404"))
    assert await asyncio.to_thread(pages, path) == [
        ("/robots.txt", "200", b"User-agent: *\n"),
        ("/gzip", "200", b"<title>gzip</title>"),
        ("/to-ok", "301", b""),
        ("/ok", "200", b"<title>fine</title>"),
        ("/404", "404", b""),
    ]
    kinds = [kind for kind, *_ in await asyncio.to_thread(records, path)]
    assert kinds == ["warcinfo", *["response", "request"] * 5]


def cut(path):
    """Path, reason and body of each response."""
    with path.open("rb") as stream:
        return [
            (
                "/" + record.rec_headers.get_header("WARC-Target-URI").split("/", 3)[-1],
                record.rec_headers.get_header("WARC-Truncated"),
                record.content_stream().read(),
            )
            for record in ArchiveIterator(stream, check_digests="raise")
            if record.rec_type == "response"
        ]


@pytest.mark.parametrize(
    ("path", "why", "body"),
    [
        ("/large", "length", b"x" * 100_000),
        ("/bomb", "length", bytes(100_000)),
        ("/long-headers", "length", b""),
        ("/image", "unspecified", b""),
        ("/compress", "unspecified", b""),
        ("/broken-gzip", "unspecified", b""),
    ],
)
async def test_what_is_refused_is_kept(tmp_path, path, why, body):
    """So much of it as was read, and why that is not all."""
    async with Faults() as site, fetcher(tmp_path / "crawl.warc.gz", max_bytes=100_000) as fetch:
        with pytest.raises(FetchError):
            await fetch(site.url(path))
        assert fetch.in_flight.held == 0
    assert await asyncio.to_thread(cut, tmp_path / "crawl.warc.gz") == [(path, why, body)]


async def test_what_is_cut_short_is_kept(tmp_path):
    """Each try: a compressed body that ends early, and one whose connection broke."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site, fetcher(path, retries=1) as fetch:
        with pytest.raises(FetchError):
            await fetch(site.url("/half-gzip"))

    held = []

    async def break_off(_, writer):
        held.append(fetch.in_flight.held)
        writer.write(answer(b"x" * 1000)[:-500])
        await until(lambda: fetch.in_flight.held == 500)

    async with Server(break_off) as site, fetcher(path, retries=1) as fetch:
        with pytest.raises(FetchError):
            await fetch(site.url("/broken"))
        assert [*held, fetch.in_flight.held] == [0, 0, 0]
    *early, once, again = await asyncio.to_thread(cut, path)
    assert [(where, reason) for where, reason, _ in early] == [("/half-gzip", "unspecified")] * 2
    assert all(part.startswith(b"<title>half") for *_, part in early)
    assert once == again == ("/broken", "disconnect", b"x" * 500)


async def test_what_takes_too_long_is_kept(tmp_path):
    """As far as it had come by then; a busy machine is given more time for it."""
    async with Faults() as site:
        for seconds in (0.2, 1, 5, 25):
            path = tmp_path / f"{seconds}.warc.gz"
            async with fetcher(path, timeout=seconds) as fetch:
                with pytest.raises(FetchTimeoutError):
                    await fetch(site.url("/slow-body"))
            found = await asyncio.to_thread(cut, path)
            if any(body for *_, body in found):
                break
    [(where, why, body)] = found
    assert (where, why, set(body)) == ("/slow-body", "time", set(b"x"))


async def test_a_robots_file_that_is_too_long(tmp_path):
    """It is used as far as it was read."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults(robots=answer(b"#" * 600_000)) as site, fetcher(path, robots=True) as fetch:
        await fetch(site.url("/ok"))
    robots, page = await asyncio.to_thread(cut, path)
    assert robots == ("/robots.txt", "length", b"#" * 524_288)
    assert page == ("/ok", None, b"<title>fine</title>")


async def test_what_is_no_answer_is_not_kept(tmp_path):
    """Nothing that is HTTP came, or nobody waited for it to come."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site, fetcher(path) as fetch:
        for where in ("/drop", "/not-http", "/huge-header"):
            with pytest.raises(FetchError):
                await fetch(site.url(where))
        given_up = asyncio.create_task(fetch(site.url("/slow-body")))
        await until(lambda: fetch.in_flight.held)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert fetch.in_flight.held == 0
    assert await asyncio.to_thread(cut, path) == []


async def test_who_answered(tmp_path):
    """Its number, whatever name was asked for, on each answer of a connection."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site, fetcher(path, resolver=Resolver()) as fetch:
        for where in ("/ok", "/large", "/gzip"):
            await fetch(site.url(where, "a.test"))

    def read():
        with path.open("rb") as stream:
            return [
                (record.rec_type, record.rec_headers.get_header("WARC-IP-Address"))
                for record in ArchiveIterator(stream)
            ]

    assert await asyncio.to_thread(read) == [
        ("warcinfo", None),
        *[("response", "127.0.0.1"), ("request", None)] * 3,
    ]


async def test_what_a_record_says(tmp_path):
    """Who asked, which request an answer is for, what became of its encoding, and that a body was not read."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site, fetcher(path) as fetch:
        await fetch(site.url("/gzip"))
        with pytest.raises(StatusError):
            await fetch(site.url("/404"))

    def read():
        with path.open("rb") as stream:
            return [
                (one.rec_headers, one.http_headers, one.content_stream().read())
                for one in ArchiveIterator(stream)
            ]

    info, response, request, missing, _ = await asyncio.to_thread(read)
    assert f"http-header-user-agent: {AGENT}".encode() in info[2]
    assert request[0].get_header("WARC-Concurrent-To") == response[0].get_header("WARC-Record-ID")
    assert request[1].get_header("User-Agent") == AGENT
    assert response[1].get_header("X-Archive-Orig-Content-Encoding") == "gzip"
    assert response[1].get_header("Content-Encoding") is None
    assert response[1].get_header("Content-Length") == str(len(response[2]))
    assert response[0].get_header("WARC-Truncated") is None
    assert missing[0].get_header("WARC-Truncated") == "unspecified"


async def test_a_file_is_appended_to_by_one(tmp_path):
    """While a fetcher has it another is told; afterwards it goes on."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site:
        async with fetcher(path) as fetch:
            await fetch(site.url("/ok"))
            with pytest.raises(WarcError, match=r"crawl.warc.gz is in use by another fetcher: wait until"):
                await fetcher(path).__aenter__()
        async with fetcher(path) as fetch:
            await fetch(site.url("/gzip"))
    assert [where for where, *_ in await asyncio.to_thread(pages, path)] == ["/ok", "/gzip"]


@pytest.mark.may_block
@pytest.mark.parametrize("cut", [1, 37, 400])
async def test_a_torn_end_is_cut_off(tmp_path, cut):
    """What a killed program left of its last record goes, and what is whole stays."""
    path = tmp_path / "crawl.warc.gz"
    async with Faults() as site:
        async with fetcher(path) as fetch:
            await fetch(site.url("/ok"))
            size = path.stat().st_size
            await fetch(site.url("/n1"))
        os.truncate(path, max(size + 1, path.stat().st_size - cut))
        async with fetcher(path) as fetch:
            await fetch(site.url("/gzip"))
    found = [where for where, *_ in await asyncio.to_thread(pages, path)]
    assert [where for where in found if where != "/n1"] == ["/ok", "/gzip"]


@pytest.mark.may_block
async def test_another_file_is_not_written_to(tmp_path):
    """One that is no archive of ours stays as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    with pytest.raises(WarcError, match=r"damaged at byte 0, or no gzip file: take another path"):
        await fetcher(path).__aenter__()
    assert path.read_text() == "my notes"


@pytest.mark.may_block
async def test_a_file_that_cannot_grow(tmp_path):
    """As on a full disk: the page's fetch fails, what was begun of its record goes, and what is whole stays."""
    path = tmp_path / "crawl.warc.gz"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with Faults() as site, fetcher(path) as fetch:
        await fetch(site.url("/ok"))
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(WarcError, match=r"crawl.warc.gz cannot be written: .*File too large"):
                await fetch(site.url("/gzip"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == size
        await fetch(site.url("/members"))
    assert [where for where, *_ in pages(path)] == ["/ok", "/members"]


JOB = """
import asyncio, itertools, sys
from asyncpar_scrape import Fetcher
async def main():
    async with Fetcher("test/1.0 (me@example.org)", delay=0, robots=False, allow_private=True, warc=sys.argv[1]) as fetch:
        for n in itertools.count():
            await fetch(f"http://127.0.0.1:{sys.argv[2]}/n{n}")
            print(n, flush=True)
asyncio.run(main())
"""


async def test_killed_and_gone_on(tmp_path):
    """After kill -9 every page that was fetched is there, and the next one appends."""
    path = tmp_path / "crawl.warc.gz"

    def until_killed(port):
        with subprocess.Popen(
            [sys.executable, "-c", JOB, str(path), str(port)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as job:
            for line in job.stdout:
                if int(line) == 10:
                    job.send_signal(signal.SIGKILL)
                    break
            return 10 + len(job.stdout.read().split())

    async with Faults() as site:
        last = await asyncio.to_thread(until_killed, site.port)
        async with fetcher(path) as fetch:
            await fetch(site.url("/ok"))
    found = [where for where, *_ in await asyncio.to_thread(pages, path)]
    assert found[: last + 1] == [f"/n{n}" for n in range(last + 1)]
    assert found[-1] == "/ok"
