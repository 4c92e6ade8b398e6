"""Jobs that outlive their ranks: Open MPI with ULFM, in an environment of its own that `make integration` makes.

Its folder is in ``ASYNCPAR_OPENMPI``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.adapters import mpi_jobs

OPENMPI = os.environ.get("ASYNCPAR_OPENMPI", "")
SETTINGS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_pml": "ob1",  # looking for networks takes a second
    "OMPI_MCA_btl": "self,sm",
}
FUNCTIONS = """
from functools import partial

def die_on(bad, x):
    if x == bad and not os.path.exists("died"):
        open("died", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return x

def nap(seconds):
    time.sleep(seconds)
    return os.getpid()
"""

pytestmark = [
    pytest.mark.skipif(not OPENMPI, reason="no machine here: Open MPI is installed by 'make integration'"),
    pytest.mark.timeout(120),
]


def run(folder, *options, text="", ranks=4, python=None, launcher=None, settings=SETTINGS, arguments=()):
    """A job under Open MPI's mpiexec."""
    script = mpi_jobs.script(folder, FUNCTIONS + text)
    python, launcher = python or Path(OPENMPI) / "bin/python", launcher or Path(OPENMPI) / "bin/mpiexec"
    line = [
        "timeout",
        "--kill-after=5",
        "50",
        launcher,
        *options,
        "-n",
        ranks,
        python,
        "-m",
        "asyncpar_mpi",
        *arguments,
        script,
    ]
    done = subprocess.run(
        [str(word) for word in line], cwd=folder, env=mpi_jobs.environment(folder) | settings, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=70, check=False,
    )  # fmt: skip
    return mpi_jobs.Job(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("options", [(), ("--with-ft", "ulfm")], ids=["plain", "ulfm"])
def test_the_pool_keeps_the_contract_on_open_mpi(tmp_path, options):
    """All of it: rank 0 runs pytest, as under MPICH."""
    inner = ["-m", "pytest", mpi_jobs.ROOT / "tests/adapters/mpi_contract.py", "-q", "-p", "no:cacheprovider"]
    inner += ["-c", mpi_jobs.ROOT / "pyproject.toml", f"--basetemp={tmp_path / 'inner'}", "--color=no"]
    line = ["timeout", "--kill-after=5", "100", Path(OPENMPI) / "bin/mpiexec", *options, "-n", "5"]
    done = subprocess.run(
        [str(word) for word in [*line, Path(OPENMPI) / "bin/python", "-m", "asyncpar_mpi", *inner]],
        cwd=tmp_path, env=mpi_jobs.environment(tmp_path) | SETTINGS, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_a_killed_rank_costs_only_its_running_call(tmp_path):
    """Of 5,000 short calls one is lost, named with its rank; the job ends with code 0."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        got = await pool.map(partial(die_on, 2500), range(5000), return_exceptions=True)
        [(where, error)] = [(i, x) for i, x in enumerate(got) if x != i]
        print(where, type(error).__name__, pool.workers, pool.statistics().lost)
        print(error)
        print(await pool.map(die_on, [-1] * 3, range(3)))
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "2500 WorkerLostError 2 1"
    assert "died while it ran __main__.die_on; the pool goes on without it" in lines[1]
    assert lines[2] == "[0, 1, 2]"


def test_a_lost_call_is_run_again_where_that_was_asked_for(tmp_path):
    """And the result is whole."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        results = pool.map(partial(die_on, 300), range(1000), retries=1)
        print(await results == list(range(1000)), results.statistics().retried)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert (done.code, done.out) == (0, "True 1\n"), done.err


def test_a_death_is_seen_while_others_work(tmp_path):
    """The killed call fails long before another call, of a second, ends."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        pids = await asyncio.gather(*[pool.run(nap, 0.2) for _ in range(pool.workers)])
        order = []
        async def one(seconds, name):
            try:
                await pool.run(nap, seconds)
            except asyncpar.WorkerLostError as error:
                os.kill(error.pid, 0) if error.pid not in pids else None
                name = "lost"
            order.append(name)
        calls = [asyncio.create_task(one(1.0, "ended")) for _ in range(pool.workers)]
        await asyncio.sleep(0.3)
        os.kill(pids[0], signal.SIGKILL)
        killed = time.perf_counter()
        while not order:
            await asyncio.sleep(0.001)
        seen = time.perf_counter() - killed
        await asyncio.gather(*calls)
        print(order)
        print(f"seen after {seen * 1e3:.0f} ms", file=sys.stderr)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert (done.code, done.out) == (0, "['lost', 'ended', 'ended']\n"), done.err


def test_the_death_of_an_idle_rank_is_seen(tmp_path):
    """Though nothing is in flight."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        pids = await asyncio.gather(*[pool.run(nap, 0.2) for _ in range(pool.workers)])
        os.kill(pids[0], signal.SIGKILL)
        while pool.workers == 3:
            await asyncio.sleep(0.01)
        print(pool.workers, pool.statistics().lost)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert (done.code, done.out) == (0, "2 0\n"), done.err


def test_a_spare_takes_the_place_of_a_dead_rank(tmp_path):
    """Of the pool's last as well, for which calls wait that have not begun."""
    text = """
from asyncpar_mpi import MPIPool

def pid_for(_):
    return os.getpid()

async def main():
    async with MPIPool(workers=1) as pool:
        first = await pool.run(os.getpid)
        calls = [asyncio.create_task(pool.run(nap, seconds)) for seconds in (30, 0, 0)]
        await asyncio.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        lost, *others = await asyncio.gather(*calls, return_exceptions=True)
        print(type(lost).__name__, others[0] == others[1] != first, pool.workers)
        os.kill(others[0], signal.SIGKILL)
        [third] = await pool.map(pid_for, [1], retries=5)
        print(third not in (first, others[0]), pool.workers)
        os.kill(third, signal.SIGKILL)
        try:
            await pool.map(abs, [1], retries=5)
        except asyncpar.BrokenPoolError as error:
            print(error)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    lines = [
        "WorkerLostError True 1",
        "True 1",
        "every rank of this pool has died: see stderr for what they said",
    ]
    assert (done.code, done.out.splitlines()) == (0, lines), done.err


def test_an_actor_whose_rank_died_says_so(tmp_path):
    """While it was idle; the pool goes on."""
    text = """
class Counter:
    def pid(self):
        return os.getpid()

async def main():
    async with asyncpar.open_pool() as pool:
        async with pool.actor(Counter) as counter:
            os.kill(await counter.run(Counter.pid), signal.SIGKILL)
            await asyncio.sleep(0.3)
            try:
                await counter.run(Counter.pid)
            except asyncpar.WorkerLostError as error:
                print("what lived in it is gone" in str(error) or "died while it ran" in str(error))
        print(await pool.map(abs, range(4)))
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert (done.code, done.out) == (0, "True\n[0, 1, 2, 3]\n"), done.err


def test_when_every_rank_has_died_the_pool_says_so(tmp_path):
    """No call hangs."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        pids = await asyncio.gather(*[pool.run(nap, 0.2) for _ in range(pool.workers)])
        calls = [asyncio.create_task(pool.run(nap, 5)) for _ in range(6)]
        await asyncio.sleep(0.3)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        print({type(end).__name__ for end in ends} <= {"WorkerLostError", "BrokenPoolError"})
        try:
            await pool.run(abs, 1)
        except asyncpar.BrokenPoolError as error:
            print(error)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text, ranks=3)
    assert done.out == "True\nevery rank of this pool has died: see stderr for what they said\n", done.err
    assert done.code == 0


def test_when_rank_0_dies_the_others_leave(tmp_path):
    """At once, also one that is in the midst of a call; the job does not hang, and no process is left."""
    text = """
async def main():
    async with asyncpar.open_pool() as pool:
        call = asyncio.create_task(pool.run(nap, 30))
        await asyncio.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run(tmp_path, "--with-ft", "ulfm", text=text)
    assert done.code not in (0, 124)


def test_without_ulfm_the_job_ends_with_its_rank(tmp_path):
    """As under MPICH."""
    text = "async def main():\n    async with asyncpar.open_pool() as pool: await pool.map(partial(die_on, 1), range(3))"
    done = run(tmp_path, text=text)
    assert done.code not in (0, 124)


def test_mpichs_launcher_is_refused(tmp_path):
    """It would run the script once in each rank."""
    text = "async def main():\n    print('ran')"
    done = run(tmp_path, text=text, launcher=mpi_jobs.MPIEXEC, ranks=2)
    assert "ran" not in done.out.split()
    assert done.code == 2
    assert "started 2 ranks, but mpi4py uses Open MPI" in done.err


def test_open_mpis_launcher_is_refused_by_mpich(tmp_path):
    """Before MPICH aborts."""
    text = "async def main():\n    print('ran')"
    done = run(tmp_path, text=text, python=sys.executable, ranks=2)
    assert "ran" not in done.out.split()
    assert done.code == 2
    assert "started 2 ranks, but mpi4py uses MPICH" in done.err
