"""The process pool when nothing dies: values, errors, large buffers, logging, settings."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import gc
import itertools
import logging
import os
import pickle
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncpar
from asyncpar import NestedPoolError, PoolClosedError, ProcessPool, SerializationError, share
from asyncpar.process.arena import Arena, shared_file
from asyncpar.process.encoding import heavy
from asyncpar.testing import functions as f
from tests import process_functions as far
from tests.waiting import until

MEGABYTE = 1 << 20


# Values


async def test_calls_and_maps_run_in_other_processes():
    async with ProcessPool(2) as pool:
        assert await pool.run(far.add, 1, 2, z=3) == 6
        assert await pool.map(far.double, range(1000)) == [2 * x for x in range(1000)]
        assert os.getpid() not in {await pool.run(far.pid), *await pool.map(far.pid, range(100))}


async def test_many_calls_at_once():
    async with ProcessPool(2) as pool:
        assert await asyncio.gather(*[pool.run(far.double, x) for x in range(2000)]) == [
            2 * x for x in range(2000)
        ]
        assert pool.statistics().completed == 2000
        assert pool.statistics().running == pool.statistics().queued == 0


async def test_calls_run_side_by_side(tmp_path):
    async with ProcessPool(2) as pool:
        one, other = await pool.map(far.meet, [str(tmp_path / "there")] * 2)
        assert one != other


async def test_async_functions_run_on_a_loop_of_the_worker():
    async with ProcessPool(1) as pool:
        assert await pool.run(far.slowly, 1) == 2
        assert await pool.map(far.slowly, range(20)) == list(range(1, 21))
        assert await pool.run(far.slowly, 5, seconds=0.01) == 6


async def test_fresh_interpreters():
    async with ProcessPool(2, start="spawn") as pool:
        assert await pool.map(far.double, range(100)) == [2 * x for x in range(100)]
        assert await pool.run(far.pid) in pool.pids


async def test_initializer_runs_before_the_first_call():
    async with ProcessPool(2, initializer=far.start_well) as pool:
        assert await asyncio.gather(*[pool.run(far.was_initialized) for _ in range(8)]) == [True] * 8


async def test_preloaded_modules_are_there_and_others_are_not():
    async with ProcessPool(1, preload=["fractions"]) as pool:
        assert await pool.run(far.loaded, "fractions")
        assert not await pool.run(far.loaded, "asyncio")


async def test_preload_that_fails_breaks_the_pool_with_its_reason():
    with pytest.raises(
        asyncpar.BrokenPoolError,
        match=r"^preload='no_such_module_here' failed in the zygote: ModuleNotFoundError",
    ) as caught:
        async with ProcessPool(1, preload=["no_such_module_here"]) as pool:
            await pool.run(far.double, 1)
    assert caught.value.__cause__ is None  # the message says it all


@pytest.mark.parametrize("threads", [1, 3])
async def test_numeric_libraries_are_told_how_many_threads(threads):
    async with ProcessPool(1, threads_per_worker=threads) as pool:
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            assert await pool.run(far.environment, name) == str(threads)


async def test_threads_of_numeric_libraries_may_be_left_alone(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    async with ProcessPool(1, threads_per_worker=None) as pool:
        assert await pool.run(far.environment, "OMP_NUM_THREADS") == "5"


async def test_context_variables_that_were_named_are_visible():
    async with ProcessPool(1, context=[far.tenant]) as pool:
        far.tenant.set("alice")
        assert await pool.run(far.see_tenant) == "alice"
        far.tenant.set("bob")
        assert await pool.run(far.see_tenant) == "bob"
        assert await pool.run(far.set_tenant) == "changed in the worker"
        assert await pool.run(far.see_tenant) == "bob"
        assert await pool.run(far.see_tenant_async) == "bob"
        with pytest.raises(ValueError, match="bad value"):
            await pool.run(far.raise_value_error, text="bad value")


async def test_context_variables_are_visible_in_maps():
    async with ProcessPool(2, context=[far.tenant]) as pool:
        far.tenant.set("carol")
        assert await pool.map(far.see_tenant, range(10)) == ["carol"] * 10
        assert await pool.map(far.see_tenant_async, range(10)) == ["carol"] * 10


async def test_context_variables_that_were_not_named_are_not_visible():
    async with ProcessPool(1) as pool:
        far.tenant.set("alice")
        assert await pool.run(far.see_tenant) == "nobody"


async def test_a_pool_inside_a_worker_is_refused():
    async with ProcessPool(1) as pool:
        with pytest.raises(
            NestedPoolError, match=r"^a ProcessPool cannot be opened inside a worker: return the work to the"
        ):
            await pool.run(far.open_pool_inside)


# Settings


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"workers": 0}, ValueError, "workers= must be at least 1, not 0"),
        ({"workers": 1.5}, TypeError, "workers= must be a whole number, not float"),
        ({"workers": True}, TypeError, "workers= must be a whole number, not bool"),
        ({"max_calls": 0}, ValueError, "max_calls= must be at least 1, not 0"),
        ({"memory_limit": -1}, ValueError, "memory_limit= must be at least 1, not -1"),
        ({"threads_per_worker": 0}, ValueError, "threads_per_worker= must be at least 1, not 0"),
        ({"grace": -1}, ValueError, "grace= must be a number of seconds of at least 0, not -1"),
        ({"start": "fork"}, ValueError, "start= must be 'zygote' or 'spawn', not 'fork'"),
        ({"functions": "magic"}, ValueError, "functions= must be 'by_reference' or 'by_value', not 'magic'"),
        ({"preload": "numpy"}, TypeError, r"preload= takes a sequence of module names: preload=\('numpy',\)"),
        ({"initializer": 3}, TypeError, "initializer= must be callable, not int: pass the function itself"),
        ({"context": [1]}, TypeError, "context= takes ContextVar objects, not int"),
        ({"initializer": lambda: None}, SerializationError, "is a lambda, which workers cannot import"),
    ],
)
def test_bad_settings_are_refused_at_once(settings, error, words):
    with pytest.raises(error, match=words):
        ProcessPool(**settings)


@pytest.mark.parametrize("max_calls", [None, 2])
async def test_too_many_actors_at_a_time_are_refused_and_the_pool_goes_on(max_calls):
    async with ProcessPool(1, max_calls=max_calls) as pool, contextlib.AsyncExitStack() as stack:
        for _ in range(62):
            await stack.enter_async_context(pool.actor(int))
        with pytest.raises(
            asyncpar.UnsupportedError, match="has at most 62 actors, streams and workers that are being"
        ):
            async with pool.actor(int):
                pass
        assert [await pool.run(far.double, x) for x in range(6)] == [0, 2, 4, 6, 8, 10]


# What cannot be pickled


async def test_an_argument_that_cannot_be_pickled_is_named():
    async with ProcessPool(1) as pool:
        with pytest.raises(SerializationError) as caught:
            await pool.run(far.add, 1, far.Unpicklable())
        assert str(caught.value) == (
            "argument 2 of tests.process_functions.add cannot be pickled: <an unpicklable> (Unpicklable): "
            "no way; pass plain data, or functions='by_value' if it is a function"
        )
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(
            SerializationError, match=r"^argument z= of tests\.process_functions\.add cannot be pickled"
        ):
            await pool.run(far.add, 1, z=far.Unpicklable())
        with pytest.raises(SerializationError, match=r"^argument 1\[1\]\['deep'\] of "):
            await pool.run(far.identity, [0, {"deep": far.Unpicklable()}])
        with pytest.raises(SerializationError, match=r"^argument 1\.inner\['bad'\] of "):
            await pool.run(far.identity, far.Holder())
        assert await pool.run(far.double, 4) == 8


@pytest.mark.parametrize("chunksize", [None, 1, 4])
async def test_an_item_that_cannot_be_pickled_fails_alone(chunksize):
    items = [1, 2, far.Unpicklable(), 4, 5, 6, 7, 8]
    async with ProcessPool(2) as pool:
        found = await pool.map(far.identity, items, return_exceptions=True, chunksize=chunksize)
        assert [x for x in found if not isinstance(x, Exception)] == [1, 2, 4, 5, 6, 7, 8]
        assert type(found[2]) is SerializationError
        assert str(found[2]).startswith(
            "argument 1 of tests.process_functions.identity cannot be pickled: <an unpick"
        )
        with pytest.raises(SerializationError, match="argument 1 of"):
            await pool.map(far.identity, items, chunksize=chunksize)
        assert await pool.run(far.double, 4) == 8


@pytest.mark.parametrize("chunksize", [None, 1, 4])
async def test_an_item_that_cannot_be_unpickled_in_the_worker_fails_alone(chunksize):
    items = [1, 2, far.PoisonForWorkers(os.getpid()), 4, 5, 6, 7, 8]
    async with ProcessPool(2) as pool:
        found = await pool.map(far.identity, items, return_exceptions=True, chunksize=chunksize)
        assert [x for x in found if not isinstance(x, Exception)] == [1, 2, 4, 5, 6, 7, 8]
        assert type(found[2]) is SerializationError
        assert "cannot be unpickled in the worker: ValueError: it is poison here" in str(found[2])
        with pytest.raises((SerializationError, ValueError), match="it is poison here"):
            await pool.run(far.identity, far.PoisonForWorkers(os.getpid()))
        assert await pool.run(far.double, 4) == 8


async def test_a_result_that_cannot_be_pickled_is_named():
    async with ProcessPool(1) as pool:
        with pytest.raises(SerializationError) as caught:
            await pool.run(far.make_unpicklable)
        assert str(caught.value) == (
            "the result, a Unpicklable, cannot be pickled: TypeError: no way; "
            "return plain data, or keep the object in the worker with pool.actor()"
        )
        found = await pool.map(far.unpicklable_at_3, range(8), return_exceptions=True, chunksize=4)
        assert [x for x in found if not isinstance(x, Exception)] == [0, 1, 2, 4, 5, 6, 7]
        assert type(found[3]) is SerializationError
        assert await pool.run(far.double, 4) == 8


async def test_errors_whose_text_cannot_be_made():
    """They are as local as others."""
    async with ProcessPool(1) as pool:
        pid = await pool.run(os.getpid)
        with pytest.raises(far.Mute):
            await pool.run(far.raise_mute, "plain")
        with pytest.raises(
            SerializationError, match=r"^the call raised .*Local: \(its text cannot be made\); that exception"
        ):
            await pool.run(far.raise_mute, "local")
        with pytest.raises(
            SerializationError, match=r"^the result, a Unsaid, cannot be pickled: Mute: \(its text cannot be"
        ):
            await pool.run(far.make_unsaid)
        with pytest.raises(
            SerializationError, match=r"cannot be pickled: .*Unsaid.*: \(its text cannot be made\)"
        ):
            await pool.run(far.identity, far.Unsaid())
        assert await pool.run(os.getpid) == pid


async def test_a_result_that_cannot_be_unpickled_here_is_named():
    async with ProcessPool(1) as pool:
        with pytest.raises(
            SerializationError, match="the result cannot be unpickled here: ValueError: it is poison there"
        ):
            await pool.run(far.make_poison)
        assert await pool.run(far.double, 4) == 8


@pytest.mark.parametrize("size", [10, 100_000, 2 * MEGABYTE])
async def test_a_result_that_cannot_be_unpickled_here_fails_alone(size):
    async with ProcessPool(1) as pool:
        found = await pool.map(far.poison_at_3, range(8), [size] * 8, return_exceptions=True, chunksize=8)
        assert [str(x).partition("\n")[0] for x in found if isinstance(x, Exception)] == [
            "the result cannot be unpickled here: ValueError: it is poison there",
            "no 5",
        ]
        for n in (0, 1, 2, 4, 6, 7):
            assert found[n] == [dt.date(2000, 1, 1 + n), bytes(size)]
        assert await pool.run(far.double, 4) == 8


async def test_lambdas_and_closures_are_refused_with_a_way_out():
    def inner(x):
        return x

    async with ProcessPool(1) as pool:
        for function, kind in ((lambda x: x, "a lambda"), (inner, "defined inside a function")):
            with pytest.raises(SerializationError) as caught:
                await pool.run(function, 1)
            assert str(caught.value) == (
                f"{function.__qualname__} is {kind}, which workers cannot import: define it at the top of a module, "
                "or open the pool with functions='by_value' (pip install 'asyncpar[by-value]')"
            )
            with pytest.raises(SerializationError, match="which workers cannot import"):
                await pool.map(function, [1])
        assert await pool.run(far.double, 4) == 8


async def test_lambdas_and_closures_travel_by_value():
    factor = 3

    def times(x):
        return factor * x

    async with ProcessPool(2, functions="by_value") as pool:
        assert await pool.run(lambda x: x + 1, 1) == 2
        assert await pool.run(times, 5) == 15
        assert await pool.map(lambda x: x * factor, range(100)) == [3 * x for x in range(100)]
        assert await pool.run(far.apply, lambda: factor) == 3


async def test_results_and_errors_come_back_by_value():
    class Local:
        def __init__(self, n):
            self.n = n

    class LocalError(Exception):
        pass

    def fail(n):
        raise LocalError(n)

    def mixed(n):
        return (item for item in "ab") if n == 2 else (lambda: n)

    async with ProcessPool(2, functions="by_value") as pool:
        assert (await pool.run(lambda: lambda x: x + 1))(1) == 2
        assert type(await pool.run(Local, 3)) is Local
        assert [thing.n for thing in await pool.map(Local, range(100))] == list(range(100))
        with pytest.raises(LocalError, match=r"^7") as caught:
            await pool.run(fail, 7)
        assert caught.value.args == (7,)
        found = await pool.map(mixed, range(4), return_exceptions=True)
        assert [found[n]() for n in (0, 1, 3)] == [0, 1, 3]
        assert isinstance(found[2], SerializationError)
        assert "the result, a generator, cannot be pickled: " in str(found[2])


# Errors of calls


async def test_an_error_keeps_its_type_and_brings_the_workers_traceback():
    async with ProcessPool(1) as pool:
        with pytest.raises(ValueError, match=r"^bad value") as caught:
            await pool.run(far.raise_value_error)
        (note,) = caught.value.__notes__
        assert f"Traceback in worker {pool.pids[0]}" in note
        assert "in raise_value_error" in note
        with pytest.raises(ValueError, match=r"^bad value") as caught:
            await pool.map(far.raise_value_error, ["bad value"])
        assert "in raise_value_error" in caught.value.__notes__[0]


async def test_an_error_keeps_its_notes_and_odd_constructors_do_not_matter():
    async with ProcessPool(1) as pool:
        with pytest.raises(KeyError) as caught:
            await pool.run(far.raise_noted)
        assert caught.value.__notes__[0] == "the user's own note"
        with pytest.raises(far.OddError) as odd:
            await pool.run(far.raise_odd)
        assert (odd.value.code, odd.value.reason, str(odd.value)) == (42, "odd", "42: odd")


async def test_an_error_keeps_what_it_was_raised_from():
    async with ProcessPool(1) as pool:
        with pytest.raises(ValueError, match="the query") as caught:
            await pool.run(far.raise_chained)
        cause = caught.value.__cause__
        assert isinstance(cause, LookupError)
        assert isinstance(cause.__cause__, OSError)
        with pytest.raises(ValueError, match="second") as caught:
            await pool.run(far.raise_in_context)
        assert isinstance(caught.value.__context__, OSError)
        assert caught.value.__cause__ is None


async def test_an_error_that_cannot_be_pickled_is_named():
    async with ProcessPool(1) as pool:
        with pytest.raises(
            SerializationError,
            match=r"^the call raised SecretiveError: cannot travel; that exception cannot be",
        ):
            await pool.run(far.raise_secretive)
        assert await pool.run(far.double, 4) == 8


async def test_a_keyboard_interrupt_of_the_call_does_not_stop_the_program():
    async with ProcessPool(1) as pool:
        with pytest.raises(RuntimeError, match="the call raised KeyboardInterrupt: mine"):
            await pool.run(far.raise_keyboard_interrupt)
        assert await pool.run(far.double, 4) == 8


# Logging and warnings


async def test_log_records_reach_the_loggers_here(caplog):
    caplog.set_level(logging.INFO)
    async with ProcessPool(1) as pool:
        await pool.run(far.logs, "hello")
        await pool.run(far.logs_traceback)
        pid = pool.pids[0]
    first, second = [record for record in caplog.records if record.name == "tests.worker"]
    assert first.getMessage() == "hello from the worker"
    assert (first.levelno, first.pid, first.process) == (logging.WARNING, pid, pid)
    assert first.call == "tests.process_functions.logs"
    assert "ValueError: inner" in second.exc_text


async def test_warnings_reach_the_loggers_here(caplog):
    async with ProcessPool(1) as pool:
        await pool.run(far.warns)
    (record,) = [record for record in caplog.records if record.name == "py.warnings"]
    assert "UserWarning: take care" in record.getMessage()


# Large buffers


async def test_arrays_both_ways():
    async with ProcessPool(2) as pool:
        for size in (100, 10_000, MEGABYTE, 4 * MEGABYTE + 17):
            array = np.arange(size, dtype=np.uint8)
            doubled = await pool.run(far.add_one, array)
            assert np.array_equal(doubled, array + 1), size
            doubled[0] = 99  # results are writable
            for result in await pool.map(far.add_one, [array.copy() for _ in range(10)]):
                assert np.array_equal(result, array + 1), size
            assert np.array_equal(array, np.arange(size, dtype=np.uint8)), size  # and ours is untouched
            assert doubled[0] == 99


async def test_results_outlive_the_pool():
    async with ProcessPool(1) as pool:
        results = await pool.map(far.add_one, [np.full(MEGABYTE, i, np.uint8) for i in range(5)])
    gc.collect()
    for i, result in enumerate(results):
        assert (result == i + 1).all()
        result += 1
        assert (result == i + 2).all()


async def test_arrays_of_every_layout():
    arrays = {
        "transposed": np.arange(300_000.0).reshape(300, 1000).T,
        "strided": np.arange(400_000.0)[::3],
        "fortran": np.asfortranarray(np.arange(200_000.0).reshape(400, 500)),
        "readonly": np.broadcast_to(np.arange(1000.0), (200, 1000)),
        "structured": np.ones(100_000, dtype=[("a", "f8"), ("b", "i4")])["a"],
        "empty": np.empty((0, 5)),
    }
    async with ProcessPool(1) as pool:
        for how, array in arrays.items():
            assert np.array_equal(await pool.run(far.identity, array), array), how
            (again,) = await pool.map(far.identity, [array])
            assert np.array_equal(again, array), how
            assert (await pool.run(far.total, array)) == array.sum(), how


async def test_plain_bytes_both_ways():
    async with ProcessPool(1) as pool:
        for kind, size in itertools.product(
            (bytes, bytearray, pickle.PickleBuffer), (100, 200_000, 3 * MEGABYTE)
        ):
            _, nbytes, last = await pool.run(far.check_bytes, kind(b"x" * size))
            assert (nbytes, last) == (size, ord("x")), kind
            made = await pool.run(far.make_bytes, size, kind.__name__)
            assert bytes(made) == bytes([size % 251]) * size, kind


async def test_an_argument_that_the_function_keeps_is_never_overwritten():
    async with ProcessPool(1) as pool:
        for i in range(1, 6):
            await pool.run(far.keep, np.full(MEGABYTE, i, np.uint8))
            await pool.run(far.total, np.full(MEGABYTE, 200, np.uint8))
        await pool.map(far.keep, [np.full(MEGABYTE, i, np.uint8) for i in range(6, 9)])
        await pool.map(far.total, [np.full(MEGABYTE, 200, np.uint8)] * 20)
        assert await pool.run(far.first_of_kept) == list(range(1, 9))
        assert await pool.run(far.drop_kept) == 8
        await pool.run(far.pid)  # says what it has let go
        assert not pool.places[0].link.held
        assert not pool.nursery.arena.live


async def test_an_argument_that_is_kept_by_map_in_a_shared_chunk():
    async with ProcessPool(1) as pool:
        await pool.map(far.keep, [np.full(100_000, i, np.uint8) for i in range(40)], chunksize=8)
        await pool.map(far.total, [np.full(100_000, 200, np.uint8)] * 80, chunksize=8)
        assert await pool.run(far.first_of_kept) == list(range(40))


async def test_a_result_that_is_kept_here_is_never_overwritten():
    async with ProcessPool(2) as pool:
        kept = [await pool.run(far.add_one, np.full(MEGABYTE, i, np.uint8)) for i in range(10)]
        await pool.map(far.add_one, [np.full(MEGABYTE, 100, np.uint8)] * 40)
        for i, array in enumerate(kept):
            assert (array == i + 1).all()


async def test_buffers_are_used_again():
    async with ProcessPool(1) as pool:
        array = np.ones(MEGABYTE, np.uint8)
        for _ in range(50):
            await pool.run(far.add_one, array)
        assert pool.nursery.arena.top - pool.nursery.arena.start <= 8 * MEGABYTE
        gc.collect()
        assert not pool.nursery.arena.live


@pytest.mark.parametrize("size", [100_000, 4 * MEGABYTE])
async def test_a_result_goes_with_its_last_reader(size):
    """Without the help of the garbage collector: until then neither memory nor slab could be used again."""
    gc.disable()
    try:
        async with ProcessPool(1) as pool:
            array = await pool.run(far.add_one, np.ones(size, np.uint8))
            again = [value async for value in pool.map(far.add_one, [array] * 3)]
            assert not pool.packing.freed
            del array, again
            await asyncio.sleep(0)
            assert len(pool.packing.freed) == 4
    finally:
        gc.enable()


async def test_calls_that_are_cancelled_in_the_queue_leave_no_buffers(tmp_path):
    path = str(tmp_path / "held")
    async with ProcessPool(1) as pool:
        array = np.ones(800_000, np.uint8)
        running = asyncio.create_task(pool.run(f.hold, path))
        queued = [asyncio.create_task(pool.run(far.add_one, array)) for _ in range(10)]
        await until(lambda: f.lines(f"{path}.begun"))
        for task in queued:
            task.cancel()
        await asyncio.wait(queued)
        f.release(path)
        await running
        assert await pool.run(far.double, 1) == 2
        assert not pool.nursery.arena.live


async def test_large_results_of_a_map_while_the_worker_talks_on(caplog):
    """What a worker says while its large result is being read waits for its turn."""
    async with ProcessPool(2) as pool:
        array = np.ones(8 * MEGABYTE, np.uint8)
        found = await asyncio.gather(
            *[pool.run(far.add_one, array) for _ in range(6)],
            *[pool.run(far.logs, str(i)) for i in range(20)],
        )
        assert all((x == 2).all() for x in found[:6])


async def test_a_shared_constant_reaches_every_worker():
    async with ProcessPool(2) as pool:
        constant = asyncpar.share(np.ones(MEGABYTE, np.uint8))
        assert await pool.map(far.total, [constant] * 20) == [MEGABYTE] * 20
        assert await pool.run(far.total, constant) == MEGABYTE


# Opening and closing


async def test_a_pool_that_is_not_open_says_so():
    pool = ProcessPool(1)
    with pytest.raises(PoolClosedError, match=r"this ProcessPool is not open yet: use it inside 'async with"):
        await pool.run(far.double, 1)
    async with pool:
        pass
    with pytest.raises(PoolClosedError, match=r"this ProcessPool is closed: use it inside 'async with"):
        await pool.run(far.double, 1)


async def test_closing_ends_what_runs_and_what_waits(tmp_path):
    path = str(tmp_path / "never")
    async with ProcessPool(1) as pool:
        tasks = [asyncio.create_task(pool.run(f.hold, path)) for _ in range(3)]
        await until(lambda: f.lines(f"{path}.begun"))
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, PoolClosedError)


async def test_an_error_in_the_block_closes_the_pool(tmp_path):
    path = str(tmp_path / "never")
    with pytest.raises(LookupError, match="mine"):
        async with ProcessPool(2) as pool:
            task = asyncio.create_task(pool.run(f.hold, path))
            await until(lambda: f.lines(f"{path}.begun"))
            raise LookupError("mine")
    with pytest.raises(PoolClosedError):
        await task


async def test_opening_and_closing_again_and_again_leaves_nothing():
    for _ in range(3):
        async with ProcessPool(2):
            pass
        async with ProcessPool(1) as pool:
            await pool.run(far.pid)


@pytest.mark.may_block
async def test_a_map_that_is_left_early_stops(tmp_path: Path):
    path = tmp_path / "ran"
    async with ProcessPool(2) as pool:
        async with pool.map(far.marks, [str(path)] * 100, [0.02] * 100) as results:
            async for _ in results:
                break
        await until(lambda: pool.statistics().running == 0)
        ran = len(path.read_text().splitlines())
        assert await pool.run(far.double, 2) == 4
    assert len(path.read_text().splitlines()) == ran < 20  # nor did any run until the workers were gone


# Calls share nothing


@pytest.mark.parametrize("chunksize", [None, 1, 8])
async def test_what_a_call_does_to_its_argument_no_other_sees(chunksize):
    box, nested = [0], {1: [0]}
    async with ProcessPool(1) as pool:
        assert await pool.map(far.bump, [box] * 8, chunksize=chunksize) == [1] * 8
        assert await pool.map(far.bump, itertools.repeat(box, 30), chunksize=chunksize) == [1] * 30
        assert await pool.map(far.bump, [nested[1], [5], *[box] * 6], chunksize=chunksize) == [1, 6, *[1] * 6]
        assert await pool.map(far.bump, [box] * 8, range(8), chunksize=chunksize) == [*range(8)]
        assert await asyncpar.gather(*[pool.run(far.bump, box) for _ in range(20)]) == [1] * 20
    assert box == [0]


@pytest.mark.parametrize("chunksize", [None, 1, 8])
async def test_calls_that_are_given_the_same_configuration_do_not_see_what_others_did_to_it(chunksize):
    config = {-1: 0}
    async with ProcessPool(1) as pool:
        found = await pool.map(far.put, range(40), itertools.repeat(config), chunksize=chunksize)
        assert found == [{-1: 0, n: n} for n in range(40)]
        tuples = [(n, config) for n in range(40)]
        assert await pool.map(far.put, *zip(*tuples, strict=True), chunksize=chunksize) == found
    assert config == {-1: 0}


@pytest.mark.parametrize("size", [10, 100_000, 2 * MEGABYTE])
async def test_calls_that_are_given_the_same_array_do_not_see_what_others_did_to_it(size):
    array = np.zeros(size, np.uint8)
    async with ProcessPool(1) as pool:
        assert await pool.map(far.bump, [array] * 10, chunksize=10) == [1] * 10
        assert await pool.map(far.bump, itertools.repeat(array, 10), range(10), chunksize=10) == [*range(10)]
        assert (await pool.map(far.identity, [array] * 3, chunksize=3))[2].sum() == 0
        assert not pool.nursery.arena.live
    assert not array.any()


@pytest.mark.parametrize("chunksize", [None, 9])
async def test_a_value_is_what_it_was_when_the_call_returned(chunksize):
    async with ProcessPool(1) as pool:
        found = await pool.map(far.grown, range(36), chunksize=chunksize)
        for n, value in enumerate(found):
            grown = [*range(n + 1)]
            assert value == (
                (n, "plain") if n % 4 == 1 else (n, grown) if n % 4 == 2 else n if n % 3 else grown
            )
        values = await pool.map(far.last_grown, range(36), chunksize=chunksize)
        assert len({id(value) for value in values}) == len({id(value["last"]) for value in values}) == 36
        assert values == [{"last": [*range(36)]}] * 36


async def test_arrays_of_a_chunk_travel_each_by_itself():
    async with ProcessPool(1) as pool:
        arrays = [np.full(100_000, n, np.uint8) for n in range(10)]
        assert await pool.map(far.keep, arrays, chunksize=10) == pool.pids * 10
        assert len(pool.nursery.arena.live) == 10
        found = await pool.map(far.add_one, arrays, chunksize=10)
        assert [int(array[0]) for array in found] == [*range(1, 11)]
        assert await pool.run(far.first_of_kept) == [*range(10)]
        await pool.run(far.drop_kept)
        await pool.run(far.double, 1)
        assert not pool.nursery.arena.live


@pytest.mark.parametrize("by_value", [False, True])
async def test_bad_ones_among_arrays_of_a_chunk_fail_alone(by_value):
    array = np.zeros(2 * MEGABYTE, np.uint8)
    items = [
        array,
        far.Unpicklable(),
        array,
        far.PoisonForWorkers(os.getpid()),
        {"bad": (n for n in "ab")},
        5,
    ]
    async with ProcessPool(1, functions="by_value" if by_value else "by_reference") as pool:
        found = await pool.map(far.identity, items, chunksize=6, return_exceptions=True)
        bad = SerializationError
        assert [type(x) for x in found] == [np.ndarray, bad, np.ndarray, bad, bad, int]
        assert str(found[4]).startswith(
            "argument 1['bad'] of tests.process_functions.identity cannot be pickled"
        )
        del found
        gc.collect()
        assert not pool.nursery.arena.live


async def test_a_constant_among_arguments_of_which_one_cannot_be_pickled():
    constant, other = asyncpar.share({1: 2}), asyncpar.share(far.Unpicklable())
    async with ProcessPool(1) as pool:
        firsts = [constant, constant, other, 3]
        seconds = [far.Unpicklable(), [1], [2], [3]]
        found = await pool.map(far.first_and_type, firsts, seconds, chunksize=4, return_exceptions=True)
        assert str(found[0]).startswith(
            "argument 2 of tests.process_functions.first_and_type cannot be pickled"
        )
        assert found[1] == ({1: 2}, "list")
        assert str(found[2]).startswith("the object of share() cannot be pickled: <an unpicklable>")
        assert found[3] == (3, "list")


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
things = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(plain, inner, max_size=3) | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


def changeable(value: Any) -> list[int]:
    """Which objects that can be changed are in here."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    own = [id(value)] if isinstance(value, (list, dict)) else []
    return own + [number for one in inner for number in changeable(one)]


