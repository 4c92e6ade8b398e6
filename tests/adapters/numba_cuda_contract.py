"""The pool on numba's CUDA simulator. ``test_numba_cuda.py`` runs it in a process of its own."""

from __future__ import annotations

import asyncio
import sys
import threading

import numpy as np
import pytest

pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_numba import NumbaCUDAPool, current_stream  # noqa: E402
from asyncpar_numba.device import describe_devices  # noqa: E402
from tests.adapters import numba_cuda_kernels as kernels  # noqa: E402
from tests.adapters.numba_cuda_kernels import Cuda  # noqa: E402

pytestmark = pytest.mark.may_block  # the first import of numba's CUDA part reads files
ARRAY = np.arange(40, dtype=np.float32)


class TestNumbaCUDAPool(PoolContract):
    stops = parallel = False

    def make_pool(self):
        return NumbaCUDAPool(streams=4)


async def test_the_simulator_has_one_stream_however_many_are_asked_for():
    async with NumbaCUDAPool(streams=4) as pool:
        assert pool.workers == 1
        threads = await pool.map(lambda _: threading.get_ident(), range(20))
        assert len(set(threads)) == 1


async def test_numpy_arrays_go_to_the_device_and_results_come_back():
    async with NumbaCUDAPool() as pool:
        result = await pool.run(kernels.scaled, ARRAY, factor=3)
        assert type(result) is np.ndarray
        assert result.tolist() == (3 * ARRAY).tolist()
        assert ARRAY.tolist() == list(range(40))


async def test_the_function_gets_arrays_of_the_device():
    async with NumbaCUDAPool() as pool:
        assert await pool.run(_is_of_the_device, ARRAY)


def _is_of_the_device(array: object) -> bool:
    return hasattr(array, "copy_to_host")


async def test_arrays_of_the_device_stay_there():
    async with NumbaCUDAPool() as pool:
        there = await pool.run(kernels.scaled, Cuda.to_device(ARRAY))
        assert _is_of_the_device(there)
        again = await pool.run(kernels.scaled, there)
        assert again.copy_to_host().tolist() == (4 * ARRAY).tolist()


@pytest.mark.parametrize("result", ["device", "host"])
async def test_where_results_go_can_be_said(result):
    async with NumbaCUDAPool(result=result) as pool:
        for array in (ARRAY, Cuda.to_device(ARRAY)):
            assert _is_of_the_device(await pool.run(kernels.scaled, array)) == (result == "device")


async def test_arrays_within_lists_and_dictionaries_travel_too():
    async with NumbaCUDAPool() as pool:
        result = await pool.run(kernels.scaled_in_a_dict, [ARRAY, ARRAY[:5]], 2)
        assert [array.tolist() for array in result["scaled"]] == [(2 * ARRAY).tolist(), [0, 2, 4, 6, 8]]
        assert result["factor"] == 2


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24)[::2],
        np.zeros((0, 3)),
        np.array(5),
        np.array([True, False]),
        np.array([1 + 2j]),
    ],
    ids=["two dimensions", "columns first", "every other", "empty", "no dimension", "bool", "complex"],
)
async def test_any_layout_and_type_survives_the_journey(array):
    async with NumbaCUDAPool() as pool:
        result = await pool.run(lambda there: there, array)
        assert result.dtype == array.dtype
        assert result.shape == array.shape
        assert result.tolist() == array.tolist()


async def test_a_map_of_arrays():
    async with NumbaCUDAPool() as pool:
        results = await pool.map(kernels.scaled, (ARRAY + n for n in range(5)))
        assert [result.tolist() for result in results] == [(2 * (ARRAY + n)).tolist() for n in range(5)]


async def test_calls_with_equal_shapes_run_as_one():
    async with NumbaCUDAPool(batch=4, batch_wait=30) as pool:
        results = await asyncio.gather(*[pool.run(kernels.rows_scaled, ARRAY + n) for n in range(4)])
        assert [result.tolist() for result in results] == [(2 * (ARRAY + n)).tolist() for n in range(4)]
        assert pool.statistics().batches == 1


async def test_an_actor_keeps_arrays_on_the_device():
    async with NumbaCUDAPool() as pool, pool.actor(kernels.Weights, 3) as weights:
        assert (await weights.run(kernels.Weights.scaled, ARRAY)).tolist() == (3 * ARRAY).tolist()
        assert (await weights.run(kernels.Weights.scaled_again)).tolist() == (9 * ARRAY).tolist()


async def test_actors_and_other_pools_wait_for_the_simulator_too():
    """It bears one thread at a time."""
    async with NumbaCUDAPool() as pool, NumbaCUDAPool() as other, pool.actor(kernels.Weights, 3) as weights:
        calls = [
            call
            for _ in range(10)
            for call in (
                pool.run(kernels.scaled, ARRAY, 3),
                other.run(kernels.scaled, ARRAY, 3),
                weights.run(kernels.Weights.scaled, ARRAY),
            )
        ]
        assert [result.tolist() for result in await asyncio.gather(*calls)] == [(3 * ARRAY).tolist()] * 30


async def test_a_kernels_error_is_the_calls():
    async with NumbaCUDAPool() as pool:
        with pytest.raises(IndexError):
            await pool.run(kernels.write_beyond, ARRAY)
        assert (await pool.run(kernels.scaled, ARRAY)).tolist() == (2 * ARRAY).tolist()


def test_the_simulator_is_told():
    assert describe_devices() == ["numba's CUDA simulator"]


async def test_there_is_no_such_device():
    with pytest.raises(asyncpar.BrokenPoolError, match=r"^no CUDA device 7: numba finds 1, counted from 0$"):
        async with NumbaCUDAPool(7):
            pass


def test_the_current_stream_is_for_calls():
    with pytest.raises(
        RuntimeError,
        match=r"^current_stream\(\) is for functions that a NumbaCUDAPool runs: await pool.run\(function\)$",
    ):
        current_stream()


def test_this_is_the_simulator():
    assert sys.modules["numba"].config.ENABLE_CUDASIM
