"""Where a rank's output goes: a file of its own, or the common stream with the rank before each line."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any


def to_file(folder: Path, rank: int, size: int) -> None:
    """All that this process prints, its libraries and children included, goes to ``rank-7.log`` from now on."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:0{len(str(size - 1))}}.log"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def tag(rank: int) -> None:
    """What Python prints here has ``[7]`` before each line, and a line is written at once."""
    sys.stdout = Tagged(sys.stdout, rank)
    sys.stderr = Tagged(sys.stderr, rank)


class Tagged(io.TextIOBase):
    """A stream that writes whole lines, with the rank before each."""

    def __init__(self, stream: Any, rank: int) -> None:
        self.stream, self.rank = stream, rank
        self.line = ""

    def write(self, text: str) -> int:
        *lines, self.line = (self.line + text).split("\n")
        if lines:
            self.stream.write("".join(f"[{self.rank}] {line}\n" for line in lines))
            self.stream.flush()
        return len(text)

    def flush(self) -> None:
        """A line that has no end is written when the process ends."""
        self.stream.flush()

    def end(self) -> None:
        """Write what is left."""
        if self.line:
            self.write("\n")

    def fileno(self) -> int:
        number: int = self.stream.fileno()
        return number

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own."""
        name: str = self.stream.encoding
        return name