@pytest.mark.may_block  # Hypothesis runs each example in its own loop
@settings(max_examples=20, deadline=None)
@given(
    pool_of=st.lists(things, min_size=1, max_size=4),
    picks=st.lists(st.integers(0, 3), min_size=1, max_size=40),
)
def test_any_items_arrive_as_they_were_and_share_nothing(pool_of, picks):
    items = [pool_of[i % len(pool_of)] for i in picks]

    async def main() -> list[Any]:
        async with ProcessPool(1) as pool:
            return await pool.map(far.identity, items, chunksize=7)

    found = asyncio.run(main())
    assert found == items
    assert [type(x) for x in found] == [type(x) for x in items]
    seen = changeable(found)
    assert len(set(seen)) == len(seen)


# Functions with state


@pytest.mark.parametrize("functions", ["by_reference", "by_value"])
async def test_each_call_has_a_copy_of_its_functions_state(functions):
    counter = far.Counter()
    async with ProcessPool(1, functions=functions) as pool:
        assert [await pool.run(counter.up, x) for x in "ab"] == [(1, "a"), (1, "b")]
        counter.count = 10
        assert await pool.run(counter.up, "c") == (11, "c")
        assert await pool.run(counter.up_slowly, "d") == (11, "d")
        assert (await pool.map(counter.up, "e"))[0] == (11, "e")


