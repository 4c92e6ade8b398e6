"""Numba's parallel loops in worker processes: how many threads, and forks after a threading layer has started."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

pytest.importorskip("numba", reason="needs the extra 'numba'")

import asyncpar
from asyncpar import ProcessPool
from tests import numba_functions as far

numba: Any = import_module("numba")  # its types are not for us


@pytest.mark.parametrize("preload", [(), ("numba",)], ids=["not preloaded", "numba preloaded"])
async def test_parallel_kernels_run_in_workers_whatever_this_process_has_started(preload):
    """Importing the functions compiled a kernel here, and started OpenMP where there is such."""
    assert numba.threading_layer()
    async with ProcessPool(1, threads_per_worker=2, preload=preload) as pool:
        assert await pool.run(far.total, 100) == 4950
        assert await pool.run(numba.get_num_threads) == 2


async def test_what_preload_compiled_runs_in_every_worker():
    """Once for all of them, on a layer that lives through the fork."""
    async with ProcessPool(2, threads_per_worker=2, preload=[far.__name__]) as pool:
        seen = set(await pool.map(far.total_and_threads, [100] * 8, chunksize=1))
        [(total, forked, layer, threads)] = seen
        assert (total, forked, threads) == (4950, True, 2)
        assert layer in ("tbb", "workqueue")


async def test_preload_that_starts_openmp_is_refused(monkeypatch):
    """GNU OpenMP ends a process that was forked after its start, at its first parallel kernel."""
    if numba.threading_layer() != "omp":
        pytest.skip("no machine here: OpenMP is not numba's threading layer")
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "omp")
    with pytest.raises(
        asyncpar.BrokenPoolError,
        match=r"^preload='tests.numba_functions' failed in the zygote: it has numba start OpenMP, which ends workers "
        r"forked after that at their first parallel kernel; take another threading layer "
        r"\(NUMBA_THREADING_LAYER=forksafe\), or start='spawn'$",
    ):
        async with ProcessPool(1, preload=[far.__name__]) as pool:
            await pool.run(far.total, 100)


async def test_fresh_interpreters_may_use_any_layer(monkeypatch):
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    async with ProcessPool(1, start="spawn", preload=[far.__name__]) as pool:
        assert await pool.run(far.total_and_threads, 100) == (4950, False, "workqueue", 1)
