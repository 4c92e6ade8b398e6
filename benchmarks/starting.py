"""The shortest program of each library, for the time to an import and to a first result.

Each is (imports, a statement that leaves the first result in `value`); `{workers}` is filled in. What closes the
pool comes after the clock has been read, as the `with` and `async with` blocks do it.
"""

from __future__ import annotations

PROGRAMS: dict[str, tuple[str, str]] = {
    "asyncpar": (
        "import asyncio, asyncpar\nasyncpar.ProcessPool, asyncpar.run, asyncpar.map, asyncpar.gather",
        """
async def main():
    async with asyncpar.ProcessPool({workers}) as pool:
        value = await pool.run(abs, -1)
        done(value)
asyncio.run(main())""",
    ),
    "ppe": (
        "import asyncio\nfrom concurrent.futures import ProcessPoolExecutor",
        """
async def main():
    with ProcessPoolExecutor({workers}) as pool:
        value = await asyncio.get_running_loop().run_in_executor(pool, abs, -1)
        done(value)
asyncio.run(main())""",
    ),
    "mppool": (
        "import asyncio, multiprocessing\nmultiprocessing.Pool",
        """
with multiprocessing.Pool({workers}) as pool:
    value = pool.apply(abs, (-1,))
    done(value)""",
    ),
    "anyio": (
        "import asyncio, anyio, anyio.to_process",
        """
async def main():
    value = await anyio.to_process.run_sync(abs, -1)
    done(value)
anyio.run(main)""",
    ),
    "trio-parallel": (
        "import trio, trio_parallel",
        """
async def main():
    value = await trio_parallel.run_sync(abs, -1)
    done(value)
trio.run(main)""",
    ),
    "loky": (
        "import asyncio, loky",
        """
async def main():
    pool = loky.get_reusable_executor({workers})
    value = await asyncio.get_running_loop().run_in_executor(pool, abs, -1)
    done(value)
asyncio.run(main())""",
    ),
    "joblib": (
        "import asyncio, joblib",
        """
[value] = joblib.Parallel({workers})([joblib.delayed(abs)(-1)])
done(value)""",
    ),
    "mpire": (
        "import asyncio, mpire",
        """
with mpire.WorkerPool({workers}) as pool:
    value = pool.apply(abs, (-1,))
    done(value)""",
    ),
    "pebble": (
        "import asyncio, pebble",
        """
async def main():
    with pebble.ProcessPool(max_workers={workers}) as pool:
        value = await asyncio.wrap_future(pool.schedule(abs, args=(-1,)))
        done(value)
asyncio.run(main())""",
    ),
    "aiomultiprocess": (
        "import asyncio, aiomultiprocess",
        """
async def main():
    async with aiomultiprocess.Pool({workers}) as pool:
        value = await pool.apply(as_coroutine, (abs, -1))
        done(value)
from benchmarks.functions import as_coroutine
asyncio.run(main())""",
    ),
    "bare asyncio": ("import asyncio", "\ndone(1)"),
}
PROGRAMS["asyncpar (null)"] = PROGRAMS["asyncpar"]

CLOCK = """
def done(value):
    assert value == 1, value
    print("TIMES", imported, time.perf_counter(), flush=True)
"""


def program(name: str, workers: int) -> str:
    imports, first = PROGRAMS[name]
    clock = f"import time\nimported = time.perf_counter()\n{CLOCK}"
    return f"{imports}\n{clock}\n{first.format(workers=workers)}\n"
