"""The client: addresses to pages, politely and within bounds."""

from __future__ import annotations

import asyncio
import os
import re
import ssl as tls
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypedDict
from urllib.parse import urljoin

from asyncpar.errors import PoolClosedError
from asyncpar_scrape.addresses import host_of, public_socket
from asyncpar_scrape.answers import Answer, Pace, Terms, Wire, check_type, retry_after, too_large
from asyncpar_scrape.cache import Cache
from asyncpar_scrape.decoders import accepted
from asyncpar_scrape.failures import (
    AddressError,
    FetchError,
    FetchTimeoutError,
    RedirectError,
    StatusError,
    TransportError,
)
from asyncpar_scrape.hosts import Hosts
from asyncpar_scrape.inflight import BytesInFlight
from asyncpar_scrape.links import address
from asyncpar_scrape.page import Page
from asyncpar_scrape.robots import Robots
from asyncpar_scrape.robotsfile import MOST_BYTES
from asyncpar_scrape.turns import Turns
from asyncpar_scrape.warc import WarcFile

if TYPE_CHECKING:
    from aiohttp.abc import AbstractResolver

    from asyncpar_scrape.exchange import Exchange

RETRIED = (429, 500, 502, 503, 504)
CONTACT = re.compile(r"https?://[^\s)]+\.|[^\s@]+@[^\s@]+\.")
MOST_ROBOTS_REDIRECTS = 5
"""For robots.txt, at least (RFC 9309)."""
TYPES = ("text/", "application/xhtml+xml", "application/xml", "application/json", "application/ld+json")


class FetcherOptions(TypedDict, total=False):
    """What a crawler passes on; each is described at ``Fetcher``."""

    user_agent: str | None
    delay: float
    robots: bool
    retries: int
    max_failures: int
    max_retry_after: float
    max_redirects: int
    max_bytes: int
    max_headers: int
    bytes_in_flight: int
    timeout: float
    stall: float
    bytes_per_second: float | None
    content_types: tuple[str, ...]
    allow_private: bool
    ssl: tls.SSLContext | None
    resolver: AbstractResolver | None
    warc: str | os.PathLike[str] | None
    cache: str | os.PathLike[str] | None


