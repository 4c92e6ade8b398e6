"""Every pool that has a name here: opened, and called."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from statistics import median

from asyncpar.cli.checks import Check, Status, describe
from asyncpar.cli.pools import open_workers
from asyncpar.runtime import OWN_POOLS, run

CALLS = 50  # for a median that a hiccup does not move
PATIENCE = 30.0  # seconds to open a pool and make these calls


def examine() -> Iterator[Check]:
    """Yield the checks: our own pools are part of the core, those of other packages are not."""
    for name in pool_names():
        yield _examine(name)


def pool_names() -> list[str]:
    """Return the names that `asyncpar.open_pool` takes: our own first, then what other packages registered."""
    others = {point.name for point in entry_points(group="asyncpar.pools")}.difference(OWN_POOLS)
    return [*OWN_POOLS, *sorted(others)]


def _examine(name: str) -> Check:
    group = "core" if name in OWN_POOLS else "pools"
    # A pool of another package may just lack what it needs: a library, a cluster, an account.
    status: Status = "failed" if group == "core" else "missing"
    try:
        return Check(group, f"pool {name}", "ok", run(_try_pool, name))
    except ImportError as error:
        return Check(group, f"pool {name}", status, describe(error), _advice(name))
    except Exception as error:  # a pool may fail in any way, and this is what is to be shown
        return Check(group, f"pool {name}", status, describe(error))


def _advice(name: str) -> str:
    """Return the line that installs what the pool needs, where its extra is called after it."""
    from asyncpar.cli.checks.extras import declared_extras

    return f'pip install "asyncpar[{name}]"' if name in declared_extras() else ""


async def _try_pool(name: str) -> str:
    started = time.perf_counter()
    async with asyncio.timeout(PATIENCE), open_workers(name, ["builtins:abs"]) as pool:
        await pool.run(abs, -1)
        opened = time.perf_counter() - started
        trips: list[float] = []
        for number in range(CALLS):
            begun = time.perf_counter()
            if await pool.run(abs, -number) != number:
                raise RuntimeError(f"the pool says that abs({-number}) is not {number}")
            trips.append(time.perf_counter() - begun)
        noun = "worker" if pool.workers == 1 else "workers"
        return f"{pool.workers} {noun}, first result in {opened * 1e3:.0f} ms, then {median(trips) * 1e6:.0f} us a call"
