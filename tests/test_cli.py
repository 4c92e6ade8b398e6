from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from asyncpar.cli import main
from asyncpar.cli.checks import Check, attempt, extras, hardware, pools
from asyncpar.cli.doctor import examine

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
ENVIRONMENT.pop("ASYNCPAR_POOL", None)


def asyncpar(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    command = [sys.executable, "-m", "asyncpar", *arguments]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script; returns its path."""

    def write(text: str) -> str:
        file = tmp_path / "a script.py"
        file.write_text(text)
        return str(file)

    return write


POOL_SCRIPT = """
import os
import asyncpar

def where(number):
    return os.getpid()

async def main():
    async with asyncpar.open_pool() as pool:
        pids = set(await pool.map(where, range(10)))
    print(type(pool).__name__, os.getpid() in pids)

if __name__ == "__main__":
    asyncpar.run(main)
"""


# run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "ProcessPool False"),
        (["--pool", "process"], "ProcessPool False"),
        (["--pool", "thread"], "ThreadPool True"),
        (["--pool=inline"], "InlinePool True"),
    ],
)
def test_run_chooses_the_pool(script: Callable[[str], str], options: list[str], expected: str) -> None:
    """A pool opened without a name is of the kind asked for, and functions of the script work on it."""
    done = asyncpar("run", script(POOL_SCRIPT), *options)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, expected, "")


def test_run_makes_the_script_the_main_module(script: Callable[[str], str]) -> None:
    """The script sees what it would under `python SCRIPT`."""
    path = script(
        "import json, sys\n"
        "main = sys.modules['__main__']\n"
        "own = main.__dict__ is globals()\n"
        "print(json.dumps([__name__, __file__, main.__file__, __spec__, own, sys.argv, sys.path[0]]))\n"
    )
    arguments = ["-v", "--option=3", "word"]
    done = asyncpar("run", path, *arguments)
    expected = ["__main__", path, path, None, True, [path, *arguments], os.path.dirname(path)]
    assert json.loads(done.stdout) == expected


def test_run_passes_everything_after_two_dashes(script: Callable[[str], str]) -> None:
    """Options that the command knows too reach the script behind `--`."""
    done = asyncpar("run", script("import sys; print(sys.argv[1:])"), "--", "--pool", "mine", "--help")
    assert done.stdout.strip() == "['--pool', 'mine', '--help']"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("raise SystemExit", 0),
        ("raise SystemExit('sorry')", 1),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_run_returns_the_exit_code_of_the_script(script: Callable[[str], str], text: str, code: int) -> None:
    """The exit code is the script's own; 130 after Ctrl-C."""
    assert asyncpar("run", script(text)).returncode == code


def test_run_shows_the_traceback_of_the_script_alone(script: Callable[[str], str]) -> None:
    """An error is shown as Python shows it, from the script's first line on."""
    path = script("def fail():\n    raise ValueError('no')\n\nfail()\n")
    done = asyncpar("run", path)
    lines = done.stderr.splitlines()
    assert done.returncode == 1
    assert lines[:2] == ["Traceback (most recent call last):", f'  File "{path}", line 4, in <module>']
    assert lines[-1] == "ValueError: no"
    assert "runpy" not in done.stderr


def test_run_shows_a_syntax_error(script: Callable[[str], str]) -> None:
    """A script that does not parse has no traceback, only the place."""
    done = asyncpar("run", script("def (:\n"))
    assert done.returncode == 1
    assert done.stderr.startswith("  File ")
    assert "SyntaxError" in done.stderr


def test_run_without_the_script() -> None:
    """A missing script is a wrong command line."""
    done = asyncpar("run", "nowhere.py")
    assert (done.returncode, done.stderr) == (2, "asyncpar: there is no script 'nowhere.py'\n")


@pytest.mark.parametrize("command", [["run", "script.py"], ["demo"]])
def test_an_unknown_pool(command: list[str]) -> None:
    """The message names the pools that are there."""
    done = asyncpar(*command, "--pool", "abacus")
    assert done.returncode == 2
    assert done.stderr.startswith("asyncpar: there is no pool named 'abacus'; installed are: ")
    named = done.stderr.partition("installed are: ")[2].partition(".")[0].split(", ")
    assert {"inline", "process", "thread"} <= set(named)
    assert done.stderr.endswith("See: asyncpar doctor\n")


def test_ctrl_c(script: Callable[[str], str]) -> None:
    """One Ctrl-C ends a script whose workers are busy, with 130, and leaves nothing behind."""
    path = script(
        "import asyncpar, time\n"
        "async def main():\n"
        "    async with asyncpar.open_pool() as pool:\n"
        "        await pool.run(abs, 1)\n"
        "        print('ready', flush=True)\n"
        "        await pool.map(time.sleep, [60] * 4)\n"
        "if __name__ == '__main__':\n"
        "    asyncpar.run(main)\n"
    )
    command = [sys.executable, "-m", "asyncpar", "run", path]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=50) == 130


