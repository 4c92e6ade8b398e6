"""A pool opens once, closes once, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import itertools

import anyio

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, taken
from asyncpar.testing.traces import assert_nothing_left


class LifetimeContract(Contract):
    """A pool opens once, closes once, and leaves nothing behind."""

    async def test_a_pool_that_is_not_open_says_so(self) -> None:
        pool = self.make_pool()
        for state in ("not open yet", "closed"):
            with raises(asyncpar.PoolClosedError, state):
                await pool.run(f.square, 1)
            with raises(asyncpar.PoolClosedError, state):
                _ = pool.map(f.square, [1])
            with raises(asyncpar.PoolClosedError, state):
                await pool.reduce(f.add, [1])
            if state == "not open yet":
                async with pool:
                    pass

    async def test_a_pool_is_not_opened_twice(self) -> None:
        async with self.make_pool() as pool:
            with raises(asyncpar.PoolClosedError, "make a new one"):
                await pool.__aenter__()
            assert await pool.run(f.square, 2) == 4
        with raises(asyncpar.PoolClosedError, "make a new one"):
            await pool.__aenter__()

    async def test_closing_twice_is_harmless(self) -> None:
        async with self.make_pool() as pool:
            await pool.aclose()
        await pool.aclose()

    async def test_closing_ends_what_waits_and_what_runs(self) -> None:
        async with self.make_pool() as pool:
            many = 10 + 4 * pool.workers  # some wait, however late this goes on
            calls = [asyncio.ensure_future(pool.run(f.nap, 0.05)) for _ in range(many)]
            await asyncio.sleep(0.02)
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(value == 0.05 or isinstance(value, asyncpar.PoolClosedError) for value in done)
        assert any(isinstance(value, asyncpar.PoolClosedError) for value in done)

    async def test_closing_ends_a_map(self) -> None:
        async with self.make_pool() as pool:
            results = pool.map(f.square, itertools.count())
            assert await taken(results, 5) == [0, 1, 4, 9, 16]
        with raises(asyncpar.PoolClosedError, "closed while this map was running"):
            async for _ in results:
                pass

    async def test_a_map_that_has_not_begun_when_the_pool_closes(self) -> None:
        async with self.make_pool() as pool:
            results = pool.map(f.square, [1, 2])
        with raises(asyncpar.PoolClosedError):
            await results

    async def test_an_error_in_the_block_passes_through(self) -> None:
        with raises(KeyError, "mine"):
            async with self.make_pool() as pool:
                call = asyncio.ensure_future(pool.run(f.nap, 0.05))
                await asyncio.sleep(0)
                raise KeyError("mine")
        [value] = await asyncio.gather(call, return_exceptions=True)
        assert value == 0.05 or isinstance(value, asyncpar.PoolClosedError)

    async def test_nothing_is_left_after_close(self) -> None:
        async with self.make_pool() as pool:  # what a process keeps after its first pool is no leak
            await pool.run(f.square, 2)
        async with assert_nothing_left():
            async with self.make_pool() as pool:
                assert await pool.map(f.square, range(100)) == [i * i for i in range(100)]
                with raises(ValueError):
                    await pool.run(f.fail, 1)
                results = pool.map(f.square, Source().asynchronous())
                await taken(results, 3)
            await results.aclose()

    async def test_an_anyio_scope_ends_a_map_and_its_pool(self) -> None:
        source = Source()
        async with self.make_pool() as pool:
            with anyio.CancelScope() as scope:
                async with pool.map(f.square, source.asynchronous(), limit=5) as results:
                    async for _ in results:
                        scope.cancel()
                        await asyncio.sleep(1)
            assert scope.cancelled_caught
            assert source.closed
        with anyio.move_on_after(0.2) as scope:
            async with self.make_pool() as pool:
                async for _ in pool.map(f.square, itertools.count(), limit=5):
                    await asyncio.sleep(0.001)
        assert scope.cancelled_caught

    async def test_nothing_is_left_after_being_cancelled(self) -> None:
        async def use() -> None:
            async with self.make_pool() as pool:
                async for _ in pool.map(f.square, itertools.count(), limit=10):
                    await asyncio.sleep(0.001)

        async with self.make_pool() as pool:
            await pool.run(f.square, 2)
        async with assert_nothing_left():
            task = asyncio.ensure_future(use())
            await asyncio.sleep(0.1)
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
