"""Word count as invocations of AWS Lambda: the words are counted there, and the counts are merged there too.

    python examples/lambda_word_count.py          # on a Lambda on this machine; nothing of AWS is contacted
    python examples/lambda_word_count.py my-job   # on what 'asyncpar lambda deploy' has made under this name

The texts are those of Python's own email and asyncio packages; they travel with the calls.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import time
from collections import Counter
from pathlib import Path

import asyncpar
import asyncpar_lambda


def texts() -> list[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [path for package in ("asyncio", "email") for path in sorted((library / package).rglob("*.py"))]
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def count_words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[a-z]{4,}", text.lower()))


def merge(a: Counter[str], b: Counter[str]) -> Counter[str]:
    a.update(b)
    return a


def open_cloud(job: str | None) -> asyncpar_lambda.LambdaPool:
    if job is not None:
        return asyncpar_lambda.LambdaPool(job)
    return asyncpar_lambda.LambdaPool.local([__file__], limit=4)


async def main(job: str | None = None) -> None:
    async with open_cloud(job) as cloud:
        print(await cloud.plan(count_words, texts(), seconds=0.01))
        begun = time.perf_counter()
        words = await cloud.map(count_words, texts()).reduce(merge)
        print(f"{words.total():,} words, {len(words):,} different, in {time.perf_counter() - begun:.2f} s")
        for word, count in words.most_common(5):
            print(f"{count:8,} {word}")
        statistics = cloud.statistics()
        print(f"{statistics.invocations} invocations, ${statistics.dollars:.6f} on AWS")


if __name__ == "__main__":
    asyncpar.run(main, sys.argv[1] if len(sys.argv) > 1 else None)
