"""Requests to a function behind an address, over the kept connections of ``asyncpar_lambda.transport.http``."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlsplit

from asyncpar_lambda.transport import Reply
from asyncpar_lambda.transport.http import Client

LOOPBACK = ("127.0.0.1", "localhost", "::1")

Headers = Callable[[], Awaitable[Mapping[str, str]]]


class HTTPTransport:
    """A ``Transport`` whose invocation is a POST. Never repeats anything by itself.

    :param url: of the function
    :param headers: asked before each request, for what proves who sends it
    :param seconds: how long a request may take
    """

    def __init__(self, url: str, headers: Headers, *, seconds: float, context: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self.seconds = seconds
        self._client = Client(f"{parts.scheme}://{parts.netloc}", context=context)
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = headers

    @classmethod
    async def open(cls, url: str, headers: Headers, *, seconds: float) -> HTTPTransport:
        """Make one; certificates are read off the loop's thread."""
        secure = url.startswith("https:")
        context = await asyncio.to_thread(ssl.create_default_context) if secure else None
        return cls(url, headers, seconds=seconds, context=context)

    async def invoke(self, payload: bytes, *, tail: bool = False) -> Reply:
        """See ``Transport.invoke``. There is no log to ask for: ``tail`` does nothing."""
        headers = {"content-type": "application/json", **await self._headers()}
        return await self._client.request("POST", self._target, headers, payload, self.seconds)

    async def about(self) -> Reply:
        """Ask the function for its settings; it runs nothing."""
        return await self._client.request("GET", self._target, await self._headers(), b"", self.seconds)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()


def check_url(url: str) -> str:
    """The address, if a function may be called there.

    :raises ValueError: it is none, or tokens and results would travel in clear
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the address of a function is a URL such as https://host/name, not {url!r}")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(f"{url} must be https: results and keys would travel for everybody to read")
    return url
