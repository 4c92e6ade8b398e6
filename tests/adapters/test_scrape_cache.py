"""Pages from a cache: by the rules of RFC 9111, without a request where they are fresh, and after a restart."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web

from asyncpar import PoolClosedError
from asyncpar_scrape import Crawler, Fetcher
from asyncpar_scrape.cache import CacheError
from asyncpar_scrape.failures import ContentTypeError, StatusError, TooLargeError
from tests.adapters.scrape_job import Resolver
from tests.adapters.scrape_web import serving
from tests.programs import environment
from tests.waiting import until

AGENT = "test/1.0 (me@example.org)"


@asynccontextmanager
async def site(answer):
    """A server; ``answer`` gives the response to a request. It counts what was asked."""
    asked = Counter()

    async def handle(request):
        asked[request.path] += 1
        return answer(request, asked[request.path])

    async with serving(handle) as port:
        yield f"http://127.0.0.1:{port}", asked


def page(text, **headers):
    return web.Response(
        text=text, content_type="text/html", headers={n.replace("_", "-"): v for n, v in headers.items()}
    )


def fetcher(folder, **options):
    return Fetcher(AGENT, **{"delay": 0, "retries": 0, "allow_private": True, "cache": folder} | options)


def at(seconds):
    """A date so many seconds from now."""
    return formatdate(time.time() + seconds, usegmt=True)


async def texts(folder, url, times=1, **options):
    """What a fetcher of its own gets, asked so often."""
    async with fetcher(folder, **options) as fetch:
        found = [(await fetch(url)).text for _ in range(times)]
        assert fetch.in_flight.held == 0
        return found


async def test_what_is_fresh_costs_no_request(tmp_path):
    """Nor one for robots.txt, nor the host's turn; it outlives the program."""

    def answer(request, n):
        if request.path == "/robots.txt":
            return web.Response(text="User-agent: *\nAllow: /\n")
        return page(f"number {n}", Cache_Control="max-age=1000")

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 3) == ["number 1"] * 3
        assert await texts(tmp_path, root + "/a#part", 2, delay=1000) == ["number 1"] * 2
    assert asked == {"/robots.txt": 1, "/a": 1}


async def test_what_is_stale_is_validated(tmp_path):
    """Where the server says that it has not changed, what is kept is the page."""

    def answer(request, n):
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304, headers={"ETag": '"1"', "Cache-Control": "no-cache"})
        return page(f"number {n}", ETag='"1"', Cache_Control="no-cache")

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 3, robots=False) == ["number 1"] * 3
    assert asked == {"/a": 3}


async def test_what_has_changed_takes_its_place(tmp_path):
    """A whole answer to a question whether it has."""

    def answer(request, n):
        same = f'"{min(n, 2)}"' in request.headers.get("If-None-Match", "")
        headers = {
            "ETag": f'"{min(n, 2)}"',
            "Cache-Control": "no-cache",
            "Date": formatdate(1_790_000_000 + n),
        }
        return web.Response(status=304, headers=headers) if same else page(f"number {n}", **headers)

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 4, robots=False) == [
            "number 1",
            "number 2",
            "number 2",
            "number 2",
        ]
    assert asked == {"/a": 4}


async def test_a_changed_page_with_a_weak_tag(tmp_path):
    """A 304 with such a tag names no page: only one may be kept."""

    def answer(request, n):
        tag = 'W/"1"' if n < 2 else 'W/"2"'
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        same = request.headers.get("If-None-Match") == tag
        return web.Response(status=304, headers=headers) if same else page(tag, **headers)

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 4, robots=False) == ['W/"1"'] + ['W/"2"'] * 3
    assert asked == {"/a": 4}


async def test_a_304_for_another_page(tmp_path):
    """A server that is wrong is asked for the whole page."""

    def answer(request, n):
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers={"ETag": '"other"'})
        return page(f"number {n}", ETag='"1"', Cache_Control="no-cache")

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 2, robots=False) == ["number 1", "number 3"]
    assert asked == {"/a": 3}


@pytest.mark.parametrize(
    "headers", [{"Cache_Control": "no-store"}, {"Vary": "*", "Cache_Control": "max-age=99"}, {}]
)
async def test_what_must_not_be_kept(tmp_path, headers):
    """It is asked for again each time."""
    async with site(lambda _, n: page(f"number {n}", **headers)) as (root, asked):
        assert await texts(tmp_path, root + "/a", 3, robots=False) == ["number 1", "number 2", "number 3"]
    assert asked == {"/a": 3}


async def test_answers_vary_by_who_asks(tmp_path):
    """Another user agent gets its own."""

    def answer(request, _):
        return page(request.headers["User-Agent"], Vary="User-Agent", Cache_Control="max-age=99")

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 2, robots=False) == [AGENT] * 2
        async with Fetcher(
            "other/1 (me@example.org)", robots=False, allow_private=True, cache=tmp_path
        ) as fetch:
            assert (await fetch(root + "/a")).text == "other/1 (me@example.org)"
    assert asked == {"/a": 2}


