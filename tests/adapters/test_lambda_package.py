"""The package: what is in it, for which machine, always the same bytes."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zipfile

import pytest

from asyncpar_lambda import package
from asyncpar_lambda.package import PackageError, Target, build

HERE = Target.here()


@pytest.fixture
def project(tmp_path):
    """A user's project: a file, a folder, and what does not belong into a package."""
    (tmp_path / "words.py").write_text("def count(x): return len(x.split())\n")
    folder = tmp_path / "models"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "deep" / "data.bin").write_bytes(b"\x00" * 100)
    for unwanted in ("__pycache__/a.pyc", ".git/config", "deep/b.pyc"):
        (folder / unwanted).parent.mkdir(exist_ok=True)
        (folder / unwanted).write_text("")
    return tmp_path


def names(made):
    return zipfile.ZipFile(io.BytesIO(made.data)).namelist()


def test_what_is_in_a_package(project):
    made = build([project / "words.py", project / "models"], HERE)
    found = names(made)
    assert {"words.py", "models/__init__.py", "models/deep/data.bin"} <= set(found)
    assert {
        "asyncpar_lambda/worker.py",
        "asyncpar/__init__.py",
        "msgpack/__init__.py",
        "cryptography/__init__.py",
    } <= set(found)
    assert not [
        name for name in found if name.endswith(".pyc") or ".git/" in name or "boto" in name.split("/")[0]
    ]
    assert not [name for name in found if name.endswith(("RECORD", "INSTALLER", "direct_url.json"))]
    assert found == sorted(found)
    assert made.modules == ("words", "models")
    assert made.size == sum(info.file_size for info in zipfile.ZipFile(io.BytesIO(made.data)).infolist())
    assert made.size < package.MAX_UNZIPPED / 5


def test_the_same_content_gives_the_same_bytes(project):
    first = build([project / "words.py"], HERE)
    os.utime(project / "words.py", (1, 1))
    (project / "words.py").chmod(0o600)
    assert build([project / "words.py"], HERE) == first
    (project / "words.py").write_text("def count(x): return 0\n")
    other = build([project / "words.py"], HERE)
    assert other.code != first.code
    assert other.data != first.data


def test_a_package_runs_without_anything_else(project, tmp_path):
    """As in Lambda: the standard library and the zip, nothing of this environment."""
    folder = tmp_path / "task"
    zipfile.ZipFile(io.BytesIO(build([project / "words.py"], HERE).data)).extractall(folder)
    program = "import words, anyio, asyncpar, asyncpar_lambda.worker as w; print(w.Worker({}).handle({}, lambda: 1.0)['refused'])"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=folder, capture_output=True, text=True, env={}, check=False
    )
    assert done.stdout == "malformed\n", done.stderr


def test_a_path_that_is_not_there(project):
    with pytest.raises(
        PackageError, match=r"there is no .*nothing\.py: name files and folders that are there"
    ):
        build([project / "nothing.py"], HERE)


def test_a_package_that_is_too_large_names_its_largest_parts(project, monkeypatch):
    monkeypatch.setattr(package, "MAX_UNZIPPED", 3 << 20)
    with pytest.raises(
        PackageError,
        match=r"the package is \d+ MB unpacked and Lambda takes 3; the largest parts are cryptography \(",
    ):
        build([project / "words.py"], HERE)


def test_a_target_names_its_runtime_and_its_wheels():
    assert Target() == Target("3.13", "arm64")
    assert Target().runtime == "python3.13"
    assert Target("3.13", "arm64").platforms[0] == "manylinux_2_34_aarch64"
    assert Target("3.11", "x86_64").platforms[0] == "manylinux_2_26_x86_64"  # Amazon Linux 2
    assert Target("3.12", "x86_64").platforms[-1] == "manylinux2014_x86_64"


@pytest.mark.timeout(300)
def test_wheels_for_another_machine_come_by_pip(project):
    """arm64 from x86-64, or the other way round: nothing is compiled."""
    other = Target("3.13", "x86_64" if HERE.machine == "arm64" else "arm64")
    made = build([project / "words.py"], other, ["simplejson"])
    machine = "aarch64" if other.machine == "arm64" else "x86_64"
    native = [name for name in names(made) if name.endswith(".so")]
    assert [name for name in native if name.startswith("msgpack/")]
    assert all(machine in name or "abi3" in name for name in native), native
    assert "simplejson/__init__.py" in names(made)


@pytest.mark.timeout(120)
def test_a_requirement_without_a_wheel_says_so(project):
    with pytest.raises(
        PackageError,
        match=r"pip found no wheels for Python 3\.13 on arm64:[\s\S]*Leave such a requirement out",
    ):
        build([project / "words.py"], Target("3.13", "arm64"), ["asyncpar-no-such-package"])
