"""What a command cannot do, in words for its user."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")


class CommandError(Exception):
    """Ends the command with a line on stderr: no traceback, since nothing is wrong with the program.

    Args:
        message: What is wrong and what to do about it.
        exit_code: 2 for a wrong command line, 1 for the rest.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def exit_codes(command: Callable[P, int]) -> Callable[P, int]:
    """Make an error one line on stderr, and Ctrl-C the exit code 130 that shells know."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except CommandError as error:
            print(f"asyncpar: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            return 130

    return wrapped