async def test_a_page_for_another_is_not_validated(tmp_path):
    """Its date says nothing of ours; each keeps its own."""

    def answer(request, _):
        headers = {
            "Vary": "User-Agent",
            "Last-Modified": "Tue, 10 Nov 2026 10:00:00 GMT",
            "Cache-Control": "no-cache",
        }
        if "If-Modified-Since" in request.headers:
            return web.Response(status=304, headers=headers)
        return page(request.headers["User-Agent"], **headers)

    other = "other/1 (me@example.org)"
    async with site(answer) as (root, _):
        for agent in (AGENT, other, AGENT, other):
            async with Fetcher(agent, delay=0, robots=False, allow_private=True, cache=tmp_path) as fetch:
                assert (await fetch(root + "/a")).text == agent


async def test_bodies_are_kept_as_they_are_read(tmp_path):
    """Compressed ones, too; errors and redirects are asked again."""

    def answer(request, n):
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/a", "Cache-Control": "max-age=99"})
        response = page("é" * 50_000, Cache_Control="max-age=99")
        response.enable_compression()
        return response

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/moved", 2, robots=False) == ["é" * 50_000] * 2
    assert asked == {"/moved": 2, "/a": 1}


async def test_bounds_hold_for_what_is_kept(tmp_path):
    """Another fetcher may take other types, or less."""
    async with site(lambda *_: page("x" * 1000, Cache_Control="max-age=99")) as (root, asked):
        await texts(tmp_path, root + "/a", robots=False)
        with pytest.raises(ContentTypeError, match=r"is of type text/html.*, which content_types= has not"):
            await texts(tmp_path, root + "/a", robots=False, content_types=("image/",))
        with pytest.raises(TooLargeError, match=r"is over 10 bytes; see max_bytes="):
            await texts(tmp_path, root + "/a", robots=False, max_bytes=10)
    assert asked == {"/a": 1}


# Freshness

DAY = 24 * 3600.0


@pytest.mark.parametrize(
    ("headers", "times"),
    [
        ({"Expires": 1000}, 1),
        ({"Expires": -1000}, 3),
        ({"Expires": "0"}, 3),
        ({"Expires": "Tue, 10 Nov 99999999999 10:00:00 GMT"}, 3),
        ({"Expires": 1000, "Date": 2000}, 3),  # by the server's clock it has passed
        ({"Expires": 1000, "Cache-Control": "max-age=0"}, 3),
        ({"Expires": -1000, "Cache-Control": "max-age=1000"}, 1),
        ({"Cache-Control": "max-age=1000", "Date": -2000}, 3),
        ({"Cache-Control": "max-age=1000", "Age": "2000"}, 3),
        ({"Cache-Control": "max-age=1000", "Age": "500"}, 1),
        ({"Cache-Control": "max-age=1000", "Date": "soon", "Age": "2000"}, 3),
        ({"Cache-Control": "max-age=1000", "Date": "Fri, 31 Dec 9999 23:59:59 -0100"}, 1),
        ({"Cache-Control": "private, max-age=1000"}, 1),
        ({"Last-Modified": -10 * DAY}, 1),
        ({"Last-Modified": -10 * DAY, "Date": -2 * DAY}, 3),
        ({"Last-Modified": 100}, 3),
        ({"Last-Modified": -10 * DAY, "Cache-Control": "max-age=0"}, 3),
        ({"Last-Modified": -10 * DAY, "Expires": -1000}, 3),
    ],
    ids=str,
)
async def test_how_long_a_page_is_fresh(tmp_path, headers, times):
    """By max-age, else by Expires, else for a tenth of the time for which it has not changed; then it is validated."""
    given = {"ETag": '"1"'}
    given |= {name: value if isinstance(value, str) else at(value) for name, value in headers.items()}

    def answer(request, n):
        if request.headers.get("If-None-Match") == '"1"':
            return web.Response(status=304, headers=given)
        return page(f"number {n}", **given)

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 3, robots=False) == ["number 1"] * 3
    assert asked == {"/a": times}


async def test_a_page_is_validated_by_its_date(tmp_path):
    """Where it has no tag."""
    changed = at(-10)

    def answer(request, n):
        if n > 1:
            assert request.headers["If-Modified-Since"] == changed
            return web.Response(status=304)
        return page("kept", Last_Modified=changed, Cache_Control="no-cache")

    async with site(answer) as (root, asked):
        assert await texts(tmp_path, root + "/a", 3, robots=False) == ["kept"] * 3
    assert asked == {"/a": 3}


