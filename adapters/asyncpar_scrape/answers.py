"""What is asked for, and what comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from asyncpar_scrape.failures import ContentTypeError, TooLargeError

if TYPE_CHECKING:
    from asyncpar_scrape.bodies import Body
    from asyncpar_scrape.inflight import Share

REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Terms:
    """How an address is asked.

    :ivar share: of the bytes in flight
    :ivar most: bytes that the body may have
    :ivar types: what its Content-Type may begin with; ``None``: whatever it is
    :ivar robots_file: it is a robots.txt: nobody has to allow it, and one that is too long is cut
    :ivar headers: more of them, for the request
    """

    share: Share
    retries: int
    most: int
    types: tuple[str, ...] | None
    robots_file: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Wire:
    """A request and its answer as they were sent, for an archive. It fills as they come.

    :ivar status: empty until the headers are there
    :ivar peer: the number of who answered
    :ivar body: as far as it was read; ``None``: it was not
    :ivar truncated: why the body is not whole, as WARC-Truncated says it; ``None``: it is
    """

    target: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    protocol: str = ""
    status: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    peer: str = ""
    body: Body | None = None
    truncated: str | None = "unspecified"


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


def check_type(url: str, kind: str, types: tuple[str, ...] | None) -> None:
    """Whether an answer is of a type that is asked for; one without a type is.

    :raises ContentTypeError: it is not
    """
    if kind and types is not None and not kind.lower().startswith(types):
        raise ContentTypeError(f"{url} is of type {kind.lower()}, which content_types= has not")


def too_large(url: str, most: int) -> TooLargeError:
    """The error for a body that is over its bound."""
    return TooLargeError(f"the body of {url} is over {most:,} bytes; see max_bytes=")


class Pace:
    """Bytes a second, over all answers.

    :arg rate: how many; ``None``: as many as come
    """

    def __init__(self, rate: float | None) -> None:
        self.rate = rate
        self._until = 0.0

    async def spend(self, size: int) -> None:
        """Wait for as long as so many bytes take."""
        if self.rate is not None:
            now = time.monotonic()
            self._until = max(now, self._until) + size / self.rate
            await asyncio.sleep(self._until - now)


def retry_after(headers: dict[str, str]) -> float:
    """Seconds that an answer's Retry-After asks for, as a number or a date; 0 without one."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return 0.0
    if text.isascii() and text.isdigit():
        return float(text[:9])
    then = date(text)
    return 0.0 if then is None else max(0.0, (then - datetime.now(UTC)).total_seconds())


def date(text: str) -> datetime | None:
    """A date of a header, in UTC; ``None``: it is none."""
    try:
        then = parsedate_to_datetime(text)
        return then.astimezone(UTC) if then.tzinfo else then.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
