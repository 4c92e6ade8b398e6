"""Word count over many files: each is read and counted on a worker, and the counts are merged there too.

    python examples/word_count.py [FOLDER]

Without a folder it counts the words of Python's own email and asyncio packages.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpar


def texts(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield from (path for path in folder.rglob("*") if path.is_file())
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    for package in ("asyncio", "email"):
        yield from (library / package).rglob("*.py")


def count_words(path: Path) -> Counter[str]:
    text = path.read_text(encoding="utf-8", errors="ignore")
    return Counter(re.findall(r"[a-z]{4,}", text.lower()))


def merge(a: Counter[str], b: Counter[str]) -> Counter[str]:
    a.update(b)
    return a


async def main(folder: Path | None = None) -> None:
    begun = time.perf_counter()
    async with asyncpar.ProcessPool() as pool:
        counts = pool.map(count_words, texts(folder))
        words = await counts.reduce(merge, Counter[str]())
    print(f"{words.total():,} words, {len(words):,} different, in {time.perf_counter() - begun:.2f} s")
    for word, count in words.most_common(5):
        print(f"{count:8,} {word}")


if __name__ == "__main__":
    asyncpar.run(main, Path(sys.argv[1]) if len(sys.argv) > 1 else None)
