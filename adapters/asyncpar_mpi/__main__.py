"""``mpiexec -n 4 python -m asyncpar_mpi SCRIPT``: rank 0 runs the script, the other ranks are its workers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asyncpar_mpi import job


def main(arguments: list[str]) -> int:
    """Read the command line and take part in the job."""
    parser = argparse.ArgumentParser("python -m asyncpar_mpi", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--log-dir", type=Path, help="write what each rank prints to a file of its own, in this folder"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="SCRIPT [ARGUMENTS]")
    parsed = parser.parse_args(arguments)
    if not parsed.command:
        parser.error("which script? python -m asyncpar_mpi SCRIPT")
    if not parsed.module and not Path(parsed.command[0]).is_file():
        parser.error(f"there is no script {parsed.command[0]!r}")
    return job.run(parsed.command, parsed.module, parsed.log_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
