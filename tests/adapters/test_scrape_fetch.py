"""A fetcher against a server that misbehaves: each fault has its outcome, and hosts are asked politely."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import trustme

import asyncpar
from asyncpar_scrape import Crawler, Fetcher, FetchError, failures
from asyncpar_scrape.answers import retry_after
from tests.adapters.scrape_faults import Faults, TLSServer
from tests.adapters.scrape_job import Resolver
from tests.adapters.scrape_server import answer

AGENT = "testbot/1.0 (+https://example.org/bot)"


def fetcher(**options):
    """A fetcher for this machine, quick where a test does not say otherwise."""
    return Fetcher(
        AGENT,
        **{"allow_private": True, "delay": 0, "robots": False, "retries": 0, "resolver": Resolver()}
        | options,
    )


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("/ok", "fine"),
        ("/gzip", "gzip"),
        ("/members", "two members"),
        ("/deflate", "deflate"),
        ("/raw-deflate", "raw"),
        ("/br", "brotli"),
        ("/zstd", "zstd frames"),
        ("/large-headers", "fine"),
        ("/http-1.0", "old"),
        ("/untyped", "untyped"),
        ("/to-ok", "fine"),
    ],
)
async def test_a_page(path, title):
    """What is unusual and allowed gives a page."""
    async with Faults() as site, fetcher() as fetch:
        page = await fetch(site.url(path))
    assert page.css("title::text").get() == title
    assert page.url == site.url(path)
    assert page.final_url == site.url("/ok" if path == "/to-ok" else path)
    assert page.status == 200


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("/bomb", "TooLargeError", "is over 100,000 bytes; see max_bytes="),
        ("/large", "TooLargeError", "is over 100,000 bytes"),
        ("/endless", "TooLargeError", "is over 100,000 bytes"),
        ("/half-gzip", "TransportError", "its gzip ends early"),
        ("/broken-gzip", "TransportError", "its gzip is broken"),
        ("/brotli", "TransportError", "its br ends early"),
        ("/compress", "TransportError", "'compress', which was not asked for"),
        ("/half", "TransportError", "Payload"),
        ("/broken-chunks", "TransportError", "failed: "),
        ("/bad-header", "TransportError", "failed: "),
        ("/huge-header", "TooLargeError", "the headers of http"),
        ("/many-headers", "TooLargeError", "over 65,536 bytes, or more than 128; see max_headers="),
        ("/long-headers", "TooLargeError", "over 65,536 bytes, or more than 128; see max_headers="),
        ("/endless-headers", "TooLargeError", "see max_headers="),
        ("/endless-header", "TooLargeError", "see max_headers="),
        ("/endless-1xx", "FetchTimeoutError", "over 0.5 seconds in all"),
        ("/not-http", "TransportError", "failed: "),
        ("/drop", "TransportError", "ServerDisconnected"),
        ("/image", "ContentTypeError", "image/gif, which content_types= has not"),
        ("/404", "StatusError", "answered with status 404"),
        ("/500", "StatusError", "answered with status 500"),
        ("/429-long", "StatusError", "429, and asks to come back in 4000 seconds"),
        ("/loop", "RedirectError", "go in a circle"),
        ("/to-file", "AddressError", "no absolute address of http or https"),
        ("/hang", "FetchTimeoutError", "see timeout= and stall="),
        ("/slow-head", "FetchTimeoutError", "see timeout= and stall="),
        ("/slow-body", "FetchTimeoutError", "over 0.5 seconds in all"),
    ],
)
async def test_a_fault(path, kind, says):
    """Each ends as the error that names it, and says what to do."""
    seconds = 0.5 if kind == "FetchTimeoutError" else 50
    async with Faults() as site, fetcher(max_bytes=100_000, timeout=seconds) as fetch:
        with pytest.raises(getattr(failures, kind)) as caught:
            await fetch(site.url(path))
    assert type(caught.value).__name__ == kind
    assert says in str(caught.value)


async def test_max_headers():
    """It bounds one header, and all of them; requests that pass it are not made again."""
    async with Faults() as site, fetcher(max_headers=10_000, retries=2) as fetch:
        assert (await fetch(site.url("/ok"))).status == 200
        for path in ("/large-headers", "/huge-header"):
            with pytest.raises(failures.TooLargeError, match=r"over 10,000 bytes, or more than 128; see"):
                await fetch(site.url(path))
        assert site.paths() == ["/ok", "/large-headers", "/huge-header"]


async def test_a_stall():
    """Nothing comes for ``stall`` seconds, long before the whole time is over."""
    async with Faults() as site, fetcher(stall=0.2, timeout=30) as fetch:
        with pytest.raises(failures.FetchTimeoutError, match=r"[Tt]imeout on reading"):
            await fetch(site.url("/hang"))


async def test_a_connection_that_is_closed_early():
    """A server that promises to keep its connection and closes it: the next request makes another."""
    async with Faults() as site, fetcher() as fetch:
        for _ in range(5):
            assert (await fetch(site.url("/closes"))).status == 200
        assert site.paths() == ["/closes"] * 5


async def test_too_many_redirects():
    """Redirects are followed so far and no further."""
    async with Faults() as site, fetcher(max_redirects=0) as fetch:
        with pytest.raises(failures.RedirectError, match=r"more than 0 redirects; see max_redirects="):
            await fetch(site.url("/to-ok"))


@pytest.mark.parametrize("path", ["/503-once", "/drop-once", "/429-once"])
async def test_what_may_pass_is_tried_again(path):
    """An error of 429 or 503 and a broken connection are, at most ``retries`` times."""
    async with Faults() as site, fetcher(retries=1) as fetch:
        assert (await fetch(site.url(path))).status == 200
        assert site.paths() == [path, path]


async def test_retries_end():
    """A host that keeps failing is asked once and ``retries`` times."""
    async with Faults() as site, fetcher(retries=1) as fetch:
        with pytest.raises(failures.StatusError) as caught:
            await fetch(site.url("/500"))
        assert (caught.value.status, site.paths()) == (500, ["/500"] * 2)


async def test_a_host_that_asks_for_a_long_pause_is_left_alone():
    """Its other addresses fail at once, without a request; other hosts go on."""
    async with Faults() as site, fetcher() as fetch:
        with pytest.raises(failures.StatusError):
            await fetch(site.url("/429-long"))
        with pytest.raises(FetchError, match=r"left alone for another \d+ seconds; see max_retry_after="):
            await fetch(site.url("/ok"))
        assert (await fetch(site.url("/ok", "other.test"))).status == 200
        assert site.paths() == ["/429-long", "/ok"]


def test_retry_after():
    """Seconds, a date, a date that has passed, and nonsense."""
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 90 < retry_after({"retry-after": soon}) <= 100
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    odd = ("", "soon", "-5", "²", "Tue, 10 Nov 99999999999 10:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -0100")
    assert [retry_after({"retry-after": text}) for text in ("120", *odd)] == [120] + [0] * len(odd)
    assert retry_after({}) == 0


async def test_a_thousand_hosts():
    """Each is asked, many at once, and none by more requests than it may be."""
    async with Faults() as site, fetcher(per_host=2) as fetch:
        urls = [site.url(f"/n{n}", f"h{n % 1000}.test") for n in range(2000)]
        done = [page.url async for page in asyncpar.map(fetch, urls, limit=200, ordered=False)]
        assert sorted(done) == sorted(urls)
        assert max(site.busiest.values()) <= 2


async def test_requests_to_one_host_are_few():
    """However many want it; they begin one by one."""
    async with Faults() as site, fetcher(per_host=3) as fetch:
        await asyncpar.map(fetch, [site.url(f"/n{n}") for n in range(30)], limit=30)
        assert 1 <= site.busiest["127.0.0.1"] <= 3


async def test_a_slow_host_holds_up_no_other():
    """Requests that wait for their host take no place from another's."""
    async with Faults() as site, fetcher(concurrency=2, per_host=1) as fetch:
        slow = [asyncio.create_task(fetch(site.url("/hang", "slow.test"))) for _ in range(10)]
        while ("slow.test", "/hang") not in site.asked:
            await asyncio.sleep(0.01)
        for n in range(5):
            await fetch(site.url(f"/n{n}", "quick.test"))
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert (
            await fetch(site.url("/ok", "slow.test"))
        ).status == 200  # a call that was cancelled left its place
        assert site.asked.count(("slow.test", "/hang")) == 1


