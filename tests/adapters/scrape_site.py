"""A site on this machine whose page n links to 2n+1 and 2n+2; notes what it serves.

As a program (`python scrape_site.py LOG PAGES`) it prints its port and appends each path it serves to the log. Then
page n links to n+1, too, and one page in 49 is faulty: an error of the server, no answer, or half of one.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

BODY = "<html><title>page {n}</title><a href='/{a}'>a</a><a href='/{b}'>b</a></html>"
FAULTY = 49
"""With 200 hosts in turn, the faults are spread over all of them."""


def is_faulty(n: int) -> bool:
    return n % FAULTY == 7


class Site:
    """Answers ``/n`` for n below ``pages``; others are 404."""

    def __init__(self, pages: int, log: Path | None = None, *, faults: bool = False) -> None:
        self.pages, self.faults = pages, faults
        self.served: list[str] = []
        self.log = log.open("a", buffering=1) if log else None

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        await self.server.wait_closed()

    def url(self, n: int) -> str:
        return f"http://127.0.0.1:{self.port}/{n}"

    async def _connection(self, reader, writer):
        try:
            while line := await reader.readline():
                path = line.split()[1].decode()
                while (await reader.readline()).strip():
                    pass
                self.served.append(path)
                if self.log:
                    self.log.write(path + "\n")
                n = int(path[1:]) if path[1:].isdigit() else self.pages
                known = n < self.pages
                body = BODY.format(n=n, a=2 * n + 1, b=2 * n + 2).encode() if known else b""
                if self.faults:
                    body += f"<a href='/{n + 1}'>c</a>".encode() if known else b""
                head = f"HTTP/1.1 {'200 OK' if known else '404 Not Found'}\r\nContent-Length: {len(body)}\r\n\r\n"
                if self.faults and known and is_faulty(n):
                    if n % 3 == 0:
                        head, body = "HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", b""
                    else:
                        writer.write(b"" if n % 3 == 1 else head.encode() + body[:20])
                        return
                writer.write(head.encode() + body)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


async def main() -> None:
    async with Site(int(sys.argv[2]), Path(sys.argv[1]), faults=True) as site:
        print(site.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