async def test_each_keeps_its_own(tmp_path):
    """Of a page that varies, whoever asks in turn; a header that nobody sends makes no difference."""

    def answer(request, n):
        return page(
            f"{request.headers['User-Agent']} {n}", Vary="User-Agent, Cookie", Cache_Control="max-age=99"
        )

    other = "other/1 (me@example.org)"
    async with site(answer) as (root, asked):
        for n, agent in enumerate((AGENT, other, AGENT, other)):
            async with Fetcher(agent, delay=0, robots=False, allow_private=True, cache=tmp_path) as fetch:
                assert (await fetch(root + "/a")).text == f"{agent} {n % 2 + 1}"
    assert asked == {"/a": 2}
    assert len(await asyncio.to_thread(entries, tmp_path)) == 2


@pytest.mark.may_block
async def test_what_must_not_be_kept_any_more(tmp_path):
    """It takes away what was kept before, and is nowhere on the disk."""

    def answer(request, n):
        assert ("If-None-Match" in request.headers) == (n == 2)
        if n == 1:
            return page("public", ETag='"1"', Cache_Control="no-cache")
        return page(f"secret {n}", ETag='"1"', Cache_Control="no-store")

    async with site(answer) as (root, _):
        assert await texts(tmp_path, root + "/a", 3, robots=False) == ["public", "secret 2", "secret 3"]
    assert entries(tmp_path) == []
    assert not any(b"secret" in file.read_bytes() for file in tmp_path.iterdir())


# Several at once


def entries(folder):
    """The addresses of what is kept, in order."""
    connection = sqlite3.connect(folder / "pages.sqlite")
    try:
        rows = connection.execute(
            "SELECT cache_key FROM entries WHERE expires_at IS NULL ORDER BY 1"
        ).fetchall()
    finally:
        connection.close()
    return [key.decode() for (key,) in rows]


async def test_one_asks_for_all(tmp_path):
    """Tasks that want one address at once, by whatever fragment: the others take what was kept."""
    answers = site(lambda _, n: page(f"number {n}", Cache_Control="max-age=99"))
    async with answers as (root, asked), fetcher(tmp_path, robots=False) as fetch:
        found = await asyncio.gather(*(fetch(f"{root}/a#{n}") for n in range(8)))
    assert [one.text for one in found] == ["number 1"] * 8
    assert asked == {"/a": 1}
    assert await asyncio.to_thread(entries, tmp_path) == [root + "/a"]


async def test_each_asks_for_what_is_not_kept(tmp_path):
    """A page that is not to be kept, or validated each time."""

    def answer(request, n):
        if "If-None-Match" in request.headers:
            return web.Response(status=304, headers={"ETag": '"1"'})
        return page(
            f"number {n}", **({"Cache_Control": "no-store"} if request.path == "/a" else {"ETag": '"1"'})
        )

    async with site(answer) as (root, asked), fetcher(tmp_path, robots=False) as fetch:
        found = await asyncio.gather(*(fetch(root + path) for path in ("/a", "/b") * 4))
    assert sorted(one.text for one in found[::2]) == [f"number {n}" for n in range(1, 5)]
    assert [one.text for one in found[1::2]] == ["number 1"] * 4
    assert asked == {"/a": 4, "/b": 4}


async def test_other_addresses_do_not_wait(tmp_path):
    """While one is asked for."""
    came = asyncio.Event()

    async def handle(request):
        if request.path == "/a":
            await came.wait()
        came.set()
        return page(request.path, Cache_Control="max-age=99")

    async with serving(handle) as port, fetcher(tmp_path, robots=False, resolver=Resolver()) as fetch:
        urls = [f"http://a.test:{port}/a", f"http://b.test:{port}/b"]
        assert [one.text for one in await asyncio.gather(*map(fetch, urls))] == ["/a", "/b"]


@pytest.mark.parametrize("way", ["cancelled", "fails"])
async def test_another_takes_over(tmp_path, way):
    """Where the one who asks is cancelled or fails, the next one asks, and the rest take what it kept."""
    asked, over = [], asyncio.Event()

    async def handle(request):
        asked.append(request.path)
        if len(asked) > 1:
            return page("kept", Cache_Control="max-age=99")
        if way == "cancelled":
            first.cancel()
            await over.wait()
        return web.Response(status=500)

    async with serving(handle) as port, fetcher(tmp_path, robots=False) as fetch:
        url = f"http://127.0.0.1:{port}/a"
        first, *rest = tasks = [asyncio.create_task(fetch(url)) for _ in range(8)]
        await asyncio.wait(tasks)
        over.set()
    assert [task.result().text for task in rest] == ["kept"] * 7
    assert len(asked) == 2
    if way == "fails":
        assert isinstance(first.exception(), StatusError)
    else:
        assert first.cancelled()
    assert await asyncio.to_thread(entries, tmp_path) == [url]


