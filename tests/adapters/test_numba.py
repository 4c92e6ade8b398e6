"""Numba's kernels on threads: shared cores, layers that bear no two threads, compiling off the loop."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from importlib import import_module
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="needs the extra 'numba'")
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.cpus import usable_cpus  # noqa: E402
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_numba import NumbaThreadPool, compile_for  # noqa: E402
from tests import numba_kernels as kernels  # noqa: E402
from tests.programs import ROOT  # noqa: E402

pytestmark = pytest.mark.may_block  # compiling reads files
numba: Any = import_module("numba")  # its types are not for us
LAUNCHED = numba.config.NUMBA_NUM_THREADS


class TestNumbaThreadPool(PoolContract):
    stops = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do: the loop's side is ThreadPool's

    def make_pool(self):
        return NumbaThreadPool(4)


# Cores


@pytest.mark.parametrize("workers", [1, 2, 64])
async def test_the_cores_are_shared_evenly(workers):
    async with NumbaThreadPool(workers) as pool:
        seen = await pool.map(kernels.threads_and_sum, [np.ones(10)] * 8)
        share = min(LAUNCHED, max(1, usable_cpus() // workers))
        assert seen == [(share, 10.0)] * 8
        assert pool.threads_per_worker == share


async def test_the_default_is_a_thread_for_each_core():
    assert NumbaThreadPool().workers == usable_cpus()
    assert NumbaThreadPool().threads_per_worker == 1


async def test_a_number_of_threads_may_be_named_and_actors_have_it_too():
    async with NumbaThreadPool(2, threads_per_worker=1) as pool:
        assert await pool.run(numba.get_num_threads) == 1
        async with pool.actor(kernels.Summer) as summer:
            assert await summer.run(kernels.Summer.threads) == 1


async def test_threads_of_the_program_keep_their_own_number():
    async with NumbaThreadPool(2, threads_per_worker=1) as pool:
        await pool.run(kernels.threads_and_sum, np.ones(10))
        assert numba.get_num_threads() == LAUNCHED


async def test_more_threads_than_numba_has_is_an_error_that_says_where_they_come_from():
    with pytest.raises(
        ValueError,
        match=rf"^threads_per_worker={LAUNCHED + 1} is more than the {LAUNCHED} threads that numba was started with: "
        "set NUMBA_NUM_THREADS in the environment before numba is imported$",
    ):
        async with NumbaThreadPool(1, threads_per_worker=LAUNCHED + 1):
            pass


@pytest.mark.parametrize(
    ("threads", "error", "words"),
    [
        (0, ValueError, r"threads_per_worker= must be at least 1, not 0"),
        (1.5, TypeError, r"threads_per_worker= must be a whole number, not float"),
        (True, TypeError, r"threads_per_worker= must be a whole number, not bool"),
    ],
)
def test_a_senseless_number_of_threads(threads, error, words):
    with pytest.raises(error, match=words):
        NumbaThreadPool(1, threads_per_worker=threads)


def test_the_pool_is_found_by_name():
    assert isinstance(asyncpar.open_pool("numba", workers=3), NumbaThreadPool)


# What runs beside what


@pytest.mark.parametrize("kernel", [kernels.meet, kernels.meet_in_parallel], ids=["serial", "parallel"])
async def test_kernels_run_side_by_side(kernel):
    """Each of two waits for the other. Parallel ones may, on layers that bear it; numba takes such a one if it can."""
    if numba.threading_layer() == "workqueue":
        pytest.skip("no machine here: neither OpenMP nor TBB is installed")
    flags = kernels.Flags(0, 0)
    async with NumbaThreadPool(2) as pool:
        await asyncio.gather(
            pool.run(kernel, flags.first, flags.second), pool.run(kernel, flags.second, flags.first)
        )
    assert flags[0]
    assert flags[1]


PARALLEL = """
    import asyncio, sys, warnings
    import numpy as np
    import asyncpar
    from asyncpar_numba import NumbaThreadPool
    from tests import numba_kernels as kernels

    def by_name(array):
        return kernels.sum_squares(array)

    async def main():
        arrays = [np.ones(100_000)] * {many}
        async with {pool} as pool:
            {before}
            for function in (kernels.sum_squares, kernels.rooted, by_name):
                await pool.map(function, arrays, chunksize=1)
            {after}
        print("all", len(arrays))

    asyncpar.run(main)
