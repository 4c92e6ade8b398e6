"""Every pool keeps the contract that `asyncpar.testing` ships, as a third party would test its own."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("asyncpar.testing.contract")

from asyncpar import InlinePool, ProcessPool, ThreadPool  # noqa: E402 - after the rewrite is registered
from asyncpar.testing import FaultyPool, PoolContract  # noqa: E402
from asyncpar.testing.contract.calls import CallsContract  # noqa: E402
from asyncpar.testing.contract.failures import FailuresContract  # noqa: E402
from asyncpar.testing.contract.stateful import StatefulContract  # noqa: E402


class TestProcessPool(PoolContract):
    def make_pool(self):
        return ProcessPool(2)


class TestProcessPoolOfFreshInterpreters(CallsContract, FailuresContract, StatefulContract):
    """What of the contract depends on how a worker starts: what it finds, how it dies, what it keeps."""

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do: the loop's side is the same

    def make_pool(self):
        return ProcessPool(2, start="spawn")


class TestThreadPool(PoolContract):
    stops = False

    def make_pool(self):
        return ThreadPool(4)


@pytest.mark.may_block  # it runs the calls on the loop
class TestInlinePool(PoolContract):
    stops = abandons = parallel = False

    def make_pool(self):
        return InlinePool()


class TestFaultyPoolWithoutFaults(PoolContract):
    stops = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do: it only passes calls on

    def make_pool(self):
        return FaultyPool(ThreadPool(4))
