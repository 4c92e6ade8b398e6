"""A web server of the demo's input, run as a process of its own so that the client's loop is the client's alone.

    python -m asyncpar.cli.demo.server LATENCY

It prints its port, and ends when its standard input ends: with the demo, however that ends.
"""

from __future__ import annotations

import asyncio
import sys

from aiohttp import web

from asyncpar.cli.demo.sources import find_sources


def make_app(latency: float) -> web.Application:
    """Return the application; it holds each answer back for `latency` seconds."""
    pages = {name: file.read_bytes() for name, file in find_sources().items()}

    async def answer(request: web.Request) -> web.Response:
        if latency:
            await asyncio.sleep(latency)
        page = pages.get(request.match_info["name"])
        return web.Response(status=404) if page is None else web.Response(body=page)

    app = web.Application()
    app.router.add_get("/{name:.*}", answer)
    return app


async def serve(latency: float) -> None:
    """Serve on a free port of the loopback until standard input ends."""
    runner = web.AppRunner(make_app(latency), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, ended.set)
    await ended.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
