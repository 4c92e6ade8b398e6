"""The pool keeps the contract of every pool, on PoCL: a real asynchronous device, which is the processor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("pyopencl", reason="needs the extra 'opencl-cpu'")
pytest.register_assert_rewrite("asyncpar.testing.contract")
sys.path.insert(0, str(Path(__file__).parent))
import opencl_setup  # noqa: E402, F401 - before PyOpenCL looks for devices

from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_opencl import OpenCLPool  # noqa: E402


class TestOpenCLPool(PoolContract):
    stops = False

    def make_pool(self):
        return OpenCLPool(streams=4)


class TestIsolatedOpenCLPool(PoolContract):
    """The device lives in worker processes, which are stopped as a process pool's are."""

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio", {"use_uvloop": True}  # one loop will do: each test starts processes

    def make_pool(self):
        return OpenCLPool(streams=2, isolate=True)
