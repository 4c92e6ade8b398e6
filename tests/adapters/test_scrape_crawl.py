"""A crawl: every page once, with its items on disk, whatever a parser or a page does."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from asyncio import to_thread
from collections import Counter
from contextlib import closing

import pytest

from asyncpar_scrape import Crawler, Link, StoreError
from asyncpar_scrape.database import connect, errors
from asyncpar_scrape.links import address_of
from asyncpar_scrape.output import texts
from tests.adapters import scrape_job, scrape_site


def kept(path):
    with closing(connect(path)) as connection:
        return [json.loads(text)["title"] for text in texts(connection)]


def failures(path):
    with closing(connect(path)) as connection:
        return {url.rsplit("/", 1)[1]: error for url, error in errors(connection)}


def numbered(pages):
    return sorted(f"page {n}" for n in range(pages))


async def test_every_page_once(tmp_path):
    """Items reach the consumer and the store; an address that many pages link to is fetched once."""
    store = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(60) as site:
        crawler = Crawler(
            scrape_job.tree, scrape_job.Get(), start=[site.url(0), site.url(1)], store=store, workers=2
        )
        async with crawler as crawl:
            titles = [item["title"] async for item in crawl]
            statistics = crawl.statistics()
        assert sorted(titles) == sorted(await to_thread(kept, store)) == numbered(60)
        assert Counter(site.served) == Counter(f"/{n}" for n in range(121))
    assert (statistics.pages, statistics.items, statistics.failed, statistics.waiting) == (60, 60, 61, 0)
    assert await to_thread(os.listdir, tmp_path) == ["crawl.sqlite"]


async def test_a_bad_page_costs_itself(tmp_path):
    """A parser that raises, dies, hangs or yields what cannot be pickled: that page's error, and the crawl goes on."""
    store = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(20) as site:
        crawler = Crawler(
            scrape_job.faulty, scrape_job.Get(), start=[site.url(n) for n in range(9)], depth=0, store=store,
            workers=2, parse_timeout=3.0,
        )  # fmt: skip
        await crawler.run()
        failed = await to_thread(failures, store)
        assert sorted(await to_thread(kept, store)) == [f"page {n}" for n in (0, 1, 2, 7, 8)]
        assert failed["3"].startswith("ValueError: page 3 is odd")
        assert re.match(r"WorkerLostError: .*SIGSEGV", failed["4"])
        assert (
            failed["5"]
            == "CallTimeoutError: asyncpar_scrape.parsing.parse_page ran longer than timeout=3 seconds"
        )
        assert failed["6"].startswith("SerializationError: ")
        assert len(failed) == 4
        again = Crawler(
            scrape_job.tree, scrape_job.Get(), store=store, resume=True, retry_errors=True, depth=0, workers=1
        )
        statistics = await again.run()
    assert (statistics.visited, statistics.failed) == (4, 0)
    assert sorted(await to_thread(kept, store)) == numbered(9)


async def test_texts_that_no_file_can_hold(tmp_path):
    """Half characters and the like cost nothing, or their page; and an error's text has an end."""
    store = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(20) as site:
        start = [site.url(n) for n in range(10)]
        async with Crawler(
            scrape_job.hostile, scrape_job.Get(), start=start, store=store, workers=1
        ) as crawl:
            assert sorted([item["title"] async for item in crawl]) == ["cut \ud83d", "é"]
        failed = await to_thread(failures, store)
    assert sorted(await to_thread(kept, store)) == ["cut \ud83d", "é"]
    assert failed["1"].startswith("ValueError: cut \ufffd")
    assert failed["2"] == "ValueError: " + "x" * 1988 + "…"
    assert failed["3"].startswith("Mute: (its text cannot be made)")
    link = "ValueError: a Link is an absolute address; join it with page.final_url first: "
    assert failed["4"].startswith(link + r"'http://a.test/\ud83d' has half a character, which cannot be sent")
    assert failed["5"].startswith(link + "http://a.test/aaa")
    assert failed["5"].endswith("aaa… has over 8,192 characters, more than servers take")
    assert failed["6"] == link + "'/relative' is no absolute address of http or https"
    assert failed["7"] == "ValueError"
    assert len(failed) == 7