"""


def run_on_workqueue(
    pool: str, before: str = "", after: str = "", many: int = 100
) -> subprocess.CompletedProcess[str]:
    """Run many parallel kernels from two threads, where numba has no other layer."""
    program = textwrap.dedent(PARALLEL).format(pool=pool, before=before, after=after, many=many)
    environment = os.environ | {
        "NUMBA_THREADING_LAYER": "workqueue",
        "NUMBA_NUM_THREADS": "2",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}",
    }
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )


def test_on_workqueue_two_threads_with_parallel_kernels_end_the_process():
    """What the pool is for: numba aborts on a plain ThreadPool."""
    done = run_on_workqueue("asyncpar.ThreadPool(2)", many=20_000)  # the first two that meet end it
    assert done.returncode == -signal.SIGABRT
    assert "Concurrent access has been detected" in done.stderr


def test_on_workqueue_the_pool_lets_parallel_kernels_wait_for_each_other():
    """Whether they are passed, or called by another kernel or by Python; and says so."""
    done = run_on_workqueue("NumbaThreadPool(2)")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all 100\n"
    assert (
        "RuntimeWarning: numba has only its threading layer 'workqueue' here, which ends the process when two threads "
        "run parallel kernels at once, so this pool runs them one at a time. Install OpenMP (Debian: apt install "
        "libgomp1), and leave NUMBA_THREADING_LAYER alone" in done.stderr
    )


def test_on_workqueue_kernels_without_a_parallel_loop_run_side_by_side():
    compiled = "flags = kernels.Flags(1, 1); await pool.run(kernels.meet, flags.first, flags.second)"
    met = (
        "flags = kernels.Flags(0, 0); each = flags.first, flags.second;"
        " await pool.map(kernels.meet, each, each[::-1], chunksize=1)"
    )
    done = run_on_workqueue("NumbaThreadPool(2)", compiled, met)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all 100\n"


def test_on_workqueue_one_worker_needs_no_warning():
    done = run_on_workqueue("NumbaThreadPool(1)")
    assert done.returncode == 0
    assert done.stderr == ""


# Compiling


def doubled(array):
    for i in range(array.size):
        array[i] *= 2


async def test_a_kernel_is_compiled_off_the_loop_and_not_run():
    kernel = numba.njit(nogil=True)(doubled)
    array = np.ones(3)
    ticks = 0
    async with NumbaThreadPool(1) as pool:
        compiling = asyncio.ensure_future(pool.run(compile_for, kernel, array))
        while not compiling.done():
            await asyncio.sleep(0.001)
            ticks += 1
        await compiling
        assert kernel.signatures == [(numba.typeof(array),)]
        assert array.tolist() == [1, 1, 1]
        await pool.run(kernel, array)
    assert len(kernel.signatures) == 1
    assert array.tolist() == [2, 2, 2]
    assert ticks > 1


async def test_what_does_not_compile_is_numbas_own_error():
    async with NumbaThreadPool(1) as pool:
        with pytest.raises(numba.TypingError, match="size"):
            await pool.run(compile_for, numba.njit(nogil=True)(doubled), 1)


async def test_only_kernels_can_be_compiled():
    async with NumbaThreadPool(1) as pool:
        with pytest.raises(
            TypeError,
            match=r"^compile_for\(\) takes a function that numba.njit made, not function: decorate it$",
        ):
            await pool.run(compile_for, doubled, 1)
