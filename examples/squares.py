"""Parallel map and reduce: squares on every core, added up pair by pair on the workers."""

from __future__ import annotations

import operator

import asyncpar


def square(x: int) -> int:
    return x * x


async def main() -> None:
    async with asyncpar.ProcessPool() as pool:
        print("a list, in order:", await pool.map(square, range(10)))

        # a stream: nothing is made ahead of the limit
        async with pool.map(square, range(1_000_000_000)) as squares:
            async for value in squares:
                if value > 1000:
                    print("the first square over 1,000:", value)
                    break  # leaving the block cancels the rest

        total = await pool.map(square, range(100_000)).reduce(operator.add)
        print(f"the sum of the first 100,000 squares: {total:,}")

        factorial = await pool.reduce(operator.mul, range(1, 21))
        print(f"20! = {factorial:,}")


if __name__ == "__main__":
    asyncpar.run(main)
