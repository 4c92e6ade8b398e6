"""``Comm`` on real ranks: four of them run ``mpi_comm_job.py`` under mpiexec, on both loops."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import NamedTuple

import pytest

pytest.importorskip("mpi4py", reason="needs the extra 'mpi'")

from tests.adapters import mpi_jobs

HERE = mpi_jobs.ROOT / "tests/adapters"
SCENARIOS = re.findall(
    r"^async def (?!main|cancelled\(|comm_in)(\w+)\(comm\)",
    (HERE / "mpi_comm_job.py").read_text(),
    re.MULTILINE,
)


class Job(NamedTuple):
    """How a job ended."""

    code: int
    out: str
    err: str


def run(ranks, script, *arguments, folder, seconds=250):
    """Run a program on every rank, as its user would. ``timeout`` ends launcher and ranks if nobody else does."""
    command = ["timeout", "--kill-after=5", f"{seconds}", str(mpi_jobs.MPIEXEC), "-n", str(ranks)]
    done = subprocess.run(
        [*command, sys.executable, "-W", "error", "-m", "mpi4py", str(script), *arguments], cwd=folder,
        env=mpi_jobs.environment(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Job(done.returncode, done.stdout, done.stderr)


def program(folder, text, *, before=""):
    """Write a program: definitions, then the lines of an ``async def main()``."""
    lines = "\n".join(f"    {line}" for line in text.strip().splitlines())
    path = folder / "program.py"
    path.write_text(f"import asyncio\nimport numpy as np\nfrom asyncpar_mpi import Comm\n{before}\n\n"
                    f"async def main():\n{lines}\n\nasyncio.run(main())\nprint('end', flush=True)\n")  # fmt: skip
    return path


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def job(request, tmp_path_factory):
    """The job of all scenarios, which has ended."""
    if request.param == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    return run(4, HERE / "mpi_comm_job.py", request.param, folder=tmp_path_factory.mktemp("job"))


@pytest.mark.timeout(300)  # the first one waits for the job
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_rank_is_through(job, scenario):
    """The scenario of this name: its assertions held on every rank."""
    assert f"through {scenario}\n" in job.out, job.err


def test_the_job_ends_well(job):
    """Nothing was skipped, and no rank complained."""
    assert (job.code, job.err) == (0, "")
    assert len(SCENARIOS) == len(job.out.splitlines()) >= 18


@pytest.mark.parametrize("ranks", [1, 3])
def test_any_number_of_ranks(tmp_path, ranks):
    """Reductions keep the order of ranks, and what is large goes everywhere, where the tree is not full."""
    script = program(tmp_path, """
async with Comm() as comm:
    r, size = comm.rank, comm.size
    assert await comm.allreduce([r], operator.add) == list(range(size))
    for root in range(size):
        assert await comm.reduce(str(r), operator.add, root) == ("012"[:size] if r == root else None)
        assert (await comm.scatter([np.full(200_000, 7)] * size if r == root else None, root)).sum() == 1_400_000
    assert [len(each) for each in await comm.allgather(bytes(100_000 + r))] == [100_000 + r for r in range(size)]
    assert [len(each) for each in await comm.alltoall([bytes(100_000 + r)] * size)] == [100_000 + r for r in range(size)]
    whole = np.zeros((size, 200_000))
    await comm.Allgather(np.full(200_000, float(r)), whole)
    assert (whole.T == range(size)).all()
""", before="import operator")  # fmt: skip
    done = run(ranks, script, folder=tmp_path, seconds=150)
    assert (done.code, done.out.count("end")) == (0, ranks), done.err


def test_a_program_that_leaves_something_under_way_ends(tmp_path):
    """MPI's end does not wait for what nobody else takes part in, nor read buffers that are gone."""
    script = program(tmp_path, """
async with Comm() as comm, comm.dup() as left:
    if comm.rank == 0:
        for begun in (left.Bcast(np.ones(3_000_000)), comm.send(np.ones(3_000_000), 1), comm.recv(1)):
            asyncio.ensure_future(begun)
        await asyncio.sleep(0.02)
        raise SystemExit(0)
    await asyncio.sleep(0.05)
    raise SystemExit(0)
""")  # fmt: skip
    done = run(2, script, folder=tmp_path, seconds=150)
    assert done.code == 0, done.err


def test_a_rank_that_fails_ends_the_job(tmp_path):
    """Leaving a channel by an exception waits for nobody, so that the job learns of it."""
    script = program(tmp_path, """
async with Comm() as comm:
    if comm.rank == 1:
        raise ValueError("rank 1 has had enough")
    await comm.barrier()
""")  # fmt: skip
    done = run(3, script, folder=tmp_path, seconds=150)
    assert done.code == 1
    assert "ValueError: rank 1 has had enough" in done.err
    assert "end" not in done.out


def test_the_example_runs_on_ranks(tmp_path):
    """Scatter, square, gather, in both styles, is the same on three ranks as on one."""
    example = mpi_jobs.ROOT / "examples/mpi_squares.py"
    ranks, alone = (run(count, example, folder=tmp_path, seconds=150) for count in (3, 1))
    assert (ranks.code, ranks.err) == (0, "")
    assert alone.out.replace("1 rank:", "3 ranks:") == ranks.out
    assert "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 121]" in ranks.out
