"""A server on this machine that misbehaves: each path is a fault. It notes what it was asked, and how busy it was."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import brotli

from tests.adapters.scrape_server import TYPE, Server, answer

try:
    from compression import zstd
except ImportError:  # before Python 3.14
    from backports import zstd

PAGE = "<html><title>{}</title><a href='/next'>n</a></html>"


def packed(body: bytes, head: str = "gzip") -> bytes:
    return answer(body, f"{TYPE}Content-Encoding: {head}\r\n")


FAULTS = {
    "/ok": answer(b"<title>fine</title>"),
    "/gzip": packed(gzip.compress(b"<title>gzip</title>")),
    "/members": packed(gzip.compress(b"<title>two") + gzip.compress(b" members</title>")),
    "/deflate": packed(zlib.compress(b"<title>deflate</title>"), "deflate"),
    "/raw-deflate": packed(zlib.compress(b"<title>raw</title>", wbits=-15), "deflate"),
    "/bomb": packed(gzip.compress(bytes(50_000_000))),
    "/half-gzip": packed(gzip.compress(b"<title>half</title>" * 99)[:-9]),
    "/broken-gzip": packed(b"this is not gzip"),
    "/brotli": packed(b"\x0b\x02\x80abc\x03", "br"),
    "/br": packed(brotli.compress(b"<title>brotli</title>"), "br"),
    "/zstd": packed(zstd.compress(b"<title>zstd ") + zstd.compress(b"frames</title>"), "zstd"),
    "/compress": packed(b"\x1f\x9d\x90", "compress"),
    "/half": answer(b"x" * 1000)[:-500],
    "/large": answer(b"x" * 200_001),
    "/broken-chunks": f"HTTP/1.1 200 OK\r\n{TYPE}Transfer-Encoding: chunked\r\n\r\nzz\r\nabc".encode(),
    "/bad-header": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "/huge-header": answer(b"", TYPE + f"X: {'x' * 100_000}\r\n"),
    "/many-headers": answer(b"", TYPE + "".join(f"X{n}: y\r\n" for n in range(200))),
    "/long-headers": answer(b"", TYPE + "".join(f"X{n}: {'y' * 1000}\r\n" for n in range(100))),
    "/large-headers": answer(b"<title>fine</title>", TYPE + f"X: {'y' * 30_000}\r\nY: {'y' * 30_000}\r\n"),
    "/not-http": b"SSH-2.0-OpenSSH\r\n",
    "/drop": b"",
    "/http-1.0": b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<title>old</title>",
    "/image": answer(b"GIF89a", "Content-Type: image/gif\r\n"),
    "/untyped": answer(b"<title>untyped</title>", ""),
    "/closes": answer(b"<title>closes</title>"),
    "/404": answer(b"none", status="404 Not Found"),
    "/500": answer(b"", status="500 Oops"),
    "/429-long": answer(b"", "Retry-After: 4000\r\n", "429 Slow down"),
    "/loop": answer(b"", "Location: /loop2\r\n", "302 Found"),
    "/loop2": answer(b"", "Location: /loop\r\n", "302 Found"),
    "/to-ok": answer(b"", "Location: /ok\r\n", "301 Moved"),
    "/to-file": answer(b"", "Location: file:///etc/passwd\r\n", "302 Found"),
}
ENDLESS = {
    "/endless": (f"HTTP/1.1 200 OK\r\n{TYPE}\r\n".encode(), b"x" * 65536),
    "/slow-body": (f"HTTP/1.1 200 OK\r\n{TYPE}\r\n".encode(), b"x"),
    "/endless-headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10),
    "/endless-header": (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 1000),
    "/endless-1xx": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}
"""What is sent first, and then again and again."""
ONCE = {
    "/429-once": answer(b"", "Retry-After: 1\r\n", "429 Slow down"),
    "/503-once": answer(b"", status="503 Busy"),
    "/drop-once": b"",
}


class Faults(Server):
    """Answers each path of ``FAULTS``; of ``ONCE`` the first time only. ``/n…`` are pages.

    :ivar asked: host and path of each request
    :ivar busiest: for each host the most requests that were open at once
    """

    def __init__(self, robots: bytes | None = None) -> None:
        super().__init__(self._fault)
        self.asked: list[tuple[str, str]] = []
        self.heads: list[str] = []
        self.busiest: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.answers = dict(FAULTS)
        if robots is not None:
            self.answers["/robots.txt"] = robots

    def paths(self) -> list[str]:
        return [path for _, path in self.asked]

    async def _fault(self, head: str, writer) -> bool:
        path = head.split()[1]
        host = next(line for line in head.splitlines() if line.lower().startswith("host:"))[6:].split(":")[0]
        self.heads.append(head)
        self.asked.append((host, path))
        if path in ENDLESS:
            await self._endless(writer, *ENDLESS[path], slow=path == "/slow-body")
        if path in ("/hang", "/slow-head"):
            writer.write(b"HTTP/1.1 200 OK\r\n" if path == "/slow-head" else b"")
            await asyncio.sleep(1000)
        if path in ONCE and self.paths().count(path) == 1:
            writer.write(ONCE[path])
            return bool(ONCE[path])
        self.open[host] += 1
        self.busiest[host] = max(self.busiest[host], self.open[host])
        if path.startswith("/n"):
            await asyncio.sleep(0.02)
        self.open[host] -= 1
        known = path in self.answers or path in ONCE or path.startswith("/n")
        missing = self.answers["/404"]
        data = self.answers.get(path, answer(PAGE.format(path).encode()) if known else missing)
        writer.write(data)
        return data.startswith(b"HTTP/1.1") and path not in ("/half", "/broken-chunks", "/closes")

    async def _endless(self, writer, first: bytes, again: bytes, *, slow: bool) -> None:
        writer.write(first)
        while True:
            writer.write(again)
            await writer.drain()
            await asyncio.sleep(0.02 if slow else 0)


class TLSServer(ThreadingHTTPServer):
    """Answers each path with a page, over TLS; in threads, where a handshake that fails is nobody's business."""

    daemon_threads = True

    def __init__(self, context) -> None:
        super().__init__(("127.0.0.1", 0), TLSHandler)
        self.context = context

    def finish_request(self, request, client_address):
        with self.context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request, client_address):
        pass


class TLSHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.wfile.write(FAULTS["/ok"])

    def log_message(self, *args):
        pass