async def test_a_map_takes_its_function_as_it_is_when_the_map_is_made():
    counter = far.Counter()
    async with ProcessPool(1) as pool:
        results = pool.map(counter.up_slowly, "a")
        counter.count = 10
        assert await results == [(1, "a")]


async def test_closures_see_what_their_variables_are_now():
    box = [1]
    async with ProcessPool(1, functions="by_value") as pool:
        assert await pool.run(lambda x: x + box[0], 1) == 2
        function = lambda x: x + box[0]  # noqa: E731
        assert await pool.run(function, 1) == 2
        box[0] = 5
        assert await pool.run(function, 1) == 6
        assert await pool.map(function, [1]) == [6]


async def test_functions_with_state_are_forgotten_after_their_maps():
    async with ProcessPool(1) as pool:
        for i in range(20):
            assert await pool.map(functools.partial(far.add, i), [1]) == [i + 1]
            assert await pool.run(functools.partial(far.add, i), 1) == i + 1
        gc.collect()
        await asyncio.sleep(0)
        (place,) = pool.places
        assert len(place.functions) <= 2


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        (functools.partial(far.add, threading.Lock()), (1,), "cannot pickle '_thread.lock' object"),
        (
            far.Counter().up,
            (threading.Lock(),),
            r"^argument 1 of tests\.process_functions\.Counter\.up cannot be ",
        ),
        (functools.partial(lambda x: x, 1), (), "is a lambda, which workers cannot import"),
    ],
)
async def test_of_a_function_with_state_it_is_said_which_part_cannot_be_sent(function, args, words):
    async with ProcessPool(1) as pool:
        with pytest.raises(SerializationError, match=words):
            await pool.run(function, *args)


