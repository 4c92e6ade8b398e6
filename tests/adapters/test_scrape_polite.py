"""A crawl with its own client: who has to wait holds up nobody, what fails for a while is tried again, sitemaps are read."""

from __future__ import annotations

import gzip
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from asyncpar_scrape import Crawler, Fetcher
from tests.adapters.scrape_job import Resolver
from tests.adapters.scrape_web import serving

AGENT = "test/1.0 (me@example.org)"


def titles(page):
    """One item, and the site's links."""
    yield {"url": page.url, "title": page.css("title::text").get()}
    yield from page.follow_links(same_site=True)


@asynccontextmanager
async def site(answer):
    """A server; ``answer`` gives what a host has at a path: text, a status, or bytes and a type. It notes what was asked."""
    asked = Counter()

    async def handle(request):
        asked[request.host.partition(":")[0] + request.path] += 1
        found = answer(request.host.partition(":")[0], request.path, asked)
        if isinstance(found, int):
            return web.Response(status=found)
        if isinstance(found, tuple):
            return web.Response(body=found[0], content_type=found[1])
        return web.Response(text=found, content_type="text/html")

    async with serving(handle) as port:
        yield port, asked


def crawler(start, **options):
    defaults = {"delay": 0, "user_agent": AGENT, "resolver": Resolver(), "allow_private": True, "workers": 1}
    return Crawler(titles, start=start, **defaults | options)


async def test_a_crawl_needs_a_parser_and_where_to_start(tmp_path, monkeypatch):
    """The rest has defaults; links of a page are what the crawler takes, and no robots.txt means that all is allowed."""
    monkeypatch.setenv("ASYNCPAR_USER_AGENT", AGENT)

    def answer(_, path, __):
        number = path[1:] or "0"
        return f"<title>{number}</title><a href='/{int(number) + 1}#x'>" if number.isdigit() else 404

    async with site(answer) as (port, asked):
        start = [f"http://a.test:{port}"]
        options = {"allow_private": True, "resolver": Resolver(), "delay": 0.001}
        async with Crawler(
            titles, start=start, max_pages=5, store=tmp_path / "out.sqlite", **options
        ) as crawl:
            found = [item["title"] async for item in crawl]
            done = crawl.statistics()
    assert sorted(found) == ["0", "1", "2", "3", "4"]
    assert asked["a.test/robots.txt"] == 1
    assert (done.pages, done.failed, done.waiting, done.under_way) == (5, 0, 1, 0)
    assert [(host.host, host.pages) for host in done.hosts] == [(f"http://a.test:{port}", 5)]


async def test_a_host_that_has_to_wait_holds_up_nobody():
    """A thousand pages of a host with a long Crawl-delay, listed first: the other host's are all visited meanwhile."""

    def answer(host, path, _):
        if path == "/robots.txt":
            return ("User-agent: *\nCrawl-delay: 250\n" if host == "slow.test" else "").encode(), "text/plain"
        return f"<title>{host}</title>"

    async with site(answer) as (port, asked):
        start = [f"http://slow.test:{port}/{n}" for n in range(1000)]
        start += [f"http://fast.test:{port}/{n}" for n in range(300)]
        async with crawler(start, robots=True) as crawl:
            found = Counter()
            while found["fast.test"] < 300:
                found[(await anext(crawl))["title"]] += 1
            assert crawl.statistics().waiting >= 999
    assert found["slow.test"] <= 1
    assert sum(count for path, count in asked.items() if path.startswith("slow.test/")) <= 2


async def test_a_thousand_hosts():
    """Each has a robots.txt of its own, which is read once and heeded."""

    def answer(host, path, _):
        return (
            (b"User-agent: *\nDisallow: /no\n", "text/plain")
            if path == "/robots.txt"
            else f"<title>{host}</title>"
        )

    async with site(answer) as (port, asked):
        start = [f"http://h{n}.test:{port}/{path}" for n in range(1000) for path in ("a", "no")]
        async with crawler(start, robots=True, delay=0.01) as crawl:
            found = Counter([item["title"] async for item in crawl])
            done = crawl.statistics()
    assert found == Counter(f"h{n}.test" for n in range(1000))
    assert (done.pages, dict(done.errors)) == (1000, {"RobotsError": 1000})
    assert set(asked.values()) == {1}
    assert len(asked) == 2000


async def test_what_fails_for_a_while_is_tried_again():
    """It waits for that in the frontier; what fails on is the page's error."""

    def answer(_, path, asked):
        if path == "/broken" or (path.startswith("/busy") and asked["a.test" + path] == 1):
            return 503
        return f"<title>{path}</title>"

    async with site(answer) as (port, asked):
        start = [f"http://a.test:{port}/{name}" for name in ("busy1", "fine", "busy2", "broken")]
        done = await crawler(start, robots=False, retries=2).run()
    assert asked == {"a.test/busy1": 2, "a.test/busy2": 2, "a.test/fine": 1, "a.test/broken": 3}
    assert (done.pages, done.failed, done.visited, dict(done.errors)) == (3, 1, 4, {"StatusError": 1})


