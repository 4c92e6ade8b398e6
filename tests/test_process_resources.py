"""The process pool when memory, descriptors, file sizes or the room in stdout run out."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import numpy as np
import psutil
import pytest

from asyncpar import BrokenPoolError, ProcessPool, SerializationError, WorkerLostError
from asyncpar.testing import functions as f
from tests import process_functions as far
from tests.waiting import until

ROOT = str(Path(__file__).parents[1])


@contextlib.contextmanager
def at_most(what, value):
    """Lower a limit of this process."""
    soft, hard = resource.getrlimit(what)
    resource.setrlimit(what, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(what, (soft, hard))


# Limits


@pytest.mark.may_block
@pytest.mark.parametrize(
    ("what", "value", "words"),
    [
        (
            resource.RLIMIT_AS,
            lambda: psutil.Process().memory_info().vms + (512 << 20),
            "Cannot allocate memory",
        ),
        (resource.RLIMIT_FSIZE, lambda: 1 << 20, "File too large"),
    ],
    ids=["address space", "file size"],
)
async def test_shared_memory_that_cannot_be_made_is_told_at_the_start(what, value, words):
    with (
        at_most(what, value()),
        pytest.raises(BrokenPoolError, match=f"{words}.*raise the limits.*ulimit -v"),
    ):
        async with ProcessPool(2):
            pass
    async with ProcessPool(2) as pool:
        assert await pool.run(far.double, 1) == 2


@pytest.mark.may_block
@pytest.mark.parametrize("gigabytes", [100, 16])
async def test_little_address_space_is_enough(gigabytes):
    """What does not fit into the smaller shared memory travels in the pickle."""
    with at_most(resource.RLIMIT_AS, psutil.Process().memory_info().vms + (gigabytes << 30)):
        async with ProcessPool(2) as pool:
            array = await pool.run(far.add_one, np.full(200_000_000, 7, np.uint8))
            assert array[0] == array[-1] == 8


@pytest.mark.may_block
async def test_too_few_descriptors_are_an_error_wherever_they_run_out():
    ends: list[object] = []
    for limit in range(3, 500):  # numbers, not counts: what else is open here may stand anywhere
        with at_most(resource.RLIMIT_NOFILE, limit):
            try:
                async with ProcessPool(1) as pool:
                    ends.append(await pool.run(far.double, 1))
            except (OSError, BrokenPoolError) as error:
                ends.append(str(error))
        if ends[-1] == 2:
            break
    odd = [end for end in ends if end != 2 and "[Errno 24] Too many open files" not in end]
    assert odd == []
    assert ends[0] != 2
    assert ends[-1] == 2


@pytest.mark.may_block
async def test_more_workers_than_descriptors_are_told_what_to_raise():
    words = r"workers=500 can be opened: .* raise the limit of open files of this program \(ulimit -n\)"
    with at_most(resource.RLIMIT_NOFILE, 256), pytest.raises(BrokenPoolError, match=words):
        async with ProcessPool(500):
            pass


async def test_a_worker_that_cannot_be_replaced_breaks_the_pool(tmp_path):
    path = str(tmp_path / "never")
    async with ProcessPool(2) as pool:
        await pool.map(far.meet, [str(tmp_path / "there")] * 2)  # both workers are there
        calls = [asyncio.ensure_future(pool.run(f.hold, path)) for _ in range(3)]
        await until(lambda: len(f.lines(f"{path}.begun")) == 2)
        with at_most(resource.RLIMIT_NOFILE, 3):
            os.kill(pool.pids[0], signal.SIGKILL)
            ends = await asyncio.gather(*calls, return_exceptions=True)
            with pytest.raises(BrokenPoolError, match=r"no worker can be started .* Too many open files"):
                await pool.run(far.double, 1)
    assert sorted(type(end).__name__ for end in ends) == [
        "BrokenPoolError",
        "BrokenPoolError",
        "WorkerLostError",
    ]


# Memory


async def test_a_call_without_memory_raises_that_and_the_worker_lives_on():
    async with ProcessPool(1) as pool:
        pid = await pool.run(far.pid)
        await pool.run(far.more_address_space, 64)
        with pytest.raises(MemoryError):
            await pool.run(far.large, 200)
        assert await pool.run(far.pid) == pid


async def test_a_result_that_does_not_fit_when_it_is_pickled_fails_alone():
    async with ProcessPool(1) as pool:
        pid = await pool.run(far.pid)
        await pool.run(far.more_address_space, 64)
        with pytest.raises(SerializationError, match="the result, a list, cannot be pickled: MemoryError"):
            await pool.run(far.large_list, 40)
        assert await pool.run(far.pid) == pid


@pytest.fixture
def small_group():
    """A control group for 64 MiB below our own."""
    own = [line.strip().split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    paths = {controllers: path for _, controllers, path in own}
    if "memory" in paths:
        group, file = Path(f"/sys/fs/cgroup/memory{paths['memory']}"), "memory.limit_in_bytes"
    else:
        group, file = Path(f"/sys/fs/cgroup{paths.get('', '/none')}"), "memory.max"
    group /= f"asyncpar-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no machine here: control groups cannot be made: {error}")
    try:
        (group / file).write_text(str(64 << 20))
        yield str(group)
    except OSError as error:
        pytest.skip(f"no machine here: a control group cannot limit memory: {error}")
    finally:
        group.rmdir()


async def test_a_worker_that_the_kernel_kills_for_memory_costs_its_call_only(small_group):
    async with ProcessPool(2) as pool:
        with pytest.raises(
            WorkerLostError, match=r"was killed by SIGKILL .*the machine ran out of memory"
        ) as caught:
            await pool.run(far.eat_in, small_group, 200)
        assert caught.value.signal == signal.SIGKILL
        assert await pool.map(far.double, range(100)) == [2 * x for x in range(100)]
        assert pool.statistics().lost == 1


# Output


SPEAKING = """
    import asyncio, sys
    import asyncpar
    from tests import process_functions as far

    async def main():
        async with asyncpar.ProcessPool(1) as pool:
            {first}
            done = await pool.map(far.speak, ["x" * 100_000] * 2, timeout={timeout}, return_exceptions=True)
            print(*[type(value).__name__ for value in done], await pool.run(far.double, 1), file=sys.stderr)

    if __name__ == "__main__":
        asyncpar.run(main)
"""


def speaking(tmp_path, stdout, timeout, first="pass"):
    script = tmp_path / "script.py"
    script.write_text(dedent(SPEAKING).format(first=first, timeout=timeout))
    return subprocess.run(
        [sys.executable, str(script)],
        stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=150, check=False,
        env=os.environ | {"PYTHONPATH": ROOT},
    )  # fmt: skip


def test_a_print_that_nobody_reads_ends_by_its_timeout(tmp_path):
    reads, writes = os.pipe()
    try:
        done = speaking(tmp_path, writes, timeout=0.5)
    finally:
        os.close(reads)
        os.close(writes)
    assert (done.stderr, done.returncode) == ("CallTimeoutError CallTimeoutError 2\n", 0)


def test_a_print_to_a_closed_pipe_is_an_error_of_its_call(tmp_path):
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = speaking(tmp_path, writes, timeout=50)
    finally:
        os.close(writes)
    assert (done.stderr, done.returncode) == ("BrokenPipeError BrokenPipeError 2\n", 0)
