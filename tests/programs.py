"""Runs a script as a user would, with every check of Python's development mode on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 150.0


def environment(**more: str) -> dict[str, str]:
    """A program's, as if the checkout were installed."""
    return os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'adapters'}"} | more


def output_of(script: Path, folder: Path) -> str:
    """Run a script in an empty folder, with warnings as errors, and return what it prints.

    Fails if it fails, or if Python complains of anything: a leak, an exception that nobody took.
    """
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(script)],
        cwd=folder,
        env=environment(XDG_CONFIG_HOME=str(folder / ".config")),  # keys are the user's own
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout
