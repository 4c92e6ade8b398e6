"""A name that leads elsewhere the next time (DNS rebinding): what counts is where the connection goes.

127.0.0.2 stands for an address of the public internet, which no test may ask.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import sys
from contextlib import asynccontextmanager

import pytest
import trustme
from aiohttp.abc import AbstractResolver

from asyncpar_scrape import Fetcher, addresses
from asyncpar_scrape.failures import AddressError, CertificateError, TransportError
from tests.adapters.scrape_server import Server, answer

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="no machine here: all of 127/8 leads here on Linux only"
)

PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"


class Answers(AbstractResolver):
    """Gives these addresses one after the other, and the last one on."""

    def __init__(self, *found):
        self.found = list(found)

    async def resolve(self, host, port=0, family=0):
        now = self.found.pop(0) if len(self.found) > 1 else self.found[0]
        return [
            {"hostname": host, "host": one, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for one in now.split()
        ]

    async def close(self):
        pass


@pytest.fixture
def public(monkeypatch):
    """127.0.0.2 is taken for a public address; nothing else changes."""
    real = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == PUBLIC or real(address))


@asynccontextmanager
async def server(pages, *, keep=False):
    """Answers on every address of this machine; notes by which it was asked for what."""
    asked = []

    async def say(head, writer):
        path = head.split()[1]
        asked.append((writer.get_extra_info("sockname")[0], path))
        writer.write(pages[path])
        return keep

    async with Server(say, "0.0.0.0") as made:
        yield made.port, asked


def fetcher(resolver, **options):
    return Fetcher("test/1.0 (me@example.org)", **{"delay": 0, "retries": 0, "resolver": resolver} | options)


CLOSED = "Content-Type: text/html\r\nConnection: close\r\n"
PAGES = {
    "/robots.txt": answer(b"", CLOSED),
    "/secret": answer(b"<title>secret</title>", CLOSED),
    "/away": answer(b"", CLOSED + "Location: /secret\r\n", "302 Found"),
}


def certified(host):
    """The server's side of TLS, by an authority that nobody knows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert(host).configure_cert(context)
    return context


async def forget(fetch):
    """As after the seconds for which a name is kept."""
    fetch._exchange.session.connector.clear_dns_cache()


async def test_between_robots_and_the_page(public):
    """robots.txt came from a public address; the page would come from this machine."""
    async with server(PAGES) as (port, asked), fetcher(Answers(PUBLIC, PRIVATE)) as fetch:
        await fetch._robots.rules(f"http://rebound.test:{port}")
        await forget(fetch)
        with pytest.raises(AddressError, match=r"on this machine or in a private network"):
            await fetch(f"http://rebound.test:{port}/secret")
    assert asked == [(PUBLIC, "/robots.txt")]


async def test_between_redirects(public, monkeypatch):
    """The first answer came from a public address, and leads to the same name."""
    async with server(PAGES) as (port, asked), fetcher(Answers(PUBLIC, PRIVATE), robots=False) as fetch:
        real = fetch._exchange.get

        async def get(self, *asked):
            found = await real(*asked)
            await forget(fetch)
            return found

        monkeypatch.setattr(type(fetch._exchange), "get", get)
        with pytest.raises(AddressError, match=r"/secret is on this machine or in a private network"):
            await fetch(f"http://rebound.test:{port}/away")
    assert asked == [(PUBLIC, "/away")]


async def test_of_several_addresses_only_public_ones_are_tried(public):
    """A private one among them is passed over."""
    async with server(PAGES) as (port, asked), fetcher(Answers(f"{PRIVATE} {PUBLIC}"), robots=False) as fetch:
        assert (await fetch(f"http://mixed.test:{port}/secret")).css("title::text").get() == "secret"
    assert asked == [(PUBLIC, "/secret")]


async def test_a_connection_that_is_kept_stays_where_it_was_made(public):
    """The name leads to this machine by now; nothing is connected anew."""
    pages = {path: answer(b"<title>kept</title>") for path in ("/a", "/b")}
    resolver = Answers(PUBLIC, PRIVATE)
    async with server(pages, keep=True) as (port, asked), fetcher(resolver, robots=False) as fetch:
        await fetch(f"http://kept.test:{port}/a")
        await forget(fetch)
        await fetch(f"http://kept.test:{port}/b")
    assert asked == [(PUBLIC, "/a"), (PUBLIC, "/b")]


async def test_a_bad_certificate_is_not_tried_again(public):
    """One handshake, whatever ``retries`` says; a connection that breaks is tried again."""
    handshakes = []
    context = await asyncio.to_thread(certified, "other.test")

    async def connection(reader, writer):
        handshakes.append("a connection")
        try:
            await writer.start_tls(context)
        except (OSError, ssl.SSLError):
            pass
        finally:
            writer.close()

    made = await asyncio.start_server(connection, "127.0.0.2", 0)
    try:
        url = f"https://bad.test:{made.sockets[0].getsockname()[1]}/"
        async with fetcher(Answers(PUBLIC), robots=False, retries=3) as fetch:
            with pytest.raises(CertificateError):
                await fetch(url)
        assert handshakes == ["a connection"]
    finally:
        made.close()
    async with fetcher(Answers(PUBLIC), robots=False, retries=1) as fetch:
        with pytest.raises(TransportError, match=r"Cannot connect|refused|failed"):
            await fetch(url)
