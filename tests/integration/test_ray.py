"""``RayPool`` on a cluster on this machine. ``make integration`` installs Ray, in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("ray") is None:
    pytest.skip("no machine here: Ray is installed by 'make integration'", allow_module_level=True)
pytest.register_assert_rewrite("asyncpar.testing.contract")

import numpy  # noqa: E402 - after the skip

import asyncpar  # noqa: E402
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar.testing import functions as f  # noqa: E402
from asyncpar_ray import RayPool  # noqa: E402
from tests.programs import ROOT, output_of  # noqa: E402

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Ray in this process, with two CPUs."""
    import ray

    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000,
        _temp_dir=str(tmp_path_factory.mktemp("ray", numbered=True)),
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
class TestContract(PoolContract):
    def make_pool(self):
        return RayPool()
