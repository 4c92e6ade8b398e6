"""The package of a deployment: one zip with the user's code, what it needs, and the worker.

Made for a *target*, a version of Python on a kind of machine, from wheels; nothing is compiled and no Docker is needed.
The same content gives the same bytes, so that a deployment can tell whether anything changed.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyncpar.errors import AsyncparError

MAX_UNZIPPED = 250 << 20
"""Lambda's limit for a zip, unpacked, layers included."""
MAX_ZIPPED = 50 << 20
"""The largest zip that Lambda takes in a request; a larger one goes through S3."""
WORKER_NEEDS = ("msgpack>=1.1", "cryptography>=43", "anyio>=4.6")
"""What the worker and the user's ``import asyncpar`` need."""
LEFT_OUT = frozenset(
    ("__pycache__", ".git", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache")
)
NOTES = (".dist-info/RECORD", ".dist-info/INSTALLER", ".dist-info/REQUESTED", ".dist-info/direct_url.json")
"""What an installer notes about itself: nothing reads it there, and it differs from one to the next."""
COMPRESSION = 4  # takes half as long as 6 and gives 3 % more
EPOCH = (1980, 1, 1, 0, 0, 0)

ROOT = Path(__file__).parent


_made: dict[str, bytes] = {}
"""The zip made last, by the hash of its content: to compress it takes most of a second, and tests ask for many."""


class PackageError(AsyncparError):
    """The package cannot be made; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Target:
    """What the package will run on.

    :ivar python: ``"3.11"``
    :ivar machine: ``"arm64"`` or ``"x86_64"``, as Lambda calls them
    """

    python: str = "3.13"
    machine: str = "arm64"

    @classmethod
    def here(cls) -> Target:
        """This interpreter on this machine."""
        machine = {"aarch64": "arm64", "arm64": "arm64"}.get(platform.machine(), "x86_64")
        return cls(f"{sys.version_info.major}.{sys.version_info.minor}", machine)

    @property
    def runtime(self) -> str:
        """The name of Lambda's managed runtime."""
        return f"python{self.python}"

    @property
    def platforms(self) -> list[str]:
        """Tags of wheels that run there: Amazon Linux 2023 has glibc 2.34, Amazon Linux 2 (to 3.11) has 2.26."""
        machine = "aarch64" if self.machine == "arm64" else "x86_64"
        newest = 34 if tuple(map(int, self.python.split("."))) >= (3, 12) else 26
        return [
            f"manylinux_2_{minor}_{machine}" for minor in (34, 31, 28, 27, 26, 24, 17) if minor <= newest
        ] + [f"manylinux2014_{machine}"]


@dataclass(frozen=True, slots=True)
class Package:
    """A zip, ready to be deployed.

    :ivar data: the zip
    :ivar code: SHA-256 of what it holds, in hex; requests are signed for it
    :ivar size: unpacked, in bytes
    :ivar modules: the top-level names that the user's paths gave
    """

    data: bytes
    code: str
    size: int
    modules: tuple[str, ...]


def build(
    paths: Iterable[str | Path], target: Target | None = None, requirements: Sequence[str] = ()
) -> Package:
    """Make the package. Blocking: it may run pip, for seconds.

    :param paths: files and folders of the user; each is importable under its own name
    :param target: by default Lambda's newest Python that asyncpar is tested on, on arm64
    :param requirements: what the user's code needs, as pip takes it
    :raises PackageError: a path is not there, a requirement has no wheel for the target, or it is too large
    """
    target = target or Target()
    files: dict[str, Path] = {}
    modules = tuple(add_paths(files, paths))
    add_worker(files)
    with tempfile.TemporaryDirectory(prefix="asyncpar-") as folder:
        _add_requirements(files, [*WORKER_NEEDS, *requirements], target, Path(folder))
        contents = {name: path.read_bytes() for name, path in sorted(files.items())}
    size = sum(map(len, contents.values()))
    if size > MAX_UNZIPPED:
        raise PackageError(_too_large(contents, size))
    code = digest(contents)
    data = _made.get(code)
    if data is None:
        data = _zip(contents)
        _made.clear()
        _made[code] = data
    return Package(data, code, size, modules)


def add_paths(files: dict[str, Path], paths: Iterable[str | Path]) -> Iterator[str]:
    """Add the user's files by their names in the package; the top-level names that they give."""
    for path in map(Path, paths):
        if path.is_file():
            files[path.name] = path
        elif path.is_dir():
            for file in walk(path):
                files[f"{path.name}/{file.relative_to(path).as_posix()}"] = file
        else:
            raise PackageError(f"there is no {path}: name files and folders that are there")
        yield path.name.removesuffix(".py")


def walk(folder: Path) -> Iterator[Path]:
    """The files of a folder that belong into a package."""
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        for name in names:
            if not name.endswith((".pyc", ".pyo")):
                yield Path(where, name)


def add_worker(files: dict[str, Path], packages: Iterable[str] = ()) -> None:
    """asyncpar itself, for user code that imports it, this package, and those beside it that are named."""
    core = ROOT.parent / "asyncpar" if (ROOT.parent / "asyncpar").is_dir() else ROOT.parents[1] / "asyncpar"
    for package in (core, ROOT, *(ROOT.parent / name for name in packages)):
        for file in walk(package):
            files.setdefault(f"{package.name}/{file.relative_to(package).as_posix()}", file)


# -- requirements


def _add_requirements(files: dict[str, Path], wanted: list[str], target: Target, folder: Path) -> None:
    """Files that are installed here serve where the target is this interpreter; else pip gets wheels for it."""
    missing = wanted
    if target == Target.here():
        missing = [requirement for requirement in wanted if not _add_installed(files, requirement, set())]
    if missing:
        _pip(missing, target, folder)
        for file in walk(folder):
            name = file.relative_to(folder).as_posix()
            if not name.startswith("bin/") and not name.endswith(NOTES):
                files.setdefault(name, file)


def _add_installed(files: dict[str, Path], requirement: str, seen: set[str]) -> bool:
    """Whether this requirement and all of its own are installed here; then their files are added."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    try:
        found = distribution(parsed.name)
    except PackageNotFoundError:
        return False
    if not parsed.specifier.contains(found.version, prereleases=True) or found.files is None or parsed.extras:
        return False
    if parsed.name.lower() in seen:
        return True
    seen.add(parsed.name.lower())
    for inner in found.requires or ():
        marker = Requirement(inner).marker
        if (marker is None or marker.evaluate({"extra": ""})) and not _add_installed(files, inner, seen):
            return False
    for path in found.files:
        name = path.as_posix()
        if name.startswith("../") or name.endswith((".pyc", *NOTES)):
            continue
        located = Path(str(found.locate_file(path)))
        if located.is_file():
            files.setdefault(name, located)
    return True


def _pip(wanted: list[str], target: Target, folder: Path) -> None:
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-compile",
        "--only-binary=:all:", "--implementation=cp", f"--python-version={target.python}",
        *(f"--platform={tag}" for tag in target.platforms), f"--target={folder}", *wanted,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PackageError(
            f"pip found no wheels for Python {target.python} on {target.machine}:\n{done.stderr.strip()[-2000:]}\n"
            "Leave such a requirement out, pin another version of it, or deploy a container image."
        )


# -- the zip


def _zip(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
        for name, data in contents.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            executable = name == "bootstrap" or ".so" in name  # a custom runtime starts with the former
            info.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def digest(contents: dict[str, bytes]) -> str:
    """Of names and contents; compression may differ from one zlib to the next."""
    whole = hashlib.sha256()
    for name, data in contents.items():
        whole.update(f"{len(name)}:{name}:{len(data)}:".encode())
        whole.update(data)
    return whole.hexdigest()


def _too_large(contents: dict[str, bytes], size: int) -> str:
    parts: dict[str, int] = {}
    for name, data in contents.items():
        top = name.split("/")[0]
        parts[top] = parts.get(top, 0) + len(data)
    largest = sorted(parts.items(), key=lambda part: -part[1])[:5]
    return (
        f"the package is {size >> 20} MB unpacked and Lambda takes {MAX_UNZIPPED >> 20}; the largest parts are "
        + ", ".join(f"{name} ({amount >> 20} MB)" for name, amount in largest)
        + ". Leave some out, or deploy a container image (up to 10 GB)"
    )
