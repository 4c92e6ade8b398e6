"""What an import costs: `import asyncpar` and the worker's side load nothing heavy.

The direction of imports inside the package is held by import-linter (`make check`).
"""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "asyncio",
    "anyio",
    "uvloop",
    "numpy",
    "multiprocessing",
    "concurrent.futures",
    "importlib.metadata",
    "sqlite3",
}

BESIDE_ASYNCIO = {"__future__", "_compat_pickle", "_pickle", "fcntl", "mmap", "pickle"}


def modules_after(statement: str) -> set[str]:
    """The modules of a fresh interpreter that ran the statement, beyond those it starts with."""
    program = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    """`import asyncpar` is nearly free: names are loaded at first use."""
    assert modules_after("import asyncpar") & HEAVY == set()


@pytest.mark.parametrize("module", ["worker", "zygote"])
def test_the_workers_side_imports_nothing_heavy(module):
    """A worker starts quickly and small: it loads no event loop before a call needs one."""
    assert modules_after(f"import asyncpar.process.{module}") & HEAVY == set()


def test_the_entry_point_of_a_pool_imports_only_its_own_place():
    """The process pool loads neither the threads nor the command."""
    loaded = modules_after("from asyncpar import ProcessPool")
    assert loaded & {"asyncpar.thread", "asyncpar.cli", "asyncpar.testing", "numpy"} == set()


def test_the_main_names_import_little_beyond_asyncio():
    """A program that uses asyncio pays for asyncpar's own modules and what pickling takes, not for more of the library."""
    uses = "asyncpar.ProcessPool, asyncpar.run, asyncpar.map, asyncpar.gather"
    extra = modules_after(f"import asyncio, asyncpar; {uses}") - modules_after("import asyncio")
    assert {name for name in extra if not name.startswith("asyncpar")} <= BESIDE_ASYNCIO