class Fetcher:
    """Fetches pages. Enter it with ``async with``, and call it with an address; many tasks may.

    >>> async with Fetcher("mybot/1.0 (+https://example.org/bot)") as fetch:
    ...     async for page in asyncpar.map(fetch, urls, limit=100): ...

    It keeps no cookies, and takes no proxies from the environment. Errors of 429, 500, 502, 503 and 504, of connections
    and time-outs are tried again, when ``Hosts`` allows it; all others are raised at once.

    :arg user_agent: the robot's name and where its owner is reached: an address of the web or of mail. Default the
        environment's ``ASYNCPAR_USER_AGENT``
    :arg concurrency: requests at once, of all hosts
    :arg per_host: requests to one host at once, at most; they begin with 1. Default 4, fewer than a browser's 6
    :arg delay: seconds between the starts of two requests to a host; a longer Crawl-delay counts
    :arg robots: read and obey robots.txt
    :arg retries: how often a request is made again at most
    :arg max_failures: failures of a host in a row, about a minute of them, after which its pages fail without a request;
        each time its pause is over, of a minute at most, one is tried
    :arg max_retry_after: seconds of Retry-After that are waited for; a host that asks for more gives errors meanwhile
    :arg max_redirects: redirects that are followed for one address; for robots.txt five at least
    :arg max_bytes: bytes that a body may have, as it comes and decompressed
    :arg bytes_in_flight: bytes of bodies that requests hold while they read them, all together; a body more where none
        could be read to its end otherwise. Who would hold more stops reading, and its sender has to wait
    :arg max_headers: bytes that the headers of an answer may have, in 128 of them at most
    :arg timeout: seconds for one request and its answer, without the waiting for the host's turn, for
        ``bytes_in_flight`` and for ``bytes_per_second``
    :arg stall: seconds that nothing may come for, and that a connection may take
    :arg bytes_per_second: of all bodies together, compressed; ``None``: as many as come
    :arg content_types: what a Content-Type may begin with; an answer without one is taken
    :arg allow_private: connect to this machine and to private networks, too
    :arg ssl: how TLS is verified, as for a company's own authorities; default as Python does
    :arg resolver: finds the addresses of hosts, in place of the system's
    :arg warc: a WARC file to append all requests and answers to, those for robots.txt, redirects and errors included; needs
        the extra ``warc``. Opening the fetcher raises ``WarcError`` where that cannot be
    :arg cache: a folder in which pages are kept and looked for first, by the rules of RFC 9111 for a private cache; needs the
        extra ``cache``. What is fresh there costs no request. Opening the fetcher raises
        ``CacheError`` where that cannot be
    :raises ValueError: ``user_agent`` is missing, or has no contact
    :raises ImportError: ``warc`` or ``cache`` is given, and warcio or hishel is missing
    """

    def __init__(
        self,
        user_agent: str | None = None,
        *,
        concurrency: int = 64,
        per_host: int = 4,
        delay: float = 0.5,
        robots: bool = True,
        retries: int = 2,
        max_failures: int = 8,
        max_retry_after: float = 300.0,
        max_redirects: int = 10,
        max_bytes: int = 10_000_000,
        bytes_in_flight: int = 100_000_000,
        max_headers: int = 65_536,
        timeout: float = 60.0,
        stall: float = 15.0,
        bytes_per_second: float | None = None,
        content_types: tuple[str, ...] = TYPES,
        allow_private: bool = False,
        ssl: tls.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
        warc: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self._agent = user_agent = _checked_agent(user_agent)
        self._turns = Turns(Hosts(per_host, delay, max_failures=max_failures), concurrency, max_retry_after)
        name = user_agent.replace("/", " ").split()[0]
        self._robots = Robots(self._read_robots, name) if robots else None
        self.retries, self.max_retry_after = retries, max_retry_after
        self._max_redirects, self._max_bytes = max_redirects, max_bytes
        self._max_headers = max_headers
        self._in_flight = BytesInFlight(bytes_in_flight)
        self._timeout, self._stall = timeout, stall
        self._pace = Pace(bytes_per_second)
        self._types = content_types
        self._private = allow_private
        self._ssl, self._resolver = ssl, resolver
        self._warc = None if warc is None else WarcFile(warc, user_agent)
        self._headers = {"User-Agent": user_agent, "Accept-Encoding": accepted()}
        self._cache = None if cache is None else Cache(Path(cache), self._headers)
        self._exchange: Exchange | None = None

    @property
    def hosts(self) -> Hosts:
        """When each host may be asked; times are ``time.monotonic()``'s, hosts are named as ``http://host:port``."""
        return self._turns.hosts

    @property
    def in_flight(self) -> BytesInFlight:
        """The bytes of bodies that are held, with their bound."""
        return self._in_flight

    async def __aenter__(self) -> Self:
        # A worker that imports a crawler does without it, and the first time it takes a tenth of a second.
        await asyncio.to_thread(import_module, "asyncpar_scrape.exchange")
        import aiohttp

        from asyncpar_scrape.exchange import MOST_HEADERS, Exchange, WiredResponse

        if self._cache is not None:
            await self._cache.open()
        try:
            if self._warc is not None:
                await self._warc.open()
        except BaseException:  # cancelled, too: no file may stay open
            await self._close_files()
            raise
        connector = aiohttp.TCPConnector(
            limit=0,  # Turns bounds them
            ssl=self._ssl or True,
            resolver=self._resolver,
            socket_factory=None if self._private else public_socket,
        )
        session = aiohttp.ClientSession(
            connector=connector,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=self._max_headers,
            max_field_size=self._max_headers,
            max_headers=MOST_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._stall, sock_read=self._stall),
            response_class=aiohttp.ClientResponse if self._warc is None else WiredResponse,
        )
        self._exchange = Exchange(session, self._timeout, self._pace, self._max_headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._exchange is not None:
            session, self._exchange = self._exchange.session, None
            try:
                await session.close()
            finally:
                await self._close_files()

    async def _close_files(self) -> None:
        if self._warc is not None:
            await self._warc.close()
        if self._cache is not None:
            await self._cache.close()

    async def __call__(self, url: str) -> Page:
        """Fetch a page. Cancelling closes its connection.

        :raises FetchError: there is none; see ``asyncpar_scrape.failures``
        :raises PoolClosedError: the fetcher is not open
        """
        return await self._fetch(url, self.retries, self._types)

    async def attempt(self, url: str, *, any_type: bool = False) -> Page:
        """Fetch a page without trying again; whoever calls does so later, where the error is ``transient``."""
        return await self._fetch(url, 0, None if any_type else self._types)

    def expect(self, url: str) -> float:
        """Seconds that a request would wait for its host's turn, by how it went so far."""
        try:
            return self._turns.expect(host_of(address(url)))
        except ValueError:  # which the request will say
            return 0.0

    async def _fetch(self, url: str, retries: int, types: tuple[str, ...] | None) -> Page:
        host = host_of(_checked(url))
        self._turns.come(host)
        try:
            with self._in_flight.share() as share:
                terms = Terms(share, retries, self._max_bytes, types)
                final, answer = await self._follow(url, terms)
                return Page(url, final, answer.status, answer.headers, answer.body)
        finally:
            self._turns.go(host)

    async def sitemaps(self, url: str) -> list[str]:
        """The sitemaps that the robots.txt of this address's site names, as absolute addresses of http and https.

        :raises RobotsError: it could not be read
        """
        if self._robots is None:
            return []
        site = host_of(_checked(url))
        named = (await self._robots.rules(site)).sitemaps()
        return [found for text in named if (found := _joined(f"{site}/robots.txt", text))]

    async def _follow(self, url: str, terms: Terms) -> tuple[str, Answer]:
        """Ask an address and where it leads."""
        most = max(self._max_redirects, MOST_ROBOTS_REDIRECTS) if terms.robots_file else self._max_redirects
        seen: set[str] = set()
        at = url
        while len(seen) <= most:
            known = _checked(at)
            if known in seen:
                raise RedirectError(f"the redirects of {url} go in a circle, at {at}")
            seen.add(known)
            answer = await self._look_up(host_of(known), at, terms)
            if answer.location is None:
                return at, answer
            at = _led(at, answer.location)
        raise RedirectError(f"{url} has more than {most} redirects; see max_redirects=")

    async def _look_up(self, host: str, url: str, terms: Terms) -> Answer:
        """What the cache has of an address, else what its host says."""
        if self._cache is None or terms.robots_file:
            return await self._allowed(host, url, terms)
        name = url.partition("#")[0]
        async with self._cache.alone(name):
            found = await self._cache.find(name)
            answer = found.answer
            if answer is None:
                asked = replace(terms, headers=found.headers)
                answer = await self._cache.settle(name, found, await self._allowed(host, url, asked))
                if answer.status == 304 and found.headers:  # what it is about is not kept
                    found = replace(found, headers={})
                    answer = await self._cache.settle(name, found, await self._allowed(host, url, terms))
        check_type(url, answer.headers.get("content-type", ""), terms.types)
        if len(answer.body) > terms.most:
            raise too_large(url, terms.most)
        missing = len(answer.body) - terms.share.held
        if missing > 0 and not terms.share.add_nowait(missing):
            await terms.share.add(missing)
        return answer

    async def _allowed(self, host: str, url: str, terms: Terms) -> Answer:
        """Ask an address, if robots.txt allows it."""
        if not terms.robots_file and self._robots is not None:
            delay = await self._robots.check(host, url)
            if delay:
                self._turns.slow_down(host, delay)
        return await self._ask(host, url, terms)

    async def _ask(self, host: str, url: str, terms: Terms) -> Answer:
        """Ask until there is an answer, or no more tries."""
        once = self._ask_once if self._warc is None else self._ask_and_record
        for left in range(terms.retries, -1, -1):
            try:
                answer, pause = await once(host, url, terms)
            except (FetchTimeoutError, TransportError) as error:
                if not left or not error.transient:
                    raise
                terms.share.clear()
                continue
            if answer.status < 400:
                return answer
            transient = answer.status in RETRIED and pause <= self.max_retry_after
            if not left or not transient:
                asked = f", and asks to come back in {pause:.0f} seconds" if pause else ""
                raise StatusError(
                    f"{url} answered with status {answer.status}{asked}", answer.status, transient=transient
                )
        raise AssertionError("the last try returns or raises")

    async def _ask_and_record(self, host: str, url: str, terms: Terms) -> tuple[Answer, float]:
        """What came goes into the archive, be it whole or not."""
        assert self._warc is not None
        wire = Wire()
        try:
            answer, pause = await self._ask_once(host, url, terms, wire)
        except FetchError:
            if wire.status:
                await self._warc.write(url, wire, wire.body.begun(terms.most) if wire.body else b"")
            raise
        await self._warc.write(url, wire, answer.body)
        return answer, pause

    async def _ask_once(
        self, host: str, url: str, terms: Terms, wire: Wire | None = None
    ) -> tuple[Answer, float]:
        if self._exchange is None:
            raise PoolClosedError(
                "this Fetcher is not open: use it inside 'async with Fetcher(...) as fetch:'"
            )
        await self._turns.begin(host)
        failed, seconds, pause = False, None, 0.0
        try:
            answer = await self._exchange.get(url, terms, wire)
            seconds, failed, pause = answer.seconds, answer.status in RETRIED, retry_after(answer.headers)
        except (FetchTimeoutError, TransportError) as error:
            failed = error.transient  # else a pause would not help
            raise
        finally:
            self._turns.end(host, failed=failed, seconds=seconds, retry_after=pause)
        return answer, pause

    async def _read_robots(self, url: str) -> bytes:
        with self._in_flight.share() as share:
            terms = Terms(share, self.retries, MOST_BYTES, types=None, robots_file=True)
            answer = await self._ask(host_of(url), url, terms)
            if answer.location is not None:
                try:
                    _, answer = await self._follow(_led(url, answer.location), terms)
                except AddressError as error:  # where it leads, and not the site
                    raise RedirectError(str(error)) from error
            return answer.body


def _checked_agent(agent: str | None) -> str:
    agent = os.environ.get("ASYNCPAR_USER_AGENT") if agent is None else agent
    if agent is None:
        raise ValueError(
            "sites are to know who asks: give user_agent='mybot/1.0 (+https://example.org/bot)', with an address at which "
            "you can be reached, or set ASYNCPAR_USER_AGENT"
        )
    if not CONTACT.search(agent):
        raise ValueError(
            f"user_agent={agent!r} has no contact: give an address at which a site's owner can reach you, "
            "as 'mybot/1.0 (+https://example.org/bot)' or 'mybot/1.0 (me@example.org)'"
        )
    return agent


def _checked(url: str) -> str:
    try:
        return address(url)
    except ValueError as error:
        raise AddressError(str(error)) from error


def _led(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise AddressError(f"{url} redirects to {location!r}, which is no address: {error}") from error


def _joined(base: str, target: str) -> str:
    """The absolute address, or nothing."""
    try:
        return _checked(urljoin(base, target))
    except (ValueError, AddressError):
        return ""
