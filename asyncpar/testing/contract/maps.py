"""Maps and folds: their values, in order, from every kind of source."""

from __future__ import annotations

import asyncio
import itertools
import time
from functools import partial
from pathlib import Path

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, taken, until


class MapsContract(Contract):
    """Maps and folds: their values, in order, from every kind of source."""

    # -- map: values and order

    async def test_map_gives_a_list_in_order(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.square, range(1000)) == [i * i for i in range(1000)]

    async def test_map_of_nothing(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.square, []) == []
            assert await pool.map(f.square, Source(0).asynchronous()) == []
            assert [x async for x in pool.map(f.square, iter(()))] == []

    async def test_map_reads_several_iterables_until_the_shortest_ends(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.add, [1, 2, 3], itertools.count(10)) == [11, 13, 15]
            assert await pool.map(f.add, Source(4).asynchronous(), [5, 6, 7]) == [5, 7, 9]
            assert await pool.map(f.add, [5, 6], Source().asynchronous()) == [5, 7]

    async def test_map_takes_any_iterable(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.square, {3: 0, 4: 0}) == [9, 16]
            assert await pool.map(f.square, (i for i in range(3))) == [0, 1, 4]
            assert await pool.map(f.echo, [(1, 2)]) == [(((1, 2),), {})]
            assert await pool.map(f.echo, ["ab", None]) == [(("ab",), {}), ((None,), {})]

    async def test_map_awaits_async_functions(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.square_async, range(20)) == [i * i for i in range(20)]

    async def test_map_streams_in_order_though_calls_end_out_of_order(self) -> None:
        naps = [0.04, 0.0, 0.02, 0.0, 0.01, 0.0]
        async with self.make_pool() as pool:
            assert [x async for x in pool.map(f.nap, naps)] == naps

    async def test_unordered_map_gives_results_as_calls_finish(self, tmp_path: Path) -> None:
        self.need(self.parallel and self.shares_files, "parallel work")
        path, got = str(tmp_path / "held"), []
        async with self.make_pool() as pool:
            async for value in pool.map(partial(f.hold_if, path, 0), range(3), ordered=False):
                got.append(value)
                if len(got) == 2:
                    f.release(path)
        assert got[2] == 0
        assert sorted(got) == [0, 1, 2]

    async def test_unordered_map_gives_every_result_once(self) -> None:
        async with self.make_pool() as pool:
            got = await pool.map(f.square, range(1000), ordered=False, limit=64)
            assert sorted(got) == [i * i for i in range(1000)]

    async def test_calls_run_at_the_same_time(self, tmp_path: Path) -> None:
        self.need(self.parallel and self.shares_files, "parallel work")
        async with self.make_pool() as pool:
            assert await pool.map(f.meet, [str(tmp_path / "marks")] * 2, [2, 2]) == [2, 2]

    async def test_two_maps_share_the_pool(self) -> None:
        async with self.make_pool() as pool:
            first, second = await asyncpar.gather(
                pool.map(f.square, range(500)), pool.map(f.nap, [0.001] * 20)
            )
        assert first == [i * i for i in range(500)]
        assert second == [0.001] * 20

    async def test_a_long_map_does_not_keep_a_call_waiting(self) -> None:
        async with self.make_pool() as pool, pool.map(f.nap, itertools.repeat(0.005)) as results:
            await taken(results, 3)
            call = asyncio.ensure_future(pool.run(f.square, 3))
            for _ in range(10_000):  # the map goes on meanwhile, for as long as that if it must
                await anext(results)
                if call.done():
                    break
            assert call.done()
            assert await call == 9

    async def test_chunksize_changes_nothing_but_the_speed(self) -> None:
        async with self.make_pool() as pool:
            for chunksize in (1, 7, 1000):
                assert await pool.map(f.square, range(50), chunksize=chunksize) == [i * i for i in range(50)]
                done = await pool.map(
                    partial(f.fail_on, 20), range(50), chunksize=chunksize, return_exceptions=True
                )
                assert [i for i, value in enumerate(done) if value != i] == [20]

    async def test_a_shared_limiter_bounds_the_calls_of_all_maps(self) -> None:
        limiter = asyncpar.Limiter(1)
        async with self.make_pool() as pool:
            maps = [pool.map(f.span, [0.01] * 4, limit=limiter) for _ in range(2)]
            both = await asyncpar.gather(*maps)
        spans = sorted(itertools.chain(*both))
        assert len(spans) == 8
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))

    async def test_a_rate_spreads_the_starts(self) -> None:
        async with self.make_pool() as pool:
            await pool.map(f.nap, [0.01] * 2 * pool.workers)
            began = time.monotonic()
            spans = await pool.map(f.span, [0.0] * 5, rate=asyncpar.RateLimiter(1, per=0.02))
        starts = sorted(start - began for start, _ in spans)
        assert all(
            start >= 0.018 * n for n, start in enumerate(starts)
        )  # a timer may be early by a millisecond

    # -- reduce

    async def test_reduce_keeps_the_order(self) -> None:
        letters = [chr(97 + i % 26) for i in range(500)]
        async with self.make_pool() as pool:
            assert await pool.reduce(f.concat, letters) == "".join(letters)
            assert await pool.reduce(f.concat_async, letters[:40]) == "".join(letters[:40])
            assert await pool.map(str, range(300)).reduce(f.concat) == "".join(map(str, range(300)))

    async def test_reduce_of_every_kind_of_source(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.reduce(f.add, range(100)) == 4950
            assert await pool.reduce(f.add, Source(100).sync()) == 4950
            assert await pool.reduce(f.add, Source(100).asynchronous()) == 4950
            assert await pool.reduce(f.add, pool.map(f.square, range(10))) == 285

    async def test_reduce_of_few(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.reduce(f.concat, ["a"]) == "a"
            assert await pool.reduce(f.concat, ["b", "c"], initial="a") == "abc"
            assert await pool.reduce(f.concat, [], initial="a") == "a"
            assert await pool.map(str, []).reduce(f.concat, "a") == "a"
            with raises(TypeError, "pass initial="):
                await pool.reduce(f.concat, [])

    async def test_reduce_raises_what_the_function_raises(self) -> None:
        source = Source()
        async with self.make_pool() as pool:
            with raises(TypeError, "takes 1 positional argument"):
                await pool.reduce(f.square, source.asynchronous())  # type: ignore[arg-type]
            assert source.closed
            with raises(OSError, "the source broke"):
                await pool.reduce(f.add, Source(5, OSError("the source broke")).sync())
            await until(lambda: pool.statistics().running == 0)

    async def test_reduce_is_bounded(self) -> None:
        async with self.make_pool() as pool:
            source = Source()
            begun = pool.loop.time()
            task = asyncio.ensure_future(pool.reduce(f.slow_add, source.asynchronous()))
            await asyncio.sleep(0.1)
            assert source.read < 50_000 * (
                pool.loop.time() - begun
            )  # that fast it reads only what nobody folds
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            assert source.closed