async def test_what_another_program_removed_is_asked_for_whole(tmp_path):
    """A page that is validated may have had to go meanwhile, for want of room."""

    def empty():
        connection = sqlite3.connect(tmp_path / "pages.sqlite")
        try:
            connection.execute("PRAGMA foreign_keys=ON")
            with connection:
                assert connection.execute("DELETE FROM entries").rowcount == 1
        finally:
            connection.close()

    async def handle(request):
        asked.append(request.headers.get("If-None-Match"))
        if len(asked) == 2:
            await asyncio.to_thread(empty)
            return web.Response(status=304, headers={"ETag": '"1"'})
        return page(f"number {len(asked)}", ETag='"1"', Cache_Control="no-cache")

    asked = []
    async with serving(handle) as port:
        url = f"http://127.0.0.1:{port}/a"
        assert await texts(tmp_path, url, 2, robots=False) == ["number 1", "number 3"]
    assert asked == [None, '"1"', None]
    assert await asyncio.to_thread(entries, tmp_path) == [url]


async def test_the_last_answer_is_kept(tmp_path):
    """Where two fetchers ask for one address at once, one entry is left."""
    asked, done = [], asyncio.Event()

    async def handle(request):
        asked.append(request.path)
        n = len(asked)
        if n == 1:
            await done.wait()
        return page(f"number {n}", Cache_Control="max-age=99")

    async with serving(handle) as port, fetcher(tmp_path, robots=False) as one:
        url = f"http://127.0.0.1:{port}/a"
        slow = asyncio.create_task(one(url))
        await until(lambda: asked)
        assert await texts(tmp_path, url, 2, robots=False) == ["number 2"] * 2
        done.set()
        assert (await slow).text == "number 1"
        assert await texts(tmp_path, url, robots=False) == ["number 1"]
    assert await asyncio.to_thread(entries, tmp_path) == [url]


JOB = """
import asyncio, sys
from asyncpar_scrape import Fetcher
async def main():
    folder, port = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    async with Fetcher("test/1.0 (me@example.org)", delay=0, robots=False, allow_private=True, cache=folder) as fetch:
        urls = [f"http://127.0.0.1:{port}/{n}" for n in range(40)]
        for page in await asyncio.gather(*map(fetch, urls)):
            print(page.url.rpartition("/")[2], page.text.partition(" ")[0])
asyncio.run(main())
"""


async def test_programs_share_a_folder(tmp_path):
    """They make it at the same time, and each gets all pages; afterwards nothing is asked for."""
    folder = tmp_path / "pages"

    def run(port):
        command = [sys.executable, "-W", "error", "-c", JOB, str(folder), str(port)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        jobs = [subprocess.Popen(command, env=environment(), text=True, **pipes) for _ in range(3)]
        for job in jobs:
            assert job.stdout.readline() == "ready\n"
        for job in jobs:
            job.stdin.write("go\n")
            job.stdin.flush()
        return [job.communicate() for job in jobs]

    # Larger than what the storage writes at once.
    async with site(lambda r, _: page(f"{r.path} {'x' * 200_000}", Cache_Control="max-age=99")) as (
        root,
        asked,
    ):
        done = await asyncio.to_thread(run, root.rpartition(":")[2])
        once = dict(asked)
        assert [len(await texts(folder, f"{root}/{n}", robots=False)) for n in range(40)] == [1] * 40
    for printed, complaints in done:
        assert complaints == ""
        assert sorted(printed.splitlines()) == sorted(f"{n} /{n}" for n in range(40))
    assert asked == once
    assert len(once) == 40
    assert max(once.values()) <= 3


# Crawls


def titles(page):
    """One item, and the site's links."""
    yield page.text
    yield from page.follow_links()


async def test_a_crawl_from_the_cache(tmp_path):
    """The second one asks nobody."""

    def answer(request, _):
        links = "".join(f"<a href=/{n}>" for n in range(20))
        return page(links + request.path, Cache_Control="max-age=99")

    async with site(answer) as (root, asked):
        for _ in range(2):
            crawler = Crawler(
                titles, start=[root + "/"], user_agent=AGENT, allow_private=True, delay=0, robots=False,
                cache=tmp_path, workers=1,
            )  # fmt: skip
            assert (await crawler.run()).pages == 21
    assert set(asked.values()) == {1}


async def test_a_file_that_is_no_cache(tmp_path):
    """The message says which, and what to do; nothing stays open."""
    await asyncio.to_thread((tmp_path / "pages.sqlite").write_bytes, b"no database" * 1000)
    with pytest.raises(
        CacheError, match=r"pages.sqlite cannot be used: file is not a database; give another folder"
    ):
        await fetcher(tmp_path).__aenter__()


async def test_outside_its_block(tmp_path):
    """As without a cache."""
    with pytest.raises(PoolClosedError, match="is not open"):
        await fetcher(tmp_path)("http://127.0.0.1:1/")