async def test_the_context_and_a_functions_state_travel_together():
    async with ProcessPool(1, context=[far.tenant]) as pool:
        far.tenant.set("acme")
        assert await pool.run(functools.partial(far.see_tenant, 1)) == "acme"
        with pytest.raises(
            SerializationError, match=r"^argument 1 of tests\.process_functions\.see_tenant cannot"
        ):
            await pool.run(functools.partial(far.see_tenant), threading.Lock())


async def test_a_lambda_is_refused_by_map_at_once():
    async with ProcessPool(1) as pool:
        with pytest.raises(SerializationError, match="is a lambda, which workers cannot import"):
            _ = pool.map(lambda x: x, [1])
    with pytest.raises(SerializationError, match="is a lambda, which workers cannot import"):
        _ = asyncpar.map(functools.partial(lambda x: x), [1])


async def test_a_map_that_cannot_begin_says_why_each_time():
    async with asyncpar.open_runtime():
        results = asyncpar.map(functools.partial(far.identity, threading.Lock()), [1])
        for _ in range(2):
            with pytest.raises(SerializationError, match="cannot pickle"):
                await results


@pytest.mark.parametrize(
    ("value", "is_heavy"),
    [
        (np.ones(1 << 20, np.uint8), True),
        (functools.partial(far.identity, np.ones(1 << 20, np.uint8)), True),
        (far.Counter(np.ones(1 << 20, np.uint8)).up, True),
        ([np.ones(1000, np.uint8)] * 2000, True),
        ({"a": {"b": [b"x" * (1 << 20)]}}, True),
        (share(b"x" * (1 << 20)), True),
        (list(range(1000)), False),
        (far.Counter(), False),
        (far.Counter, False),
        (far.add, False),
    ],
)
def test_what_would_hold_up_the_loop_is_known_by_a_look(value, is_heavy):
    assert heavy((value,)) is is_heavy


def test_a_constant_that_was_sent_is_light():
    constant = share(b"x" * (1 << 20))
    assert not heavy((constant,), {constant.number})


def test_two_threads_never_get_the_same_slab():
    slots = 1
    fd = shared_file(Arena.size(slots, 64 << 20))
    arena = Arena(fd, slots, 0)
    found = [[], []]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=lambda mine=mine: mine.extend(arena.allocate(1) for _ in range(300)))
            for mine in found
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
        arena.close()
    assert len({*found[0], *found[1]}) == 600


async def test_a_map_with_a_timeout_lets_go_of_its_items():
    class Item:
        def __reduce__(self):
            return int, ()

    items = [Item() for _ in range(100)]
    refs = [weakref.ref(item) for item in items]
    async with ProcessPool(1) as pool:
        results = pool.map(far.double, (items.pop() for _ in range(100)), timeout=600)
        assert await results == [0] * 100
        assert [ref for ref in refs if ref() is not None] == []
