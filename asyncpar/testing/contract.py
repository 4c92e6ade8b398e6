"""The contract: what every pool promises, as a class of tests to inherit from."""

from __future__ import annotations

import asyncio
import itertools
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpar
from asyncpar.pool import Pool
from asyncpar.results import Results
from asyncpar.testing import functions as f
from asyncpar.testing.traces import assert_nothing_left

T = TypeVar("T")


class Source:
    """A source of a map that tells how far it was read, and whether it was closed."""

    def __init__(self, end: int | None = None, error: Exception | None = None) -> None:
        self.end, self.error = end, error
        self.read = 0
        self.closed = False

    def sync(self) -> Iterator[int]:
        """The numbers from 0, as a generator."""
        try:
            while self.end is None or self.read < self.end:
                self.read += 1
                yield self.read - 1
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    async def asynchronous(self) -> AsyncIterator[int]:
        """The numbers from 0, as an async generator."""
        try:
            for n in self.sync():
                if n % 3 == 0:
                    await asyncio.sleep(0)
                yield n
        finally:
            await asyncio.sleep(0)
            self.closed = True

    def open(self, kind: str) -> Any:
        """``"sync"`` or ``"async"``."""
        return self.sync() if kind == "sync" else self.asynchronous()


def raises(error: type[BaseException] | tuple[type[BaseException], ...], match: str = "") -> Any:
    """``pytest.raises``, imported when a test runs: this module does not need pytest."""
    import pytest

    return pytest.raises(error, match=match or None)


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until something is true; fail if it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


async def taken(results: Results[T], n: int) -> list[T]:
    """The next ``n`` results."""
    return [await anext(results) for _ in range(n)]


