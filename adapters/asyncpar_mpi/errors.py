"""What only a job on MPI can say."""

from __future__ import annotations

from asyncpar.errors import AsyncparError, BrokenPoolError


class DrainedError(BrokenPoolError):
    """The job was told to end soon (SIGUSR1 or SIGTERM): what ran was finished, and nothing more is started.

    Raised by maps after the results that came, and by calls that had not started. Uncaught, it ends a job that
    ``python -m asyncpar_mpi`` started with exit code 75, so that a batch system can run it again.
    """

    exit_code = 75


class ChannelError(AsyncparError, RuntimeError):
    """A channel cannot do this now, or its ranks are not in the same operation; the message says what to do.

    Ranks that start operations of one channel in different orders would get each other's data.
    """
