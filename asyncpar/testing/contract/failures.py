"""Maps whose calls or source fail, take too long, or are asked for wrongly."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial
from pathlib import Path
from typing import Any

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises


class FailuresContract(Contract):
    """Maps whose calls or source fail, take too long, or are asked for wrongly."""

    # -- map: errors

    async def test_an_error_is_raised_after_the_results_before_it(self) -> None:
        source = Source()
        got = []
        async with self.make_pool() as pool:
            results = pool.map(partial(f.fail_on, 30), source.sync(), limit=16)
            with raises(ValueError, "no 30"):
                async for value in results:
                    got.append(value)
            assert got == list(range(30))
            assert source.closed
            assert results.statistics().in_flight == 0
            assert [x async for x in results] == []
            assert await pool.run(f.square, 3) == 9

    async def test_awaiting_a_map_raises_its_first_error(self) -> None:
        async with self.make_pool() as pool:
            with raises(ValueError, "no 3"):
                await pool.map(partial(f.fail_on, 3), range(1000))

    async def test_return_exceptions_hands_errors_out_in_place(self) -> None:
        async with self.make_pool() as pool:
            got = await pool.map(partial(f.fail_on, 2), range(5), return_exceptions=True)
        assert [x if isinstance(x, int) else type(x) for x in got] == [0, 1, ValueError, 3, 4]

    async def test_an_error_in_the_source_comes_after_the_results_before_it(self) -> None:
        async with self.make_pool() as pool:
            for kind, ordered in itertools.product(("sync", "async"), (True, False)):
                source = Source(20, OSError("the source broke"))
                got = []
                with raises(OSError, "the source broke"):
                    async for value in pool.map(f.square, source.open(kind), limit=8, ordered=ordered):
                        got.append(value)
                assert sorted(got) == [i * i for i in range(20)]
                assert source.closed

    async def test_an_error_in_the_source_is_never_a_result(self) -> None:
        async with self.make_pool() as pool:
            with raises(OSError, "the source broke"):
                await pool.map(
                    f.square, Source(3, OSError("the source broke")).sync(), return_exceptions=True
                )

    async def test_two_readers_of_one_results_are_told(self) -> None:
        self.need(self.parallel, "parallel work")
        async with self.make_pool() as pool, pool.map(f.nap, itertools.repeat(0.02), limit=1) as results:
            first = asyncio.ensure_future(anext(results))
            await asyncio.sleep(0)
            with raises(RuntimeError, "read by another task"):
                await anext(results)
            assert await first == 0.02

    # -- map: timeouts and retries

    # A call that is to end in time does next to nothing, on a worker that knows it: only a pause of the machine within
    # these microseconds could make it late.

    async def test_a_timeout_fails_only_the_call_that_was_too_long(self, tmp_path: Path) -> None:
        self.need(self.abandons and self.shares_files, "end to a call that runs")
        path = str(tmp_path / "held")
        async with self.make_pool() as pool:
            hold_one = partial(f.hold_if, path, 1)
            await pool.map(hold_one, [0] * 2 * pool.workers)
            results = pool.map(hold_one, range(3), timeout=0.3, return_exceptions=True)
            got = []
            async for value in results:
                got.append(value)
                if len(got) == 2:
                    f.release(path)  # what cannot be stopped comes to its end, and so makes room
            assert [got[0], got[2]] == [0, 2]
            assert isinstance(got[1], asyncpar.CallTimeoutError)
            assert isinstance(got[1], TimeoutError)
            assert "hold_if ran longer than timeout=0.3 seconds" in str(got[1])
            assert await pool.run(f.square, 3) == 9

    async def test_run_within_stops_a_call_that_is_too_long(self, tmp_path: Path) -> None:
        self.need(self.abandons and self.shares_files, "end to a call that runs")
        path = str(tmp_path / "held")
        async with self.make_pool() as pool:
            with raises(asyncpar.CallTimeoutError) as caught:
                await pool.run_within(0.1, f.hold, path)
            f.release(path)
            assert "hold ran longer than timeout=0.1 seconds" in str(caught.value)
            assert await pool.run(f.square, 3) == 9

    async def test_run_within_counts_from_the_start_of_a_call(self) -> None:
        async with self.make_pool() as pool:
            await pool.map(f.square, range(2 * pool.workers))
            before = [asyncio.ensure_future(pool.run(f.nap, 0.4)) for _ in range(pool.workers)]
            await asyncio.sleep(0)
            behind = [pool.run_within(0.3, f.square, x) for x in range(6)]  # they wait for longer than that
            assert await asyncio.gather(*behind) == [x * x for x in range(6)]
            await asyncio.gather(*before)

    async def test_a_timeout_counts_from_the_start_of_a_call(self) -> None:
        async with self.make_pool() as pool:
            await pool.map(f.square, range(2 * pool.workers))
            before = [asyncio.ensure_future(pool.run(f.nap, 0.4)) for _ in range(pool.workers)]
            await asyncio.sleep(0)
            assert await pool.map(f.square, range(6), timeout=0.3) == [x * x for x in range(6)]
            await asyncio.gather(*before)

    async def test_retries_repeat_what_the_caller_named(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            results = pool.map(f.flaky, [path], [2], retries=3, retry_on=ConnectionError)
            assert await results == ["done"]
            assert results.statistics().retried == 2
        assert len(f.lines(path)) == 3

    async def test_retries_end(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            with raises(ConnectionError, "try again"):
                await pool.map(f.flaky, [path], [10], retries=2, retry_on=(KeyError, OSError))
        assert len(f.lines(path)) == 3

    async def test_nothing_is_run_twice_unasked(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        async with self.make_pool() as pool:
            for keywords in ({}, {"retries": 5}, {"retries": 5, "retry_on": KeyError}):
                path = str(tmp_path / f"marks{len(keywords)}")
                with raises(ConnectionError):
                    await pool.map(f.flaky, [path], [10], **keywords)  # type: ignore[arg-type]
                assert len(f.lines(path)) == 1

    async def test_repeated_calls_keep_the_order(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        async with self.make_pool() as pool:
            for ordered in (True, False):
                paths = [str(tmp_path / f"{ordered}{i}") for i in range(6)]
                results = pool.map(
                    f.flaky_position,
                    paths,
                    range(6),
                    ordered=ordered,
                    retries=2,
                    retry_on=ConnectionError,
                    limit=3,
                )
                got = await results
                assert (got if ordered else sorted(got)) == [0, 1, 2, 3, 4, 5]

    # -- bad input

    async def test_bad_input_is_told_at_the_call(self) -> None:
        bad: list[tuple[type[Exception], str, dict[str, Any]]] = [
            (ValueError, "limit= must be at least 1, not 0", {"limit": 0}),
            (ValueError, "limit= must be at least 1, not -3", {"limit": -3}),
            (TypeError, "limit= must be a whole number, not float", {"limit": 2.5}),
            (TypeError, "limit= must be a whole number, not bool", {"limit": True}),
            (ValueError, "timeout= must be more than 0", {"timeout": 0}),
            (TypeError, "timeout= must be a number of seconds, not str", {"timeout": "1"}),
            (ValueError, "retries= must be at least 0", {"retries": -1}),
            (ValueError, "chunksize= must be at least 1", {"chunksize": 0}),
            (TypeError, "retry_on= takes exception classes", {"retry_on": "ValueError"}),
            (TypeError, "rate= takes a RateLimiter", {"rate": 10}),
        ]
        async with self.make_pool() as pool:
            for error, words, keywords in bad:
                with raises(error, words):
                    _ = pool.map(f.square, [1], **keywords)
            with raises(TypeError, "must be callable, not int: pass the function itself"):
                _ = pool.map(3, [1])  # type: ignore[arg-type]
            with raises(TypeError, "map needs at least one iterable"):
                _ = pool.map(f.square)
            with raises(TypeError, "argument 3 of map must be an iterable or async iterable, not int"):
                _ = pool.map(f.add, [1], 2)  # type: ignore[arg-type]
            with raises(TypeError, "must be callable, not NoneType: pass the function itself"):
                await pool.run(None)  # type: ignore[call-overload]
            with raises(TypeError, "must be callable, not str: pass the function itself"):
                await pool.reduce("add", [1, 2])  # type: ignore[arg-type]
            assert await pool.run(f.square, 3) == 9
