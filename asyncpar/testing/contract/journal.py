"""Journals: what was computed once is not computed again, wherever it was computed."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import asyncpar
from asyncpar.testing import functions as f
from asyncpar.testing.contract.base import Contract, Source, raises, taken


class JournalContract(Contract):
    """Journals: what was computed once is not computed again, wherever it was computed."""

    async def test_a_second_run_takes_what_is_there_and_runs_the_rest(self, tmp_path: Path) -> None:
        path = tmp_path / "run.journal"
        async with self.make_pool() as pool:
            assert await pool.map(f.square, range(0, 60, 3), journal=path) == [i * i for i in range(0, 60, 3)]
            again = pool.map(f.square, range(60), journal=path)
            assert await again == [i * i for i in range(60)]
            assert again.statistics().replayed == 20
            last = pool.map(f.square, range(60), journal=path, ordered=False)
            assert sorted(await last) == [i * i for i in range(60)]
            assert last.statistics().replayed == 60

    async def test_the_journal_of_another_pool_is_as_good(self, tmp_path: Path) -> None:
        async with asyncpar.InlinePool() as inline:
            await inline.map(f.square_async, range(10), journal=tmp_path / "run.journal")
        async with self.make_pool() as pool:
            results = pool.map(f.square_async, range(12), journal=tmp_path / "run.journal")
            assert await results == [i * i for i in range(12)]
            assert results.statistics().replayed == 10

    async def test_failed_calls_are_not_kept(self, tmp_path: Path) -> None:
        async with self.make_pool() as pool:
            for replayed in (0, 9):
                results = pool.map(
                    partial(f.fail_on, 4), range(10), journal=tmp_path / "run.journal", return_exceptions=True
                )
                done = await results
                assert [i for i, value in enumerate(done) if value != i] == [4]
                assert isinstance(done[4], ValueError)
                assert results.statistics().replayed == replayed

    async def test_a_failure_comes_after_the_results_before_it(self, tmp_path: Path) -> None:
        async with self.make_pool() as pool:
            await pool.map(partial(f.fail_on, 5), [1, 3, 6], journal=tmp_path / "run.journal")
            results = pool.map(partial(f.fail_on, 5), range(8), journal=tmp_path / "run.journal")
            assert await taken(results, 5) == [0, 1, 2, 3, 4]
            with raises(ValueError, "no 5"):
                await anext(results)

    async def test_retries_are_kept_when_they_succeed(self, tmp_path: Path) -> None:
        self.need(self.shares_files, "files of this machine")
        path = str(tmp_path / "attempts")
        async with self.make_pool() as pool:
            for _ in range(2):
                results = pool.map(
                    f.flaky,
                    [path],
                    [2],
                    retries=2,
                    retry_on=ConnectionError,
                    journal=tmp_path / "run.journal",
                )
                assert await results == ["done"]
        assert len(f.lines(path)) == 3

    async def test_leaving_early_keeps_what_has_finished(self, tmp_path: Path) -> None:
        journal = asyncpar.Journal(tmp_path / "run.journal")
        async with self.make_pool() as pool:
            async with pool.map(f.square, itertools.count(), limit=16, journal=journal) as results:
                await taken(results, 40)
            again = pool.map(f.square, range(40), journal=journal)
            assert await again == [i * i for i in range(40)]
            assert again.statistics().replayed == 40

    async def test_with_a_journal_the_source_is_read_no_further(self, tmp_path: Path) -> None:
        async with self.make_pool() as pool:
            await pool.map(f.square, range(30), journal=tmp_path / "run.journal")
            for kind in ("sync", "async"):
                source, got = Source(200), 0
                async with pool.map(
                    f.square, source.open(kind), limit=7, journal=tmp_path / "run.journal"
                ) as results:
                    async for value in results:
                        assert value == got * got
                        assert source.read - got <= 7
                        got += 1
                assert got == 200
                assert source.closed
