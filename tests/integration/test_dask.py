"""``DaskPool`` on a cluster on this machine. ``make integration`` installs Dask, in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("distributed") is None:
    pytest.skip("no machine here: Dask is installed by 'make integration'", allow_module_level=True)
pytest.register_assert_rewrite("asyncpar.testing.contract")

import numpy  # noqa: E402 - after the skip

import asyncpar  # noqa: E402
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar.testing import functions as f  # noqa: E402
from asyncpar_dask import DaskPool  # noqa: E402
from tests.programs import ROOT, output_of  # noqa: E402

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two workers with one thread each."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=40,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address



class TestContract(PoolContract):
    stops = stateful = False

    @pytest.fixture(autouse=True)
    def on_it(self, cluster):
        self.address = cluster

    def make_pool(self):
        return DaskPool(self.address)
