"""What the core's own pools all do alike, beyond the contract."""

from __future__ import annotations

import sys

import pytest

import asyncpar
from asyncpar import InlinePool, ProcessPool, ThreadPool


@pytest.fixture(params=[ProcessPool, ThreadPool, InlinePool])
def make_pool(request):
    """A function that makes a pool of each kind in turn."""
    return request.param


# Errors that would end the program


async def leave_slowly(code: int) -> None:
    sys.exit(code)


@pytest.mark.may_block  # the inline pool does
@pytest.mark.parametrize("function", [sys.exit, leave_slowly])
async def test_a_call_that_exits_fails_and_its_worker_goes_on(make_pool, function):
    async with make_pool() as pool:
        with pytest.raises(RuntimeError, match=r"^the call raised SystemExit: 3\b") as caught:
            await pool.run(function, 3)
        assert isinstance(caught.value.__cause__, SystemExit)
        assert caught.value.__cause__.code == 3
        failed = await pool.map(function, [1, 2], return_exceptions=True)
        assert [str(error) for error in failed] == [
            "the call raised SystemExit: 1",
            "the call raised SystemExit: 2",
        ]
        assert await pool.run(abs, -1) == 1
        assert pool.statistics().lost == 0


@pytest.mark.filterwarnings("error")
async def test_a_program_inside_a_running_loop_is_refused_with_a_way_out():
    async def main() -> None:
        """Never begun."""

    with pytest.raises(
        RuntimeError, match=r"await the function there, inside 'async with asyncpar.open_runtime"
    ):
        asyncpar.run(main)
