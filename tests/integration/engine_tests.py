"""What every pool on an engine does beyond the contract, as a class of tests to inherit from.

Functions of the tests are made inside them: they travel by value, and the workers need not find this module.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

import asyncpar
from asyncpar.testing import functions as f

LARGE = 100_000  # bytes, more than what travels inside a pickle


class Unloadable:
    """Pickles here, and cannot be unpickled anywhere."""

    def __reduce__(self):
        return f.fail, (1,)


class EngineTests:
    """Define ``make_pool``."""

    async def test_what_cannot_travel_fails_alone(self):
        def treat(x):
            import threading

            return threading.Lock() if x == 4 else x

        items = [1, threading.Lock(), 3, 4, Unloadable(), 6, 7]
        async with self.make_pool() as pool:
            for chunksize in (1, 7):
                got = await pool.map(treat, items, chunksize=chunksize, return_exceptions=True)
                assert [x for x in got if isinstance(x, int)] == [1, 3, 6, 7]
                assert [str(got[i]).partition(":")[0] for i in (1, 3, 4)] == [
                    f"argument 1 of {treat.__module__}.{treat.__qualname__} cannot be pickled",
                    "the result, a lock, cannot be pickled",
                    "an argument cannot be unpickled in the worker",
                ]
                assert all(isinstance(got[i], asyncpar.SerializationError) for i in (1, 3, 4))

    async def test_a_function_that_cannot_travel_is_named(self):
        lock = threading.Lock()

        def treat(x):
            return lock, x

        async with self.make_pool() as pool:
            with pytest.raises(asyncpar.SerializationError, match="treat"):
                await pool.run(treat, 1)
            with pytest.raises(asyncpar.SerializationError, match="treat"):
                await pool.map(treat, [1, 2])
            assert await pool.run(f.square, 3) == 9

    async def test_large_arrays_arrive_read_only_on_both_sides(self):
        def look(array):
            return array.flags.writeable, int(array.sum()), array

        async with self.make_pool() as pool:
            for size, writable in ((10, True), (LARGE, False), (2 << 20, False)):
                there, total, back = await pool.run(look, np.ones(size, np.uint8))
                assert (there, total, back.flags.writeable) == (writable, size, writable)
                assert int(back.sum()) == size
            [copied] = await pool.map(lambda array: array.copy() + 1, [np.ones(LARGE)])
            assert copied.sum() == 2 * LARGE

    async def test_a_shared_object_is_there_once_for_each_worker(self):
        def look(array, _):
            import os

            return os.getpid(), id(array), array.flags.writeable, int(array.sum())

        table = asyncpar.share(np.ones(LARGE, np.uint8))
        async with self.make_pool() as pool:
            seen = await pool.map(lambda pair, x: look(pair[0], x), [(table,)] * 20, range(20), chunksize=2)
            assert {total for _, _, _, total in seen} == {LARGE}
            assert len({(pid, place) for pid, place, _, _ in seen}) == len({pid for pid, _, _, _ in seen})
            assert len(pool._constants) == 1
            del table
            gc.collect()
            assert not pool._constants

    async def test_a_killed_worker_costs_the_call_it_ran_and_nothing_runs_twice(self, tmp_path: Path):
        path = str(tmp_path / "marks")

        def die(x):
            import os

            if x == 3:
                f.mark(path)
                os.kill(os.getpid(), 9)
            return x

        async with self.make_pool() as pool:
            got = await pool.map(die, range(8), chunksize=1, limit=2, return_exceptions=True)
            assert [x for x in got if isinstance(x, int)] == [0, 1, 2, 4, 5, 6, 7]
            assert isinstance(got[3], asyncpar.WorkerLostError)
            assert got[3].function.endswith("die")
            assert str(got[3]).endswith("the pool goes on; run it again with retries= if that is safe")
            assert pool.statistics().lost == 1
            assert await pool.map(f.square, range(50)) == [x * x for x in range(50)]
        assert len(f.lines(path)) == 1

    async def test_a_killed_worker_costs_its_chunk_which_the_error_says(self):
        def die(x):
            import os

            if x == 3:
                os.kill(os.getpid(), 9)
            return x

        async with self.make_pool() as pool:
            got = await pool.map(die, range(6), chunksize=6, return_exceptions=True)
            assert all(isinstance(x, asyncpar.WorkerLostError) for x in got)
            assert "it was one of the 6 calls that travelled together, and any may have run" in str(got[0])

    async def test_what_was_lost_runs_again_if_the_caller_says_so(self, tmp_path: Path):
        path = str(tmp_path / "marks")

        def die_once(x):
            import os

            if f.mark(path) == 1:
                os.kill(os.getpid(), 9)
            return x

        async with self.make_pool() as pool:
            assert await pool.map(die_once, [7], retries=2) == [7]
        assert len(f.lines(path)) == 2

    async def test_a_worker_killed_from_outside(self, tmp_path: Path):
        path = tmp_path / "pid"

        def tell_and_nap():
            import os

            path.write_text(str(os.getpid()))
            f.nap(30)

        async with self.make_pool() as pool:
            call = asyncio.ensure_future(pool.run(tell_and_nap))
            while not path.exists() or not path.read_text():
                await asyncio.sleep(0.01)
            os.kill(int(path.read_text()), signal.SIGKILL)
            with pytest.raises(
                asyncpar.WorkerLostError, match=r"while it ran .*tell_and_nap; the pool goes on"
            ):
                await call
            assert await pool.run(f.square, 3) == 9

    async def test_bad_numbers_of_workers_are_told(self):
        kind = type(self.make_pool())
        for workers, error, words in ((0, ValueError, "at least 1"), (True, TypeError, "not bool")):
            with pytest.raises(error, match=f"workers= must be .*{words}"):
                kind(workers=workers)
