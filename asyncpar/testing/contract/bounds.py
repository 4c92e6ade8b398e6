"""No source is read further ahead than the limit."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, taken, until


class BoundsContract(Contract):
    """No source is read further ahead than the limit."""

    async def test_the_source_is_never_read_further_ahead_than_the_limit(self) -> None:
        async with self.make_pool() as pool:
            for kind, ordered, limit in itertools.product(("sync", "async"), (True, False), (1, 3, 64)):
                source = Source(80)
                got = 0
                async with pool.map(f.square, source.open(kind), limit=limit, ordered=ordered) as results:
                    async for _ in results:
                        assert source.read - got <= limit, (kind, ordered, limit)
                        got += 1
                        if got % 40 == 1:
                            await asyncio.sleep(0.002)
                            assert source.read - got <= limit, (kind, ordered, limit)
                assert got == 80

    async def test_a_slow_consumer_holds_the_source_back(self) -> None:
        async with self.make_pool() as pool:
            for kind in ("sync", "async"):
                source = Source()
                async with pool.map(f.square, source.open(kind), limit=10) as results:
                    await anext(results)
                    await asyncio.sleep(0.03)
                    assert source.read <= 11
                    await taken(results, 30)
                    await asyncio.sleep(0.01)
                    assert source.read <= 41

    async def test_in_flight_and_unread_never_exceed_the_limit(self) -> None:
        async with self.make_pool() as pool, pool.map(f.square, range(500), limit=32) as results:
            assert results.statistics().limit == 32
            async for _ in results:
                now = results.statistics()
                assert now.in_flight >= 0 <= now.unread
                assert now.in_flight + now.unread <= 32
            end = results.statistics()
        assert (end.read, end.finished, end.taken, end.in_flight, end.unread) == (500, 500, 500, 0, 0)

    async def test_limit_bytes_bounds_what_is_held(self) -> None:
        size, most = 20_000, 200_000
        async with self.make_pool() as pool:
            if type(pool).default_limit_bytes is None:
                with raises(asyncpar.UnsupportedError, "limit_bytes= needs a pool that serialises"):
                    _ = pool.map(f.square, [1], limit_bytes=most)
                return
            # Arguments are large, or results; an item may be on its way to the consumer.
            for function, small in ((len, False), (bytes, True)):
                source = Source(100)
                items = (size if small else bytes(size) for _ in source.sync())
                got = 0
                async with pool.map(function, items, limit_bytes=most) as results:
                    async for _ in results:
                        got += 1
                        if got % 30 == 1:
                            await asyncio.sleep(0.02)
                        assert (source.read - got) * size <= most, (function, got)
                assert got == 100

    async def test_work_starts_when_the_results_are_read(self) -> None:
        source = Source(10)
        async with self.make_pool() as pool:
            results = pool.map(f.square, source.sync())
            await asyncio.sleep(0.02)
            assert source.read == 0
            assert results.statistics().read == 0
            assert len(await results) == 10

    async def test_an_endless_source_can_be_left(self) -> None:
        async with self.make_pool() as pool:
            for kind in ("sync", "async"):
                source = Source()
                async with pool.map(f.square, source.open(kind)) as results:
                    assert await taken(results, 3) == [0, 1, 4]
                assert source.closed
                assert results.statistics().in_flight == 0
                assert [x async for x in results] == []
            assert await pool.run(f.square, 3) == 9

    async def test_breaking_out_of_a_bare_loop_stops_the_map(self) -> None:
        source = Source()
        async with self.make_pool() as pool:
            async for value in pool.map(f.square, source.sync(), limit=5):
                if value >= 4:
                    break
            await until(lambda: pool.statistics().running == 0)
            at = source.read
            await asyncio.sleep(0.01)
            assert source.read == at <= 8
            assert await pool.run(f.square, 3) == 9

    async def test_a_map_that_reads_a_map_is_held_back(self) -> None:
        source = Source()
        async with self.make_pool() as pool:
            inner = pool.map(f.square, source.sync(), limit=10)
            async with pool.map(f.square, inner, limit=5) as outer:
                assert await taken(outer, 4) == [0, 1, 16, 81]
                await asyncio.sleep(0.05)
                assert source.read <= 4 + 5 + 10
            await until(lambda: pool.statistics().running == 0)
            assert inner.statistics().in_flight == 0
            assert source.closed

    async def test_a_map_on_the_pool_reads_a_map_on_the_loop(self) -> None:
        async with self.make_pool() as pool:
            pages = asyncpar.map(f.square_async, range(50), limit=10)
            rows = pool.map(f.square, pages, limit=5)
            assert [x async for x in asyncpar.map(f.square_async, rows)] == [i**8 for i in range(50)]

    async def test_an_error_passes_through_a_pipeline(self) -> None:
        source = Source()
        async with self.make_pool() as pool:
            inner = pool.map(partial(f.fail_on, 5), source.sync(), limit=4)
            outer = pool.map(f.square, inner, limit=4)
            assert await taken(outer, 5) == [0, 1, 4, 9, 16]
            with raises(ValueError, "no 5"):
                await anext(outer)
            assert source.closed
