"""Starts MPI jobs as users do: a script under mpiexec, with a time limit, and nothing of ours in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
MPIEXEC = Path(sys.executable).with_name("mpiexec")
SECONDS = 150.0
LAUNCHERS = (
    "OMPI_",
    "PMI_",
    "PMIX_",
    "PRTE_",
    "SLURM_",
    "MPI_",
    "HYDI_",
    "HYDRA_",
    "ASYNCPAR_POOL",
    "ASYNCPAR_WORKER",
)


class Job(NamedTuple):
    """How a job ended."""

    code: int
    out: str
    err: str


def environment(folder: Path) -> dict[str, str]:
    """For a job of its own, that leaves no file but in its folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    return kept | {"PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}", "TMPDIR": str(folder)}


def command(ranks: int, *arguments: object) -> list[str]:
    """The command line of a job of so many ranks."""
    return [str(MPIEXEC), "-n", str(ranks), sys.executable, "-m", "asyncpar_mpi", *map(str, arguments)]


def start(ranks: int, *arguments: object, folder: Path, seconds: float = SECONDS) -> subprocess.Popen[str]:
    """A job that is running. ``timeout`` ends it, launcher and ranks, if nobody else does."""
    return subprocess.Popen(
        ["timeout", "--kill-after=5", f"{seconds:g}", *command(ranks, *arguments)],
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(ranks: int, *arguments: object, folder: Path, seconds: float = SECONDS) -> Job:
    """Run a job to its end."""
    process = start(ranks, *arguments, folder=folder, seconds=seconds)
    out, err = process.communicate(timeout=seconds + 10)
    return Job(process.returncode, out, err)


def script(folder: Path, text: str) -> Path:
    """Write a program: definitions, then an ``async def main()``."""
    path = folder / "job.py"
    path.write_text(f"import asyncio, os, signal, sys, time\nimport asyncpar\n{text}\n\n"
                    'if __name__ == "__main__":\n    asyncpar.run(main)\n')  # fmt: skip
    return path
