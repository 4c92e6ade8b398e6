"""What a command cannot do, in words for its user."""

from __future__ import annotations


class CommandError(Exception):
    """Ends the command with a line on stderr: no traceback, since nothing is wrong with the program.

    Args:
        message: What is wrong and what to do about it.
        exit_code: 2 for a wrong command line, 1 for the rest.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
