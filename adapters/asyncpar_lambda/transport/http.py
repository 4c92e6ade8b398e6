"""HTTP/1.1, as much of it as AWS's services speak: kept connections, one request at a time on each.

No redirects, cookies, compression or pipelining. A request is never repeated here: whoever sent it knows whether it may
run twice.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

from asyncpar_lambda.transport import Reply, TransportError

IDLE_SECONDS = 20.0
"""A connection that was idle for longer is not used again: the other side may be about to close it."""
MOST_HEAD = 64 * 1024
MOST_BODY = 256 * 1024 * 1024
_BODYLESS = (204, 304)


class BadReplyError(ValueError):
    """What came is no HTTP/1.1 response that we take."""


class Parser:
    """One response, from the bytes as they come. No I/O.

    :param head_only: the request was HEAD, whose response has no body
    """

    def __init__(self, *, head_only: bool = False) -> None:
        self.head_only = head_only
        self.status = 0
        self.headers: dict[str, str] = {}
        self.keep = True
        self._buffer = bytearray()
        self._wanted: int | None = None  # bytes of body; None: unknown, until the connection ends
        self._chunks: bytearray | None = None  # what a chunked body has brought
        self._in_body = False

    @property
    def started(self) -> bool:
        """Whether anything has come."""
        return self._in_body or bool(self._buffer)

    def feed(self, data: bytes) -> Reply | None:
        """Take bytes; the reply, once it is whole.

        :raises BadReplyError: it is malformed or too large
        """
        self._buffer += data
        while not self._in_body:
            if not self._head():
                return None
        if self._chunks is not None:
            return self._chunked()
        if self._wanted is None:
            if len(self._buffer) > MOST_BODY:
                raise BadReplyError(f"a body of more than {MOST_BODY} bytes")
            return None
        if len(self._buffer) < self._wanted:
            return None
        if len(self._buffer) > self._wanted:
            self.keep = False  # it sends more than was asked for
        return Reply(self.status, self.headers, bytes(memoryview(self._buffer)[: self._wanted]))

    def end(self) -> Reply | None:
        """The connection has ended; the reply, if that is how its body ends."""
        if self._in_body and self._wanted is None and self._chunks is None:
            return Reply(self.status, self.headers, bytes(self._buffer))
        return None

    def _head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD:
            if len(self._buffer) > MOST_HEAD:
                raise BadReplyError(f"a head of more than {MOST_HEAD} bytes")
            return False
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        if not first.startswith("HTTP/1.") or not first[9:12].isdigit():
            raise BadReplyError(f"not HTTP/1.1: {first[:60]!r}")
        self.status = int(first[9:12])
        if self.status < 200:  # 100 Continue: the response is yet to come
            return True
        headers = self.headers
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        self._in_body = True
        self.keep = headers.get("connection", "").lower() != "close" and first.startswith("HTTP/1.1")
        self._measure()
        return True

    def _measure(self) -> None:
        length = self.headers.get("content-length")
        if self.head_only or self.status in _BODYLESS:
            self._wanted = 0
        elif self.headers.get("transfer-encoding", "").lower() == "chunked":
            self._chunks = bytearray()
        elif length is not None:
            if not length.isdecimal() or int(length) > MOST_BODY:
                raise BadReplyError(f"a body of {length[:20]!r} bytes; at most {MOST_BODY} are taken")
            self._wanted = int(length)

    def _chunked(self) -> Reply | None:
        chunks, buffer = cast("bytearray", self._chunks), self._buffer
        while True:
            end = buffer.find(b"\r\n")
            if end < 0:
                if len(buffer) > MOST_HEAD:
                    raise BadReplyError("a chunk without a size")
                return None
            try:
                size = int(buffer[:end].partition(b";")[0], 16)
            except ValueError:
                raise BadReplyError(f"a chunk without a size: {bytes(buffer[:20])!r}") from None
            if not 0 <= size <= MOST_BODY - len(chunks):
                raise BadReplyError(f"a body of more than {MOST_BODY} bytes")
            if size == 0:
                return self._trailer(end)
            if len(buffer) < end + 2 + size + 2:
                return None
            chunks += buffer[end + 2 : end + 2 + size]
            del buffer[: end + 2 + size + 2]

    def _trailer(self, end: int) -> Reply | None:
        rest = self._buffer[end + 2 :]
        if not (rest.startswith(b"\r\n") or b"\r\n\r\n" in rest):
            return None
        return Reply(self.status, self.headers, bytes(cast("bytearray", self._chunks)))


class Connection(asyncio.Protocol):
    """One connection. ``request`` may be called again when it has answered and ``usable`` is still true."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.usable = False
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = Parser()
        self._waiter: asyncio.Future[Reply] | None = None
        self._gone: asyncio.Future[None] = client.loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.usable = True
        self.client.adopt(self)

    def data_received(self, data: bytes) -> None:
        waiter = self._waiter
        if waiter is None:  # nobody asked for anything
            self.close()
            return
        try:
            reply = self._parser.feed(data)
        except BadReplyError as error:
            self._fail(f"{self.client.host} sent {error}")
            return
        if reply is not None:
            self._answer(reply)

    def eof_received(self) -> None:
        self.usable = False
        reply = self._parser.end() if self._waiter is not None else None
        if reply is not None:
            self._answer(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if not self._gone.done():
            self._gone.set_result(None)
        self.client.forget(self)
        part = "in the middle of its answer" if self._parser.started else "before it answered"
        self._fail(f"{self.client.host} ended the connection {part}{f': {exc}' if exc else ''}")

    async def request(self, head: bytes, body: bytes, seconds: float, *, head_only: bool = False) -> Reply:
        assert self._transport is not None
        self._parser = Parser(head_only=head_only)
        waiter: asyncio.Future[Reply] = self.client.loop.create_future()
        self._waiter = waiter
        timer = self.client.loop.call_later(seconds, self._expired, seconds)
        if len(body) < 16 * 1024:
            self._transport.write(head + body)  # one packet
        else:
            self._transport.writelines((head, body))
        try:
            return await waiter
        finally:
            timer.cancel()
            self._waiter = None
            if not waiter.done() or waiter.cancelled():
                self.close()  # the answer would come to the next request

    def close(self) -> None:
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def drop(self) -> None:
        """Close it without waiting for word of that."""
        self.close()
        self.client.forget(self)
        if not self._gone.done():
            self._gone.set_result(None)

    async def gone(self) -> None:
        await self._gone

    def _answer(self, reply: Reply) -> None:
        self.usable = self.usable and self._parser.keep
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)

    def _expired(self, seconds: float) -> None:
        self._fail(f"{self.client.host} did not answer within {seconds:g} seconds")

    def _fail(self, message: str) -> None:
        self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TransportError(message, sent=True))


