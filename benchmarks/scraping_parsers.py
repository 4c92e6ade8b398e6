"""What a page costs a worker: a Page beside parsel (lxml) and selectolax (Lexbor), and its links beside the long way.

    PYTHONPATH=.:adapters .venv/scraping/bin/python -m benchmarks.scraping_parsers [FILE.html ...] > benchmarks/results/scraping_parsers.md

in the environment of `benchmarks.scraping`. Microseconds; the least of nine runs. Each begins with bytes: `parse` makes the
tree, `title` one text, `items` ten items of two fields, `links` all `href` as they stand. `follow_links` makes them absolute
and canonical, on a tree that is there; `long` is the same by `urljoin` and `addresses.canonical`. Files are real pages.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from urllib.parse import urljoin

import asyncpar_scrape.workers  # noqa: F401 - the memory is as in a worker
from asyncpar_scrape.addresses import canonical
from asyncpar_scrape.page import Page
from benchmarks.scraping_site import page as made_page

URL = "http://127.0.0.1:8000/docs/7"


def microseconds(function):
    function()
    runs = []
    for _ in range(9):
        begun = time.perf_counter()
        for _ in range(20):
            function()
        runs.append((time.perf_counter() - begun) / 20)
    return min(runs) * 1e6


def fetched(html):
    return Page(URL, URL, 200, {"content-type": "text/html; charset=utf-8"}, html)


def selecting(parse, tree):
    return {
        "parse": parse,
        "title": lambda: tree.css("title::text").get(),
        "items": lambda: [
            (item.css("h3::text").get(), item.css(".price::text").get()) for item in tree.css(".item")
        ],
        "links": lambda: tree.css("a::attr(href)").getall(),
    }


def by_page(html):
    return selecting(lambda: fetched(html)._tree, fetched(html))


def by_parsel(html):
    return selecting(lambda: fetched(html).selector, fetched(html).selector)


def by_selectolax(html):
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    return {
        "parse": lambda: LexborHTMLParser(html),
        "title": lambda: tree.css_first("title").text(),
        "items": lambda: [
            (item.css_first("h3").text(), item.css_first(".price").text()) for item in tree.css(".item")
        ],
        "links": lambda: [link.attributes["href"] for link in tree.css("a[href]")],
    }


def long_way(page):
    def one(target):
        try:
            return canonical(urljoin(URL, target))
        except ValueError:
            return ""

    return {one(target) for target in page.css("a::attr(href)").getall()}


def main() -> None:
    print(f"# Parsing a page\n\n{__doc__.partition('in the environment')[2].partition('. ')[2].rstrip()}\n")
    pages = {f"{size} kB": made_page(7, 4000, 1000 * size) for size in (20, 100)}
    pages |= {Path(name).name: Path(name).read_bytes() for name in sys.argv[1:]}
    print(
        "| page | bytes | | parse | title | items | links | all | follow_links | long |\n"
        + "|---" * 10 + "|"
    )  # fmt: skip
    for name, html in pages.items():
        page = fetched(html)
        for library, steps in (
            ("Page", by_page(html)),
            ("parsel", by_parsel(html)),
            ("selectolax", by_selectolax(html)),
        ):
            times = [microseconds(step) for step in steps.values()]
            cells = [f"{value:,.0f}" for value in (*times, sum(times))]
            if library == "Page":
                cells += [
                    f"{microseconds(lambda page=page: list(page.follow_links())):,.0f}",
                    f"{microseconds(lambda page=page: long_way(page)):,.0f}",
                ]
            else:
                cells += ["", ""]
            print(f"| {name} | {len(html):,} | {library} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
