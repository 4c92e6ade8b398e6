"""robots.txt: hostile files are bounded, odd ones are read."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from asyncpar_scrape import failures
from asyncpar_scrape.robotsfile import CostlyError, parse
from tests.adapters.scrape_faults import Faults
from tests.adapters.scrape_server import answer
from tests.adapters.scrape_web import serving
from tests.adapters.test_scrape_fetch import fetcher
from tests.waiting import until

GROUPS = b"User-agent: *\nDisallow: /n1\n\nUser-agent: testbot\nDisallow: /n2\n"


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"User-agent:a{n}\n" for n in range(1000)) + "Disallow:/a\n" * 1000,
        "User-agent: *\n" + "Disallow: /*a*b\n" * 6000,
    ],
    ids=["agents times rules", "wildcards"],
)
async def test_a_costly_file(text):
    """It is not kept, and forbids the site."""
    with pytest.raises(CostlyError, match=r"over 100,000 rules or 10,000 wildcards"):
        await parse(text.encode())
    async with Faults(answer(text.encode())) as site, fetcher(robots=True) as fetch:
        with pytest.raises(failures.RobotsError, match=r"could not be read.*100,000 rules"):
            await fetch(site.url("/n1"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_line_ends_and_marks(end, mark):
    """A byte order mark and other line ends change nothing; our own group counts, and not the one for all."""
    rules = await parse(mark + GROUPS.replace(b"\n", end))
    assert await rules.allow("http://a.test/n1", "testbot")
    assert not await rules.allow("http://a.test/n2", "testbot")
    assert not await rules.allow("http://a.test/n1", "other")


@pytest.mark.parametrize("delay", ["-1", "nan", "inf", "soon", ""])
async def test_a_delay_that_makes_no_sense(delay):
    """It is none."""
    assert (await parse(f"User-agent: *\nCrawl-delay: {delay}\n".encode())).delay("bot") == 0


async def test_relative_sitemaps():
    """They become absolute; what is no address is left out."""
    file = answer(b"Sitemap: /map.xml\nSitemap: file:///etc/passwd\nSitemap: http://[\n")
    async with Faults(file) as site, fetcher(robots=True) as fetch:
        assert await fetch.sitemaps(site.url("/")) == [site.url("/map.xml")]


# Sites that are odd


@asynccontextmanager
async def sites(robots):
    """A server of pages for every host. ``robots`` answers what is not one, by host and path. It notes what was asked."""
    asked = []

    async def handle(request):
        host = request.host.partition(":")[0]
        asked.append(f"{host}{request.path}")
        if request.path.startswith("/page"):
            return web.Response(text=request.path, content_type="text/html")
        return await robots(host, request.path)

    async with serving(handle) as port:
        yield asked, lambda path, host="a.test": f"http://{host}:{port}{path}"


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream", ""])
@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (
            "<!DOCTYPE html>\n<html>\n<title>Not found</title>\n<p>User-agent: *\n<p>Disallow: /\n</html>",
            True,
        ),
        ("User-agent: *\nDisallow: /page\n", False),
    ],
    ids=["a page", "rules"],
)
async def test_another_type(kind, text, allowed):
    """What counts is what it says: a page that comes in its place has no rules, and rules count with any type."""

    async def robots(*_):
        return web.Response(body=text.encode(), headers={"Content-Type": kind})

    async with sites(robots) as (asked, url), fetcher(robots=True) as fetch:
        if allowed:
            assert (await fetch(url("/page"))).text == "/page"
        else:
            with pytest.raises(failures.RobotsError, match=r"forbids .*/page to testbot"):
                await fetch(url("/page"))
        assert asked == ["a.test/robots.txt", "a.test/page"][: 1 + allowed]


@pytest.mark.parametrize("most", [0, 10])
async def test_it_is_on_another_host(most):
    """Five redirects are followed, however few a page may have, and the rules count for the site that was asked for."""

    async def robots(host, _):
        n = int(host[1]) if host[0] == "h" else 0
        if n == 5:
            return web.Response(text="User-agent: *\nDisallow: /page1\nSitemap: /map.xml\n")
        return web.Response(status=302, headers={"Location": url("/rules.txt", f"h{n + 1}.test")})

    async with sites(robots) as (asked, url), fetcher(robots=True, max_redirects=most) as fetch:
        assert (await fetch(url("/page0"))).status == 200
        with pytest.raises(
            failures.RobotsError, match=r"http://a.test:\d+/robots.txt forbids .*/page1 to testbot"
        ):
            await fetch(url("/page1"))
        assert await fetch.sitemaps(url("/")) == [url("/map.xml")]
    assert asked == ["a.test/robots.txt", *[f"h{n}.test/rules.txt" for n in range(1, 6)], "a.test/page0"]


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("/more{n}", r"has more than \d+ redirects"),
        ("/robots.txt", "go in a circle"),
        ("file:///etc/passwd", "no absolute address of http or https"),
        ("http://[", "which is no address"),
    ],
)
async def test_it_leads_nowhere(where, says):
    """As one that could not be read it forbids the whole site; it is not asked for again with each page."""

    async def robots(_, path):
        n = int(path[5:]) if path.startswith("/more") else 0
        return web.Response(status=302, headers={"Location": where.format(n=n + 1)})

    async with sites(robots) as (asked, url), fetcher(robots=True) as fetch:
        for n in range(3):
            with pytest.raises(
                failures.RobotsError, match=rf"forbids the whole site: .*{says}.*; robots=False"
            ):
                await fetch(url(f"/page{n}"))
    assert not any("/page" in one for one in asked)
    assert asked.count("a.test/robots.txt") <= 2


async def test_it_takes_its_time():
    """Its pages wait, and it is asked for once; other sites go on; who gives up leaves the reading to the next."""
    ready = asyncio.Event()

    async def robots(host, _):
        if host == "a.test":
            await ready.wait()
        return web.Response(text="User-agent: *\nDisallow: /page1\n")

    async with sites(robots) as (asked, url), fetcher(robots=True) as fetch:
        first, *rest = [asyncio.create_task(fetch(url(f"/page{n}"))) for n in range(4)]
        await until(lambda: asked)
        assert (await fetch(url("/page0", "b.test"))).status == 200
        assert asked == ["a.test/robots.txt", "b.test/robots.txt", "b.test/page0"]
        first.cancel()
        await until(lambda: len(asked) == 4)
        ready.set()
        forbidden, *found = await asyncio.gather(*rest, return_exceptions=True)
    assert first.cancelled()
    assert isinstance(forbidden, failures.RobotsError)
    assert [page.text for page in found] == ["/page2", "/page3"]
    assert asked.count("a.test/robots.txt") == 2


async def test_it_takes_too_long():
    """It forbids the whole site, without being asked for again for a while."""
    over = asyncio.Event()

    async def robots(*_):
        await over.wait()
        return web.Response()

    async with sites(robots) as (asked, url):
        async with fetcher(robots=True, timeout=0.3) as fetch:
            for n in range(3):
                with pytest.raises(
                    failures.RobotsError, match=r"forbids the whole site: .* took too long: over 0.3"
                ):
                    await fetch(url(f"/page{n}"))
        over.set()
    assert asked in ([], ["a.test/robots.txt"])  # a busy machine may not even have asked by then
