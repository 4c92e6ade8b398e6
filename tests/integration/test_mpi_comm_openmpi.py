"""``Comm`` on Open MPI: all scenarios, and ranks that die. See ``test_mpi_ulfm.py`` for the environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.adapters import mpi_jobs
from tests.integration.test_mpi_ulfm import SETTINGS

OPENMPI = os.environ.get("ASYNCPAR_OPENMPI", "")
DEATH = """
import asyncio, os, signal
from asyncpar.errors import WorkerLostError
from asyncpar_mpi import Comm

async def main():
    async with Comm() as comm, comm.dup() as other:
        await comm.barrier()
        if comm.rank == 2:
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            await asyncio.wait_for(other.allreduce(1), 20)
        except WorkerLostError as error:
            open(f"seen-by-{comm.rank}", "w").write(str(error))
        os._exit(0)  # the others' channel waits for a rank that is gone

asyncio.run(main())
"""

pytestmark = [
    pytest.mark.skipif(not OPENMPI, reason="no machine here: Open MPI is installed by 'make integration'"),
    pytest.mark.timeout(150),
]


def run(folder, *options_and_script):
    """A job of four ranks under Open MPI's mpiexec."""
    launcher, python = Path(OPENMPI) / "bin/mpiexec", Path(OPENMPI) / "bin/python"
    *options, script = options_and_script
    line = ["timeout", "--kill-after=5", "120", launcher, *options, "-n", 4, python, "-m", "mpi4py", *script]
    done = subprocess.run(
        [str(word) for word in line], cwd=folder, env=mpi_jobs.environment(folder) | SETTINGS,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=140, check=False,
    )  # fmt: skip
    return mpi_jobs.Job(done.returncode, done.stdout, done.stderr)


def test_every_scenario(tmp_path):
    """What holds on MPICH holds here; the environment is without Hypothesis."""
    done = run(
        tmp_path, [mpi_jobs.ROOT / "tests/adapters/mpi_comm_job.py", "asyncio", "whatever_hypothesis_finds"]
    )
    assert done.code == 0, done.err
    assert "through large_objects" in done.out


def test_a_rank_that_dies_is_told_of_on_every_other(tmp_path):
    """Also on those that MPI would have let wait for ranks which gave up."""
    script = tmp_path / "death.py"
    script.write_text(DEATH)
    done = run(tmp_path, "--with-ft", "ulfm", [script])
    told = {path.name: path.read_text() for path in tmp_path.glob("seen-by-*")}
    assert set(told) == {"seen-by-0", "seen-by-1", "seen-by-3"}, done.err
    for text in told.values():
        assert "died while rank" in text
        assert "in allreduce(): this channel is of no use any more" in text
    assert any(text.startswith("rank 2 died") for text in told.values())
