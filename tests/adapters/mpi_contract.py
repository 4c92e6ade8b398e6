"""The contract of every pool on ranks. Not collected by itself: ``test_mpi_contract.py`` runs it under mpiexec."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("asyncpar.testing.contract")

from asyncpar.testing import PoolContract  # noqa: E402 - after the rewrite is registered
from asyncpar_mpi import MPIPool  # noqa: E402


class TestMPIPool(PoolContract):
    def make_pool(self):
        return MPIPool()
