"""The package as users get it: its public names, and its wheel, installed away from the checkout."""

from __future__ import annotations

import inspect
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import asyncpar

ROOT = Path(__file__).parents[1]


def test_all_is_sorted():
    """`__all__` is in one order, so that a name is found and added once."""
    assert list(asyncpar.__all__) == sorted(asyncpar.__all__)


def test_all_is_what_dir_shows():
    """`dir()`, which completion uses, shows the public names and no others."""
    public = {name for name in dir(asyncpar) if not name.startswith("_")}
    assert public == {name for name in asyncpar.__all__ if not name.startswith("_")}


@pytest.mark.parametrize("name", asyncpar.__all__)
def test_every_public_name_is_there(name):
    """A name of `__all__` can be had, and says that it is asyncpar's."""
    value = getattr(asyncpar, name)
    assert getattr(value, "__module__", "asyncpar").startswith("asyncpar")


@pytest.mark.parametrize("name", asyncpar.__all__)
def test_every_public_name_is_documented(name):
    """What a user can reach has a docstring, down to the methods that asyncpar itself wrote."""
    value = getattr(asyncpar, name)
    if not callable(value):
        return  # a constant
    members = vars(value).items() if inspect.isclass(value) else ()
    public = {f"{name}.{attr}": member for attr, member in members if not attr.startswith("_")}
    functions = {where: member for where, member in public.items() if inspect.isroutine(member)}
    undocumented = [
        where for where, member in {name: value, **functions}.items() if not inspect.getdoc(member)
    ]
    assert undocumented == []


def test_no_module_hides_a_public_name():
    """A module named like a public function would replace it on the lazy package once imported."""
    modules = {path.stem for path in (ROOT / "asyncpar").iterdir()} - {"__init__", "__pycache__"}
    assert modules & set(asyncpar.__all__) == set()


def test_an_unknown_name_is_an_attribute_error():
    """A misspelt name fails as on any module."""
    with pytest.raises(AttributeError, match="no attribute 'proces_pool'"):
        asyncpar.proces_pool  # noqa: B018 - the access is the test


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the contents of the built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    [wheel] = (folder / "dist").glob("asyncpar-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_every_file_of_the_package(installed):
    """Every module and `py.typed` are in the wheel, and no other package is."""

    def files(root: Path) -> set[Path]:
        return {
            path.relative_to(root) for path in root.glob("asyncpar*/**/*") if path.suffix in {".py", ".typed"}
        }

    assert files(installed) == files(ROOT) | files(ROOT / "adapters")
    packages = {path for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert all((package / "py.typed").is_file() for package in packages)
    adapters = {path.name for path in ROOT.glob("adapters/asyncpar_*")}
    assert {package.name for package in packages} == {"asyncpar"} | adapters


def test_the_wheel_imports_outside_the_checkout(installed, tmp_path):
    """Every public name comes from the wheel, where the checkout is out of sight."""
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r}); import asyncpar\n"
        "for name in asyncpar.__all__: getattr(asyncpar, name)\n"
        "print(*{module.__file__ for name, module in sys.modules.items() if name.startswith('asyncpar')}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(file.startswith(str(installed)) for file in done.stdout.split("\n") if file)


@pytest.mark.parametrize(
    "name",
    ["process", "thread", "inline", "lambda", "gcf", "azure", "mpi", "dask", "ray", "numba", "numba-cuda"],
)
def test_the_pools_are_registered(name):
    """`open_pool(name)` finds each of the core's pools by its entry point."""
    [found] = entry_points(group="asyncpar.pools", name=name)
    assert issubclass(found.load(), asyncpar.Pool)