async def test_bytes_per_second():
    """A body takes its time, and its bytes are all there."""
    async with Faults() as site, fetcher(bytes_per_second=1e6) as fetch:
        assert len((await fetch(site.url("/large"))).body) == 200_001


# robots.txt


ROBOTS = b"User-agent: *\nDisallow: /n1\nCrawl-delay: 0.01\nSitemap: http://a.test/map.xml\n"


async def test_robots_forbids():
    """What it forbids is not asked; the file is read once; it names sitemaps and a delay."""
    async with Faults(answer(ROBOTS)) as site, fetcher(robots=True) as fetch:
        await asyncpar.map(fetch, [site.url("/n0"), site.url("/n2")])
        with pytest.raises(failures.RobotsError, match=r"forbids .*/n1 to testbot; robots=False ignores it"):
            await fetch(site.url("/n1"))
        assert await fetch.sitemaps(site.url("/")) == ["http://a.test/map.xml"]
        assert sorted(site.paths()) == ["/n0", "/n2", "/robots.txt"]
        assert f"User-Agent: {AGENT}" in site.heads[0]


@pytest.mark.parametrize(
    ("robots", "allowed"),
    [
        (None, True),
        (answer(b"", status="403 Forbidden"), True),
        (answer(b"\xff\xfe\x00 not a robots file"), True),
        (answer(b"User-agent: *\nDisallow: /n\n" + b"#" * 2_000_000), False),
        (answer(b"", status="500 Oops"), False),
        (answer(b"", status="429 Slow down"), False),
        (b"", False),
        (answer(b"", "Location: /hang\r\n", "302 Found"), False),
    ],
    ids=["missing", "403", "nonsense", "huge", "500", "429", "dropped", "timeout"],
)
async def test_robots_variants(robots, allowed):
    """None, or one that is not for us to read, allows all; one that could not be read forbids all (RFC 9309)."""
    seconds = 0.5 if robots is not None and b"/hang" in robots else 50
    async with Faults(robots) as site, fetcher(robots=True, timeout=seconds) as fetch:
        if allowed:
            assert (await fetch(site.url("/n1"))).status == 200
        else:
            with pytest.raises(failures.RobotsError, match=r"robots=False ignores it"):
                await fetch(site.url("/n1"))
        assert ("/n1" in site.paths()) is allowed


