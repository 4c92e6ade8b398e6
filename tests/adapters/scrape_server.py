"""A server on this machine that writes byte by byte what it answers."""

from __future__ import annotations

import asyncio

TYPE = "Content-Type: text/html; charset=utf-8\r\n"


def answer(body: bytes, head: str = TYPE, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Server:
    """Answers by an async function of a request's head and a writer. Where its value is false the connection ends."""

    def __init__(self, answer, host: str = "127.0.0.1") -> None:
        self._answer, self._host = answer, host

    async def __aenter__(self):
        self.tasks = set()
        self.server = await asyncio.start_server(self._connection, self._host, 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def _connection(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        try:
            while await self._answer((await reader.readuntil(b"\r\n\r\n")).decode(), writer):
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has gone, or the test is over
        finally:
            writer.close()
            self.tasks.discard(asyncio.current_task())
