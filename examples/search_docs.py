"""Crawl HTML documentation, served on this machine, into a SQLite index with full text, headings and links; then search.

    python search_docs.py [FOLDER [WORDS]]

FOLDER is one with an index.html, such as /usr/share/doc/python3.11/html of Debian's python3.11-doc. The default is a few
pages that come with this example.
"""

import functools
import http.server
import sqlite3
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urljoin

import aiohttp

import asyncpar
from asyncpar_scrape import Crawler, Link


class Page(NamedTuple):
    """What was fetched."""

    url: str
    html: str


class Fetch:
    """A client that is opened and closed with the crawl."""

    async def __aenter__(self) -> Self:
        self.session = await aiohttp.ClientSession(raise_for_status=True).__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.session.close()

    async def __call__(self, url: str) -> Page:
        async with self.session.get(url) as answer:
            return Page(str(answer.url), await answer.text())


class Reader(HTMLParser):
    """Collects title, headings, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = []
        self.links: list[str] = []
        self.text = {"title": "", "headings": "", "body": ""}

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.inside.append(tag)
        if tag == "a":
            self.links.append(dict(attributes).get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:  # tags such as <br> have no end
            pass

    def handle_data(self, data: str) -> None:
        inside = set(self.inside)
        if inside & {"script", "style"}:
            return
        where = "title" if "title" in inside else "headings" if inside & {"h1", "h2", "h3"} else "body"
        self.text[where] += data + " "


def parse(page: Page) -> Iterator[Any]:  # on the worker processes
    reader = Reader()
    reader.feed(page.html)
    root = page.url.split("/", 3)[:3]
    found = {urljoin(page.url, link).partition("#")[0] for link in reader.links}
    links = sorted(link for link in found if link.split("/", 3)[:3] == root and link.endswith(".html"))
    text = {name: " ".join(value.split()) for name, value in reader.text.items()}
    yield {"url": page.url, "links": links} | text
    yield from map(Link, links)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Keeps connections, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass


@asynccontextmanager
async def served(folder: str | Path) -> AsyncIterator[str]:
    """The folder at an address of this machine."""
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            await asyncpar.to_thread(server.shutdown)
            thread.join()


async def index(folder: str | Path, store: str, database: str) -> None:
    """Crawl, and keep in the database what searches need."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("CREATE VIRTUAL TABLE pages USING fts5(url UNINDEXED, title, headings, body)")
        db.execute("CREATE TABLE links (source, target)")
        async with (
            served(folder) as root,
            Crawler(
                parse, Fetch(), start=[f"{root}/index.html"], store=store, progress=sys.stderr.isatty()
            ) as crawl,
        ):
            db.execute("BEGIN")
            async for item in crawl:
                paths = [url.removeprefix(root) for url in (item["url"], *item["links"])]
                db.execute(
                    "INSERT INTO pages VALUES (?, ?, ?, ?)",
                    (paths[0], item["title"], item["headings"], item["body"]),
                )
                db.executemany(
                    "INSERT INTO links VALUES (?, ?)", [(paths[0], target) for target in paths[1:]]
                )
            db.execute("COMMIT")
            done = crawl.statistics()
    print(
        f"{done.pages} pages, {done.failed} failed", f"in {done.seconds:.1f} s" if sys.stderr.isatty() else ""
    )


def search(database: str, words: str) -> None:
    """The best pages: matches in titles and headings weigh more, and what is linked much comes first."""
    query = """
        SELECT title, url, snippet(pages, 3, '[', ']', '…', 8), (SELECT count(*) FROM links WHERE target = url) AS linked
        FROM pages WHERE pages MATCH ? ORDER BY bm25(pages, 0, 10, 5, 1) * ln(2 + linked) LIMIT 5
    """
    with closing(sqlite3.connect(database)) as db:
        for title, url, snippet, linked in db.execute(query, [words]):
            print(f"{title} ({url}, {linked} links to it): {snippet}")


def main() -> None:
    """Index, then search."""
    folder = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_suffix("")
    words = " ".join(sys.argv[2:]) or "event loop"
    with tempfile.TemporaryDirectory() as made:
        asyncpar.run(index, folder, f"{made}/crawl.sqlite", f"{made}/search.sqlite")
        search(f"{made}/search.sqlite", words)


if __name__ == "__main__":
    main()
