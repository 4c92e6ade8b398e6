"""A Dask cluster as one more place for calls: a map whose chunks travel together, beside work on the loop.

Without an address the pool starts a cluster on this machine; with one, as ``tcp://scheduler:8786``, it uses that.
"""

import asyncio
import operator
import sys

import asyncpar
from asyncpar_dask import DaskPool


async def fetch(number: int) -> str:
    """Stand for a download: on the loop."""
    await asyncio.sleep(0.001)
    return f"page {number} " * 100


def count_digits(page: str) -> int:
    """Work for the cluster."""
    return sum(word.isdigit() for word in page.split())


async def main(address: str | None = None) -> None:
    """Download, and count on the cluster."""
    async with DaskPool(address) as cluster:
        pages = asyncpar.map(fetch, range(500), limit=100)
        total = await cluster.map(count_digits, pages, limit=1000).reduce(operator.add)
        print(f"{total} numbers, counted by {cluster.workers} workers of Dask")


if __name__ == "__main__":
    asyncpar.run(main, *sys.argv[1:2])
