"""One request and its answer, within bounds: what aiohttp raises becomes a ``FetchError`` here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp

from asyncpar_scrape.answers import Answer, Pace, Terms, Wire, check_type, too_large
from asyncpar_scrape.bodies import BadBodyError, Body, BodyTooLargeError
from asyncpar_scrape.clocks import stopped
from asyncpar_scrape.failures import (
    FetchError,
    FetchTimeoutError,
    TooLargeError,
    TransportError,
)
from asyncpar_scrape.reasons import has_too_many_headers, reason

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

    from asyncpar_scrape.inflight import Share

PIECE = 64 * 1024
MOST_HEADERS = 128
"""Headers of one answer, aiohttp's default. Each may have ``max_headers`` bytes, until all are there and are counted."""


class HeadersTooLargeError(Exception):
    """The headers are larger than they may be."""


LIMITS = (BodyTooLargeError, BadBodyError, HeadersTooLargeError)


@dataclass(slots=True)
class Exchange:
    """How requests are made.

    :ivar timeout: seconds for a request and its whole answer; waiting for room or for ``pace`` does not count
    :ivar max_headers: bytes of headers that an answer may have
    """

    session: aiohttp.ClientSession
    timeout: float
    pace: Pace
    max_headers: int

    async def get(self, url: str, terms: Terms, wire: Wire | None = None) -> Answer:
        """Ask once, and follow nothing. The share holds what came of the body, be it whole or not.

        :raises FetchError: there is no whole answer within the bounds
        """
        try:
            async with asyncio.timeout(self.timeout) as limit:
                return await self._get(url, terms, limit, wire)
        except (*LIMITS, aiohttp.ClientError, OSError, ValueError) as error:
            if wire is not None:
                wire.truncated = _truncated(error)
            raise self._reason(url, terms.most, error) from error

    async def _get(self, url: str, terms: Terms, limit: asyncio.Timeout, wire: Wire | None) -> Answer:
        began = time.monotonic()
        async with self.session.get(url, allow_redirects=False, headers=terms.headers or None) as response:
            answer = Answer(response.status, _flat(response.headers), time.monotonic() - began)
            if wire is not None:
                _note(wire, response)
            if sum(len(name) + len(value) + 4 for name, value in response.raw_headers) > self.max_headers:
                raise HeadersTooLargeError
            if not 200 <= response.status < 300:
                return answer
            check_type(url, response.headers.get("Content-Type", ""), terms.types)
            body = Body(answer.headers.get("content-encoding", ""), terms.most)
            if wire is not None:
                wire.body = body
            try:
                await self._read(response.content, body, terms.share, limit)
            except BodyTooLargeError:
                if not terms.robots_file:
                    raise
                answer.body = body.begun(terms.most)
                if wire is not None:
                    wire.truncated = "length"
                return answer
            answer.body = body.end()
            if wire is not None:
                wire.truncated = None
            return answer

    def _reason(self, url: str, most: int, error: Exception) -> FetchError:
        """What the bounds raised; all other errors are aiohttp's."""
        if isinstance(error, BodyTooLargeError):
            return too_large(url, most)
        if isinstance(error, BadBodyError):
            return TransportError(f"the body of {url} cannot be read: {error}")
        if isinstance(error, HeadersTooLargeError) or has_too_many_headers(error):
            return TooLargeError(
                f"the headers of {url} are over {self.max_headers:,} bytes, or more than {MOST_HEADERS}; see max_headers="
            )
        if isinstance(error, TimeoutError):
            why = str(error) or f"over {self.timeout:g} seconds in all"
            return FetchTimeoutError(f"{url} took too long: {why}; see timeout= and stall=")
        return reason(url, error)

    async def _read(
        self, content: aiohttp.StreamReader, body: Body, share: Share, limit: asyncio.Timeout
    ) -> None:
        """Read a body to its end. While it waits for room nothing is read, so that the sender has to wait, too."""
        async for piece in content.iter_chunked(PIECE):
            for n, part in enumerate(body.parts(piece), 1):
                if not n % 16:
                    await asyncio.sleep(
                        0
                    )  # a piece may make all of a body, and decompressing it takes its time
                if not share.add_nowait(len(part)):
                    with stopped(limit):
                        await share.add(len(part))
                body.keep(part)
            if self.pace.rate is not None:
                with stopped(limit):
                    await self.pace.spend(len(piece))


class WiredResponse(aiohttp.ClientResponse):
    """Notes who answers, as long as there is a connection: a small answer has none any more when it is handed out."""

    peer = ""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        if connection.transport and (peer := connection.transport.get_extra_info("peername")):
            self.peer = peer[0]
        return await super().start(connection)


def _note(wire: Wire, response: aiohttp.ClientResponse) -> None:
    """Write down what goes into an archive; the body counts as cut off until it was read."""
    version = response.version
    wire.target = response.url.raw_path_qs
    wire.asked = list(response.request_info.headers.items())
    wire.protocol = f"HTTP/{version.major}.{version.minor}" if version else "HTTP/1.1"
    wire.status = f"{response.status} {response.reason or ''}".rstrip()
    wire.headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers]
    if isinstance(response, WiredResponse):
        wire.peer = response.peer


def _truncated(error: Exception) -> str:
    """Why a body is not whole, as WARC-Truncated says it."""
    if isinstance(error, (BodyTooLargeError, HeadersTooLargeError)):
        return "length"
    if isinstance(error, TimeoutError):
        return "time"
    broken = (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError, OSError)
    return "disconnect" if isinstance(error, broken) else "unspecified"


def _flat(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        flat[name] = f"{flat[name]}, {value}" if name in flat else value
    return flat
