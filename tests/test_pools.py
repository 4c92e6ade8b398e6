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


async def nothing() -> None:
    """Awaits nothing."""


@pytest.mark.filterwarnings("error")
async def test_a_coroutine_in_a_functions_place_is_closed(make_pool):
    async with make_pool() as pool:
        for verb in (pool.run, lambda it: pool.reduce(it, [1])):
            coroutine = nothing()
            with pytest.raises(TypeError, match="not a coroutine: pass nothing itself, uncalled"):
                await verb(coroutine)
            assert coroutine.cr_frame is None


async def test_what_cannot_be_reduced_is_named(make_pool):
    async with make_pool() as pool:
        with pytest.raises(
            TypeError, match="argument 2 of reduce must be an iterable or async iterable, not int"
        ):
            await pool.reduce(max, 3)


# Pools by name


@pytest.mark.parametrize("kind", [ProcessPool, ThreadPool])
def test_a_name_may_say_how_many_workers(kind):
    pool = asyncpar.open_pool(f"{kind.__name__.removesuffix('Pool').lower()}:3")
    assert (type(pool), pool.workers) == (kind, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "process:many",
            "there is no pool 'process:many': what follows the colon is the number of workers, as in 'process:4'",
        ),
        ("thread:-1", "there is no pool 'thread:-1': what follows the colon is the number of workers"),
        ("thread:0", "workers= must be at least 1, not 0"),
        ("inline:3", "there is no pool 'inline:3': an inline pool takes nothing behind its name"),
    ],
)
def test_what_follows_the_colon_is_checked(name, words):
    with pytest.raises(ValueError, match=words):
        asyncpar.open_pool(name)
