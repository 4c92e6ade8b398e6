"""Actors and streams."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, raises, until
from asyncpar.testing.traces import assert_nothing_left


class StatefulContract(Contract):
    """Actors and streams."""

    # -- actors

    async def test_an_actor_keeps_state_and_order(self) -> None:
        self.need(self.stateful, "actors")
        async with self.make_pool() as pool, pool.actor(f.Counter, 5) as counter:
            assert await counter.run(f.Counter.add) == 6
            assert await counter.run(f.Counter.add, n=4) == 10
            assert await counter.run(f.Counter.add_async, 2) == 12
            await asyncio.gather(*[counter.run(f.Counter.see, i) for i in range(50)])
            assert await counter.run(f.Counter.all_seen) == list(range(50))

    async def test_actors_have_state_of_their_own(self) -> None:
        self.need(self.stateful, "actors")
        async with (
            self.make_pool() as pool,
            pool.actor(f.Counter) as one,
            pool.actor(f.Counter, start=10) as two,
        ):
            assert await pool.run(f.square, 3) == 9
            assert await one.run(f.Counter.add) == 1
            assert await two.run(f.Counter.add) == 11
            assert await one.run(f.Counter.add) == 2

    async def test_an_actors_error_leaves_it_alive(self) -> None:
        self.need(self.stateful, "actors")
        async with self.make_pool() as pool, pool.actor(f.Counter) as counter:
            with raises(ValueError, "the counter is tired"):
                await counter.run(f.Counter.fail)
            assert await counter.run(f.Counter.add) == 101

    async def test_an_actor_that_cannot_be_made(self) -> None:
        self.need(self.stateful, "actors")
        async with self.make_pool() as pool:
            with raises(ValueError, "start must not be negative"):
                async with pool.actor(f.Counter, -1):
                    pass
            with raises(TypeError, "takes a class and its arguments, not int"):
                pool.actor(3)  # type: ignore[arg-type]

    async def test_an_actor_outside_its_block(self) -> None:
        self.need(self.stateful, "actors")
        async with self.make_pool() as pool:
            actor = pool.actor(f.Counter)
            with raises(asyncpar.PoolClosedError, "has not started"):
                await actor.run(f.Counter.add)
            async with actor:
                assert await actor.run(f.Counter.add) == 1
            with raises(asyncpar.PoolClosedError):
                await actor.run(f.Counter.add)

    async def test_closing_the_pool_ends_its_actors(self) -> None:
        self.need(self.stateful, "actors")
        async with assert_nothing_left():
            async with self.make_pool() as pool:
                actor = await pool.actor(f.Counter).__aenter__()
                assert await actor.run(f.Counter.add) == 1
            with raises(asyncpar.PoolClosedError):
                await actor.run(f.Counter.add)

    # -- streams

    async def test_a_stream_gives_what_a_generator_yields(self) -> None:
        self.need(self.stateful, "streams")
        async with self.make_pool() as pool:
            assert [x async for x in pool.stream(f.count, 1000)] == list(range(1000))
            assert [x async for x in pool.stream(f.count, 10, limit=1)] == list(range(10))
            assert [x async for x in pool.stream(f.count, 0)] == []

    async def test_a_stream_raises_after_the_items_before(self) -> None:
        self.need(self.stateful, "streams")
        got = []
        async with self.make_pool() as pool:
            with raises(ValueError, "the stream broke"):
                async for x in pool.stream(f.count_and_fail, 5):
                    got.append(x)
        assert got == [0, 1, 2, 3, 4]

    async def test_a_stream_of_an_async_generator(self, tmp_path: Path) -> None:
        self.need(self.stateful and self.shares_files, "streams")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            assert [x async for x in pool.stream(f.count_async, path, 1000)] == list(range(1000))
            assert f.lines(path) == ["closed"]
            async with pool.stream(f.count_async, path, n=10**9, limit=4) as stream:
                assert [await anext(stream) for _ in range(10)] == list(range(10))
            assert f.lines(path) == ["closed"] * 2
            got = []
            with raises(f.ContractError, "the stream broke") as caught:
                async for x in pool.stream(f.count_and_fail_async, 5):
                    got.append(x)
            assert (got, caught.value.code) == ([0, 1, 2, 3, 4], 5)

    async def test_a_stream_left_early_closes_its_generator(self, tmp_path: Path) -> None:
        self.need(self.stateful and self.shares_files, "streams")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            async for got in pool.stream(f.count_and_mark, path, limit=4):
                if got == 10:
                    break
            await until(lambda: f.lines(path)[-1] == "closed")

    async def test_closing_the_pool_closes_the_generators_of_its_streams(self, tmp_path: Path) -> None:
        self.need(self.stateful and self.shares_files, "streams")
        paths = [str(tmp_path / name) for name in ("left", "held")]
        async with self.make_pool() as pool:
            held = pool.stream(f.count_and_mark, paths[1], limit=4)
            assert await anext(held) == 0
            async for _ in pool.stream(f.count_and_mark, paths[0], limit=4):
                break
        assert [f.lines(path)[-1] for path in paths] == ["closed", "closed"]

    async def test_a_stream_runs_ahead_by_no_more_than_its_limit(self, tmp_path: Path) -> None:
        self.need(self.stateful and self.shares_files, "streams")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            async with pool.stream(f.count_and_mark, path, limit=6) as stream:
                for got in range(1, 15):
                    await anext(stream)
                    await asyncio.sleep(0.005)
                    assert len(f.lines(path)) <= got + 6
            assert f.lines(path)[-1] == "closed"

    async def test_a_stream_is_a_source_of_a_map(self) -> None:
        self.need(self.stateful, "streams")
        async with self.make_pool() as pool:
            assert await pool.map(f.square, pool.stream(f.count, 100)) == [i * i for i in range(100)]

    async def test_a_stream_left_early_ends_with_the_pool(self, tmp_path: Path) -> None:
        self.need(self.stateful and self.shares_files, "streams")
        async with assert_nothing_left():
            async with self.make_pool() as pool:
                stream = pool.stream(f.count_and_mark, str(tmp_path / "marks"))
                assert await anext(stream) == 0

    async def test_bad_streams_are_told(self) -> None:
        self.need(self.stateful, "streams")
        async with self.make_pool() as pool:
            with raises(TypeError, "takes a generator function, not int"):
                pool.stream(3)  # type: ignore[arg-type]
            with raises(ValueError, "limit= must be a whole number of at least 1"):
                pool.stream(f.count, 3, limit=0)
            with raises(TypeError, "not iterable"):
                await anext(pool.stream(f.square, 3))  # type: ignore[arg-type]
