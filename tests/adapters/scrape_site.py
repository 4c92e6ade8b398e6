"""A site on this machine whose page n links to 2n+1 and 2n+2; notes what it serves.

As a program (`python scrape_site.py LOG PAGES`) it prints its port and appends each path it serves to the log. Then
page n links to n+1, too, and one page in 49 is faulty: an error of the server, no answer, or half of one.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from tests.adapters.scrape_server import Server, answer
from tests.programs import environment

BODY = "<html><title>page {n}</title><a href='/{a}'>a</a><a href='/{b}'>b</a></html>"
FAULTY = 49
"""With 200 hosts in turn, the faults are spread over all of them."""


def is_faulty(n: int) -> bool:
    return n % FAULTY == 7


class Site(Server):
    """Answers ``/n`` for n below ``pages``; others are 404."""

    def __init__(self, pages: int, log: Path | None = None, *, faults: bool = False) -> None:
        super().__init__(self._page)
        self.pages, self.faults = pages, faults
        self.served: list[str] = []
        self.log = log.open("a", buffering=1) if log else None

    def url(self, n: int) -> str:
        return super().url(f"/{n}")

    async def _page(self, head: str, writer) -> bool:
        path = head.split()[1]
        self.served.append(path)
        if self.log:
            self.log.write(path + "\n")
        n = int(path[1:]) if path[1:].isdigit() else self.pages
        known = n < self.pages
        body = BODY.format(n=n, a=2 * n + 1, b=2 * n + 2).encode() if known else b""
        if self.faults:
            body += f"<a href='/{n + 1}'>c</a>".encode() if known else b""
        page = answer(body, "", "200 OK" if known else "404 Not Found")
        if self.faults and known and is_faulty(n):
            if n % 3:
                writer.write(b"" if n % 3 == 1 else page[: 20 - len(body)])
                return False
            page = answer(b"", "", "500 Oops")
        writer.write(page)
        return True


@contextmanager
def in_a_process(log: Path, pages: int):
    """The site as a program; its port."""
    command = [sys.executable, __file__, str(log), str(pages)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
    ) as site:
        yield site.stdout.readline().strip()
        site.stdin.close()


async def main() -> None:
    async with Site(int(sys.argv[2]), Path(sys.argv[1]), faults=True) as site:
        print(site.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
