"""CuPyPool on the software GPU where it is turned: order, overlap, memory, faults, cancelling, and the driver's lock."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.integration.cupy_setup import SOFTWARE

if not SOFTWARE:
    pytest.skip("no machine here: it turns the software GPU", allow_module_level=True)

import cupy as cp

import asyncpar
from asyncpar.testing.contract.base import until
from asyncpar_cupy import CuPyPool
from tests.fakegpu import control
from tests.fakegpu.control import Kind
from tests.integration import cupy_functions as f
from tests.programs import ROOT

JOBS, MIB = 60, 1 << 20


@pytest.fixture(autouse=True)
def software_gpu():
    """As it was, for each test; and empty after it."""
    control.reset()
    yield
    for gate in range(64):
        control.open_gate(gate)
    control.reset()
    gc.collect()
    for device in (0, 1):  # what the test itself had left cached
        with cp.cuda.Device(device):
            cp.get_default_memory_pool().free_all_blocks()
    assert control.memory().used == control.memory(1).used == 0


async def _run_jobs(streams):
    """60 calls of 2 ms of copying in, 2 ms of computing, 2 ms of copying out; and what overlapped."""
    control.set_speed(1e9)
    frames = [np.full(2_000_000, i, np.uint8) for i in range(JOBS)]
    async with CuPyPool(streams=streams) as gpu:
        with control.trace() as steps:
            got = await gpu.map(lambda x: f.delay_and_double(x, 0.002), frames, limit=16)
    assert all((array == (2 * i) % 256).all() for i, array in enumerate(got))
    kinds = [
        [step for step in steps if step.kind == kind] for kind in (Kind.COPY_IN, Kind.DELAY, Kind.COPY_OUT)
    ]
    assert [len(each) for each in kinds] == [JOBS] * 3
    return [
        sum(one.overlaps(other) for one in kinds[a] for other in kinds[b])
        for a, b in ((0, 1), (1, 2), (0, 2))
    ]


async def test_on_one_stream_nothing_overlaps():
    assert await _run_jobs(1) == [0, 0, 0]


async def test_on_three_streams_copies_and_computing_overlap():
    assert min(await _run_jobs(3)) > JOBS // 10


async def test_a_call_ends_while_another_stream_is_busy():
    async with CuPyPool(streams=2) as gpu:
        held = asyncio.ensure_future(gpu.run(f.hold_and_double, np.ones(3), 1))
        assert [await gpu.run(f.double, i) for i in range(5)] == [0, 2, 4, 6, 8]
        assert not held.done()
        control.open_gate(1)
        assert (await held).tolist() == [2, 2, 2]


async def test_cancelling_frees_the_caller_and_holds_the_slot_and_the_memory():
    async with CuPyPool(streams=1, memory="1 MiB") as gpu:
        gpu.declare(f.hold_and_double, "300 KB")
        held = asyncio.ensure_future(gpu.run(f.hold_and_double, np.ones(3), 2))
        await until(lambda: gpu.sites[0].slots[0].current is not None)
        held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await held
        behind = asyncio.ensure_future(gpu.run(f.double, 4))
        await asyncio.sleep(0.02)
        statistics = gpu.statistics()
        assert (statistics.running, statistics.memory, behind.done()) == (1, 300_000, False)
        control.open_gate(2)
        assert await behind == 8
        await until(lambda: gpu.statistics().memory == 0)


async def test_a_timeout_frees_the_caller():
    async with CuPyPool(streams=1) as gpu:
        with pytest.raises(asyncpar.CallTimeoutError, match=r"ran longer than timeout=0.05 seconds"):
            await gpu.map(lambda x: f.hold_and_double(x, 3), [np.ones(3)], timeout=0.05)
        assert gpu.statistics().running == 1
        control.open_gate(3)
        assert await gpu.run(f.double, 2) == 4


async def test_calls_for_which_the_memory_does_not_suffice_run_alone():
    control.set_capacity(256 * MIB)
    async with CuPyPool(streams=4) as gpu:
        calls = [gpu.run(f.hungry, 100 * MIB, 0.005) for _ in range(24)]
        assert await asyncpar.gather(*calls) == [100 * MIB] * 24
        assert gpu.statistics().memory_retries > 0


async def test_a_budget_keeps_them_apart():
    control.set_capacity(256 * MIB)
    async with CuPyPool(streams=4, memory="220 MiB") as gpu:
        calls = [gpu.run(f.hungry, 100 * MIB, 0.005) for _ in range(24)]
        assert await asyncpar.gather(*calls) == [100 * MIB] * 24
        assert gpu.statistics().memory_retries == 0


async def test_what_never_fits_says_how_much_was_asked_free_and_held():
    control.set_capacity(256 * MIB)
    async with CuPyPool() as gpu:
        words = r"hungry ran out of memory on HIP device 0 \(software GPU 0\), also when it ran alone: it asked for "
        with pytest.raises(
            asyncpar.MemoryLimitError, match=words + "300 MiB, 256 MiB are free, this process holds 0 bytes"
        ):
            await gpu.run(f.hungry, 300 * MIB, 0)
        assert await gpu.run(f.double, 2) == 4


async def test_a_fault_ends_what_is_in_flight_and_breaks_the_pool():
    async with CuPyPool(streams=2) as gpu:
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="IllegalAddress"):
            await gpu.run(f.break_device)
        for _ in range(2):
            with pytest.raises(
                asyncpar.BrokenPoolError, match="restart the process, or open the pool with isolate=True"
            ):
                await gpu.run(f.double, 1)
    control.reset()


async def test_an_isolated_pool_heals():
    async with CuPyPool(streams=1, isolate=True) as gpu:
        with pytest.raises(Exception, match="IllegalAddress"):
            await gpu.run(f.break_device)
        assert (await gpu.run(f.double, np.ones(2))).tolist() == [2, 2]


async def test_an_argument_lives_until_the_device_is_done():
    allocator = control.OrderedAllocator()
    with allocator.used():
        async with CuPyPool(streams=2, result="device") as gpu:
            made = await gpu.run(f.fill, 1000, 3.0)
            held = asyncio.ensure_future(gpu.run(f.hold_and_double, made, 4))
            await until(lambda: any(slot.current for slot in gpu.sites[0].slots))
            del made
            gc.collect()
            await gpu.run(f.fill, 1000, 7.0)
            control.open_gate(4)
            np.testing.assert_array_equal(cp.asnumpy(await held), np.full(1000, 6.0))
            del held
        gc.collect()


def test_without_care_the_allocator_shows_it():
    """What another stream still reads is poisoned, so that the test above can fail."""
    allocator = control.OrderedAllocator()
    one, two = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
    with allocator.used():
        with one:
            made = cp.full(1000, 3.0)
        one.synchronize()
        with two:
            control.hold(5)
            twice = made * 2
        del made
        one.synchronize()
        control.open_gate(5)
        two.synchronize()
        assert (cp.asnumpy(twice) != 6.0).all()
        del twice
    cp.cuda.Device().synchronize()


async def test_memory_that_the_default_stream_still_reads_is_not_used_again_before():
    """The trap of CuPy issue 8068: the pool of the array's stream has it back as soon as it is dropped."""
    async with CuPyPool(streams=1, result="device") as gpu:
        made = await gpu.run(f.fill, 1000, 3.0)
        control.hold(6, cp.cuda.Stream.null)
        twice = made * 2
        del made
        again = asyncio.ensure_future(gpu.run(f.fill, 1000, 7.0))
        await asyncio.sleep(0.02)
        assert not again.done()
        control.open_gate(6)
        assert cp.asnumpy(await again)[0] == 7.0
        np.testing.assert_array_equal(cp.asnumpy(twice), np.full(1000, 6.0))
        del again, twice


