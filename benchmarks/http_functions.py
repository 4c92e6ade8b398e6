"""1,000 trivial calls on Google's functions-framework on this machine: ``GCFPool``, and an aiohttp client written by hand.

    python -m benchmarks.http_functions

Every measurement is a fresh process with a fresh framework of four processes, in random order; the median of the rounds
is printed. *First* is the first map of an open pool, *again* the same once more. CPU is that of the client's process
alone. The client by hand sends each call as plain JSON to a plain function, 50 at a time: that is what asyncpar's
signatures, allow-list, retries and typed results are to be compared with. ``aiohttp, ASGI`` and ``aiohttp, threads`` are
the same client against the framework's other ways to run a function: as ASGI, and in the threads that are its default.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CALLS = 1000
AT_ONCE = 50
PROCESSES = 4
MODULE = "def double(x):\n    return 2 * x\n"
PLAIN = """
import json

import functions_framework

@functions_framework.http
def asyncpar(request):
    return {"double": 2 * json.loads(request.get_data() or '{"x": 0}')["x"]}
"""
ASGI = """
import json

import functions_framework.aio

@functions_framework.aio.http
async def asyncpar(request):
    return {"double": 2 * json.loads(await request.body() or '{"x": 0}')["x"]}
"""


async def measured(work):
    """Seconds, and the client's CPU seconds, of the first run and the next."""
    found = {}
    for name in ("first", "again"):
        begun, cpu = time.perf_counter(), time.process_time()
        await work()
        found[name] = time.perf_counter() - begun
        found[f"{name} cpu"] = time.process_time() - cpu
    return found


# The peers


async def asyncpar_map(folder, **options):
    from asyncpar_gcf import GCFPool

    sys.path.insert(0, folder)
    import calls_module

    async with GCFPool.local([calls_module.__file__], limit=PROCESSES) as pool:

        async def work():
            got = await pool.map(calls_module.double, range(CALLS), **options)
            assert got == [2 * i for i in range(CALLS)]

        return await measured(work)


async def asyncpar_each(folder):
    return await asyncpar_map(folder, chunksize=1)


async def aiohttp_client(folder, main=PLAIN, threads=None, *arguments):
    import aiohttp

    from asyncpar_gcf.local import LocalFramework

    class Framework(LocalFramework):
        def _environ(self):
            environ = {**super()._environ(), "FUNCTION_USE_ASGI": "true" if main is ASGI else ""}
            if threads:
                environ.pop("THREADS")
            return {name: value for name, value in environ.items() if value}

    server = Framework(1 if threads else PROCESSES, 60)
    (server.make_folder() / "main.py").write_text(main)
    try:
        url = await server.start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as session:

            async def call(i):
                async with session.post(url, json={"x": i}) as reply:
                    return (await reply.json())["double"]

            async def work():
                assert await asyncio.gather(*map(call, range(CALLS))) == [2 * i for i in range(CALLS)]

            return await measured(work)
    finally:
        await server.aclose()


async def aiohttp_asgi(folder):
    return await aiohttp_client(folder, ASGI)


async def aiohttp_threads(folder):
    return await aiohttp_client(folder, PLAIN, threads=True)


PEERS = {
    "asyncpar": asyncpar_map,
    "asyncpar, one call a request": asyncpar_each,
    "aiohttp": aiohttp_client,
    "aiohttp, ASGI": aiohttp_asgi,
    "aiohttp, threads": aiohttp_threads,
}


# Running them


def run(name, folder):
    """One measurement, in a process of its own."""
    path = Path(folder, "result.json")
    environ = {**os.environ, "GUNICORN_LOG_LEVEL": "critical"}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.http_functions", "--child", name, folder], check=True, env=environ
    )
    found = json.loads(path.read_text())
    path.unlink()
    return found


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        import uvloop

        name, folder = chosen.child
        Path(folder, "result.json").write_text(json.dumps(uvloop.run(PEERS[name](folder))))
        return
    found = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "calls_module.py").write_text(MODULE)
        for _ in range(chosen.rounds):
            for name in random.sample(list(PEERS), len(PEERS)):
                found[name].append(run(name, folder))
    print("| | first, s | again, s | again, calls/s | client CPU, us a call |")
    print("|---|---|---|---|---|")
    for name, results in found.items():
        middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
        print(
            f"| {name} | {middle['first']:.2f} | {middle['again']:.2f} | {CALLS / middle['again']:,.0f} | "
            f"{middle['again cpu'] / CALLS * 1e6:,.0f} |"
        )


if __name__ == "__main__":
    main()
