"""The far side imports almost nothing: a worker is there in a millisecond, and brings nothing along."""

from __future__ import annotations

import subprocess
import sys

import pytest

import asyncpar

HEAVY = {
    "anyio", "asyncio", "concurrent", "ctypes", "dataclasses", "email", "importlib.metadata", "inspect", "json", "logging",
    "contextlib", "multiprocessing", "numpy", "pathlib", "runpy", "subprocess", "tempfile", "typing", "typing_extensions",
    "unittest", "uvloop",
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


async def test_a_worker_imports_logging_when_a_function_does():
    """To import `logging` takes longer than to fork a worker; records arrive all the same (tests/test_process.py)."""
    async with asyncpar.ProcessPool(1) as pool:
        assert not await pool.run(eval, "'logging' in __import__('sys').modules")
        assert await pool.run(eval, "len(__import__('logging').root.handlers)") == 1
