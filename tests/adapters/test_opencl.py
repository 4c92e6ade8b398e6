"""OpenCLPool, and through it what all pools on GPU streams promise, on PoCL."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
cl = pytest.importorskip("pyopencl", reason="needs the extra 'opencl-cpu'")
pytest.importorskip("pyopencl.array")
sys.path.insert(0, str(Path(__file__).parent))
import opencl_setup  # noqa: E402, F401 - before PyOpenCL looks for devices

import asyncpar  # noqa: E402
import asyncpar_opencl  # noqa: E402
from asyncpar_opencl import OpenCLPool, current_queue, keep, kernel  # noqa: E402
from asyncpar_opencl.device import OpenCLDevice  # noqa: E402

SCALE = """
kernel void scale(global float *x, float by) { x[get_global_id(0)] *= by; }
"""
MIB = 1 << 20


def twice(x):
    return x * 2


def scaled(x, by):
    run = kernel(SCALE, "scale")
    x.add_event(run(current_queue(), x.shape, None, x.data, np.float32(by), wait_for=x.events))
    return x


def gated(gate, started):
    """Runs on the device until the gate opens."""
    keep(cl.enqueue_marker(current_queue(), wait_for=[gate]))
    current_queue().flush()
    started.set()


def take(mebibytes):
    """Allocate, and use what was allocated, for a moment."""
    buffer = cl.Buffer(current_queue().context, cl.mem_flags.READ_WRITE, mebibytes * MIB)
    keep(cl.enqueue_fill(current_queue(), buffer, np.uint8(1), 1 * MIB)).wait()
    return mebibytes


class Gate:
    """A ``UserEvent``, which holds commands back. Kept alive: PoCL aborts the process if one that failed is released."""

    failed: list[object] = []  # noqa: RUF012

    def __init__(self, pool):
        self.event = cl.UserEvent(pool.sites[0].device.context)

    def open(self):
        self.event.set_status(cl.command_execution_status.COMPLETE)

    def fail(self):
        self.failed.append(self.event)
        self.event.set_status(-5)


async def begun(started):
    while not started.is_set():
        await asyncio.sleep(0.001)


# -- arrays


async def test_numpy_in_numpy_out_and_device_in_device_out():
    """result="auto" looks at the arguments; so do arrays in tuples, lists and dictionaries."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    async with OpenCLPool(streams=2) as pool:
        assert type(await pool.run(twice, x)) is np.ndarray
        np.testing.assert_array_equal(await pool.run(twice, x), 2 * x)
        nested = await pool.run(lambda d: {"a": [d["a"] + 1], "n": 3}, {"a": x[:, ::2]})
        np.testing.assert_array_equal(nested["a"][0], x[:, ::2] + 1)
        there = await pool.run(lambda: cl.array.to_device(current_queue(), x))
        assert isinstance(there, cl.array.Array)
        kept = await pool.run(twice, there)
        assert isinstance(kept, cl.array.Array)
        np.testing.assert_array_equal(await pool.run(lambda a, b: a + b, kept, x), 3 * x)
        del there, kept


@pytest.mark.parametrize(("result", "kind"), [("host", np.ndarray), ("device", cl.array.Array)])
async def test_result_says_where_arrays_go(result, kind):
    """Whatever came in."""
    async with OpenCLPool(streams=1, result=result) as pool:
        there = await pool.run(twice, np.ones(3, np.float32))
        assert isinstance(there, kind)
        assert isinstance(await pool.run(twice, there), kind)
        del there


async def test_sixty_jobs_with_a_kernel_of_the_threads_own():
    """Kernels are made once in each thread, since two threads must not call one; all results are right."""
    async with OpenCLPool(streams=4) as pool:
        jobs = [pool.run(scaled, np.full(1000, i, np.float32), 3) for i in range(60)]
        for i, result in enumerate(await asyncio.gather(*jobs)):
            np.testing.assert_array_equal(result, np.full(1000, 3 * i, np.float32))
        assert len({id(slot.runner.stream.queue) for slot in pool.sites[0].slots}) == 4


async def test_calls_on_different_streams_overlap_and_on_one_do_not():
    """A call that the device holds back does not hold back another stream's."""
    async with OpenCLPool(streams=2) as pool:
        gate, started, order = Gate(pool), threading.Event(), []
        held = asyncio.ensure_future(pool.run(gated, gate.event, started))
        held.add_done_callback(lambda _: order.append("held"))
        await begun(started)
        await pool.run(twice, np.ones(3, np.float32))
        order.append("free")
        gate.open()
        await held
        await asyncio.sleep(0)
        assert order == ["free", "held"]