class PoolContract:
    """Inherit from this, name the class ``Test...``, define ``make_pool``; pytest collects the rest.

    Async tests need ``anyio_mode = "auto"`` in pytest's settings (or asyncio_mode of pytest-asyncio). For readable
    assertions, call ``pytest.register_assert_rewrite("asyncpar.testing.contract")`` before the import.

    :cvar stops: whether a call that runs can be stopped, and so a timeout ends it
    :cvar abandons: whether the caller of a call that runs is freed by a timeout or cancellation
    :cvar parallel: whether several calls run at the same time
    :cvar shares_files: whether workers see this machine's files; tests that count calls need it
    :cvar stateful: whether the pool has actors and streams
    """

    stops = True
    abandons = True
    parallel = True
    shares_files = True
    stateful = True

    def make_pool(self) -> Pool:
        """A new pool, with at least two workers if it is parallel, not opened."""
        raise NotImplementedError("define make_pool() in the test class")

    def need(self, feature: bool, what: str) -> None:
        """Skip a test of what this kind of pool does not promise."""
        if not feature:
            import pytest

            pytest.skip(f"no machine here: this pool promises no {what}")

    # -- one call

    async def test_run_returns_the_value(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.run(f.square, 7) == 49
            assert await pool.run(pow, 2, 10) == 1024

    async def test_run_passes_every_argument(self) -> None:
        async with self.make_pool() as pool:
            got = await pool.run(f.echo, 1, "two", None, limit=3, timeout=4, function=5)
        assert tuple(got) == ((1, "two", None), {"limit": 3, "timeout": 4, "function": 5})

    async def test_run_takes_partials_methods_and_classes(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.run(partial(f.add, 1), 2) == 3
            assert await pool.run("a-b".split, "-") == ["a", "b"]
            assert await pool.run(complex, 1, 2) == 1 + 2j

    async def test_run_awaits_async_functions(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.run(f.square_async, 5) == 25

    async def test_many_calls_at_once_each_get_their_own_value(self) -> None:
        async with self.make_pool() as pool:
            values = await asyncio.gather(*[pool.run(f.square, i) for i in range(300)])
        assert values == [i * i for i in range(300)]

    async def test_run_can_be_gathered_with_other_awaitables(self) -> None:
        async with self.make_pool() as pool:
            assert await asyncpar.gather(pool.run(f.square, 3), asyncio.sleep(0, "slept")) == [9, "slept"]

    async def test_calls_of_more_functions_than_a_pool_remembers(self) -> None:
        async with self.make_pool() as pool:
            got = [await pool.run(partial(f.add, i), 1) for i in (0, 1, 2)]
            got += [await pool.run(partial(f.add, i), 1) for i in (0, 1, 2)]
        assert got == [1, 2, 3, 1, 2, 3]

    # -- errors are the user's own

    async def test_an_error_is_raised_as_itself_with_the_workers_traceback(self) -> None:
        async with self.make_pool() as pool:
            with raises(ValueError) as caught:
                await pool.run(f.fail, 3)
            assert str(caught.value) == "no 3"
            assert "in fail" in "".join(traceback.format_exception(caught.value))
            assert await pool.run(f.square, 2) == 4

    async def test_an_error_keeps_attributes_and_causes(self) -> None:
        async with self.make_pool() as pool:
            with raises(f.ContractError, "it was missing") as caught:
                await pool.run(f.fail_because, "key")
        assert (caught.value.code, caught.value.reason) == (7, "it was missing")
        assert isinstance(caught.value.__cause__, KeyError)

    async def test_errors_that_would_stop_a_loop_arrive_as_runtime_errors(self) -> None:
        async with self.make_pool() as pool:
            with raises(RuntimeError, "raised StopIteration: enough"):
                await pool.run(f.stop_iteration)
            with raises((RuntimeError, asyncpar.WorkerLostError), "raised SystemExit: 3|exited with code 3"):
                await pool.run(f.leave_program)  # a worker process may take it at its word
            assert await pool.run(f.square, 2) == 4

    async def test_such_errors_in_a_map_do_not_end_it_quietly(self) -> None:
        async with self.make_pool() as pool:
            with raises(RuntimeError, "StopIteration"):
                await pool.map(f.call_it, [f.stop_iteration])
            with raises((RuntimeError, asyncpar.WorkerLostError), "SystemExit|exited with code 3"):
                await pool.map(f.call_it, [f.leave_program])

    async def test_one_error_does_not_touch_other_calls(self) -> None:
        async with self.make_pool() as pool:
            calls = [pool.run(f.fail_on, 50, i) for i in range(100)]
            values = await asyncio.gather(*calls, return_exceptions=True)
        assert [v for v in values if not isinstance(v, int)] == [values[50]]
        assert isinstance(values[50], ValueError)

    # -- open and closed

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
            calls = [asyncio.ensure_future(pool.run(f.nap, 0.2)) for _ in range(10)]
            await asyncio.sleep(0.02)
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert all(value == 0.2 or isinstance(value, asyncpar.PoolClosedError) for value in done)
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

    # -- cancelling

    async def test_a_cancelled_call_that_has_not_started_never_runs(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            busy = [asyncio.ensure_future(pool.run(f.nap, 0.1)) for _ in range(pool.workers)]
            await asyncio.sleep(0.02)
            waiting = [asyncio.ensure_future(pool.run(f.mark, path)) for _ in range(20)]
            await asyncio.sleep(0)
            for call in waiting:
                call.cancel()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(value, asyncio.CancelledError) for value in done)
            await asyncio.gather(*busy)
            assert await pool.run(f.square, 3) == 9
        assert f.lines(path) == []

    async def test_cancelling_a_running_call_frees_the_caller_and_stops_the_work(
        self, tmp_path: Path
    ) -> None:
        self.need(self.abandons, "end to a call that runs")
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            call = asyncio.ensure_future(pool.run(f.nap_and_mark, path, 0.6))
            await asyncio.sleep(0.1)
            began = time.monotonic()
            call.cancel()
            with raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - began < 0.4
            assert await pool.run(f.square, 3) == 9
            if self.stops and self.shares_files:
                await asyncio.sleep(0.6)
                assert f.lines(path) == []

    async def test_asyncio_timeout_ends_a_call(self) -> None:
        self.need(self.abandons, "end to a call that runs")
        async with self.make_pool() as pool:
            with raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.run(f.nap, 0.3)
            assert await pool.run(f.square, 3) == 9

    async def test_cancelling_some_of_many_calls(self) -> None:
        async with self.make_pool() as pool:
            calls = [asyncio.ensure_future(pool.run(f.nap, 0.002)) for _ in range(60)]
            await asyncio.sleep(0.01)
            for call in calls[::3]:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            kept = [value for i, value in enumerate(done) if i % 3]
            assert kept == [0.002] * 40
            assert all(isinstance(value, asyncio.CancelledError) or value == 0.002 for value in done[::3])

    async def test_cancelling_the_reader_of_a_map_stops_it(self) -> None:
        source = Source()
        async with self.make_pool() as pool:

            async def read() -> None:
                async with pool.map(f.square, source.asynchronous(), limit=8) as results:
                    async for _ in results:
                        await asyncio.sleep(0)

            task = asyncio.ensure_future(read())
            await until(lambda: source.read > 20)
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            assert source.closed
            at = source.read
            await asyncio.sleep(0.02)
            assert source.read == at
            assert await pool.run(f.square, 3) == 9

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

    async def test_unordered_map_gives_results_as_calls_finish(self) -> None:
        self.need(self.parallel, "parallel work")
        async with self.make_pool() as pool:
            got = [x async for x in pool.map(f.nap, [0.5, 0.0, 0.0], ordered=False)]
        assert got == [0.0, 0.0, 0.5]

    async def test_unordered_map_gives_every_result_once(self) -> None:
        async with self.make_pool() as pool:
            got = await pool.map(f.square, range(1000), ordered=False, limit=64)
            assert sorted(got) == [i * i for i in range(1000)]

    async def test_calls_run_at_the_same_time(self) -> None:
        self.need(self.parallel, "parallel work")
        async with self.make_pool() as pool:
            await pool.map(f.nap, [0.01] * pool.workers)
            (a, b), (c, d) = await pool.map(f.span, [0.2, 0.2])
        assert max(a, c) < min(b, d)

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
            async with asyncio.timeout(2):
                assert await pool.run(f.square, 3) == 9

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
            spans = await pool.map(f.span, [0.0] * 5, rate=asyncpar.RateLimiter(1, per=0.05))
            assert time.monotonic() - began >= 0.18
        starts = sorted(start for start, _ in spans)
        assert starts[-1] - starts[0] >= 0.14

    # -- map: bounds

    async def test_the_source_is_never_read_further_ahead_than_the_limit(self) -> None:
        async with self.make_pool() as pool:
            for kind, ordered, limit in itertools.product(("sync", "async"), (True, False), (1, 3, 64)):
                source = Source(150)
                got = 0
                async with pool.map(f.square, source.open(kind), limit=limit, ordered=ordered) as results:
                    async for _ in results:
                        assert source.read - got <= limit, (kind, ordered, limit)
                        got += 1
                        if got % 50 == 1:
                            await asyncio.sleep(0.002)
                            assert source.read - got <= limit, (kind, ordered, limit)
                assert got == 150

    async def test_a_slow_consumer_holds_the_source_back(self) -> None:
        async with self.make_pool() as pool:
            for kind in ("sync", "async"):
                source = Source()
                async with pool.map(f.square, source.open(kind), limit=10) as results:
                    await anext(results)
                    await asyncio.sleep(0.05)
                    assert source.read <= 11
                    await taken(results, 30)
                    await asyncio.sleep(0.02)
                    assert source.read <= 41

    async def test_in_flight_and_unread_never_exceed_the_limit(self) -> None:
        async with self.make_pool() as pool, pool.map(f.square, range(2000), limit=32) as results:
            assert results.statistics().limit == 32
            async for _ in results:
                now = results.statistics()
                assert now.in_flight >= 0 <= now.unread
                assert now.in_flight + now.unread <= 32
            end = results.statistics()
        assert (end.read, end.finished, end.taken, end.in_flight, end.unread) == (2000, 2000, 2000, 0, 0)

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

    async def test_a_timeout_fails_only_the_call_that_was_too_long(self) -> None:
        self.need(self.abandons, "end to a call that runs")
        async with self.make_pool() as pool:
            got = await pool.map(f.nap, [0.0, 0.8, 0.0], timeout=0.1, return_exceptions=True)
            assert [got[0], got[2]] == [0.0, 0.0]
            assert isinstance(got[1], asyncpar.CallTimeoutError)
            assert isinstance(got[1], TimeoutError)
            assert "nap ran longer than timeout=0.1 seconds" in str(got[1])
            assert await pool.run(f.square, 3) == 9

    async def test_a_timeout_counts_from_the_start_of_a_call(self) -> None:
        async with self.make_pool() as pool:
            assert await pool.map(f.nap, [0.05] * 10, timeout=0.4) == [0.05] * 10

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
            task = asyncio.ensure_future(pool.reduce(f.slow_add, source.asynchronous()))
            await asyncio.sleep(0.2)
            assert source.read < 5000
            task.cancel()
            with raises(asyncio.CancelledError):
                await task
            assert source.closed

    # -- shared constants

    async def test_calls_see_the_shared_object_itself(self) -> None:
        table = asyncpar.share([1, 2, 3])
        async with self.make_pool() as pool:
            assert await pool.run(f.value_of, table) == ("list", [1, 2, 3])
            assert await pool.run(f.value_of, thing=table) == ("list", [1, 2, 3])
            got = await pool.map(f.pick, itertools.repeat(table), range(3))
            assert got == [1, 2, 3]

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

    # -- every call ends exactly once

    async def test_statistics_count_every_call(self) -> None:
        async with self.make_pool() as pool:
            assert isinstance(pool.workers, int)
            await pool.map(f.square, range(100))
            await asyncio.gather(*[pool.run(f.square, i) for i in range(10)])
            now = pool.statistics()
            assert (now.workers, now.running, now.queued, now.completed, now.lost) == (
                pool.workers,
                0,
                0,
                110,
                0,
            )
            with raises(AttributeError):
                now.lost = 1  # type: ignore[misc]

    async def test_every_call_of_a_tumult_ends_as_it_should(self) -> None:
        """Maps, calls, errors and cancellations at once: all end, with what is theirs."""

        async def one(i: int) -> None:
            if i % 5 == 0:
                with raises(ValueError, f"no {i}"):
                    await pool.run(f.fail, i)
            elif i % 5 == 1:
                assert await pool.map(f.square, range(i)) == [x * x for x in range(i)]
            elif i % 5 == 2:
                async with pool.map(f.square, itertools.count(i), limit=7) as results:
                    assert await taken(results, 3) == [i**2, (i + 1) ** 2, (i + 2) ** 2]
            elif i % 5 == 3:
                with raises(ValueError, "no 3"):
                    await pool.map(partial(f.fail_on, 3), Source().asynchronous(), limit=5)
            else:
                assert await pool.reduce(f.add, range(i)) == sum(range(i))

        async with self.make_pool() as pool:
            tasks = [asyncio.ensure_future(one(i)) for i in range(60)]
            await asyncio.sleep(0.01)
            for task in tasks[7::11]:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert [e for e in ends if e is not None and not isinstance(e, asyncio.CancelledError)] == []
            await until(lambda: pool.statistics().running == pool.statistics().queued == 0)
            assert await pool.run(f.square, 3) == 9

    async def test_the_loop_stays_free(self) -> None:
        self.need(self.parallel, "free loop")
        late = 0.0

        async def tick() -> None:
            nonlocal late
            while True:
                began = time.perf_counter()
                await asyncio.sleep(0.005)
                late = max(late, time.perf_counter() - began - 0.005)

        async with self.make_pool() as pool, asyncio.TaskGroup() as group:
            await pool.run(f.square, 1)
            ticker = group.create_task(tick())
            await pool.map(f.nap, [0.05] * 4)
            ticker.cancel()
        assert late < 0.05
