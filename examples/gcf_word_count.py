"""Word count as requests to a function of Google Cloud: the words are counted there, and the counts are merged there too.

    python examples/gcf_word_count.py              # under Google's functions-framework on this machine
    python examples/gcf_word_count.py https://...  # on what docs/http-functions.md deploys

The texts are those of Python's own email and asyncio packages; they travel with the calls.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import asyncpar
import asyncpar_gcf


def texts() -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for package in ("asyncio", "email") for path in sorted((library / package).rglob("*.py"))]
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z]{4,}", text.lower()))


def merge(a: Counter[str], b: Counter[str]) -> Counter[str]:
    a.update(b)
    return a


def open_cloud(url: str | None) -> asyncpar_gcf.GCFPool:
    return asyncpar_gcf.GCFPool(url) if url else asyncpar_gcf.GCFPool.local([__file__], limit=4)


async def main(url: str | None = None) -> None:
    async with open_cloud(url) as cloud:
        words = await cloud.map(count_words, texts()).reduce(merge)
        print(f"{words.total():,} words, {len(words):,} different")
        for word, count in words.most_common(5):
            print(f"{count:8,} {word}")
        statistics = cloud.statistics()
        print(f"{statistics.invocations} requests to {statistics.environments} processes")


if __name__ == "__main__":
    asyncpar.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
