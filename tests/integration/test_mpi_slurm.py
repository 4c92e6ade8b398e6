"""A real SLURM of one node: srun and sbatch start jobs, and a job that is told to end goes on when it runs again.

Its daemons are Debian's (slurmctld, slurmd, slurm-client), without munge; they need root.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.adapters import mpi_jobs

NEEDED = ("slurmctld", "slurmd", "srun", "sbatch")
INSTALLED = hasattr(os, "geteuid") and os.geteuid() == 0 and all(map(shutil.which, NEEDED))

pytest.importorskip("mpi4py", reason="needs the extra 'mpi'")
pytestmark = [
    pytest.mark.skipif(
        not INSTALLED, reason="no machine here: SLURM needs root, and slurmctld slurmd slurm-client"
    ),
    pytest.mark.timeout(120),
]

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=2000 State=UNKNOWN
PartitionName=p Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
"""

JOB = """
DONE = "done.txt"

def work(x):
    time.sleep(0.02)
    return x

async def main():
    done = set(map(int, open(DONE).read().split())) if os.path.exists(DONE) else set()
    print("already done:", len(done), flush=True)
    todo = [i for i in range({calls}) if i not in done]
    with open(DONE, "a", buffering=1) as file:
        async with asyncpar.open_pool() as pool:
            async for i in pool.map(work, todo, ordered=False):
                print(i, file=file)
    print(type(pool).__name__, pool.workers, "all done")
"""

BATCH = """#!/bin/bash
#SBATCH --ntasks=4 --signal=USR1@60 --output={folder}/%j.out
cd {folder}
srun --mpi=pmi2 {python} -m asyncpar_mpi job.py
code=$?
echo exit $code
exit $code
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of commands that talk to it."""
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, controller=free_port(), daemon=free_port(), folder=folder))
    environ = mpi_jobs.environment(folder) | {"SLURM_CONF": str(conf)}
    with contextlib.ExitStack() as stack:
        daemons = []
        for line in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            log = stack.enter_context((folder / f"{line[0]}.log").open("wb"))
            daemons.append(
                subprocess.Popen(line, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        try:
            give_up = time.monotonic() + 60
            while "idle" not in ask(environ, "sinfo", "-h", "-o", "%T"):
                logs = (folder / "slurmctld.log").read_text() + (folder / "slurmd.log").read_text()
                assert time.monotonic() < give_up, logs
                assert all(daemon.poll() is None for daemon in daemons), logs
                time.sleep(0.2)
            yield environ
        finally:
            ask(environ, "scancel", "--user=root")
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def ask(environ, *line, folder=None):
    """What a command of SLURM prints."""
    done = subprocess.run(
        ["timeout", "60", *map(str, line)], env=environ, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def submit(environ, folder):
    """Submit the batch job; its number."""
    (folder / "job.sh").write_text(BATCH.format(folder=folder, python=sys.executable))
    number = ask(environ, "sbatch", "--parsable", "job.sh", folder=folder).strip()
    assert number.isdecimal(), number
    return number


def finished(folder: Path, number: str) -> str:
    """What a batch job printed, once it has ended."""
    path = folder / f"{number}.out"
    until(lambda: path.exists() and "exit " in path.read_text())
    return path.read_text()


def test_srun_starts_a_job(slurm, tmp_path):
    """`srun --mpi=pmi2`, on MPICH from pip."""
    mpi_jobs.script(tmp_path, JOB.format(calls=30))
    said = ask(
        slurm,
        "srun",
        "--mpi=pmi2",
        "-n",
        "4",
        sys.executable,
        "-m",
        "asyncpar_mpi",
        "job.py",
        folder=tmp_path,
    )
    assert said == "already done: 0\nMPIPool 3 all done\n"
    assert sorted(map(int, (tmp_path / "done.txt").read_text().split())) == list(range(30))


def test_srun_without_pmi_is_refused(slurm, tmp_path):
    """It starts ranks that do not see each other: none runs the script."""
    mpi_jobs.script(tmp_path, JOB.format(calls=30))
    said = ask(
        slurm,
        "srun",
        "--mpi=none",
        "-n",
        "3",
        sys.executable,
        "-m",
        "asyncpar_mpi",
        "job.py",
        folder=tmp_path,
    )
    assert "srun started 3 ranks, but MPI sees 1" in said
    assert "'srun --mpi=pmi2' (MPICH)" in said
    assert "all done" not in said


def test_mpiexec_takes_the_allocation(slurm, tmp_path):
    """Inside a batch job mpiexec needs no number of ranks."""
    mpi_jobs.script(tmp_path, JOB.format(calls=30))
    line = f"{mpi_jobs.MPIEXEC} {sys.executable} -m asyncpar_mpi job.py; echo exit $?"
    number = ask(
        slurm, "sbatch", "--parsable", "-n", "3", "-o", f"{tmp_path}/%j.out", "--wrap", line, folder=tmp_path
    )
    said = finished(tmp_path, number.strip())
    assert "MPIPool 2 all done\n" in said
    assert said.endswith("exit 0\n")


def test_a_batch_job_drains_and_goes_on_when_it_runs_again(slurm, tmp_path):
    """USR1 reaches rank 0: code 75, and what was done is kept. The second run does the rest, and nothing twice."""
    mpi_jobs.script(tmp_path, JOB.format(calls=500))
    done = tmp_path / "done.txt"
    number = submit(slurm, tmp_path)
    until(lambda: done.exists() and done.read_text().count("\n") > 20)
    ask(slurm, "scancel", "--signal=USR1", number)
    said = finished(tmp_path, number)
    assert "the job was told to end" in said
    assert said.endswith("exit 75\n")
    assert "Traceback" not in said
    before = done.read_text().count("\n")
    assert 20 < before < 500
    said = finished(tmp_path, submit(slurm, tmp_path))
    assert f"already done: {before}\n" in said
    assert said.endswith("MPIPool 3 all done\nexit 0\n")
    assert sorted(map(int, done.read_text().split())) == list(range(500))
