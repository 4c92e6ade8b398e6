"""Unlike things together: a coroutine, a CPU-bound call and a blocking call, in one gather.

The second gather shows what a failure does: it is raised as itself, and the others have been cancelled by then.
"""

from __future__ import annotations

import asyncio
import time

import asyncpar


async def ask_a_server() -> str:
    await asyncio.sleep(0.2)  # stands for the network
    return "the answer"


def count_primes(below: int) -> int:
    sieve = bytearray([1]) * below
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return sum(sieve) - 2


def ask_an_old_library() -> str:
    time.sleep(0.2)  # blocks: a driver without async, a slow file system
    return "the record"


async def fail() -> None:
    await asyncio.sleep(0.05)
    raise ValueError("no such user")


async def long_job(log: list[str]) -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        log.append("the long job was cancelled and has ended")


async def main() -> None:
    begun = time.perf_counter()
    answer, primes, record = await asyncpar.gather(
        ask_a_server(),
        asyncpar.to_process(count_primes, 1_000_000),
        asyncpar.to_thread(ask_an_old_library),
    )
    print(f"{answer}, {primes:,} primes and {record}, after {time.perf_counter() - begun:.2f} s")

    log: list[str] = []
    try:
        await asyncpar.gather(fail(), long_job(log))
    except ValueError as error:
        print(f"gather raised ValueError({error}), and by then {log[0]}")


if __name__ == "__main__":
    asyncpar.run(main)
