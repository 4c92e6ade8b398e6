"""The pool on numba's CUDA kernels: under the simulator, in processes that have it on, and without a device."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytest.importorskip("numba", reason="needs the extra 'numba'")

from tests.fakegpu import cuda
from tests.programs import ROOT

CONTRACT = ROOT / "tests/adapters/numba_cuda_contract.py"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with these variables, which numba reads when it is imported."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


@pytest.mark.timeout(300)
def test_the_pool_keeps_the_contract_on_the_simulator():
    """Nothing is skipped but what the pool does not promise, and nothing is left behind by any test."""
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CONTRACT), NUMBA_ENABLE_CUDASIM="1", CI="1"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@pytest.mark.timeout(300)
def test_the_pool_keeps_the_contract_on_a_software_driver(tmp_path):
    """Streams, events, faults and memory are numba-cuda's own then, over CUDA's driver interface."""
    if find_spec("numba_cuda") is None:
        pytest.skip("no machine here: numba-cuda is installed by 'make integration'")
    inner = ROOT / "tests/adapters/numba_cuda_driver.py"
    environment = cuda.environment(cuda.build(tmp_path))
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(inner), CI="1", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


OPEN = """
import asyncio
from asyncpar_numba import NumbaCUDAPool
async def main():
    async with NumbaCUDAPool(): pass
asyncio.run(main())
"""


def test_without_a_device_opening_says_what_is_missing():
    done = run("-c", OPEN, NUMBA_ENABLE_CUDASIM="0")
    if find_spec("numba_cuda") is None:
        message = (
            "asyncpar.errors.BrokenPoolError: no numba-cuda, which runs kernels on a GPU. Install it with: "
            "pip install 'asyncpar[numba-cuda]'"
        )
    elif done.returncode == 0:
        pytest.skip("no machine here: without a GPU")
    else:
        message = "asyncpar.errors.BrokenPoolError: no CUDA device: "
        assert (
            "It needs NVIDIA's driver; without a GPU, NUMBA_ENABLE_CUDASIM=1 has numba simulate one"
            in done.stderr
        )
    assert done.returncode == 1
    assert message in done.stderr
