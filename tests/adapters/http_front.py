"""What stands in front of functions in a cloud: it lets requests through, or turns them away as told."""

from __future__ import annotations

import asyncio
import time


class Front:
    """A server on loopback before another one.

    ``script`` has what happens to the next POSTs: the bytes of a reply, ``"drop"`` for a lost answer, or ``None`` to let it
    through, as happens to all when it is empty. ``seen`` has the heads of all requests, ``times`` when they came. With a context it speaks TLS.
    """

    def __init__(self, upstream, script=(), context=None):
        self.port = int(upstream.rpartition(":")[2].split("/")[0])
        self.path = upstream.partition("//")[2].partition("/")[2]
        self.script = list(script)
        self.seen, self.times = [], []
        self.tasks = set()
        self.context = context

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=1 << 27, ssl=self.context)
        scheme = "https" if self.context else "http"
        self.url = f"{scheme}://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/{self.path}"
        return self

    async def __aexit__(self, *_):
        self.server.close()
        if self.tasks:
            await asyncio.wait(self.tasks)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            await self.answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.tasks.discard(asyncio.current_task())

    async def answer(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        self.seen.append(head.decode())
        self.times.append(time.monotonic())
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
        action = self.script.pop(0) if self.script and head.startswith(b"POST") else None
        if isinstance(action, bytes):
            writer.write(action)
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 27)
        downstream.write(head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + body)
        answer = await upstream.read()
        downstream.close()
        if action != "drop":
            writer.write(answer)


def reply(status, *headers, body=b""):
    """The bytes of a reply."""
    lines = [
        f"HTTP/1.1 {status} Said So",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body
