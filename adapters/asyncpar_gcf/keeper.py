"""Runs a command until standard input is closed, then ends all that it started: ``python keeper.py FOLDER COMMAND...``.

It stands between a program and a server that would outlive the program's death, and removes the folder when both have
ended. It prints the command's process id. Run as a file, so that it imports nothing of asyncpar's.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys


def main(folder: str, command: list[str]) -> int:
    """Run the command until standard input is closed or it ends; the exit code is the command's, or 0."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True)
    ended = os.pidfd_open(process.pid)
    try:
        print(process.pid, flush=True)  # noqa: T201 - it is asked for
        ready, _, _ = select.select([0, ended], [], [])
        return process.wait() if ended in ready else 0
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        except ProcessLookupError:
            pass
        process.wait()
        os.close(ended)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
