"""The `asyncpar` command.

    run       run a script with a pool chosen by name
    doctor    what works on this machine, and what to install
    demo      a crawl of Python's own sources, measured
    journal   what files of results hold
    lambda    and the like: commands that adapters bring, by the entry-point group `asyncpar.commands`

Importing this costs nothing: workers import functions from `asyncpar.cli.demo`, and do not need the command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        arguments: What follows `asyncpar` on the command line; None for `sys.argv`.
    """
    try:
        from asyncpar.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in {"cyclopts", "rich"}:
            raise
        print('The asyncpar command needs cyclopts and rich: pip install "asyncpar[cli]"', file=sys.stderr)
        return 1
    # A command returns its exit code; --help and --version return None.
    return app(sys.argv[1:] if arguments is None else arguments) or 0
