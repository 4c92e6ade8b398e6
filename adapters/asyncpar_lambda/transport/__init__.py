"""How an invocation gets to Lambda: one small interface, two ways.

http       HTTP/1.1 over asyncio: connections that are kept, one request at a time on each
fast       the Invoke API over http, signed by sigv4; about a tenth of aiobotocore's CPU time
aio        the Invoke API over aiobotocore: for proxies
identity   credentials and region, found and refreshed by botocore, off the loop
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from asyncpar.errors import AsyncparError

__all__ = ["Reply", "Transport", "TransportError"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    :ivar status: the HTTP status
    :ivar headers: names in lower case
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


class TransportError(AsyncparError, ConnectionError):
    """No reply: the connection could not be made, broke, or took longer than the function may.

    :ivar sent: whether the request may have arrived; false means that it has certainly not run
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Transport(Protocol):
    """Invokes one function. Never repeats anything by itself."""

    async def invoke(self, payload: bytes, *, tail: bool = False) -> Reply:
        """Invoke the function and wait for its answer. Cancelling gives up the answer; the function runs on.

        :param payload: JSON, at most 6 MiB
        :param tail: ask for the last 4 KiB of the function's log, in ``x-amz-log-result``
        :raises TransportError: there was no reply
        """
        ...

    async def aclose(self) -> None:
        """Close every connection."""
        ...
