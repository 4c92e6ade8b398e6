"""``asyncpar mpi``: starts a job with the launcher of mpi4py's MPI. In the entry-point group ``asyncpar.commands``."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from asyncpar.cli.errors import CommandError, exit_codes

app = App(
    name="mpi", help="Run a script on the ranks of an MPI job, as mpiexec -n N python -m asyncpar_mpi does."
)


@app.default
@exit_codes
def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    ranks: Annotated[int, Parameter(name=["-n", "--ranks"], validator=Number(gte=1))],
    survive: Annotated[bool, Parameter(negative="")] = False,
    log_dir: Path | None = None,
) -> int:
    """Rank 0 runs the script, the other ranks are the workers of `asyncpar.open_pool()`.

    The exit code is the script's; 75 if the job was told to end before it was done (SIGUSR1, SIGTERM); 130 after Ctrl-C.

    Parameters
    ----------
    command
        The script and its arguments, or `-m`, a module and its arguments. Put `--` in front of options that this
        command knows too.
    ranks
        How many processes: one for the script, the others for its calls.
    survive
        Go on when a rank dies. Open MPI only (`mpiexec --with-ft ulfm`).
    log_dir
        Write what each rank prints to a file of its own, in this folder.
    """
    if not command or command == ("-m",):
        raise CommandError("which script? asyncpar mpi -n 4 SCRIPT", exit_code=2)
    if command[0] != "-m" and not Path(command[0]).is_file():
        raise CommandError(f"there is no script {command[0]!r}", exit_code=2)
    if find_spec("mpi4py") is None:
        raise CommandError("MPI needs mpi4py and an MPI library: pip install 'asyncpar[mpi]'")
    options = ["--with-ft", "ulfm"] if survive else []
    logs = [] if log_dir is None else ["--log-dir", str(log_dir)]
    line = [_mpiexec(), *options, "-n", str(ranks), sys.executable, "-m", "asyncpar_mpi", *logs, *command]
    sys.stdout.flush()
    os.execv(line[0], line)  # noqa: S606 - signals, output and exit code are then the launcher's own


def _mpiexec() -> str:
    """The launcher beside this interpreter, where pip puts that of its MPI; else the first of the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    found = str(beside) if beside.is_file() else shutil.which("mpiexec")
    if found is None:
        raise CommandError(
            "there is no mpiexec here: pip install 'asyncpar[mpi]', or load the cluster's MPI module"
        )
    return found
