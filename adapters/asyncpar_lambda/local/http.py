"""HTTP/1.1 for the local server: as much as AWS's clients and Lambda's runtime client say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

MAX_HEAD = 1 << 20
MAX_BODY = 1 << 30

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Request:
    """One request; whoever takes it answers once, now or later."""

    __slots__ = ("body", "headers", "method", "path", "protocol", "query")

    def __init__(
        self, protocol: HttpProtocol, method: str, target: str, headers: dict[str, str], body: bytes
    ) -> None:
        path, _, query = target.partition("?")
        self.protocol = protocol
        self.method = method
        self.path = path
        self.query = dict(parse_qsl(query, keep_blank_values=True)) if query else {}
        self.headers = headers  # names in lower case
        self.body = body

    def parts(self) -> list[str]:
        """The path's parts, decoded."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Answer, unless the client has gone."""
        self.protocol.answer(status, body, headers or {}, head_only=self.method == "HEAD")

    def hang_up(self) -> None:
        """Close the connection without an answer."""
        self.protocol.abort()


class HttpProtocol(asyncio.Protocol):
    """One connection. A request is answered before the next one is read."""

    def __init__(self, handle: Callable[[Request], None], open_connections: set[HttpProtocol]) -> None:
        self.handle = handle
        self.open = open_connections
        self.transport: Any = None
        self.buffer = bytearray()
        self.busy = False
        self.head: tuple[str, str, dict[str, str]] | None = None
        self.length = 0
        self.chunked = False
        self.keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)
        self.transport = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.busy:
            self.advance()

    def advance(self) -> None:
        """Hand over the next request, if it is whole."""
        if self.head is None and not self.read_head():
            return
        assert self.head is not None
        body = self.read_chunks() if self.chunked else self.read_length()
        if body is None:
            return
        (method, target, headers), self.head = self.head, None
        self.busy = True
        try:
            self.handle(Request(self, method, target, headers, body))
        except Exception:  # the caller is told that it failed, the loop's handler gets the error itself
            self.answer(500, b'{"message":"the local Lambda failed; its traceback is on its stderr"}', {})
            raise

    def read_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self.buffer) > MAX_HEAD:
                self.refuse(431)
            return False
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        del self.buffer[: end + 4]
        try:
            method, target, version = first.split(" ")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            self.length = _size(headers.get("content-length", "0"), 10)
        except ValueError:
            self.refuse(400)
            return False
        self.chunked = "chunked" in headers.get("transfer-encoding", "")
        self.keep = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if self.length > MAX_BODY:
            self.refuse(413)
            return False
        if headers.get("expect") == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.head = method, target, headers
        return True

    def read_length(self) -> bytes | None:
        if len(self.buffer) < self.length:
            return None
        body = bytes(self.buffer[: self.length])
        del self.buffer[: self.length]
        return body

    def read_chunks(self) -> bytes | None:
        """The body of a request that is sent in chunks, when all are there."""
        parts: list[bytes] = []
        at = 0
        while True:
            end = self.buffer.find(b"\r\n", at)
            if end < 0:
                return None
            try:
                size = _size(self.buffer[at:end].split(b";")[0].decode("latin-1"), 16)
            except ValueError:
                self.refuse(400)
                return None
            if at + size > MAX_BODY:
                self.refuse(413)
                return None
            begin = end + 2
            if len(self.buffer) < begin + size + 2:
                return None
            if not size:
                del self.buffer[: begin + 2]
                return b"".join(parts)
            parts.append(bytes(self.buffer[begin : begin + size]))
            at = begin + size + 2

    def refuse(self, status: int) -> None:
        self.keep = False
        self.answer(status, b"", {})

    def answer(
        self, status: int, body: bytes, headers: Mapping[str, str], *, head_only: bool = False
    ) -> None:
        if self.transport is None:
            return
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if status != 204 and "Content-Length" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        if not self.keep:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        self.transport.write(head if head_only or status == 204 else head + body)
        self.busy = False
        if not self.keep:
            self.transport.close()
        elif self.buffer:
            asyncio.get_running_loop().call_soon(self.advance_again)

    def advance_again(self) -> None:
        if not self.busy and self.transport is not None:
            self.advance()

    def abort(self) -> None:
        """Close at once, with a reset where data are still to be read."""
        if self.transport is not None:
            self.transport.abort()


def _size(text: str, base: int) -> int:
    """A count of bytes.

    :raises ValueError: it is none
    """
    if not text.isalnum():
        raise ValueError(text)
    return int(text, base)


class HttpServer:
    """Listens on the loopback interface, and nowhere else."""

    def __init__(self, handle: Callable[[Request], None]) -> None:
        self.handle = handle
        self.connections: set[HttpProtocol] = set()
        self.server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        """Listen; the port, a free one by default."""
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(
            lambda: HttpProtocol(self.handle, self.connections), "127.0.0.1", port, backlog=1024
        )
        number: int = self.server.sockets[0].getsockname()[1]
        return number

    def close(self) -> None:
        """Stop listening and close every connection."""
        if self.server is not None:
            self.server.close()
        for connection in list(self.connections):
            connection.abort()


def from_a_browser(headers: dict[str, str]) -> bool:
    """Whether a page in a browser on this machine made the request, perhaps under a name that it points here."""
    host = headers.get("host", "127.0.0.1").rsplit(":", 1)[0]
    return "origin" in headers or "sec-fetch-site" in headers or host not in ("127.0.0.1", "localhost")
