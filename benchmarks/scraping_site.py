"""The site that `benchmarks.scraping` crawls, in a process of its own: python -m benchmarks.scraping_site PAGES KILOBYTES."""

from __future__ import annotations

import asyncio
import sys

LINKS = 50
ITEMS = 10


def page(number: int, pages: int, size: int) -> bytes:
    """HTML with 50 links into the site and 10 items of two fields, filled up to the size."""
    links = "".join(f'<a href="/{(number * LINKS + i + 1) % pages}">link {i}</a>\n' for i in range(LINKS))
    items = "".join(
        f'<div class="item"><h3>thing {number}-{i}</h3><span class="price">{i}.50</span></div>\n'
        for i in range(ITEMS)
    )
    head = f"<html><head><title>page {number}</title></head><body>{links}{items}"
    paragraph = "<p>Lorem ipsum dolor sit amet, <b>consectetur</b> adipiscing elit.</p>\n"
    return (head + paragraph * ((size - len(head)) // len(paragraph)) + "</body></html>").encode()


class Answers(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, and nothing more."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.buffer = answers, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        while b"\r\n\r\n" in self.buffer:
            head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
            path = head.split(b" ", 2)[1][1:]
            self.transport.write(
                self.answers[int(path)] if path.isdigit() else b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
            )


async def main(pages: int, size: int) -> None:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\n\r\n"
    bodies = (page(number, pages, size) for number in range(pages))
    answers = [head.format(len(body)).encode() + body for body in bodies]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answers(answers), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1]), 1000 * int(sys.argv[2])))
