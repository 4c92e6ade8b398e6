"""One producer, many consumers, no queue: a map reads an async generator, and never far ahead.

The producer makes 2,000 orders as fast as it can. The limit is what a queue's size would be: the producer waits while
16 orders are with a worker or finished and not taken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import asyncpar

ORDERS, LIMIT = 2_000, 16
produced = 0


async def orders() -> AsyncIterator[bytes]:
    global produced  # noqa: PLW0603 - to show how far the producer is ahead
    for number in range(ORDERS):
        await asyncio.sleep(0)  # as if it came from a socket
        produced += 1
        yield f"order {number}".encode()


def sign(order: bytes) -> str:
    return hashlib.pbkdf2_hmac("sha256", order, b"salt", 100).hex()


async def main() -> None:
    async with asyncpar.ProcessPool() as consumers:
        consumed = ahead = 0
        async for _signature in consumers.map(sign, orders(), limit=LIMIT):
            ahead = max(ahead, produced - consumed)
            consumed += 1
        print(f"{produced:,} orders produced, {consumed:,} signed by {consumers.workers} workers")
        print(f"the producer was never more than {ahead} ahead (limit={LIMIT})")
        assert ahead <= LIMIT


if __name__ == "__main__":
    asyncpar.run(main)
