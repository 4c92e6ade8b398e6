"""Parsers of the crawl's tests, and as a program (`scrape_job.py STORE PORT`) a crawl that goes on where it was."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from typing import NamedTuple

import aiohttp

from asyncpar_scrape import Crawler, Link


class Text(NamedTuple):
    url: str
    text: str


class Get:
    """Fetches with one session; an answer above 399 is an error."""

    async def __aenter__(self):
        self.session = await aiohttp.ClientSession(raise_for_status=True).__aenter__()
        return self

    async def __aexit__(self, *error):
        await self.session.__aexit__(*error)

    async def __call__(self, url):
        async with self.session.get(url) as answer:
            return Text(url, await answer.text())


def tree(page):
    """One item, and every link."""
    yield {"url": page.url, "title": re.search("<title>(.*?)</title>", page.text)[1]}
    root = page.url.rsplit("/", 1)[0]
    for path in re.findall("href='(.*?)'", page.text):
        yield Link(root + path)


def faulty(page):
    """As ``tree``, but page 3 raises, 4 dies, 5 hangs, and 6 yields what cannot be pickled."""
    number = int(page.url.rsplit("/", 1)[1])
    if number == 3:
        raise ValueError("page 3 is odd")
    if number == 4:
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == 5:
        time.sleep(1000)
    if number == 6:
        yield {"function": lambda: None}
    yield from tree(page)


async def main() -> None:
    crawler = Crawler(
        tree, Get(), start=[f"http://127.0.0.1:{sys.argv[2]}/0"], store=sys.argv[1], resume=True, workers=2
    )
    await crawler.run()


if __name__ == "__main__":
    asyncio.run(main())
