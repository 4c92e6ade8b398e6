"""Fetch pages politely: robots.txt is obeyed, a busy server is waited for, and pages are parsed on processes.

The pages are a server's in this program; for others leave ``allow_private`` out.
"""

from __future__ import annotations

from http import HTTPStatus

from aiohttp import web

import asyncpar
from asyncpar_scrape import Fetcher, FetchError, Page

ROBOTS = "User-agent: *\nDisallow: /private\n"


def site() -> web.Application:
    asked: set[str] = set()

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/robots.txt":
            return web.Response(text=ROBOTS)
        if request.path == "/busy" and request.path not in asked:  # the first time
            asked.add(request.path)
            return web.Response(status=HTTPStatus.TOO_MANY_REQUESTS, headers={"Retry-After": "1"})
        return web.Response(text=f"<title>This is {request.path}</title>", content_type="text/html")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


def title(page: Page) -> str | None:  # on a process
    return page.css("title::text").get()


async def main() -> None:
    runner = web.AppRunner(site())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await fetch_all(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


async def fetch_all(root: str) -> None:
    agent = "example/1.0 (+https://example.org/bot)"  # where you are reached
    async with Fetcher(agent, delay=0.01, allow_private=True) as fetch, asyncpar.ProcessPool() as cpu:
        pages = asyncpar.map(fetch, [f"{root}/{name}" for name in ("a", "b", "busy", "c")], limit=100)
        async for text in cpu.map(title, pages):
            print(text)
        try:
            await fetch(f"{root}/private")
        except FetchError as error:
            print(type(error).__name__)


if __name__ == "__main__":
    asyncpar.run(main)
