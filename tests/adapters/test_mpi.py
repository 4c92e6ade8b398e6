"""What users start: `asyncpar mpi`, the example, the demo; and programs with communicators of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mpi4py", reason="needs the extra 'mpi'")
pytest.importorskip("cyclopts", reason="needs the extra 'cli'")

import asyncpar
from asyncpar_mpi import MPIPool
from tests.adapters import mpi_jobs

ASYNCPAR = Path(sys.executable).with_name("asyncpar")


def asyncpar_mpi(folder, *arguments):
    """Run `asyncpar mpi`."""
    done = subprocess.run(
        ["timeout", "--kill-after=5", "150", str(ASYNCPAR), "mpi", *map(str, arguments)],
        cwd=folder, env=mpi_jobs.environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=170, check=False,
    )  # fmt: skip
    return mpi_jobs.Job(done.returncode, done.stdout, done.stderr)


def test_the_command_starts_a_job(tmp_path):
    """With the script's arguments, its exit code, and a folder for logs."""
    script = mpi_jobs.script(tmp_path, "async def main():\n    async with asyncpar.open_pool() as pool:\n"
                             "        print(pool.workers, sys.argv[1:])\n    sys.exit(5)")  # fmt: skip
    done = asyncpar_mpi(tmp_path, "-n", 3, script, "--fast", "--", "-n", 7)
    assert (done.code, done.out) == (5, "2 ['--fast', '-n', '7']\n"), done.err
    done = asyncpar_mpi(tmp_path, "-n", 3, "--log-dir", "logs", script)
    assert (done.code, done.out) == (5, ""), done.err
    assert (tmp_path / "logs/rank-0.log").read_text() == "2 []\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["missing.py"], "there is no script 'missing.py'"), ([], "which script? asyncpar mpi -n 4 SCRIPT")],
)
def test_the_command_refuses_what_cannot_be_run(tmp_path, arguments, said):
    done = asyncpar_mpi(tmp_path, "-n", 3, *arguments)
    assert done.code == 2
    assert said in done.err


def test_the_demo_runs_on_ranks_unchanged(tmp_path):
    """`asyncpar mpi -n 4 -m asyncpar demo`."""
    pytest.importorskip("aiohttp", reason="needs the extra 'web'")
    done = asyncpar_mpi(tmp_path, "-n", 4, "-m", "asyncpar", "demo", "--files", 20)
    assert done.code == 0, done.err
    assert "count, on mpi" in done.out
    assert "3 workers" in done.out


def test_the_example_runs_on_ranks_as_it_does_here(tmp_path):
    """The estimate is the same."""
    example = mpi_jobs.ROOT / "examples/monte_carlo_mpi.py"
    there = asyncpar_mpi(tmp_path, "-n", 3, example, "--batches", 16)
    here = subprocess.run(
        [sys.executable, str(example), "--batches", "16"], env=mpi_jobs.environment(tmp_path), cwd=tmp_path,
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert there.code == here.returncode == 0, there.err + here.stderr
    assert there.out == here.stdout
    assert there.out.splitlines()[-1] == "pi is 3.1420 ± 0.0029"


def test_the_example_draws_its_plot(tmp_path):
    """A picture, and nothing beside it."""
    example = mpi_jobs.ROOT / "examples/monte_carlo_mpi.py"
    done = asyncpar_mpi(tmp_path, "-n", 3, example, "--batches", 16, "--plot", tmp_path / "pi.png")
    assert done.code == 0, done.err
    assert (tmp_path / "pi.png").read_bytes().startswith(b"\x89PNG")


def test_a_pool_on_a_communicator_of_ones_own(tmp_path):
    """Two groups of ranks, each with a pool, one after another; large arrays there and back; share, once a rank."""
    (tmp_path / "spmd.py").write_text("""
import asyncio
import itertools

import numpy as np
from mpi4py import MPI

import asyncpar
from asyncpar_mpi import MPIPool, serve


def double(array):
    array *= 2
    return array


def total(table, i):
    return int(table.sum()) + i


def loads(table):
    return table.made


class Counted:
    made = 0

    def __getstate__(self):
        return {"some": "state"}

    def __setstate__(self, state):
        Counted.made += 1


async def main(comm, turn):
    async with MPIPool(comm) as pool:
        array = np.ones(3_000_000)
        back = await pool.map(double, [array] * 3)
        assert array[0] == 1 and all((b == 2).all() and b.flags.writeable for b in back)
        table = asyncpar.share(np.arange(100_000))
        assert await pool.map(total, itertools.repeat(table), range(50)) == [4999950000 + i for i in range(50)]
        shared = asyncpar.share(Counted())
        assert set(await pool.map(loads, itertools.repeat(shared, 50), limit=7)) == {turn}
    return pool.workers


comm = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank % 2)
workers = []
for turn in (1, 2):
    if comm.rank == 0:
        workers.append(asyncio.run(main(comm, turn)))
    else:
        serve(comm)
everything = MPI.COMM_WORLD.gather(workers)
if everything:
    print(everything)
""")
    line = ["timeout", "150", mpi_jobs.MPIEXEC, "-n", "5", sys.executable, "-m", "mpi4py", "spmd.py"]
    done = subprocess.run(
        [str(word) for word in line], cwd=tmp_path, env=mpi_jobs.environment(tmp_path), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[[2, 2], [1, 1], [], [], []]\n"


# -- in a process that is no part of a job


async def test_without_a_job_the_pool_says_how_to_start_one():
    with pytest.raises(asyncpar.UnsupportedError, match="start the program with 'asyncpar mpi -n 4 SCRIPT'"):
        async with MPIPool():
            pass


def test_a_window_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="window= must be a whole number of at least 1, not 0"):
        MPIPool(window=0)
