"""Parsers of the crawl's tests, and as a program (`scrape_job.py STORE PORT`) a crawl that goes on where it was.

That crawl is of 200 hosts, all of which are this machine. It prints its peak memory in MB.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import time
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver

from asyncpar_scrape import Crawler, Link


class Text(NamedTuple):
    url: str
    text: str


HOSTS = 200


class Resolver(AbstractResolver):
    """Every name is this machine."""

    async def resolve(self, host, port=0, family=0):
        return [
            {
                "hostname": host,
                "host": "127.0.0.1",
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
        ]

    async def close(self):
        pass


class Get:
    """Fetches with one session; an answer above 399 is an error."""

    async def __aenter__(self):
        self.session = await aiohttp.ClientSession(
            raise_for_status=True, connector=aiohttp.TCPConnector(resolver=Resolver())
        ).__aenter__()
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


class Mute(Exception):
    """One without a text."""

    def __str__(self):
        raise RuntimeError("there is none")


def hostile(page):
    """Half characters, long texts and addresses, in items, errors and links; page 9 is well."""
    number = int(page.url.rsplit("/", 1)[1])
    if number == 0:
        yield {"title": "cut \ud83d"}
    if number == 1:
        raise ValueError("cut \ud83d")
    if number == 2:
        raise ValueError("x" * 5_000_000)
    if number == 3:
        raise Mute
    if number == 4:
        yield Link("http://a.test/\ud83d")
    if number == 5:
        yield Link("http://a.test/" + "a" * 2_000_000)
    if number == 6:
        yield Link("/relative")
    if number == 7:
        raise ValueError
    if number == 9:
        yield {"title": "é"}


def many_hosts(page):
    """As ``tree``; page n is on host n modulo 200."""
    port = page.url.split("/")[2].partition(":")[2]
    for one in tree(page):
        number = int(one.rsplit("/", 1)[1]) if isinstance(one, Link) else 0
        yield Link(f"http://h{number % HOSTS}.test:{port}/{number}") if number else one


async def main() -> None:
    start = [f"http://h0.test:{sys.argv[2]}/0"]
    statistics = await Crawler(
        many_hosts, start=start, store=sys.argv[1], resume=True, workers=2, user_agent="test/1.0 (me@example.org)",
        allow_private=True, resolver=Resolver(), robots=False, delay=0, retries=1,
    ).run()  # fmt: skip
    print(statistics.peak_bytes // 1_000_000)


if __name__ == "__main__":
    asyncio.run(main())
