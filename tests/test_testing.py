"""The tools for users' tests."""

from __future__ import annotations

import asyncio

import pytest

from asyncpar import InlinePool, WorkerLostError
from asyncpar.testing import FaultyPool, assert_nothing_left
from asyncpar.testing import functions as f


async def lost(**faults):
    async with FaultyPool(InlinePool(), **faults) as pool:
        got = await pool.map(f.square, range(200), return_exceptions=True)
        assert all(isinstance(x, WorkerLostError) or x == i * i for i, x in enumerate(got))
        losses = [i for i, x in enumerate(got) if isinstance(x, WorkerLostError)]
        assert pool.statistics().lost == len(losses)
    return losses


async def test_some_calls_are_lost_and_a_seed_says_which():
    first = await lost(lose=0.2, seed=1)
    assert 10 < len(first) < 80
    assert await lost(lose=0.2, seed=1) == first
    assert await lost(lose=0.2, seed=2) != first
    assert await lost() == []


async def test_retries_make_up_for_losses():
    async with FaultyPool(InlinePool(), lose=0.1, seed=3) as pool:
        assert await pool.map(f.square, range(50), retries=20) == [i * i for i in range(50)]


async def test_a_lost_answer_is_that_of_a_call_that_ran():
    ran = []
    async with FaultyPool(InlinePool(), lose_answers=1.0) as pool:
        with pytest.raises(WorkerLostError, match="after it ran"):
            await pool.run(ran.append, 1)
    assert ran == [1]


async def test_delays_reorder():
    async with FaultyPool(InlinePool(), delay=0.02, workers=4) as pool:
        got = await pool.map(f.square, range(20), ordered=False)
    assert sorted(got) == [i * i for i in range(20)] != got


@pytest.mark.parametrize("faults", [{"lose": 2}, {"lose_answers": -0.1}, {"delay": -1}])
def test_senseless_faults(faults):
    with pytest.raises(ValueError, match="="):
        FaultyPool(InlinePool(), **faults)


async def test_what_is_left_is_named():
    with pytest.raises(AssertionError, match="left behind: task forgotten"):
        async with assert_nothing_left(grace=0.05):
            task = asyncio.get_running_loop().create_task(asyncio.sleep(10), name="forgotten")
    task.cancel()
    await asyncio.wait([task])
