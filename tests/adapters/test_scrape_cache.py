"""Pages from a cache: by the rules of RFC 9111, without a request where they are fresh, and after a restart."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from email.utils import formatdate

import pytest
from aiohttp import web

from asyncpar import PoolClosedError
from asyncpar_scrape import Crawler, Fetcher
from asyncpar_scrape.cache import CacheError
from asyncpar_scrape.failures import ContentTypeError, TooLargeError
from tests.adapters.scrape_web import serving

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