async def test_a_redirect_is_asked_of_robots_too():
    """Where it leads must be allowed as well."""
    async with Faults(answer(b"User-agent: *\nDisallow: /ok\n")) as site, fetcher(robots=True) as fetch:
        with pytest.raises(failures.RobotsError):
            await fetch(site.url("/to-ok"))
        assert "/ok" not in site.paths()


# Private addresses, TLS


async def test_private_addresses_are_refused():
    """A number, and a name that leads there, whatever it led to before: when the connection is made."""
    async with Faults() as site, Fetcher(AGENT, resolver=Resolver(), retries=0) as fetch:
        for host in ("127.0.0.1", "rebound.test"):
            with pytest.raises(
                failures.AddressError, match=r"private network, which allow_private=True allows"
            ):
                await fetch(site.url("/ok", host))
        assert site.asked == []


@pytest.fixture(scope="module")
def tls():
    """The port of a server with a certificate of good.test, and a context that knows its authority."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("good.test").configure_cert(server)
    authority.configure_trust(client)
    with TLSServer(server) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made.server_port, client
        made.shutdown()
        thread.join()


async def test_tls_is_verified(tls):
    """A certificate of an unknown authority is refused, or of another host; others are not."""
    port, known = tls
    async with fetcher() as fetch:
        with pytest.raises(failures.TransportError, match=r"(?i)certificate"):
            await fetch(f"https://good.test:{port}/")
    async with fetcher(ssl=known) as fetch:
        assert (await fetch(f"https://good.test:{port}/")).status == 200
        with pytest.raises(failures.TransportError, match=r"(?i)certificate"):
            await fetch(f"https://other.test:{port}/")


@pytest.mark.parametrize(
    ("code", "kind", "asked"),
    [(socket.EAI_NONAME, "UnknownHostError", 1), (socket.EAI_AGAIN, "TransportError", 2)],
)
async def test_a_name_that_is_not_found(code, kind, asked):
    """One that does not exist is looked up once; one that could not be looked up is tried again."""
    looked_up = []

    class Lost(Resolver):
        async def resolve(self, host, port=0, family=0):
            looked_up.append(host)
            raise socket.gaierror(code, "not found")

    async with fetcher(resolver=Lost(), retries=1) as fetch:
        with pytest.raises(failures.TransportError) as caught:
            await fetch("http://lost.test/")
    assert (type(caught.value).__name__, len(looked_up)) == (kind, asked)


async def test_a_refused_certificate_is_not_tried_again(tls):
    """It says what to do."""
    async with fetcher(retries=5) as fetch:
        with pytest.raises(failures.CertificateError, match=r"was refused: .*; ssl= takes a context"):
            await fetch(f"https://good.test:{tls[0]}/")


# Use


@pytest.mark.parametrize("agent", ["", "bot", "Mozilla/5.0 (X11; Linux)", "bot/1.0 (+me)"])
def test_an_owner_can_be_reached(agent):
    """A User-Agent has a contact."""
    with pytest.raises(
        ValueError, match=r"has no contact: give an address at which a site's owner can reach you"
    ):
        Fetcher(agent)


async def test_it_is_used_inside_its_block():
    """Outside it says so."""
    with pytest.raises(
        asyncpar.PoolClosedError, match=re.escape("use it inside 'async with Fetcher(...) as fetch:'")
    ):
        await fetcher()("http://a.test/")


def follow(page):
    """A title and the links."""
    yield page.css("title::text").get()
    yield from page.follow_links()


async def test_a_crawl():
    """A crawler takes a fetcher as it is; pages are parsed on processes."""
    async with Faults() as site, Crawler(follow, fetcher(), start=[site.url("/n0")], workers=1) as crawl:
        assert [item async for item in crawl] == ["/n0", "/next"]
