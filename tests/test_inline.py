"""The inline pool, beyond the contract: this thread, one at a time, in order."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from asyncpar import InlinePool


async def test_calls_run_in_this_thread():
    async with InlinePool() as pool:
        assert await pool.run(threading.get_ident) == threading.get_ident()


async def test_calls_run_one_at_a_time_in_order():
    seen = []

    async def step(n: int) -> None:
        seen.append((n, "in"))
        await asyncio.sleep(0)
        seen.append((n, "out"))

    async with InlinePool() as pool:
        await asyncio.gather(*[pool.run(step, n) for n in range(4)])
    assert seen == [(n, way) for n in range(4) for way in ("in", "out")]


async def test_an_async_function_runs_on_this_loop_and_can_be_cancelled():
    started, stopped = asyncio.Event(), []

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            stopped.append(asyncio.get_running_loop())

    async with InlinePool() as pool:
        call = asyncio.ensure_future(pool.run(wait))
        await started.wait()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert stopped == [asyncio.get_running_loop()]
        assert await pool.run(int) == 0


async def test_an_async_call_is_ended_by_close():
    async with InlinePool() as pool:
        call = asyncio.ensure_future(pool.run(asyncio.sleep, 30))
        await asyncio.sleep(0.01)
    await asyncio.wait([call])
    assert type(call.exception()).__name__ == "PoolClosedError"


async def test_a_map_is_deterministic():
    seen = []
    async with InlinePool() as pool:
        await pool.map(seen.append, range(100), ordered=False)
    assert seen == list(range(100))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("verb", ["run", "map"])
def test_ctrl_c_in_a_call_ends_the_program(verb, loop):
    ran = []

    def interrupted(n: int) -> None:
        ran.append(n)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the first only cancels the main function
        for _ in range(1000):
            pass

    async def main() -> None:
        async with InlinePool() as pool:
            if verb == "run":
                await asyncio.gather(*[pool.run(interrupted, n) for n in range(3)])
            else:
                await pool.map(interrupted, range(3))

    with (
        pytest.raises(KeyboardInterrupt),
        asyncio.Runner(loop_factory=pytest.importorskip(loop).new_event_loop) as runner,
    ):
        runner.run(main())
    assert ran == [0]
