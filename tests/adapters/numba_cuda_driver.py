"""The pool on numba-cuda over the software GPU's driver: no kernels, but streams, events, copies, memory and faults.

``test_numba_cuda.py`` runs it in a process of its own, which finds the driver.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from typing import Any

import numpy as np
import pytest
from numba import cuda

pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_numba import NumbaCUDAPool, current_stream  # noqa: E402
from asyncpar_numba.device import describe_devices  # noqa: E402
from tests.waiting import until  # noqa: E402

pytestmark = pytest.mark.may_block  # the first import of numba's CUDA part reads files
Cuda: Any = cuda  # its types are not for us
DRIVER = ctypes.CDLL(os.environ["NUMBA_CUDA_DRIVER"])
DRIVER.fakegpu_set_capacity.argtypes = [ctypes.c_size_t]
MIB = 1 << 20
ARRAY = np.arange(1000.0)
SUBMITTED: list[int] = []
"""The gates that kernels wait for."""


@pytest.fixture(autouse=True)
def sound_gpu():
    """As at the start: no fault, gates closed."""
    SUBMITTED.clear()
    yield
    DRIVER.fakegpu_clear()
    DRIVER.fakegpu_set_capacity(1 << 30)
    for gate in range(4):
        DRIVER.fakegpu_gate(gate, 0)


def handle(stream: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(int(stream.handle))


def held(array, gate):
    """Submit a kernel that takes until the gate is opened."""
    DRIVER.fakegpu_hold(handle(current_stream()), gate)
    SUBMITTED.append(gate)
    return array


def faulty(array):
    DRIVER.fakegpu_fault(handle(current_stream()), 700)
    return array


def same(array):
    return array


def filled(size):
    """Allocate so many bytes on the device, for the time of the call."""
    Cuda.device_array(size, dtype=np.uint8, stream=current_stream())
    return size


def used(device: int = 0) -> tuple[int, int]:
    """Bytes of the device and pinned bytes that are allocated."""
    values = [ctypes.c_size_t() for _ in range(4)]
    DRIVER.fakegpu_memory(device, *map(ctypes.byref, values))
    return values[0].value, values[3].value


class TestNumbaCUDAPool(PoolContract):
    stops = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do: the simulator's run is on both

    def make_pool(self):
        return NumbaCUDAPool(streams=4)


async def test_calls_on_two_streams_run_side_by_side_and_the_loop_goes_on():
    """The first ends only when the loop, which is free, lets it; the second has ended by then."""
    async with NumbaCUDAPool(streams=2) as pool:
        first = asyncio.ensure_future(pool.run(held, ARRAY, 0))
        await until(lambda: SUBMITTED)
        assert (await pool.run(same, ARRAY)).tolist() == ARRAY.tolist()
        assert not first.done()
        DRIVER.fakegpu_gate(0, 1)
        assert (await first).tolist() == ARRAY.tolist()


async def test_work_on_numbas_default_stream_does_not_hold_a_call_up():
    async with NumbaCUDAPool(streams=1) as pool:
        await pool.run(_hold_the_default_stream, 0)
        await pool.run(same, ARRAY)
        DRIVER.fakegpu_gate(0, 1)


async def test_an_array_that_is_still_being_made_is_waited_for_on_the_device():
    async with NumbaCUDAPool(streams=1) as pool:
        array = await asyncio.to_thread(Cuda.to_device, ARRAY)
        await pool.run(_hold_the_default_stream, 0)
        call = asyncio.ensure_future(pool.run(same, array))
        await asyncio.sleep(0.02)
        assert not call.done()
        DRIVER.fakegpu_gate(0, 1)
        assert (await call).copy_to_host().tolist() == ARRAY.tolist()


def _hold_the_default_stream(gate):
    DRIVER.fakegpu_hold(None, gate)


async def test_a_result_can_be_used_when_the_pool_is_closed():
    async with NumbaCUDAPool(result="device") as pool:
        array = await pool.run(same, ARRAY)
    assert array.copy_to_host().tolist() == ARRAY.tolist()


async def test_a_call_goes_to_the_device_that_its_array_lies_on():
    def where(array):
        return Cuda.current_context().device.id

    async with NumbaCUDAPool(devices=[0, 1], streams=1, result="device") as pool:
        arrays = await pool.map(same, [ARRAY] * 8, chunksize=1)
        homes = [array.gpu_data.context.device.id for array in arrays]
        assert set(homes) == {0, 1}
        assert await pool.map(where, arrays) == homes
        with pytest.raises(
            ValueError,
            match=r"^an array on CUDA device \d was passed to a call on device \d: "
            "copy it there, or let all arrays of a call lie on one device$",
        ):
            await pool.run(lambda *arrays: None, arrays[homes.index(0)], arrays[homes.index(1)])


async def test_calls_for_which_memory_does_not_suffice_together_run_one_after_another():
    DRIVER.fakegpu_set_capacity(64 * MIB)
    async with NumbaCUDAPool(streams=4) as pool:
        assert await pool.map(filled, [40 * MIB] * 24) == [40 * MIB] * 24


async def test_a_call_for_which_memory_never_suffices_says_what_there_is():
    DRIVER.fakegpu_set_capacity(64 * MIB)
    async with NumbaCUDAPool(streams=2) as pool:
        with pytest.raises(
            asyncpar.MemoryLimitError,
            match=r"filled ran out of memory on CUDA device 0 \(software GPU 0\), also when it ran alone: "
            r"6[34][\d.]* MiB are free, this process holds [\d.]+ \w+\. ",
        ) as caught:
            await pool.run(filled, 65 * MIB)
        assert "OUT_OF_MEMORY" in str(caught.value.__cause__)


async def test_a_sticky_fault_ends_what_is_in_flight_and_breaks_the_pool():
    async with NumbaCUDAPool(streams=2) as pool:
        other = asyncio.ensure_future(pool.run(held, ARRAY, 0))
        await until(lambda: SUBMITTED)
        with pytest.raises(Exception, match="CUDA_ERROR_ILLEGAL_ADDRESS") as caught:
            await pool.run(faulty, ARRAY)
        assert type(caught.value).__name__ == "CudaAPIError"
        DRIVER.fakegpu_gate(0, 1)
        with pytest.raises(Exception, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            await other
        with pytest.raises(
            asyncpar.BrokenPoolError,
            match=r"^CUDA device 0 \(software GPU 0\) has failed, and runs nothing more in this process ",
        ):
            await pool.run(same, ARRAY)


async def test_in_processes_a_fault_costs_the_call_that_made_it():
    async with NumbaCUDAPool(streams=1, isolate=True) as pool:
        assert (await pool.run(same, ARRAY)).tolist() == ARRAY.tolist()
        with pytest.raises(Exception, match="CUDA_ERROR_ILLEGAL_ADDRESS"):
            await pool.run(faulty, ARRAY)
        assert (await pool.run(same, ARRAY)).tolist() == ARRAY.tolist()


async def test_all_memory_is_given_back_at_close():
    """Of the device, and the pinned buffers through which arrays travel."""
    async with NumbaCUDAPool(streams=3) as pool:
        await pool.map(same, [np.ones(MIB // 8)] * 12)
        assert used()[1] >= 2 * MIB
    gc.collect()  # what other tests left to the collector
    async with NumbaCUDAPool(streams=1):
        pass
    assert used() == (0, 0)


def test_the_devices_are_told():
    assert describe_devices() == ["CUDA device 0 (software GPU 0)", "CUDA device 1 (software GPU 1)"]


async def test_there_is_no_such_device():
    with pytest.raises(asyncpar.BrokenPoolError, match=r"^no CUDA device 7: numba finds 2, counted from 0$"):
        async with NumbaCUDAPool(7):
            pass
