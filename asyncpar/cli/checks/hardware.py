"""GPU and MPI. Tried in other processes: their libraries may hang, or end the process that loads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from asyncpar.cli.checks import Check, Status

PATIENCE = 60.0  # seconds: the first use of a GPU compiles, and a cold disk is slow

CUPY = """
import cupy
count = cupy.cuda.runtime.getDeviceCount()
assert int(cupy.arange(10).sum()) == 45
name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
print(f"{count} x {name}, CuPy {cupy.__version__}")
"""
DEVICES = """
import asyncpar
devices = asyncpar.device()
print("; ".join(str(devices).splitlines()))
raise SystemExit(not devices)
"""
MPI4PY = """
from mpi4py import MPI
print(MPI.Get_library_version().splitlines()[0])
"""


def examine() -> Iterator[Check]:
    """Yield the checks."""
    yield _gpu()
    yield _devices()
    yield _mpi()


def _gpu() -> Check:
    if find_spec("cupy"):
        return _outcome("GPU", *_run(sys.executable, "-c", CUPY))
    if not shutil.which("nvidia-smi"):
        return Check("hardware", "GPU", "missing", "no NVIDIA driver (nvidia-smi) here")
    works, detail = _run("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if not works:
        return Check("hardware", "GPU", "failed", detail)
    return Check(
        "hardware", "GPU", "missing", f"{detail}, but CuPy is not installed", "pip install 'asyncpar[cupy]'"
    )


def _devices() -> Check:
    """What the pools on GPU streams find."""
    works, detail = _run(sys.executable, "-c", DEVICES, said="stdout")
    return Check("hardware", "devices", "ok" if works else "missing", detail)


def _mpi() -> Check:
    launcher = _mpiexec()
    if find_spec("mpi4py"):
        check = _outcome("MPI", *_run(sys.executable, "-c", MPI4PY))
        if check.status != "ok" or launcher:
            return check
        return Check("hardware", "MPI", "missing", f"{check.detail}, but no mpiexec to start programs with")
    found = f"{launcher}, but no mpi4py" if launcher else "neither mpiexec nor mpi4py"
    advice = "" if not launcher else "pip install mpi4py"
    return Check("hardware", "MPI", "missing", found, advice)


def _mpiexec() -> str | None:
    """The launcher that `asyncpar mpi` takes: beside this interpreter, where pip puts that of its MPI, or in the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.is_file() else shutil.which("mpiexec")


def _outcome(name: str, works: bool, detail: str) -> Check:
    status: Status = "ok" if works else "failed"
    return Check("hardware", name, status, detail)


def _run(*command: str, said: Literal["stdout", "stderr"] = "stderr") -> tuple[bool, str]:
    """Run a program; return whether it succeeded, and the last line of what it said (`said`: where, if it failed)."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {PATIENCE:.0f} seconds"
    except OSError as error:
        return False, str(error)
    text = done.stdout if done.returncode == 0 or said == "stdout" else done.stderr
    lines = (text or done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"