async def test_there_is_no_current_queue_outside_of_calls():
    """The message says where to call it."""
    with pytest.raises(RuntimeError, match="inside a function that runs on an OpenCLPool"):
        current_queue()


# -- failures


async def test_a_command_that_fails_is_its_calls_error_and_no_others():
    """Although a marker behind it may report success, and a callback would never come."""
    async with OpenCLPool(streams=1) as pool:
        gate, started = Gate(pool), threading.Event()
        call = asyncio.ensure_future(pool.run(gated, gate.event, started))
        await begun(started)
        gate.fail()
        with pytest.raises(cl.Error, match="EXEC_STATUS_ERROR"):
            await call
        np.testing.assert_array_equal(await pool.run(twice, np.ones(2, np.float32)), [2, 2])


class Fragile(OpenCLDevice):
    """A device that is gone after a failed command, as a GPU is after an illegal address."""

    def fault(self, error):
        return isinstance(error, cl.Error)


class FragilePool(OpenCLPool):
    @classmethod
    def make_device(cls, number):
        return Fragile(number)


async def test_a_sticky_fault_breaks_the_pool_and_hangs_nothing():
    """What is in flight ends with the device's error, what waits and what comes with advice."""
    async with FragilePool(streams=2) as pool:
        bad, good, started, other = Gate(pool), Gate(pool), threading.Event(), threading.Event()
        calls = [asyncio.ensure_future(pool.run(gated, bad.event, started))]
        calls.append(asyncio.ensure_future(pool.run(gated, good.event, other)))
        await begun(started)
        await begun(other)
        waiting = asyncio.ensure_future(pool.run(twice, np.ones(2)))
        await asyncio.sleep(0)
        bad.fail()
        for call in calls:
            with pytest.raises(cl.Error):
                await call
        for late in (waiting, pool.run(twice, 1)):
            with pytest.raises(
                asyncpar.BrokenPoolError, match=r"restart the process, or open .* isolate=True"
            ):
                await late
        good.open()


def fault_once():
    event = cl.UserEvent(current_queue().context)
    Gate.failed.append(event)
    keep(cl.enqueue_marker(current_queue(), wait_for=[event]))
    event.set_status(-5)


async def test_an_isolated_device_is_replaced_after_a_fault():
    """Its call gets the device's error; the next finds a device that works, in another process."""
    async with FragilePool(streams=1, isolate=True) as pool:
        before = pool.sites[0].slots[0].inner.pids
        with pytest.raises(Exception, match="EXEC_STATUS_ERROR"):
            await pool.run(fault_once)
        np.testing.assert_array_equal(await pool.run(twice, np.ones(2, np.float32)), [2, 2])
        assert pool.sites[0].slots[0].inner.pids != before


@pytest.mark.parametrize("device", [7, "7"])
async def test_a_device_that_is_not_there(device):
    """The message says how many there are."""
    with pytest.raises(asyncpar.BrokenPoolError, match="no OpenCL device 7: there are 2, numbered from 0"):
        async with OpenCLPool(device):
            pass


# -- memory


async def test_want_of_memory_is_met_by_running_alone():
    """24 calls of 250 MiB on a device of 1 GiB, eight at a time: some run twice, none fails."""
    async with OpenCLPool(streams=8) as pool:
        assert await asyncio.gather(*[pool.run(take, 250) for _ in range(24)]) == [250] * 24


async def test_a_budget_keeps_calls_apart():
    """Of calls that hold 100 MiB of a budget of 200, two run at a time; one of unknown need runs by itself."""
    async with OpenCLPool(streams=4, memory="200 MiB") as pool:
        pool.declare(gated, "100 MiB")
        gates = [(Gate(pool), threading.Event()) for _ in range(3)]
        calls = [asyncio.ensure_future(pool.run(gated, gate.event, started)) for gate, started in gates]
        await begun(gates[0][1])
        await begun(gates[1][1])
        assert pool.statistics().memory == 200 * MIB
        assert not gates[2][1].is_set()
        gates[0][0].open()
        await begun(gates[2][1])
        for gate, _ in gates[1:]:
            gate.open()
        await asyncio.gather(*calls)
        x = np.ones(MIB, np.float32)
        await pool.run(twice, x)
        function = pool._known(twice)
        assert function is not None
        assert pool.needs.of(function, [x], {}) == 2 * x.nbytes  # one copy in, one result: measured
        assert pool.statistics().memory == 0


async def test_what_does_not_fit_says_how_much_was_asked_for_free_and_held():
    """After a second attempt, alone."""
    async with OpenCLPool(streams=2) as pool:
        with pytest.raises(
            asyncpar.MemoryLimitError, match=r"asked for 2 GiB, the device has 1 GiB in all"
        ) as caught:
            await pool.run(lambda: cl.array.empty(current_queue(), 2 << 30, np.uint8, allocator=_allocator()))
        assert isinstance(caught.value, MemoryError)
        assert pool.statistics().memory_retries == 1


