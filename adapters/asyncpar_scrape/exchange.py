"""One request and its answer, within bounds: what aiohttp raises becomes a ``FetchError`` here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp

from asyncpar_scrape.addresses import PrivateAddressError
from asyncpar_scrape.bodies import BadBodyError, Body, BodyTooLargeError
from asyncpar_scrape.failures import (
    AddressError,
    ContentTypeError,
    FetchError,
    FetchTimeoutError,
    TooLargeError,
    TransportError,
)

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

REDIRECTS = (301, 302, 303, 307, 308)
PIECE = 64 * 1024


@dataclass(slots=True)
class Answer:
    """What came.

    :ivar seconds: until its headers were there
    :ivar body: empty where the status is not 200 to 299
    """

    status: int
    headers: dict[str, str]
    seconds: float
    body: bytes = b""

    @property
    def location(self) -> str | None:
        """Where a redirect leads."""
        return self.headers.get("location") if self.status in REDIRECTS else None


class Pace:
    """Bytes a second, over all answers.

    :arg rate: how many; ``None``: as many as come
    """

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._until = 0.0

    async def spend(self, size: int) -> None:
        """Wait for as long as so many bytes take."""
        if self._rate is not None:
            now = time.monotonic()
            self._until = max(now, self._until) + size / self._rate
            await asyncio.sleep(self._until - now)


@dataclass(slots=True)
class Exchange:
    """How requests are made.

    :ivar timeout: seconds for a request and its whole answer
    :ivar types: what a Content-Type may begin with
    """

    session: aiohttp.ClientSession
    timeout: float
    types: tuple[str, ...]
    pace: Pace

    async def get(self, url: str, most: int, *, cut: bool = False) -> Answer:
        """Ask once, and follow nothing.

        :arg most: bytes that the body may have
        :arg cut: a longer body is cut, and its type does not matter
        :raises FetchError: there is no whole answer within the bounds
        """
        try:
            async with asyncio.timeout(self.timeout):
                return await self._get(url, most, cut)
        except TimeoutError as error:
            raise FetchTimeoutError(
                f"{url} took too long: {str(error) or f'over {self.timeout:g} seconds in all'}; see timeout= and stall="
            ) from error
        except BodyTooLargeError:
            raise TooLargeError(f"the body of {url} is over {most:,} bytes; see max_bytes=") from None
        except BadBodyError as error:
            raise TransportError(f"the body of {url} cannot be read: {error}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _translated(url, error) from error

    async def _get(self, url: str, most: int, cut: bool) -> Answer:
        began = time.monotonic()
        async with self.session.get(url, allow_redirects=False) as response:
            answer = Answer(response.status, _flat(response.headers), time.monotonic() - began)
            if not 200 <= response.status < 300:
                return answer
            kind = response.headers.get("Content-Type", "").lower()
            if kind and not cut and not kind.startswith(self.types):
                raise ContentTypeError(f"{url} is of type {kind}, which content_types= has not")
            body = Body(response.headers.get("Content-Encoding", ""), most)
            try:
                async for piece in response.content.iter_chunked(PIECE):
                    body.add(piece)
                    await self.pace.spend(len(piece))
            except BodyTooLargeError:
                if not cut:
                    raise
                answer.body = body.begun(most)
                return answer
            answer.body = body.end()
            return answer


def _flat(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        flat[name] = f"{flat[name]}, {value}" if name in flat else value
    return flat


def _translated(url: str, error: Exception) -> FetchError:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, PrivateAddressError):
        return AddressError(
            f"{url} is on this machine or in a private network, which allow_private=True allows: {error.os_error}"
        )
    if isinstance(error, aiohttp.InvalidURL) or not isinstance(error, (aiohttp.ClientError, OSError)):
        return AddressError(f"{url!r} cannot be asked: {error}")
    return TransportError(f"{url} failed: {type(error).__name__}: {error}")


def retry_after(headers: dict[str, str]) -> float:
    """Seconds that an answer's Retry-After asks for, as a number or a date; 0 without one."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
