"""A large constant that every call uses: `share` sends it to each worker once, not with each call."""

from __future__ import annotations

import itertools
import time

import asyncpar

WORDS = {f"word{n}": n for n in range(100_000)}
TEXTS = [[f"word{97 * n * k % 150_000}" for n in range(1, 200)] for k in range(1, 41)]


def known(text: list[str], words: dict[str, int]) -> int:
    """How many words of the text are in the dictionary."""
    return sum(word in words for word in text)


async def main() -> None:
    async with asyncpar.ProcessPool(2) as pool:
        await pool.map(known, TEXTS[:2], [{}] * 2)  # the workers are there

        begun = time.perf_counter()
        sent = await pool.map(known, TEXTS, itertools.repeat(WORDS), chunksize=1)
        each_time = time.perf_counter() - begun

        begun = time.perf_counter()
        words = asyncpar.share(WORDS)
        shared = await pool.map(known, TEXTS, itertools.repeat(words))
        once = time.perf_counter() - begun

    assert sent == shared
    print(f"{sum(shared):,} of {sum(map(len, TEXTS)):,} words are known")
    print(f"{len(TEXTS)} calls with the dictionary in each: {each_time:.2f} s; with share: {once:.2f} s")


if __name__ == "__main__":
    asyncpar.run(main)
