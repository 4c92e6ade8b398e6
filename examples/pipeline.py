"""A pipeline is a map that reads a map: pages are fetched on the loop and parsed on the processes, as they arrive.

The slower stage holds the faster one back. What is fetched and not yet parsed never exceeds the two limits.
"""

from __future__ import annotations

import asyncio
import time
from html.parser import HTMLParser

import asyncpar

PAGES = 200


async def fetch(number: int) -> str:
    await asyncio.sleep(0.02)  # stands for the network
    items = "".join(f"<li><a href='/{number}/{i}'>link {i}</a></li>" for i in range(number % 50 + 100))
    return f"<html><title>Page {number}</title><ul>{items}</ul></html>"


class Links(HTMLParser):
    """Counts the links of a page."""

    count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += tag == "a"


def count_links(page: str) -> int:
    parser = Links()
    parser.feed(page)
    return parser.count


async def main() -> None:
    begun = time.perf_counter()
    async with asyncpar.ProcessPool() as pool:
        pages = asyncpar.map(fetch, range(PAGES), limit=50, ordered=False)  # an async function: on the loop
        links = 0
        async with pool.map(
            count_links, pages, limit=32, ordered=False
        ) as counts:  # a plain one: on the workers
            async for count in counts:
                links += count
        seconds = time.perf_counter() - begun
        fetched = pages.statistics()
    print(f"{links:,} links on {fetched.taken} pages in {seconds:.2f} s")
    print(f"fetching them one after the other takes {PAGES * 0.02:.1f} s at least")


if __name__ == "__main__":
    asyncpar.run(main)
