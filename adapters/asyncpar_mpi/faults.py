"""Losing ranks: what an MPI with user-level failure mitigation (ULFM) says of them.

Open MPI has it, started with ``mpiexec --with-ft ulfm``. Without it the launcher ends the whole job when a rank dies.
"""

from __future__ import annotations

import os
from typing import Any

from mpi4py import MPI

_DEATHS = {
    getattr(MPI, name)
    for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
    if hasattr(MPI, name)
}


def gone(error: MPI.Exception) -> bool:
    """Whether this error says that a rank has died."""
    return error.Get_error_class() in _DEATHS


def tolerated() -> bool:
    """Whether this job outlives its ranks. The calls are there in any case: only the launcher's switch tells."""
    return os.environ.get("OMPI_MCA_mpi_ft_enable", "") in ("1", "true")  # noqa: SIM112 - its name


def prepare() -> None:
    """Before MPI starts: in a job that outlives its ranks Open MPI is not to wait for all of them when it ends.

    It did so for ever in one of ten jobs that had lost a rank (5.0.11).
    """
    if tolerated():
        os.environ.setdefault("OMPI_MCA_async_mpi_finalize", "1")


def failed(comm: Any) -> set[int]:
    """The ranks that have died, acknowledged: messages from any rank are received again."""
    group = comm.Get_failed()
    try:
        count = group.Get_size()
        if not count:
            return set()
        ranks = set(group.Translate_ranks(list(range(count)), comm.Get_group()))
    finally:
        group.Free()
    comm.Ack_failed()
    return ranks
