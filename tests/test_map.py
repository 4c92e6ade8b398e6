"""`asyncpar.map` on the loop: coroutines, bounds, pipelines."""

from __future__ import annotations

import asyncio
import itertools
import operator

import pytest

import asyncpar
from asyncpar.testing.contract.base import Source, taken


async def double(x):
    await asyncio.sleep(0)
    return 2 * x


async def fail_on_three(x):
    await asyncio.sleep(0)
    if x == 3:
        raise ValueError("no 3")
    return x


async def test_values_in_order():
    assert await asyncpar.map(double, range(500)) == [2 * i for i in range(500)]


async def test_several_iterables():
    async def add(a, b):
        return a + b

    assert await asyncpar.map(add, [1, 2, 3], Source().asynchronous()) == [1, 3, 5]


async def test_nothing():
    assert await asyncpar.map(double, []) == []


async def test_calls_run_at_the_same_time():
    everyone = asyncio.Barrier(50)

    async def meet(_):
        return await everyone.wait()

    assert sorted(await asyncpar.map(meet, range(50))) == list(range(50))


@pytest.mark.parametrize("limit", [1, 4])
async def test_no_more_calls_than_the_limit(limit):
    most = now = 0

    async def work(_):
        nonlocal most, now
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    await asyncpar.map(work, range(30), limit=limit)
    assert most == limit


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("limit", [1, 5])
async def test_the_source_is_never_read_further_ahead(kind, ordered, limit):
    source, got = Source(200), 0
    async with asyncpar.map(double, source.open(kind), limit=limit, ordered=ordered) as results:
        async for _ in results:
            assert source.read - got <= limit
            got += 1
            if got % 20 == 0:
                await asyncio.sleep(0.002)
                assert source.read - got <= limit
    assert got == 200
    assert source.closed


async def test_unordered_results_come_as_calls_finish():
    ended = [asyncio.Event() for _ in range(3)]

    async def wait_for(before, x):
        """The call with this number ends before this one."""
        if before is not None:
            await ended[before].wait()
        ended[x].set()
        return x

    assert [x async for x in asyncpar.map(wait_for, [2, None, 1], range(3), ordered=False)] == [1, 2, 0]


async def test_leaving_early_cancels_and_waits():
    ended = []

    async def wait(x):
        try:
            await asyncio.sleep(0 if x == 0 else 30)
        finally:
            ended.append(x)

    async with asyncpar.map(wait, range(5)) as results:
        await anext(results)
    assert sorted(ended) == [0, 1, 2, 3, 4]


async def test_an_error_comes_after_the_results_before_it():
    source, got = Source(), []
    with pytest.raises(ValueError, match="no 3"):
        async for x in asyncpar.map(fail_on_three, source.asynchronous(), limit=4):
            got.append(x)
    assert got == [0, 1, 2]
    assert source.closed


async def test_return_exceptions():
    got = await asyncpar.map(fail_on_three, range(5), return_exceptions=True)
    assert [type(x) for x in got] == [int, int, int, ValueError, int]


async def test_a_timeout_fails_its_call():
    got = await asyncpar.map(asyncio.sleep, [0, 5], timeout=0.05, return_exceptions=True)
    assert isinstance(got[1], asyncpar.CallTimeoutError)


async def test_retries():
    tries = itertools.count(1)

    async def flaky(_):
        if next(tries) < 3:
            raise ConnectionError
        return "done"

    results = asyncpar.map(flaky, [1], retries=3, retry_on=ConnectionError)
    assert await results == ["done"]
    assert results.statistics().retried == 2


async def test_a_chain_of_maps_is_held_back():
    source = Source()
    last = asyncpar.map(double, asyncpar.map(double, source.asynchronous(), limit=4), limit=3)
    async with last:
        assert await taken(last, 5) == [0, 4, 8, 12, 16]
        await asyncio.sleep(0.02)
        assert source.read <= 5 + 3 + 4
    assert source.closed


async def test_a_map_that_reads_a_map_knows_how_much_there_is(capsys):
    doubled = asyncpar.map(double, range(20))
    async with asyncpar.ThreadPool(2) as pool:
        assert await pool.map(str, doubled, progress="words") == [str(2 * x) for x in range(20)]
    assert capsys.readouterr().err.startswith("words: 20 of 20, ")


async def test_how_many_results_are_still_to_come():
    results = asyncpar.map(double, range(20))
    assert operator.length_hint(results) == 20
    async with results:
        assert [await anext(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        assert operator.length_hint(results) == 15
    endless = asyncpar.map(double, itertools.count())
    assert operator.length_hint(endless, -1) == -1


async def test_on_a_default_pool_by_name():
    async with asyncpar.open_runtime():
        assert await asyncpar.map(str, range(3), on="inline") == ["0", "1", "2"]


async def test_without_a_runtime_it_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"asyncpar\.run"):
        await asyncpar.map(str, range(3))


@pytest.mark.may_block  # looking for a pool that nobody has reads the metadata of what is installed
async def test_bad_input_is_told_at_the_call():
    with pytest.raises(asyncpar.PoolNotFoundError, match="no pool named 'nowhere'"):
        asyncpar.map(str, [1], on="nowhere")
    with pytest.raises(TypeError, match="on= must be a pool or the name of one, not int"):
        asyncpar.map(str, [1], on=3)
    with pytest.raises(asyncpar.UnsupportedError, match="limit_bytes= needs a pool that serialises"):
        asyncpar.map(double, [1], limit_bytes=10)


@pytest.mark.parametrize(("retries", "notes"), [(0, []), (1, ["this was attempt 2 of 2"])])
async def test_the_last_attempt_says_so(retries, notes):
    async def fail(x: int) -> int:
        raise ConnectionError(x)

    with pytest.raises(ConnectionError) as caught:
        await asyncpar.map(fail, [1], retries=retries, retry_on=ConnectionError)
    assert getattr(caught.value, "__notes__", []) == notes