@pytest.mark.may_block  # it makes arrays on the loop's thread
async def test_calls_go_where_their_data_lies():
    with cp.cuda.Device(1):
        there = cp.ones(4)
    here = cp.ones(4)
    async with CuPyPool(devices=[0, 1], streams=2) as gpu:
        for _ in range(4):
            assert await gpu.run(f.device_of, there) == (1, 1)
            assert await gpu.run(f.device_of, here) == (0, 0)
        total = await gpu.run(f.add, here, there)
        assert total.tolist() == [2, 2, 2, 2]
        del total
    del here, there


def _end_of(way):
    """``"done"``, or ``"hung"`` if the program lives and uses no processor for a second and a half."""
    environ = {**os.environ, "FAKEGPU_DRIVER_LOCK": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"}
    command = [sys.executable, "-m", "tests.integration.cupy_waits", way]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as program:
        used, since = "", time.monotonic()
        while program.poll() is None:
            now = Path(f"/proc/{program.pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
            if now != used:
                used, since = now, time.monotonic()
            elif time.monotonic() - since > 1.5:
                program.kill()
                return "hung"
            time.sleep(0.05)
        return program.stdout.read().strip()


def test_callbacks_and_a_lock_in_the_driver_wait_for_each_other_for_good():
    assert _end_of("callback") == "hung"


def test_the_pool_has_nothing_to_wait_for():
    assert _end_of("pool") == "done"
