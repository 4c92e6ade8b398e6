"""Everything that goes wrong on AWS, all at once, on the local Lambda: no result is wrong, missing or made twice."""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from pathlib import Path

import anyio
import pytest

from asyncpar_lambda import LambdaPool

HERE = Path(__file__).parent
CALLS = 20_000
FAULTS = {
    "throttles": 0.05,
    "errors": 0.01,
    "lost": 0.01,
    "kills": 0.005,
    "duplicates": 0.01,
    "cold_start": 0.3,
    "seed": 1,
}


@pytest.fixture(scope="module")
def anyio_backend():
    """The loop that users get."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def functions(monkeypatch):
    """The user's module, as the package and this program have it."""
    monkeypatch.syspath_prepend(HERE)
    import lambda_chaos

    yield lambda_chaos
    sys.modules.pop("lambda_chaos")


async def runs_of(path):
    """The processes that began each call, in order."""
    runs = defaultdict(list)
    for line in (await anyio.Path(path).read_text()).splitlines():
        index, pid = line.split()
        runs[int(index)].append(int(pid))
    return runs


@pytest.mark.timeout(300)
@pytest.mark.parametrize("exactly_once", [True, False], ids=["exactly once", "with retries"])
async def test_chaos(functions, tmp_path, exactly_once):
    """Calls are begun a second time only where the first was cut short, or, without exactly_once, may have been."""
    path = str(tmp_path / "runs")
    how = {"exactly_once": True} if exactly_once else {"retries": 10}
    async with LambdaPool.local([HERE / "lambda_chaos.py"], limit=8, **FAULTS) as pool:
        arguments = itertools.repeat(path), range(CALLS)
        values = await pool.map(functions.mark, *arguments, chunksize=5, **how)
        statistics, injected = pool.statistics(), await pool.server.statistics()

    assert values == [i * i for i in range(CALLS)]
    assert statistics.completed == CALLS
    runs = await runs_of(path)
    assert sorted(runs) == list(range(CALLS))
    again = {index: pids for index, pids in runs.items() if len(pids) > 1}
    alive = set(injected["pids"])
    if exactly_once:
        assert not [index for index, pids in again.items() if alive & set(pids[:-1])]
        assert len(again) <= 5 * injected["faults"]["kills"]
        assert (statistics.lost, statistics.repeated > 0) == (0, True)
    else:
        assert statistics.lost > 0

    # The report says what happened.
    assert statistics.concurrency.throttled
    assert sum(statistics.concurrency.throttled.values()) == injected["throttled"]
    assert statistics.cold <= injected["environments_started"]
    for fault in ("throttles", "errors", "lost", "kills", "duplicates"):
        assert injected["faults"][fault] >= 5, fault