# the command itself


def test_without_the_extra(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cyclopts the command says what to install."""
    monkeypatch.delitem(sys.modules, "asyncpar.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    assert main(["doctor"]) == 1
    message = 'The asyncpar command needs cyclopts and rich: pip install "asyncpar[cli]"\n'
    assert capsys.readouterr().err == message


def test_an_error_of_our_own_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another module that is missing is an error, and shown as such."""
    monkeypatch.delitem(sys.modules, "asyncpar.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "asyncpar.cli.errors", None)
    with pytest.raises(ModuleNotFoundError, match=r"asyncpar\.cli\.errors"):
        main(["doctor"])


@pytest.mark.parametrize("arguments", [[], ["--help"], ["run", "--help"], ["demo", "--help"]])
def test_help(arguments: list[str]) -> None:
    """Help is no error."""
    done = asyncpar(*arguments)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: asyncpar")


@pytest.mark.parametrize(
    "arguments",
    [["juggle"], ["run"], ["demo", "--limit", "0"], ["demo", "--files", "x"], ["demo", "--latency", "-1"]],
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    """What cannot be understood ends with exit code 2 and says why."""
    done = asyncpar(*arguments)
    assert done.returncode == 2
    assert "Error" in done.stderr


# doctor


def test_doctor_here() -> None:
    """The core works on the machine that runs the tests, and every pool of ours was called."""
    done = asyncpar("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0
    for name in ("Python", "cores", "event loop", "pool process", "pool thread", "pool inline"):
        assert (checks[name]["group"], checks[name]["status"]) == ("core", "ok")
    assert "us a call" in checks["pool process"]["detail"]


def checks_of(*checks: Check) -> Callable[[], list[Check]]:
    return lambda: list(checks)


def test_doctor_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table shows each check, and below it what to do, once."""
    advice = 'pip install "asyncpar[x]"'
    found = [Check("extras", name, "missing", "not installed [red]", advice) for name in ("a", "b")]
    monkeypatch.setattr("asyncpar.cli.doctor._all_checks", checks_of(*found))
    monkeypatch.setenv("COLUMNS", "100")
    assert examine(as_json=False) == 0
    out = capsys.readouterr().out
    assert out.count("not installed [red]") == 2
    assert out.count(advice) == 1


@pytest.mark.parametrize(("group", "code"), [("core", 1), ("pools", 0), ("hardware", 0)])
def test_doctor_exit_code(monkeypatch: pytest.MonkeyPatch, group: str, code: int) -> None:
    """Only a failure of the core fails the command."""
    monkeypatch.setattr("asyncpar.cli.doctor._all_checks", checks_of(Check(group, "x", "failed", "no")))
    assert examine(as_json=True) == code


def test_a_failed_attempt_is_a_line() -> None:
    """Whatever a trial raises becomes its detail, in one line."""

    def trial() -> str:
        raise RuntimeError("two\nlines")

    assert attempt("core", "x", trial) == Check("core", "x", "failed", "RuntimeError: two lines")


class Point:
    """An entry point of a package."""

    def __init__(self, name: str, problem: Exception) -> None:
        self.name, self.problem = name, problem

    def load(self) -> None:
        raise self.problem


def test_pools_of_other_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool of a package that does not work is missing, with what it said; ours stay ok."""
    points = [Point("mpi", ImportError("no mpi4py")), Point("cloud", ValueError("no account"))]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    monkeypatch.setattr(pools, "entry_points", lambda group: points)
    monkeypatch.setattr(extras, "declared_extras", lambda: {"mpi": ["mpi4py"]})
    assert pools.pool_names() == ["process", "thread", "inline", "cloud", "mpi"]
    assert pools._examine("mpi") == Check(
        "pools", "pool mpi", "missing", "ImportError: no mpi4py", 'pip install "asyncpar[mpi]"'
    )
    assert pools._examine("cloud") == Check("pools", "pool cloud", "missing", "ValueError: no account")


def test_a_pool_of_ours_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of our own pools that does not even load has failed, and so has the core."""

    def run(*_: object) -> str:
        raise ImportError("no thread")

    monkeypatch.setattr(pools, "run", run)
    assert pools._examine("thread") == Check("core", "pool thread", "failed", "ImportError: no thread")


def test_extras_are_read_from_the_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each package of each extra is looked up; an extra of extras is not repeated."""
    requirements = [
        "anyio>=4.6",
        "pytest>=8; extra == 'fast'",
        'no-such-package[more]>=1; (python_version >= "3.11") and extra == "by-value"',
        "asyncpar[by-value,fast]; extra == 'all'",
    ]
    assert extras.parse_extras(requirements) == {"fast": ["pytest"], "by-value": ["no-such-package"]}
    monkeypatch.setattr(extras, "requires", lambda name: requirements)
    installed, missing = extras.examine()
    assert (installed.status, installed.detail) == ("ok", pytest.__version__)
    assert (missing.status, missing.advice) == ("missing", 'pip install "asyncpar[by-value]"')


def test_an_extra_of_extras_is_left_out() -> None:
    """`all` names what the others name: each package is listed once."""
    requirements = [f"{package}; extra == {extra!r}" for package, extra in [
        ("rich", "cli"), ("cyclopts", "cli"), ("uvloop", "fast"), ("rich", "all"), ("cyclopts", "all"), ("uvloop", "all"),
    ]]  # fmt: skip
    assert extras.parse_extras(requirements) == {"cli": ["rich", "cyclopts"], "fast": ["uvloop"]}


def test_an_extra_that_contains_another_lists_what_it_adds() -> None:
    """So that nothing is listed twice, and nothing is left out."""
    requirements = [f"{package}; extra == {extra!r}" for package, extra in [
        ("msgpack", "azure"), ("msgpack", "lambda"), ("boto3", "lambda"),
    ]]  # fmt: skip
    assert extras.parse_extras(requirements) == {"azure": ["msgpack"], "lambda": ["boto3"]}


def test_extras_of_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where asyncpar is not installed, that is what is said."""

    def requires(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", requires)
    [check] = extras.examine()
    assert (check.status, check.advice) == ("missing", "pip install --editable .")


def fake_program(folder: Path, name: str, text: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_a_gpu_without_cupy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that answers names the GPU, and CuPy is what is missing."""
    fake_program(tmp_path, "nvidia-smi", "echo NVIDIA H200")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    check = hardware._gpu()
    assert (check.status, check.detail) == ("missing", "NVIDIA H200, but CuPy is not installed")


def test_a_driver_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that does not work is failed, with its own words."""
    fake_program(tmp_path, "nvidia-smi", "echo driver mismatch >&2; exit 9")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(hardware, "find_spec", lambda name: None)
    assert hardware._gpu() == Check("hardware", "GPU", "failed", "driver mismatch")


def test_a_library_that_hangs_or_crashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that hangs or ends its process does not end the doctor."""
    monkeypatch.setattr(hardware, "find_spec", lambda name: object())
    monkeypatch.setattr(hardware, "CUPY", "import time; time.sleep(60)")
    monkeypatch.setattr(hardware, "MPI4PY", "import os; os.abort()")
    monkeypatch.setattr(hardware, "DEVICES", "import os; os.abort()")
    monkeypatch.setattr(shutil, "which", lambda name: "mpiexec")
    devices, mpi = hardware._devices(), hardware._mpi()  # which have all the time that they need
    monkeypatch.setattr(hardware, "PATIENCE", 0.5)
    gpu = hardware._gpu()
    assert gpu.status == mpi.status == "failed"
    assert devices.status == "missing"
    assert gpu.detail.startswith("no answer within")
    assert mpi.detail == "exit code -6"


def test_mpi_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """mpi4py alone starts nothing."""
    monkeypatch.setattr(hardware, "find_spec", lambda name: object())
    monkeypatch.setattr(hardware, "MPI4PY", "print('Open MPI 5')")
    monkeypatch.setattr(hardware, "_mpiexec", lambda: None)
    assert hardware._mpi().detail == "Open MPI 5, but no mpiexec to start programs with"
