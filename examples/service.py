"""An aiohttp service that offloads its CPU work, so that it goes on answering.

The pool is opened and closed with the application. To be runnable, this file also plays the client: it sends itself
four slow requests, asks for /health meanwhile, and stops.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

import asyncpar

POOL = web.AppKey("pool", asyncpar.ProcessPool)


def stretch(password: str) -> str:
    """A slow hash, as it should be: about 0.2 s of CPU."""
    digest = password.encode()
    for _ in range(200_000):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()


async def stretched(request: web.Request) -> web.Response:
    # A client that goes away cancels its handler where aiohttp is told so, and with it the call on the worker.
    return web.Response(text=await request.app[POOL].run(stretch, request.match_info["password"]))


async def health(_request: web.Request) -> web.Response:
    return web.Response(text="ok")


async def with_pool(app: web.Application) -> AsyncIterator[None]:
    async with asyncpar.ProcessPool() as app[POOL]:
        yield


def make_app() -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(with_pool)
    app.add_routes([web.get("/stretch/{password}", stretched), web.get("/health", health)])
    return app


async def get(client: aiohttp.ClientSession, path: str) -> tuple[str, float]:
    begun = time.perf_counter()
    async with client.get(path) as response:
        response.raise_for_status()
        return await response.text(), time.perf_counter() - begun


async def visit(base: str) -> None:
    async with aiohttp.ClientSession(base) as client:
        slow = [get(client, f"/stretch/secret{n}") for n in range(4)]
        answers = await asyncpar.gather(*slow, *(get(client, "/health") for _ in range(4)))
    hashes, pings = answers[:4], answers[4:]
    print(
        f"4 slow answers, the last after {max(seconds for _, seconds in hashes):.2f} s: {hashes[0][0][:16]}…"
    )
    print(f"4 x /health beside them, the slowest after {max(seconds for _, seconds in pings):.3f} s")


async def main() -> None:
    runner = web.AppRunner(make_app())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        await visit(f"http://{host}:{port}")
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncpar.run(main)
