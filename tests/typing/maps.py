"""The types of map and reduce, for mypy and pyright: this file is checked and never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import asyncpar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpar import Pool, ProcessPool, ThreadPool


def shorten(text: str) -> bytes:
    return text.encode()


def power(base: int, exponent: int) -> float:
    return float(base**exponent)


async def fetch(url: str) -> bytes:
    return url.encode()


async def numbers() -> AsyncIterator[int]:
    yield 1


async def on_a_pool(pool: Pool, processes: ProcessPool, threads: ThreadPool) -> None:
    assert_type(await pool.map(str, [1]), list[str])
    results = processes.map(shorten, ["a"], limit=3)
    assert_type(await threads.map(bytes.hex, results), list[str])
    assert_type(await processes.map(power, [1], numbers(), limit=2), list[float])
    assert_type(await processes.map(fetch, ["a"]), list[bytes])
    assert_type(await pool.map(shorten, ["a"], journal="run.journal", key=len), list[bytes])
    assert_type(await pool.map(shorten, ["a"], journal=asyncpar.Journal("a", version=1)), list[bytes])
    assert_type(await processes.map(abs, numbers()).reduce(max), int)


async def on_the_loop() -> None:
    async with asyncpar.map(fetch, ["a"]) as pages:
        async for page in pages:
            assert_type(page, bytes)
    assert_type(await asyncpar.map(len, asyncpar.map(fetch, ["a"]), on="process"), list[int])
    assert_type(await asyncpar.map(power, [1], [2]), list[float])


async def mistakes(pool: Pool) -> None:
    pool.map(shorten, ["a"], limits=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    pool.map("shorten", ["a"])  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