async def test_a_slow_consumer_holds_the_fetching_back():
    """What was fetched and not taken is bounded by what may be under way."""
    async with scrape_site.Site(2000) as site:
        start = [site.url(n) for n in range(2000)]
        crawler = Crawler(scrape_job.tree, scrape_job.Get(), start=start, depth=0, concurrency=4, workers=1)
        async with crawler as crawl:
            taken = 0
            async for _ in crawl:
                taken += 1
                assert len(site.served) <= taken + 4 * 4 + 4 + 64  # and a list of results that is being read
                if taken == 200:
                    break


async def test_hosts_take_turns():
    """Many addresses of one host do not hold up another's."""
    from asyncpar_scrape.store import Store

    store = Store(None, per_host=4)
    urls = [f"http://many/{n}" for n in range(10_000)] + ["http://few/0", "http://few/1"]
    await store.open(dict(map(address_of, urls)))
    try:
        entries = await store.take(8)
        assert [entry.url for entry in entries] == [
            "http://many/0", "http://few/0", "http://many/1", "http://few/1", "http://many/2", "http://many/3",
        ]  # fmt: skip
    finally:
        await store.aclose()


async def test_no_more_pages_than_asked_for(tmp_path):
    """``max_pages`` counts those of earlier runs."""
    store = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(100) as site:
        for most, visited in ((10, 10), (25, 15)):
            crawler = Crawler(
                scrape_job.tree,
                scrape_job.Get(),
                start=[site.url(0)],
                store=store,
                resume=True,
                max_pages=most,
                workers=1,
            )
            assert (await crawler.run()).visited == visited
        assert len(await to_thread(kept, store)) == 25


async def test_a_store_is_not_taken_up_unasked(tmp_path):
    """Nor is a file of something else, nor one that is in use."""
    path = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(1) as site:
        await Crawler(scrape_job.tree, scrape_job.Get(), start=[site.url(0)], store=path, workers=1).run()
        with pytest.raises(StoreError, match=r"holds a crawl already: to go on with it pass resume=True"):
            await Crawler(scrape_job.tree, scrape_job.Get(), start=[site.url(0)], store=path).run()
        async with Crawler(scrape_job.tree, scrape_job.Get(), store=path, resume=True, workers=1):
            with pytest.raises(StoreError, match=rf"in use by process {os.getpid()}: wait until"):
                await Crawler(scrape_job.tree, scrape_job.Get(), store=path, resume=True).run()


async def test_a_store_that_breaks_ends_the_crawl(tmp_path):
    """The consumer gets the error, and nothing waits for ever."""
    path = tmp_path / "crawl.sqlite"

    def damage():
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("DROP TABLE items")

    async with scrape_site.Site(5000) as site:
        crawler = Crawler(scrape_job.tree, scrape_job.Get(), start=[site.url(0)], store=path, workers=1)
        async with crawler as crawl:
            await anext(crawl)
            await to_thread(damage)
            with pytest.raises(
                StoreError, match=r"crawl.sqlite cannot be used any more: no such table: .*items"
            ):
                async for _ in crawl:
                    pass


async def test_leaving_early_keeps_what_was_not_visited(tmp_path):
    """A crawl that was left goes on, and no page is missed."""
    path = tmp_path / "crawl.sqlite"
    async with scrape_site.Site(300) as site:
        async with Crawler(
            scrape_job.tree, scrape_job.Get(), start=[site.url(0)], store=path, workers=1
        ) as crawl:
            async for _ in crawl:
                break
        done = await Crawler(scrape_job.tree, scrape_job.Get(), store=path, resume=True, workers=1).run()
    assert (done.pages, done.failed, done.waiting) == (300, 301, 0)
    assert sorted(await to_thread(kept, path)) == numbered(300)


def test_arguments_are_checked():
    """What makes no sense is refused at once, and the message says what to write."""
    with pytest.raises(TypeError, match=r"start= takes a list of addresses: start=\['http://a/'\]"):
        Crawler(scrape_job.tree, scrape_job.Get(), start="http://a/")
    with pytest.raises(ValueError, match=r"absolute addresses, as http://host/path, not '/a'"):
        Crawler(scrape_job.tree, scrape_job.Get(), start=["/a"])


def test_a_link_is_text():
    """It can be compared and kept as any address."""
    assert Link("http://a/") == "http://a/"