def _allocator():
    return asyncpar_opencl.current.current_stream().allocate


# -- cancelling


async def test_cancelling_frees_the_caller_and_not_the_slot():
    """The slot and the budget stay held until the device is done."""
    async with OpenCLPool(streams=1, memory="1 MiB") as pool:
        gate, started = Gate(pool), threading.Event()
        call = asyncio.ensure_future(pool.run(gated, gate.event, started))
        await begun(started)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = asyncio.ensure_future(pool.run(twice, np.ones(2, np.float32)))
        await asyncio.sleep(0.01)
        assert not after.done()
        assert (pool.statistics().running, pool.statistics().memory) == (1, MIB)
        gate.open()
        np.testing.assert_array_equal(await after, [2, 2])


# -- batches


async def test_calls_with_equal_shapes_run_as_one():
    """They are stacked, run once and split; other shapes, and other plain arguments, go apart."""
    shapes = []

    def scale(x, by):
        shapes.append((x.shape, by))
        return x * by

    async with OpenCLPool(streams=1, batch=4, batch_wait=30) as pool:
        calls = [pool.run(scale, np.full(3, i, np.float32), 2) for i in range(4)]
        calls += [pool.run(scale, np.full(5, i, np.float32), 3) for i in range(4)]
        for i, result in enumerate(await asyncio.gather(*calls)):
            expected = np.full(3, 2 * i) if i < 4 else np.full(5, 3 * (i - 4))
            np.testing.assert_array_equal(result, expected)
        assert sorted(shapes) == [((4, 3), 2), ((4, 5), 3)]
        assert pool.statistics().batches == 2
        shapes.clear()
        assert len(await pool.map(lambda x: scale(x, 1), [np.ones(3, np.float32)] * 8)) == 8
        assert shapes == [((4, 3), 1)] * 2


async def test_a_batch_that_is_not_full_leaves_when_its_time_is_over():
    """And a function that knows nothing of batches is told."""
    async with OpenCLPool(streams=1, batch=4, batch_wait=0.02) as pool:
        np.testing.assert_array_equal(await pool.run(twice, np.ones(2, np.float32)), [2, 2])
        calls = [pool.run(lambda x: 1.5, np.ones(2, np.float32)) for _ in range(2)]
        assert await asyncio.gather(*calls) == [1.5, 1.5]  # two functions: not stacked

        def total(x):
            return 1.5

        calls = [pool.run(total, np.ones(2, np.float32)) for _ in range(2)]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(outcome, TypeError)
            assert "first axis has one entry for each call, here 2, not float" in str(outcome)


# -- several devices, actors


def where():
    return current_queue().device.int_ptr


async def test_calls_go_to_both_devices_and_to_where_their_data_lies():
    """Two devices, which on PoCL are the processor twice."""
    async with OpenCLPool(devices=[0, 1], streams=1) as pool:
        assert pool.workers == 2
        gates = [cl.UserEvent(site.device.context) for site in pool.sites]
        assert len(set(await asyncio.gather(pool.run(nap_and_tell), pool.run(nap_and_tell)))) == 2
        del gates
        there = await pool.run(lambda: cl.array.zeros(current_queue(), 3, np.float32))
        home = there.queue.device.int_ptr
        for _ in range(4):
            assert await pool.run(lambda x: where(), there) == home
        del there


def nap_and_tell():
    threading.Event().wait(0.05)
    return where()


class Model:
    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return self.weights * x


async def test_an_actor_keeps_its_state_on_the_device():
    """On one stream of its own."""
    async with (
        OpenCLPool(streams=1) as pool,
        pool.actor(Model, np.full(3, 2, np.float32)) as model,
    ):
        np.testing.assert_array_equal(await model.run(Model.predict, np.ones(3, np.float32)), [2, 2, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": 0}, "streams= must be at least 1"),
        ({"device": "first"}, "named by its number"),
        ({"device": 0, "devices": [0]}, "two ways to say the same"),
        ({"devices": []}, "each once"),
        ({"result": "gpu"}, "'auto', 'device' or 'host'"),
        ({"batch": 0}, "batch= must be at least 1"),
        ({"batch_wait": -1}, "number of seconds"),
        ({"isolate": True, "result": "device"}, "goes without isolate=True"),
    ],
)
def test_bad_arguments_are_told(options, message):
    """Where the pool is made."""
    with pytest.raises(ValueError, match=message):
        OpenCLPool(**options)