class Client:
    """Requests to one origin. Opens as many connections as there are requests at the same time, and keeps them.

    :param origin: scheme and host: ``https://lambda.eu-central-1.amazonaws.com``
    :param seconds: how long a request may take, from sending to the end of the answer
    :param context: for https; default: the certificates that botocore trusts, or those of ``AWS_CA_BUNDLE``
    :param connect_seconds: how long making a connection may take
    """

    def __init__(
        self,
        origin: str,
        *,
        seconds: float = 60.0,
        context: ssl.SSLContext | None = None,
        connect_seconds: float = 10.0,
    ) -> None:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"an endpoint is a URL such as https://host, not {origin!r}")
        self.loop = asyncio.get_running_loop()
        self.secure = parts.scheme == "https"
        self.host = parts.netloc.rpartition("@")[2]
        self.name = parts.hostname
        self.port = parts.port or (443 if self.secure else 80)
        self.seconds, self.connect_seconds = seconds, connect_seconds
        self._context = (context or trusted()) if self.secure else None
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._closed = False

    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b"", seconds: float = 0.0
    ) -> Reply:
        """Send one request and wait for the whole reply, whatever its status. Cancelling closes the connection.

        :param target: path and query, percent-encoded
        :param seconds: instead of the client's own
        :raises TransportError: there was no reply; its ``sent`` says whether the request may have arrived
        """
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        length = f"content-length: {len(body)}\r\n" if body or method in ("POST", "PUT") else ""
        head = f"{method} {target} HTTP/1.1\r\nhost: {self.host}\r\n{lines}{length}\r\n".encode("latin-1")
        connection = self._take() or await self._connect()
        try:
            return await connection.request(head, body, seconds or self.seconds, head_only=method == "HEAD")
        finally:
            if connection.usable and not self._closed:
                connection.idle_since = self.loop.time()
                self._idle.append(connection)
            else:
                connection.close()

    async def aclose(self) -> None:
        """Close every connection, and wait until they are."""
        self._closed = True
        self._idle.clear()
        for connection in list(self._all):
            connection.close()
            await connection.gone()

    def adopt(self, connection: Connection) -> None:
        self._all.add(connection)

    def forget(self, connection: Connection) -> None:
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def _take(self) -> Connection | None:
        """The connection that was used last, so that those not needed grow old."""
        oldest = self.loop.time() - IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        if self._closed:
            raise TransportError(f"the connections to {self.host} are closed", sent=False)
        try:
            async with asyncio.timeout(self.connect_seconds):
                return await self._connected()
        except TimeoutError as error:
            message = f"{self.host} took longer than {self.connect_seconds:g} seconds to connect"
            raise TransportError(message, sent=False) from error
        except OSError as error:  # ssl's errors too
            raise TransportError(f"no connection to {self.host}: {error}", sent=False) from error

    async def _connected(self) -> Connection:
        connection = Connection(self)
        try:
            await self.loop.create_connection(lambda: connection, self.name, self.port, ssl=self._context)
        except BaseException:  # cancelled: uvloop closes what it has just made, and does not tell it that
            connection.drop()
            raise
        return connection


def trusted() -> ssl.SSLContext:
    """A context that trusts what botocore trusts."""
    import os

    path = os.environ.get("AWS_CA_BUNDLE")
    if not path:
        from botocore.httpsession import where

        path = where()
    return ssl.create_default_context(cafile=path)
