"""One crawl of `benchmarks.scraping`: python -m benchmarks.scraping_peers NAME ROOT BUSY_MS prints pages, items, seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from typing import NamedTuple

AT_ONCE = 64
BUSY = float(sys.argv[3]) / 1000 if len(sys.argv) > 3 else 0.0


def busy():
    """What a heavier parser would do with its core."""
    end = time.thread_time() + BUSY
    while time.thread_time() < end:
        pass


class Body(NamedTuple):
    url: str
    html: bytes


def extract(html):
    """Items and links, by selectolax."""
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    items = [
        {"name": item.css_first("h3").text(), "price": item.css_first(".price").text()}
        for item in tree.css(".item")
    ]
    links = [link.attributes["href"] for link in tree.css("a[href]")]
    busy()
    return items, links


def parse(page):
    """As a user writes it."""
    busy()
    for item in page.css(".item"):
        yield {"name": item.css("h3::text").get(), "price": item.css(".price::text").get()}
    yield from page.follow_links()


def parse_raw(page):
    """As the loop by hand does it."""
    from asyncpar_scrape import Link

    items, links = extract(page.html)
    root = page.url.rsplit("/", 1)[0]
    yield from items
    for link in links:
        yield Link(root + link)


async def crawled(parse, fetch, root):
    from asyncpar_scrape import Crawler

    with tempfile.TemporaryDirectory() as folder:
        crawler = Crawler(
            parse, fetch, start=[root + "/0"], store=folder + "/store", concurrency=AT_ONCE, per_host=1000
        )
        done = await crawler.run()
    return done.pages, done.items


async def asyncpar_crawl(root):
    """The crawler with its own client and pages."""
    from asyncpar_scrape import Fetcher

    fetch = Fetcher(
        "bench/1.0 (bench@example.org)", concurrency=AT_ONCE, per_host=AT_ONCE, delay=0, robots=False,
        allow_private=True,
    )  # fmt: skip
    return await crawled(parse, fetch, root)


async def asyncpar_raw(root):
    """The crawler with the client and the parser of the loop by hand."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

        async def fetch(url):
            async with session.get(url) as answer:
                return Body(url, await answer.read())

        return await crawled(parse_raw, fetch, root)


async def by_hand(root):
    """64 workers on a queue, a set of what was seen; it keeps nothing on disk, and its frontier is not bounded."""
    import aiohttp

    queue, seen, counts = asyncio.Queue(), {root + "/0"}, [0, 0]
    queue.put_nowait(root + "/0")

    async def work(session):
        while True:
            url = await queue.get()
            async with session.get(url) as answer:
                html = await answer.read()
            items, links = extract(html)
            counts[0] += 1
            counts[1] += len(items)
            for link in links:
                found = root + link
                if found not in seen:
                    seen.add(found)
                    queue.put_nowait(found)
            queue.task_done()

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:
        workers = [asyncio.create_task(work(session)) for _ in range(AT_ONCE)]
        await queue.join()
        for worker in workers:
            worker.cancel()
    return counts


def scrapy(root):
    import scrapy
    from scrapy.crawler import CrawlerProcess

    counts = [0, 0]

    class Spider(scrapy.Spider):
        name = "bench"
        start_urls = (root + "/0",)

        def parse(self, response):
            counts[0] += 1
            busy()
            for item in response.css(".item"):
                counts[1] += 1
                yield {"name": item.css("h3::text").get(), "price": item.css(".price::text").get()}
            for link in response.css("a::attr(href)").getall():
                yield response.follow(link)

    process = CrawlerProcess(
        {
            "CONCURRENT_REQUESTS": AT_ONCE, "CONCURRENT_REQUESTS_PER_DOMAIN": AT_ONCE, "LOG_LEVEL": "ERROR",
            "ROBOTSTXT_OBEY": False, "TELNETCONSOLE_ENABLED": False, "DOWNLOAD_DELAY": 0,
            "ASYNCIO_EVENT_LOOP": "uvloop.Loop",
        }
    )  # fmt: skip
    process.crawl(Spider)
    process.start()
    return counts


async def crawlee(root):
    from crawlee.storage_clients import MemoryStorageClient

    return await crawlee_with(root, MemoryStorageClient())


async def crawlee_on_disk(root):
    """Its default: a file for each address."""
    from crawlee.storage_clients import FileSystemStorageClient

    with tempfile.TemporaryDirectory() as folder:
        return await crawlee_with(root, FileSystemStorageClient(), storage_dir=folder)


async def crawlee_with(root, client, **settings):
    import logging

    from crawlee import ConcurrencySettings
    from crawlee.configuration import Configuration
    from crawlee.crawlers import ParselCrawler

    counts = [0, 0]
    logging.disable(logging.WARNING)
    crawler = ParselCrawler(
        concurrency_settings=ConcurrencySettings(
            min_concurrency=AT_ONCE, desired_concurrency=AT_ONCE, max_concurrency=AT_ONCE
        ),
        storage_client=client, configuration=Configuration(**settings), configure_logging=False,
    )  # fmt: skip

    @crawler.router.default_handler
    async def handle(context):
        counts[0] += 1
        busy()
        items = [
            {"name": item.css("h3::text").get(), "price": item.css(".price::text").get()}
            for item in context.selector.css(".item")
        ]
        counts[1] += len(items)
        await context.push_data(items)
        await context.enqueue_links()

    await crawler.run([root + "/0"])
    return counts


PEERS = {
    "asyncpar": asyncpar_crawl,
    "asyncpar, raw": asyncpar_raw,
    "by hand": by_hand,
    "Scrapy": scrapy,
    "Crawlee": crawlee,
    "Crawlee, on disk": crawlee_on_disk,
}


def main() -> None:
    crawl, root = PEERS[sys.argv[1]], sys.argv[2]
    begun = time.perf_counter()
    if asyncio.iscoroutinefunction(crawl):
        import uvloop

        pages, items = uvloop.run(crawl(root))
    else:
        pages, items = crawl(root)
    print(json.dumps([pages, items, time.perf_counter() - begun]))


if __name__ == "__main__":
    main()
