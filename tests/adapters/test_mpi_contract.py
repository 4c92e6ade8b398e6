"""The pool keeps the contract of every pool, under a real mpiexec: rank 0 of a job runs pytest on ``mpi_contract.py``."""

from __future__ import annotations

import pytest

pytest.importorskip("mpi4py", reason="needs the extra 'mpi'")

from tests.adapters import mpi_jobs


@pytest.mark.timeout(300)
def test_the_pool_keeps_the_contract(tmp_path):
    """All of it: nothing is skipped, and nothing is left behind by any test."""
    inner = mpi_jobs.ROOT / "tests/adapters/mpi_contract.py"
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        mpi_jobs.ROOT,
        "-c",
        mpi_jobs.ROOT / "pyproject.toml",
    ]
    done = mpi_jobs.run(
        5, "-m", "pytest", inner, *options, f"--basetemp={tmp_path / 'inner'}", folder=tmp_path, seconds=250
    )
    assert done.code == 0, done.out + done.err
    assert " passed" in done.out
    assert "skipped" not in done.out
