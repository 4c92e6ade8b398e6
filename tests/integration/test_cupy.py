"""CuPyPool: the contract, and what goes in and comes out. On the software GPU, and with ``-m gpu`` on a real one."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.integration.cupy_setup import SOFTWARE  # first: it skips where there is no CuPy

pytest.register_assert_rewrite("asyncpar.testing.contract")

import cupy as cp  # noqa: E402

import asyncpar  # noqa: E402
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_cupy import CuPyPool  # noqa: E402
from asyncpar_cupy.device import describe_devices  # noqa: E402
from tests.fakegpu import control  # noqa: E402
from tests.integration import cupy_functions as f  # noqa: E402
from tests.programs import ROOT, output_of  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def device_is_empty_after():
    """All memory is given back when the pool has closed."""
    yield
    if SOFTWARE:
        gc.collect()
        cp.get_default_pinned_memory_pool().free_all_blocks()  # through which the test itself made arrays
        left = control.memory()
        assert (left.used, left.pinned) == (0, 0)


class TestContract(PoolContract):
    stops = False

    def make_pool(self):
        return CuPyPool(streams=4)


X = np.linspace(-3, 5, 60).reshape(6, 10)


@pytest.mark.parametrize("function", [f.ufuncs, f.elementwise])
async def test_results_equal_numpys(function):
    expected = {f.ufuncs: np.sqrt(np.abs(X)) * 2 + X, f.elementwise: X * 3 + 1}[function]
    async with CuPyPool() as gpu:
        got = await gpu.run(function, X)
        assert type(got) is np.ndarray
        assert got.flags.writeable
        np.testing.assert_allclose(got, expected, rtol=1e-14)


async def test_reductions_equal_numpys_and_tuples_are_looked_into():
    async with CuPyPool() as gpu:
        got = await gpu.run(f.reductions, X)
    expected = X.sum(), X.mean(axis=0), X.max(axis=1), X.argmax(), (X * X).sum()
    for mine, numpys in zip(got, expected, strict=True):
        assert type(mine) is np.ndarray
        assert mine.shape == numpys.shape
        np.testing.assert_allclose(mine, numpys)


async def test_a_raw_kernel():
    x, y = np.arange(1000, dtype=np.float32), np.ones(1000, np.float32)
    async with CuPyPool() as gpu:
        np.testing.assert_array_equal(await gpu.run(f.raw, x, y), 1 + 2 * x)
    assert y.sum() == 1000


@pytest.mark.parametrize(
    "array", [X.T, X[::2, ::3], np.zeros((0, 3)), np.array(7.5), np.arange(5, dtype=np.int8), X > 0, X + 1j]
)
async def test_arrays_of_all_kinds(array):
    async with CuPyPool() as gpu:
        got = await gpu.run(f.double, array)
        assert (got.dtype, got.shape) == ((array * 2).dtype, array.shape)
        np.testing.assert_array_equal(got, array * 2)


async def test_what_is_on_the_device_stays_there():
    async with CuPyPool() as gpu:
        made = await gpu.run(f.ones, 8)
        assert isinstance(made, cp.ndarray)
        twice = await gpu.run(f.double, made)
        assert isinstance(twice, cp.ndarray)
        np.testing.assert_array_equal(await gpu.run(f.add, twice, np.ones(8)), np.full(8, 3.0))
        del made, twice


@pytest.mark.parametrize(("result", "kind"), [("host", np.ndarray), ("device", cp.ndarray)])
async def test_results_go_where_they_are_sent(result, kind):
    async with CuPyPool(result=result) as gpu:
        for given in (X, cp.asarray(X)):
            got = await gpu.run(f.double, given)
            assert type(got) is kind
            np.testing.assert_array_equal(cp.asnumpy(got), X * 2)
            del got, given


async def test_an_actor_keeps_its_state_on_the_device():
    async with CuPyPool() as gpu, gpu.actor(f.Total, 3) as total:
        await total.run(f.Total.add, np.arange(3.0))
        np.testing.assert_array_equal(await total.run(f.Total.add, np.arange(3.0)), [0, 2, 4])


async def test_calls_of_one_function_are_stacked():
    async with CuPyPool(batch=8, batch_wait=30, streams=1) as gpu:
        got = await asyncpar.gather(*(gpu.run(f.double, np.full(4, i)) for i in range(16)))
        assert [list(row) for row in got] == [[2 * i] * 4 for i in range(16)]
        assert 0 < gpu.statistics().batches <= 8


@pytest.mark.may_block  # it reads what is installed
async def test_it_is_opened_by_its_name():
    async with asyncpar.open_pool("cupy") as gpu:
        assert isinstance(gpu, CuPyPool)
        assert (await gpu.run(f.double, np.ones(2))).tolist() == [2, 2]


async def test_a_device_that_is_not_there():
    with pytest.raises(
        asyncpar.BrokenPoolError, match=r"no CUDA device 99: this machine has \d+, numbered from 0"
    ):
        async with CuPyPool(99):
            pass


@pytest.mark.may_block  # it runs a program
@pytest.mark.skipif(not SOFTWARE, reason="no machine here: it hides the software GPU")
def test_no_device_says_what_to_install():
    program = "import asyncpar, asyncpar_cupy\nasync def main():\n  async with asyncpar_cupy.CuPyPool(): pass\nasyncpar.run(main)"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "FAKEGPU_DEVICES": "0"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "asyncpar.errors.BrokenPoolError: no CUDA device: CuPy 14.2.0 finds no GPU, or no driver"
    )
    assert "pip install 'asyncpar[cupy]' for CUDA 13, cupy-cuda12x for CUDA 12" in last


def test_the_example_runs(tmp_path):
    assert output_of(ROOT / "examples" / "cupy_streams.py", folder=tmp_path).strip()


def test_the_report_runs():
    """What it says of times is not looked at: of the software GPU they mean nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_report", "--kilobytes", "64"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].endswith("arrays of 0.06 MB")
    assert "device 0 (" in lines[0]
    assert [line.count("|") for line in lines[2:]] == [3] * 10


def test_devices_are_told():
    assert describe_devices()[0].split(",")[0].endswith("device 0 (software GPU 0)" if SOFTWARE else ")")
