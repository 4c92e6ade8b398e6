"""``DaskPool`` on a cluster on this machine. ``make engines`` installs Dask, in an environment of its own."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

if find_spec("distributed") is None:
    pytest.skip("no machine here: Dask is installed by 'make engines'", allow_module_level=True)
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the skip
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar.testing import functions as f  # noqa: E402
from asyncpar_dask import DaskPool  # noqa: E402
from tests.integration.engine_tests import EngineTests  # noqa: E402
from tests.programs import ROOT, output_of  # noqa: E402
from tests.test_docs import engine_programs as programs  # noqa: E402

pytestmark = [pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a cluster of two workers with one thread each."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=40,
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as cluster:  # fmt: skip
        yield cluster.scheduler_address


class TestContract(PoolContract):
    stops = stateful = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do, since Dask takes its time: what follows runs on both

    @pytest.fixture(autouse=True)
    def on_it(self, cluster):
        self.address = cluster

    def make_pool(self):
        return DaskPool(self.address)


@pytest.mark.may_block  # the tests write files
class TestSpecifics(EngineTests):
    @pytest.fixture(autouse=True)
    def on_it(self, cluster):
        self.address = cluster

    def make_pool(self):
        return DaskPool(self.address)

    async def test_a_call_that_runs_cannot_be_stopped_and_holds_its_place(self, tmp_path: Path):
        path = str(tmp_path / "marks")
        async with self.make_pool() as pool:
            call = asyncio.ensure_future(pool.run(f.hold_and_mark, path))
            while not f.lines(f"{path}.begun"):
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert f.lines(f"{path}.ended") == []
            assert pool.statistics().running == 1
            f.release(path)
            while pool.statistics().running:
                await asyncio.sleep(0.01)
            assert f.lines(f"{path}.ended") == ["x"]

    async def test_there_are_no_actors(self):
        async with self.make_pool() as pool:
            with pytest.raises(asyncpar.UnsupportedError, match="no actors and no streams: use Dask's own"):
                async with pool.actor(f.Counter):
                    pass

    async def test_the_error_names_the_worker(self):
        async with self.make_pool() as pool:
            pids = {await pool.run(os.getpid) for _ in range(10)}
            with pytest.raises(asyncpar.WorkerLostError, match=r"worker \d+ at tcp://") as caught:
                await pool.run(lambda: os.kill(os.getpid(), 9))
            assert caught.value.pid in pids

    async def test_a_client_of_the_user_gives_the_cluster(self):
        import distributed

        async with distributed.Client(self.address, asynchronous=True, set_as_default=False) as client:
            async with DaskPool(client) as pool:
                assert await pool.map(f.square, range(10)) == [x * x for x in range(10)]
            assert await client.submit(f.square, 3) == 9

    async def test_no_scheduler_is_an_oserror(self):
        with pytest.raises(OSError, match=r"127\.0\.0\.1"):
            async with DaskPool("tcp://127.0.0.1:9", timeout=0.5):
                pass

    async def test_workers_are_for_a_cluster_of_its_own(self):
        with pytest.raises(ValueError, match="workers= is for a cluster of the pool's own"):
            DaskPool(self.address, workers=2)


@pytest.mark.may_block  # the nanny of the fixture's cluster looks at its worker
async def test_it_is_opened_by_its_name(cluster):
    async with asyncpar.open_pool(f"dask:{cluster}") as pool:
        assert isinstance(pool, DaskPool)
        assert await pool.run(f.square, 3) == 9


@pytest.mark.may_block
async def test_a_cluster_of_its_own_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = children()
    async with DaskPool(workers=1) as pool:
        assert await pool.run(f.square, 3) == 9
        opened = [
            c.laddr.ip for p in (psutil.Process(), *children() - before) for c in p.net_connections("inet")
        ]
        assert set(opened) == {"127.0.0.1"}
        assert list(tmp_path.iterdir())
        lost = asyncio.ensure_future(pool.run(f.nap, 30))
        await asyncio.sleep(0.2)
    with pytest.raises(asyncpar.PoolClosedError):
        await lost
    assert not list(tmp_path.iterdir())
    assert children() <= before


def children():
    """Processes below this one, but for the one that multiprocessing starts once and keeps."""
    found = psutil.Process().children(recursive=True)
    return {child for child in found if "resource_tracker" not in " ".join(child.cmdline())}


@pytest.mark.parametrize("name", ["dask_cluster"])
def test_the_example_runs(name, tmp_path):
    assert output_of(ROOT / "examples" / f"{name}.py", folder=tmp_path).strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("program", "printed"), [*programs("dask")])
def test_the_programs_of_the_page_run(program, printed, tmp_path):
    script = tmp_path / "program.py"
    script.write_text(program)
    assert output_of(script, folder=tmp_path) == printed
