"""Which launcher started this program, by its environment variables; and whether it is that of mpi4py's MPI."""

from __future__ import annotations

import os
from typing import NamedTuple

VARIABLES = (
    ("Open MPI's mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MPICH's mpiexec or srun --mpi=pmi2", "PMI_SIZE", "PMI_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
)


class LaunchError(Exception):
    """The launcher and the MPI library do not go together; the message says what to do."""


class Launch(NamedTuple):
    """What a launcher says of this process."""

    launcher: str
    size: int
    rank: int


def find_launch() -> Launch | None:
    """The launch that this process is a part of, if any."""
    for launcher, size, rank in VARIABLES:
        if os.environ.get(size, "").isdecimal() and os.environ.get(rank, "").isdecimal():
            return Launch(launcher, int(os.environ[size]), int(os.environ[rank]))
    return None


def check_library(launch: Launch) -> None:
    """Refuse, before MPI starts, a library that such a launcher makes hang or abort.

    :raises LaunchError: they are of different makes
    """
    import mpi4py

    mpi4py.rc.initialize = False
    from mpi4py import MPI

    name = MPI.Get_library_version().partition("\n")[0].partition(",")[0].strip()
    ours = "Open MPI" if "Open MPI" in name else "MPICH"
    theirs = {"Open MPI's mpiexec": "Open MPI", "MPICH's mpiexec or srun --mpi=pmi2": "MPICH"}.get(
        launch.launcher
    )
    if theirs is not None and theirs != ours and not MPI.Is_initialized():
        raise LaunchError(
            f"{launch.launcher} started {launch.size} ranks, but mpi4py uses {name}: {_advice(ours)}"
        )


def check_size(launch: Launch, size: int) -> None:
    """Refuse a job whose ranks do not see each other: each would run the script by itself.

    :raises LaunchError: MPI sees another number of ranks than the launcher started
    """
    if size != launch.size:
        raise LaunchError(
            f"{launch.launcher} started {launch.size} ranks, but MPI sees {size}: {_advice('its own MPI')}"
        )


def _advice(library: str) -> str:
    return (
        f"start the program with the mpiexec of {library}, which 'asyncpar mpi -n 4 SCRIPT' finds; under SLURM with "
        "'srun --mpi=pmi2' (MPICH) or 'srun --mpi=pmix' (Open MPI)"
    )
