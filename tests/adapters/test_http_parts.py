"""What the pools of functions behind HTTP share, piece by piece."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

pytest.importorskip("msgpack", reason="needs the extra 'gcf'")

from asyncpar_http.replies import judge, retry_after
from asyncpar_http.transport import check_url
from asyncpar_lambda.transport import Reply
from asyncpar_lambda.transport.http import Client


def test_a_status_means_what_it_means():
    def kind(status, **headers):
        return judge(
            Reply(status, {name.replace("_", "-"): text for name, text in headers.items()}, b""), ""
        ).kind

    assert kind(200) == "answer"
    assert kind(429) == kind(503, retry_after="3") == "throttled"
    assert kind(503) == kind(500) == kind(502) == kind(504) == "lost"
    assert (
        kind(400) == kind(401) == kind(403) == kind(404) == kind(413) == kind(301, location="x") == "refused"
    )


def test_retry_after_is_seconds_or_a_date():
    assert retry_after(None) is None
    assert retry_after("3") == 3.0
    assert retry_after("-1") == 0.0
    assert retry_after("soon") is None
    assert 500 < retry_after(formatdate(time.time() + 1000, usegmt=True)) <= 1000
    assert retry_after(formatdate(time.time() - 10, usegmt=True)) == 0.0
    assert judge(Reply(429, {"retry-after": "7"}, b""), "").wish == 7.0


def test_an_address_is_https_or_on_this_machine():
    for url in ("https://host/f?code=1", "http://127.0.0.1:1/f", "http://localhost/f", "http://[::1]:1/f"):
        assert check_url(url) == url
    for url in ("http://host/f", "http://127.0.0.1.evil.com/f", "ftp://host/f", "host/f"):
        with pytest.raises(ValueError, match=r"must be https|is a URL such as"):
            check_url(url)


def test_the_worker_imports_neither_a_loop_nor_a_clouds_client():
    program = "import sys, asyncpar_http.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "anyio", "uvloop", "cryptography", "google.auth", "boto3", "numpy"}
    assert heavy & set(done.stdout.split()) == set()


async def test_a_client_closes_though_connections_were_given_up_while_they_were_made():
    async def serve(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        for turns in range(8):  # of the loop: wherever the making of a connection stands
            client = Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            requests = [asyncio.ensure_future(client.request("GET", "/", {})) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for request in requests:
                request.cancel()
            await asyncio.wait(requests)
            async with asyncio.timeout(50):
                await client.aclose()
    finally:
        server.close()
