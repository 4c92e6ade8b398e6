"""The local server's HTTP/1.1, over real connections."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpar_lambda.local import http
from asyncpar_lambda.local.http import HttpProtocol, HttpServer, Request


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


def echo(request: Request) -> None:
    """Answer with what came."""
    content = f"{request.method} {request.path} {sorted(request.query.items())} ".encode() + request.body
    request.answer(200, content, {"X-Seen": request.headers.get("x-sent", "")})


@contextlib.asynccontextmanager
async def connected(handle=echo):
    """A server and a connection to it."""
    server = HttpServer(handle)
    port = await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.close()
        await asyncio.sleep(0)


async def read_answer(reader):
    """Status, headers and body of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def test_requests_one_after_the_other_and_all_at_once():
    async with connected() as (reader, writer):
        one = b"POST /a%20b?x=1&y= HTTP/1.1\r\nContent-Length: 3\r\nX-Sent: yes\r\n\r\nabc"
        writer.write(one)
        status, headers, body = await read_answer(reader)
        assert (status, headers["x-seen"], body) == (200, "yes", b"POST /a%20b [('x', '1'), ('y', '')] abc")
        writer.write(one * 5)
        for _ in range(5):
            assert (await read_answer(reader))[2].endswith(b" abc")


async def test_chunks_and_continue():
    async with connected() as (reader, writer):
        writer.write(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"3\r\nabc\r\n5;x=y\r\nde\r\nf\r\n0\r\n\r\nGET /next HTTP/1.1\r\n\r\n")
        assert (await read_answer(reader))[2] == b"PUT / [] abcde\r\nf"
        assert (await read_answer(reader))[2] == b"GET /next [] "


async def test_head_and_connection_close():
    async with connected() as (reader, writer):
        writer.write(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert b"Content-Length: 10" in answer
        assert b"Connection: close" in answer
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", 400),
    ],
)
async def test_what_is_no_request_ends_the_connection(data, status):
    async with connected() as (reader, writer):
        writer.write(data)
        answer = await reader.read()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_head_without_end(monkeypatch):
    monkeypatch.setattr(http, "MAX_HEAD", 1000)
    async with connected() as (reader, writer):
        writer.write(b"x" * 2000)
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_a_client_that_goes_is_no_error():
    kept = []
    async with connected(kept.append) as (_, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        while not kept:
            await asyncio.sleep(0.001)
        writer.transport.abort()
        await asyncio.sleep(0.01)
        kept[0].answer(200, b"late")
        kept[0].hang_up()


async def test_hanging_up():
    async with connected(lambda request: request.hang_up()) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


class Sink:
    """Where a protocol writes: a transport keeps what it was given."""

    def __init__(self):
        self.written = b""

    def write(self, data):
        self.written += data

    def close(self):
        pass


@given(st.lists(st.tuples(st.binary(max_size=50), st.booleans()), min_size=1, max_size=4), st.data())
@settings(max_examples=60)
def test_however_the_bytes_are_cut(bodies, data):
    """The same requests come out of the same bytes, in whatever pieces these arrive."""
    whole = b""
    for body, chunked in bodies:
        if chunked:
            middle = len(body) // 2
            parts = b"".join(
                b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:middle], body[middle:]) if part
            )
            whole += b"PUT /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
        else:
            whole += b"PUT /l HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    seen = []
    protocol = HttpProtocol(lambda request: seen.append(request.body), set())
    protocol.connection_made(Sink())
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        protocol.data_received(whole[begin:end])
        while protocol.busy:
            protocol.busy = False  # the answer was written
            protocol.advance()
    assert seen == [body for body, _ in bodies]