async def test_a_host_that_is_down_is_given_up():
    """After failures in a row its pages fail at once; other hosts go on."""

    def answer(host, path, _):
        return 500 if host == "down.test" else f"<title>{path}</title>"

    async with site(answer) as (port, asked):
        start = [f"http://down.test:{port}/{n}" for n in range(200)] + [f"http://up.test:{port}/"]
        done = await crawler(start, robots=False, retries=0, max_failures=2).run()
    assert (done.pages, done.failed) == (1, 200)
    assert done.errors["HostDownError"] > 100
    assert sum(asked.values()) < 100


async def test_sitemaps_are_read():
    """Those of robots.txt: an index, and in it one in XML, one gzipped, one as text, and one that is none."""
    head = '<?xml version="1.0"?><{0} xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'

    def answer(_, path, __):
        root = f"http://a.test:{port}"
        if path == "/robots.txt":
            return f"Sitemap: {root}/index.xml\n".encode(), "text/plain"
        if path == "/index.xml":
            names = ("map.xml", "map.xml.gz", "map.txt", "none.xml")
            inside = "".join(f"<sitemap><loc> {root}/{name} </loc></sitemap>" for name in names)
            return f"{head.format('sitemapindex')}{inside}</sitemapindex>".encode(), "application/xml"
        listed = f"<url><loc>{root}/{path[1:-4]}</loc><image><loc>{root}/no</loc></image></url><url><loc>mailto:x</loc></url>"
        urls = f"{head.format('urlset')}{listed}</urlset>".encode()
        if path == "/map.xml":
            return urls, "text/xml"
        if path == "/map.xml.gz":
            return gzip.compress(urls), "application/gzip"
        if path == "/map.txt":
            return f"{root}/in-text\n".encode(), "text/plain"
        return f"<title>{path}</title>" if not path.endswith(".xml") else (b"<x", "text/xml")

    async with site(answer) as (port, asked), crawler([f"http://a.test:{port}/"], sitemaps=True) as crawl:
        found = {item["title"] async for item in crawl}
        done = crawl.statistics()
    assert found == {"/", "/map", "/map.xm", "/in-text"}
    assert asked["a.test/no"] == 0
    assert (done.failed, dict(done.errors)) == (1, {"ValueError": 1})


async def test_nothing_is_held_when_pages_are_parsed(monkeypatch):
    """A page counts as bytes in flight until it is parsed, and not longer."""
    async with site(lambda _, path, __: f"<title>{path}</title>" + " " * 50_000) as (port, _):
        start = [f"http://a.test:{port}/{n}" for n in range(30)]
        async with crawler(start, robots=False, bytes_in_flight=120_000) as crawl:
            most = crawl._fetcher.in_flight
            kept, keep = [], most.keep
            monkeypatch.setattr(most, "keep", lambda size: (keep(size), kept.append(most.held)))
            assert len([item async for item in crawl]) == 30
            assert most.held == 0
    assert len(kept) == 30
    assert max(kept) <= 120_000 + 60_000


def test_arguments_are_checked(monkeypatch):
    """A crawl has to say who asks; options of the client go to who makes it."""
    monkeypatch.delenv("ASYNCPAR_USER_AGENT", raising=False)
    with pytest.raises(ValueError, match=r"sites are to know who asks: give user_agent='mybot/1.0 \(\+https"):
        Crawler(titles, start=["http://a.test/"])
    with pytest.raises(ValueError, match=r"has no contact"):
        Crawler(titles, start=["http://a.test/"], user_agent="mybot")
    with pytest.raises(
        TypeError, match=r"^delay, robots= is for the Fetcher that a crawler makes; with fetch="
    ):
        Crawler(titles, Fetcher(AGENT), start=["http://a.test/"], delay=1, robots=False)
    with pytest.raises(ValueError, match=r"max_failures must be at least 1, not 0"):
        Crawler(titles, user_agent=AGENT, max_failures=0)
    with pytest.raises(TypeError, match=r"sitemaps=True is for crawls with a Fetcher"):
        Crawler(titles, str, sitemaps=True)
    needs_robots = r"^sitemaps=True needs robots.txt, which names the sitemaps: leave out robots=False"
    with pytest.raises(ValueError, match=needs_robots):
        Crawler(titles, user_agent=AGENT, sitemaps=True, robots=False)
    with pytest.raises(ValueError, match=needs_robots):
        Crawler(titles, Fetcher(AGENT, robots=False), sitemaps=True)
    Crawler(titles, Fetcher(AGENT), sitemaps=True)
    for name in ("concurrency", "per_host", "max_pages", "max_per_pattern"):
        with pytest.raises(ValueError, match=rf"^{name}= must be at least 1, not 0"):
            Crawler(titles, user_agent=AGENT, **{name: 0})
    with pytest.raises(ValueError, match=r"^parse_timeout= must be a number of seconds above 0, not 0"):
        Crawler(titles, user_agent=AGENT, parse_timeout=0)


def test_options_are_those_of_the_client():
    """What a crawler passes on is what a ``Fetcher`` takes."""
    import inspect

    from asyncpar_scrape.fetcher import FetcherOptions

    taken = set(inspect.signature(Fetcher).parameters)
    assert set(FetcherOptions.__annotations__) == taken - {"concurrency", "per_host"}
