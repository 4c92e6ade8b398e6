"""asyncpar on MPI: bulk jobs on the ranks of an MPI job, under mpiexec, srun or a batch system.

General layout:

    pool            MPIPool: a process pool whose workers are ranks
    place fleet     the loop's side: a rank's place, and the poller of all
    worker          the far side, which runs calls as a worker process does
    wire buffers    messages, and the large buffers beside them
    comm            Comm: collective operations that are awaited, in programs that run on every rank
    collectives     their steps; parcels and arrays: what they move; progress: the poller
    faults errors   losing ranks; being told to end
    launch          which launcher started this program, if one did
    job output      ``python -m asyncpar_mpi SCRIPT``: the ranks' parts, exit codes, logs
    cli             ``asyncpar mpi``
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_mpi.comm import Comm as Comm
    from asyncpar_mpi.errors import ChannelError as ChannelError
    from asyncpar_mpi.errors import DrainedError as DrainedError
    from asyncpar_mpi.pool import MPIPool as MPIPool
    from asyncpar_mpi.worker import serve as serve

_MODULES = {
    "ChannelError": "errors",
    "Comm": "comm",
    "DrainedError": "errors",
    "MPIPool": "pool",
    "serve": "worker",
}

__all__ = list(_MODULES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """The public names are loaded at first use: mpi4py starts MPI when it is imported."""
    if name not in _MODULES:
        raise AttributeError(f"module 'asyncpar_mpi' has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"asyncpar_mpi.{_MODULES[name]}"), name)
    return value
