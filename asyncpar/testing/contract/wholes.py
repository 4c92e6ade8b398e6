"""Everything at once: every call ends exactly once, and the loop stays free."""

from __future__ import annotations

import asyncio
import itertools
import time
from functools import partial
from pathlib import Path

from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, taken, until


class WholesContract(Contract):
    """Everything at once: every call ends exactly once, and the loop stays free."""

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

    async def test_the_loop_stays_free(self, tmp_path: Path) -> None:
        """The calls end only because the loop, which is free, tells them to; and it works little meanwhile."""
        self.need(self.parallel and self.shares_files, "free loop")
        path = str(tmp_path / "held")
        async with self.make_pool() as pool:
            await pool.run(f.square, 1)
            calls = asyncio.ensure_future(pool.map(f.hold, [path] * 4))
            await until(lambda: f.lines(f"{path}.begun"))
            worked = time.thread_time()
            for _ in range(20):
                await asyncio.sleep(0.005)
            worked = time.thread_time() - worked  # the processor's time: pauses of the machine are not in it
            f.release(path)
            assert await calls == [None] * 4
        assert worked < 0.1
