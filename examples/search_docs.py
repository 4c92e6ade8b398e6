"""Crawl HTML documentation, served on this machine, into a SQLite index with full text, headings and links; then search.

    python search_docs.py [DOCS [WORDS]]

DOCS is a folder with an index.html, such as /usr/share/doc/python3.11/html of Debian's python3.11-doc, or a wheel that has
one in it: `pip download --no-deps pygame-ce` gets such a wheel. The default is a few pages that come with this example.
"""

import functools
import http.server
import sqlite3
import sys
import tempfile
import threading
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpar
from asyncpar_scrape import Crawler, Fetcher, Page


def parse(page: Page) -> Iterator[Any]:  # on the worker processes
    links = [link for link in page.follow_links() if link.endswith(".html")]
    yield {
        "url": page.url,
        "title": page.css("title::text").get(""),
        "headings": text_of(page.css("h1, h2, h3")),
        "body": text_of(page.css("[role=main]") or page.css("body")),
        "links": links,
    }
    yield from links


def text_of(selected: Any) -> str:
    texts = selected.xpath(".//text()[not(parent::script or parent::style)]").getall()
    return " ".join(" ".join(texts).replace("¶", "").split())  # Sphinx's mark of a link to a heading


class Handler(http.server.SimpleHTTPRequestHandler):
    """Keeps connections, and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[str]:
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


async def index(folder: Path, store: str, database: str) -> None:
    """Crawl, and keep in the database what searches need."""
    # It is our own server: it is asked without pauses, and may be on this machine.
    fetch = Fetcher("docs-example/1.0 (me@example.org)", delay=0, allow_private=True)
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("CREATE VIRTUAL TABLE pages USING fts5(url UNINDEXED, title, headings, body)")
        db.execute("CREATE TABLE links (source, target)")
        async with (
            served(folder) as root,
            Crawler(parse, fetch, start=[f"{root}/index.html"], store=store) as crawl,
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
        [(links,)] = db.execute("SELECT count(*) FROM links")
    print(f"{done.pages} pages, {links:,} links between them, {done.failed} failed")


def search(database: str, words: str) -> None:
    """The best pages: matches in titles and headings weigh more, and what is linked much comes first."""
    query = """
        SELECT title, url, snippet(pages, 3, '[', ']', '…', 8), (SELECT count(*) FROM links WHERE target = url) AS linked
        FROM pages WHERE pages MATCH ? ORDER BY bm25(pages, 0, 10, 5, 1) * ln(2 + linked) LIMIT 5
    """
    print(f"\n{words}:")
    with closing(sqlite3.connect(database)) as db:
        for title, url, snippet, linked in db.execute(query, [words]):
            print(f"  {title} ({url}, {linked} links to it): {snippet}")


def unpacked(wheel: Path, folder: Path) -> Path:
    """The folder of a wheel's uppermost index.html."""
    with zipfile.ZipFile(wheel) as archive:
        pages = [name for name in archive.namelist() if name.endswith("/index.html")]
        if not pages:
            sys.exit(f"{wheel} has no documentation in it: give a folder with an index.html")
        docs = min(pages, key=len).removesuffix("index.html")
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith(docs)])
    return folder / docs


def main() -> None:
    """Index, then search."""
    docs = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix("")
    words = " ".join(sys.argv[2:]) or "event loop"
    with tempfile.TemporaryDirectory() as made:
        folder = unpacked(docs, Path(made)) if docs.is_file() else docs
        asyncpar.run(index, folder, f"{made}/crawl.sqlite", f"{made}/search.sqlite")
        search(f"{made}/search.sqlite", words)


if __name__ == "__main__":
    main()
