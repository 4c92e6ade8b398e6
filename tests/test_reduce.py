"""`asyncpar.reduce`, on the loop, on a pool, on a default pool by name."""

from __future__ import annotations

import asyncio

import pytest

import asyncpar
from asyncpar.testing import functions as f

LETTERS = [chr(97 + i % 26) for i in range(200)]


async def test_a_coroutine_function_folds_on_the_loop():
    assert await asyncpar.reduce(f.concat_async, LETTERS) == "".join(LETTERS)


async def test_on_a_pool():
    async with asyncpar.ThreadPool(2) as pool:
        assert await asyncpar.reduce(f.concat, LETTERS, on=pool) == "".join(LETTERS)


async def test_on_a_default_pool_by_name():
    async with asyncpar.open_runtime():
        assert await asyncpar.reduce(f.concat, LETTERS, on="inline", initial="<") == "<" + "".join(LETTERS)


async def test_pairs_are_folded_at_the_same_time():
    most = now = 0

    async def add(a: int, b: int) -> int:
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return a + b

    assert await asyncpar.reduce(add, range(64)) == 2016
    assert most > 1


async def test_an_error_cancels_what_is_folding():
    async def fold(a: int, b: int) -> int:
        await asyncio.sleep(0 if a else 0.001)
        raise ValueError("no sum")

    with pytest.raises(ValueError, match="no sum"):
        await asyncpar.reduce(fold, range(64))


async def test_nothing_to_fold():
    with pytest.raises(TypeError, match="pass initial="):
        await asyncpar.reduce(f.concat_async, [])
    assert await asyncpar.reduce(f.concat_async, [], initial="a") == "a"


async def test_a_function_that_is_none():
    with pytest.raises(TypeError, match="must be callable, not NoneType"):
        await asyncpar.reduce(None, [1], on="inline")
