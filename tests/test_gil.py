"""Compiled functions that keep the GIL: a thread pool warns of them, at the line that passed them."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("numba", reason="needs the extra 'numba'")

import asyncpar
from asyncpar import ThreadPool
from tests import numba_kernels as kernels

pytestmark = pytest.mark.may_block  # compiling reads files
WORDS = (
    r"^numba compiled tests\.numba_kernels\.meet_holding_the_gil to keep the GIL, so that the event loop stands still "
    r"while it runs in a thread: write @njit\(nogil=True\), or run it on a ProcessPool$"
)


@pytest.fixture
def ended():
    """Flags of a kernel that is to return at once."""
    return kernels.Flags(0, 1)


@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "partial"])
async def test_a_kernel_that_keeps_the_gil_is_warned_of_where_it_is_passed(ended, wrapped):
    kernel, args = kernels.meet_holding_the_gil, [ended.first, ended.second]
    async with ThreadPool(1) as pool:
        with pytest.warns(RuntimeWarning, match=WORDS) as caught:
            await pool.run(functools.partial(kernel, ended.first) if wrapped else kernel, *args[wrapped:])
        assert caught[0].filename == __file__


async def test_the_warning_of_a_map_names_the_callers_line_too(ended):
    async with ThreadPool(1) as pool:
        with pytest.warns(RuntimeWarning, match=WORDS) as caught:
            await pool.map(kernels.meet_holding_the_gil, [ended.first], [ended.second])
        assert caught[0].filename == __file__


async def test_the_short_form_warns(ended):
    async with asyncpar.open_runtime():
        with pytest.warns(RuntimeWarning, match=WORDS):
            await asyncpar.to_thread(kernels.meet_holding_the_gil, ended.first, ended.second)


async def test_where_warnings_are_errors_the_call_is_refused(ended):
    async with ThreadPool(1) as pool:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning, match=WORDS):
                await pool.run(kernels.meet_holding_the_gil, ended.first, ended.second)


@pytest.mark.parametrize("kernel", [kernels.meet, kernels.meet_in_parallel], ids=["nogil", "parallel"])
async def test_the_loop_goes_on_while_a_kernel_that_frees_the_gil_runs(kernel):
    """It returns only because the loop, which is free, tells it to. A warning would be an error here."""
    flags = kernels.Flags(0, 0)
    async with ThreadPool(1) as pool:
        call = asyncio.ensure_future(pool.run(kernel, flags.first, flags.second))
        while not flags[0]:
            await asyncio.sleep(0.001)
        assert not call.done()
        flags.set(1)
        await call


def test_numba_is_not_imported_to_find_out():
    program = (
        "import asyncpar, sys\n"
        "async def main():\n"
        "    async with asyncpar.ThreadPool(1) as pool: await pool.run(abs, 1)\n"
        "asyncpar.run(main)\n"
        "sys.exit('numba' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
