"""What pools on engines share, on the smallest engine: the standard library's executor. Dask and Ray: tests/integration."""

from __future__ import annotations

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.engine import EnginePool, LostError, Place, WithdrawnError  # noqa: E402
from asyncpar.far import BUFFER, Parcels, Request, leave, pack, run_chunk  # noqa: E402
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar.testing import functions as f  # noqa: E402


class ExecutorPlace(Place):
    def __init__(self):
        super().__init__()
        self.executor = ThreadPoolExecutor(1)


class ExecutorPool(EnginePool):
    """Chunks as calls of executors of one thread, which get them pickled, as they would from another machine."""

    fault: Exception | None = None
    """What becomes of the next chunk instead."""

    async def _open(self):
        self.places = [ExecutorPlace() for _ in range(self.workers)]
        self.kept = []

    async def _submit(self, chunk, request, constants):
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        sent = pickle.dumps(request, 5)
        work = lambda: pickle.dumps(run_chunk(pickle.loads(sent), *constants), 4)  # noqa: E731
        return pickle.loads(await self.loop.run_in_executor(chunk.place.executor, work))

    async def _keep(self, constant):
        self.kept.append(constant)
        return constant

    async def _close(self):
        await self._end_tasks()
        for place in self.places:
            await self.loop.run_in_executor(place.executor, leave)
            place.executor.shutdown(wait=False)
        await super()._close()


class TestContract(PoolContract):
    stops = stateful = False

    @pytest.fixture(scope="class")
    @classmethod
    def anyio_backend(cls):
        return "asyncio"  # one loop will do: tests/integration has both

    def make_pool(self):
        return ExecutorPool(2)


async def test_a_lost_chunk_says_what_is_lost():
    async with ExecutorPool(1) as pool:
        pool.fault = LostError("worker 7 died")
        with pytest.raises(
            asyncpar.WorkerLostError, match=r"^worker 7 died while it ran .*square; the pool goes on"
        ):
            await pool.run(f.square, 1)
        await pool.map(f.square, range(50))
        pool.fault = LostError("worker 7 died")
        got = await pool.map(f.square, range(6), chunksize=6, return_exceptions=True)
        assert "square; it was one of the 6 calls that travelled together, and any may have run" in str(
            got[0]
        )
        assert pool.statistics().lost == 7
        pool.fault = LostError("worker 7 died")
        assert await pool.map(f.square, range(6), chunksize=6, retries=1) == [x * x for x in range(6)]


async def test_an_error_of_the_engine_is_raised_as_it_is():
    async with ExecutorPool(1) as pool:
        pool.fault = ConnectionError("the cluster is gone")
        with pytest.raises(ConnectionError, match="the cluster is gone"):
            await pool.run(f.square, 1)
        assert pool.statistics().running == 0


async def test_a_chunk_that_the_engine_stopped_ends_as_cancelled():
    async with ExecutorPool(1) as pool:
        pool.fault = WithdrawnError()
        with pytest.raises(asyncio.CancelledError):
            await pool.run(f.square, 1)


async def test_what_an_interrupt_left_out_goes_elsewhere():
    def interrupted(x):
        if x == 2:
            raise KeyboardInterrupt
        return x

    async with ExecutorPool(2) as pool:
        pool._dump = __import__("cloudpickle").dumps
        got = await pool.map(interrupted, range(6), chunksize=6, return_exceptions=True)
    assert [x for x in got if isinstance(x, int)] == [0, 1, 3, 4, 5]
    assert str(got[2]).startswith("the call raised KeyboardInterrupt")


async def test_a_call_with_a_timeout_travels_alone():
    async with ExecutorPool(2) as pool:
        await pool.map(f.square, range(500))
        sizes = []
        submit = pool._submit

        async def counted(chunk, request, constants):
            sizes.append(len(chunk.items))
            return await submit(chunk, request, constants)

        pool._submit = counted
        await pool.map(f.square, range(20), timeout=50, chunksize=10)
        assert set(sizes) == {1}
        await pool.map(f.square, range(20), chunksize=10)
        assert 10 in sizes


async def test_a_shared_object_is_kept_once_and_let_go():
    table = asyncpar.share([1, 2, 3])
    async with ExecutorPool(2) as pool:
        assert await pool.map(f.pick, [table] * 30, [0, 1, 2] * 10) == [1, 2, 3] * 10
        assert len(pool.kept) == len(pool._constants) == 1
        del table
        assert not pool._constants


def test_what_cannot_be_pickled_is_left_out():
    parcels, errors = pack([1, threading.Lock(), "x"], pickle.dumps)
    assert parcels.open("x") == [1, "x"]
    assert list(errors) == [1]
    assert isinstance(errors[1], TypeError)


def test_plain_values_share_one_pickle_and_large_buffers_leave_theirs():
    assert isinstance(pack([1, 2, 3], pickle.dumps)[0].content, bytes)
    small, large = (pickle.PickleBuffer(bytearray(size)) for size in (BUFFER - 1, BUFFER))
    [(_, none), (_, one)] = pack([small, large], pickle.dumps)[0].content
    assert (len(none), len(one)) == (0, 1)


@pytest.mark.parametrize("protocol", [4, 5])
def test_large_buffers_arrive_read_only_by_every_protocol(protocol):
    parcels, _ = pack([pickle.PickleBuffer(bytearray(BUFFER))], pickle.dumps)
    [view] = pickle.loads(pickle.dumps(parcels, protocol)).open("x")
    assert (memoryview(view).readonly, memoryview(view).nbytes) == (True, BUFFER)


def test_a_function_that_is_not_there_fails_each_of_its_calls():
    items = Parcels(pickle.dumps([(0, (2,), {}), (1, (3,), {})]))
    request = Request(
        "singles", [b"cno_such_module\nname\n.", pickle.dumps(f.square)], items, [], pickle.dumps
    )
    values, errors = run_chunk(request).open()
    assert values == [None, 9]
    assert "the function cannot be unpickled in the worker: ModuleNotFoundError" in str(errors[0])


@pytest.mark.may_block  # it looks for packages
@pytest.mark.parametrize(("name", "package"), [("dask", "distributed"), ("ray", "ray")])
async def test_an_engine_that_is_not_installed_is_named(name, package):
    if find_spec(package) is not None:
        pytest.skip(f"not promised: {package} is installed here")
    with pytest.raises(ImportError, match=rf"Install it with: pip install 'asyncpar\[{name}\]'"):
        async with asyncpar.open_pool(name):
            pass
