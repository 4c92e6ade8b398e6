"""``RayPool`` on a cluster on this machine. ``make engines`` installs Ray, in an environment of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("ray") is None:
    pytest.skip("no machine here: Ray is installed by 'make engines'", allow_module_level=True)
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the skip
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar.testing import functions as f  # noqa: E402
from asyncpar_ray import RayPool  # noqa: E402
from tests.integration.engine_tests import EngineTests  # noqa: E402
from tests.programs import output_of  # noqa: E402
from tests.test_docs import engine_programs as programs  # noqa: E402

pytestmark = [pytest.mark.timeout(180)]


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


@pytest.mark.may_block  # the tests write files
@pytest.mark.usefixtures("cluster")
class TestSpecifics(EngineTests):
    def make_pool(self):
        return RayPool()

    async def test_a_call_that_hears_no_interrupt_is_killed_after_the_grace(self, tmp_path: Path):
        path = str(tmp_path / "marks")

        def deaf():
            import time

            f.mark(path)
            while True:
                try:
                    time.sleep(1000)
                except KeyboardInterrupt:
                    f.mark(path)

        async with RayPool(grace=0.3) as pool:
            call = asyncio.ensure_future(pool.run(deaf))
            while not f.lines(path):
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            now = pool.statistics()
            assert (now.running, now.lost) == (0, 0)
            assert await pool.run(f.square, 3) == 9

    async def test_what_is_interrupted_cleans_up(self, tmp_path: Path):
        path = str(tmp_path / "marks")

        def tidy():
            f.mark(path, "begun")
            try:
                f.nap(30)
            finally:
                f.mark(path, "cleaned")

        async with self.make_pool() as pool:
            call = asyncio.ensure_future(pool.run(tidy))
            while not f.lines(path):
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        assert f.lines(path) == ["begun", "cleaned"]

    async def test_an_actor_that_dies_is_lost(self):
        async with self.make_pool() as pool, pool.actor(f.Counter) as counter:
            with pytest.raises(asyncpar.WorkerLostError):
                await counter.run(lambda _: os.kill(os.getpid(), 9))
            with pytest.raises(asyncpar.WorkerLostError):
                await counter.run(f.Counter.add)
            assert await pool.run(f.square, 3) == 9

    async def test_the_programs_own_connection_stays_open(self):
        import ray

        async with self.make_pool() as one, self.make_pool() as two:
            assert await one.run(f.square, 3) == await two.run(f.square, 3) == 9
        assert ray.is_initialized()

    async def test_it_is_opened_by_its_name(self):
        async with asyncpar.open_pool("ray") as pool:
            assert isinstance(pool, RayPool)
            assert pool.workers == 2
            assert await pool.run(f.square, 3) == 9


OWN = """
import asyncio, tempfile, sys
import psutil
from asyncpar_ray import RayPool

async def main():
    async with RayPool(workers=1) as one, RayPool() as two:
        print(await one.run(abs, -1), await two.run(abs, -2))
        print(any("raylet" in p.name() for p in psutil.Process().children(recursive=True)))
        call = asyncio.ensure_future(one.run(__import__("time").sleep, 30))
        await asyncio.sleep(0.3)

asyncio.run(main())
print([p.name() for p in psutil.Process().children(recursive=True)])
"""


def test_a_cluster_of_its_own_leaves_nothing():
    """In a process of its own, since a process has one connection to Ray. Its sockets want a short path."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, "-c", OWN], env=os.environ | {"TMPDIR": str(folder)}, capture_output=True, text=True, timeout=50,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 2\nTrue\n[]\n"
    folder.rmdir()  # it is empty
    assert set(os.listdir("/dev/shm")) <= before


@pytest.mark.parametrize(("program", "printed"), [*programs("ray")])
def test_the_programs_of_the_page_run(program, printed, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(program)
    assert output_of(script, folder=tmp_path) == printed
