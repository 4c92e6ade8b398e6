"""`asyncpar run`: a script, as `python SCRIPT` would run it, with a default pool."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from asyncpar.cli.errors import CommandError
from asyncpar.cli.pools import check_pool


def run_script(script: str, arguments: Sequence[str], pool: str | None) -> int:
    """Run the file as `__main__`; return the exit code.

    Raises:
        CommandError: There is no such script or pool.
        SystemExit: From the script.
        KeyboardInterrupt: From the script.
    """
    if pool is not None:
        check_pool(pool)
        os.environ["ASYNCPAR_POOL"] = pool
    if not Path(script).is_file():
        raise CommandError(f"there is no script {script!r}", exit_code=2)
    # Absolute, as in `python SCRIPT`: workers import the script again, from wherever they are.
    path = Path(script).absolute()
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        sys.path[0] = str(path.resolve().parent)
    return _run_main(str(path))


def _run_main(path: str) -> int:
    try:
        runpy.run_path(path, run_name="__main__")
    except Exception as error:
        error.__traceback__ = _below(error.__traceback__, path)
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _below(traceback: TracebackType | None, path: str) -> TracebackType | None:
    """Return the part of the traceback that begins in the script: its user did not write the rest."""
    while traceback is not None and traceback.tb_frame.f_code.co_filename != path:
        traceback = traceback.tb_next
    return traceback
