"""The far side imports almost nothing: a worker is there in a millisecond, and brings nothing along."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "anyio", "asyncio", "concurrent", "ctypes", "dataclasses", "email", "importlib.metadata", "inspect", "json", "logging",
    "multiprocessing", "numpy", "pathlib", "runpy", "tempfile", "typing_extensions", "unittest", "uvloop",
}  # fmt: skip
"""What takes more than a moment to import, or has no business there."""

ALLOWED = {
    "asyncpar", "asyncpar.chunks", "asyncpar.errors", "asyncpar.process", "asyncpar.process.arena",
    "asyncpar.process.layout", "asyncpar.process.transit", "asyncpar.process.worker", "asyncpar.process.zygote",
    "asyncpar.residence",
}  # fmt: skip


def imported_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["asyncpar.process.worker", "asyncpar.process.zygote"])
def test_the_far_side_imports_almost_nothing(module):
    found = imported_by(module)
    assert not {name for name in found if name in HEAVY or name.split(".")[0] in HEAVY}
    assert {name for name in found if name.split(".")[0] == "asyncpar"} <= ALLOWED
