"""One call: its value, its error, and how it is cancelled."""

from __future__ import annotations

import asyncio
import itertools
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import anyio

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, until


class CallsContract(Contract):
    """One call: its value, its error, and how it is cancelled."""

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

    async def test_functions_with_state_are_called_as_they_are_now(self) -> None:
        options = {"way": ""}
        function = partial(f.echo, options)
        async with self.make_pool() as pool:
            for way in ("old", "new"):
                options["way"] = way
                values: list[Any] = [await pool.run(function), *await pool.map(function, [1])]
                assert [args[0] for args, _ in values] == [{"way": way}] * 2

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

    # -- shared constants

    async def test_calls_see_the_shared_object_itself(self) -> None:
        table = asyncpar.share([1, 2, 3])
        async with self.make_pool() as pool:
            assert await pool.run(f.value_of, table) == ("list", [1, 2, 3])
            assert await pool.run(f.value_of, thing=table) == ("list", [1, 2, 3])
            got = await pool.map(f.pick, itertools.repeat(table), range(3))
            assert got == [1, 2, 3]

    # -- cancelling

    async def test_a_cancelled_call_that_has_not_started_never_runs(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "shared files")
        path, held = str(tmp_path / "marks"), str(tmp_path / "held")
        async with self.make_pool() as pool:
            on_the_loop = not (self.parallel or self.abandons)  # where a call holds up the test, too
            workers = 0 if on_the_loop else pool.workers
            busy = [asyncio.ensure_future(pool.run(f.hold, held)) for _ in range(workers)]
            await until(lambda: len(f.lines(f"{held}.begun")) == workers)
            waiting = [asyncio.ensure_future(pool.run(f.mark, path)) for _ in range(20)]
            await asyncio.sleep(0)
            for call in waiting:
                call.cancel()
            done = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(value, asyncio.CancelledError) for value in done)
            f.release(held)
            await asyncio.gather(*busy)
            assert await pool.run(f.square, 3) == 9
        assert f.lines(path) == []

    async def test_cancelling_a_running_call_frees_the_caller_and_stops_the_work(
        self, tmp_path: Path
    ) -> None:
        self.need(self.abandons and self.shares_files, "end to a call that runs")
        path = str(tmp_path / "held")
        async with self.make_pool() as pool:
            call = asyncio.ensure_future(pool.run(f.hold_and_mark, path))
            await until(lambda: f.lines(f"{path}.begun"))
            call.cancel()
            with raises(asyncio.CancelledError):
                await call
            assert f.lines(f"{path}.ended") == []
            f.release(path)  # what was not stopped goes on, and the pool waits for it
            assert await pool.run(f.square, 3) == 9
        if self.stops:
            assert f.lines(f"{path}.ended") == []

    async def test_asyncio_timeout_ends_a_call(self) -> None:
        self.need(self.abandons, "end to a call that runs")
        async with self.make_pool() as pool:
            with raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.run(f.nap, 0.3)
            assert await pool.run(f.square, 3) == 9

    async def test_an_anyio_scope_ends_a_call(self) -> None:
        self.need(self.abandons, "end to a call that runs")
        async with self.make_pool() as pool:
            with anyio.move_on_after(0.05) as scope:
                await pool.run(f.nap, 0.3)
            assert scope.cancelled_caught
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
