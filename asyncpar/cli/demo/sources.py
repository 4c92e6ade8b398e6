"""The demo's input, which every machine has: the standard library of the running Python."""

from __future__ import annotations

import sysconfig
from pathlib import Path

# Tests hold files that are wrong on purpose; the packages of pip are not the standard library.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def find_sources() -> dict[str, Path]:
    """Return the files by their path below the standard library, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    found = {file.relative_to(root): file for file in sorted(root.rglob("*.py"))}
    return {name.as_posix(): file for name, file in found.items() if LEFT_OUT.isdisjoint(name.parts)}
