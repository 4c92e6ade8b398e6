"""Each example runs as a user would run it."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.programs import ROOT, output_of

ENGINES = {"asyncpar_dask": "distributed", "asyncpar_ray": "ray", "asyncpar_cupy": "cupy"}
"""Adapters whose engine is in an environment of its own: tests/integration runs such examples."""
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def imported(path: Path) -> set[str]:
    """The packages that a script imports at its top."""
    nodes = ast.parse(path.read_text()).body
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


def test_there_are_examples():
    """The folder was found."""
    assert len(EXAMPLES) >= 11


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs(path, tmp_path):
    """It ends well, prints something, and leaves no file."""
    for engine in imported(path) & set(ENGINES):
        if find_spec(ENGINES[engine]) is None:
            pytest.skip(
                f"no machine here: {ENGINES[engine]} is installed by 'make engines' or 'make integration'"
            )
    if missing := {name for name in imported(path) if find_spec(name) is None}:
        pytest.skip(f"not installed: {', '.join(sorted(missing))}")
    assert output_of(path, folder=tmp_path).strip()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_says_what_it_shows(path):
    """It begins with a docstring, and does nothing when a worker imports it."""
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text))
    assert 'if __name__ == "__main__":' in text
