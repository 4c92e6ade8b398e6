"""1,000 trivial calls on this machine: ``LambdaPool`` and boto3 with 50 threads on the local Lambda, and Lithops.

    python -m benchmarks.lambda_calls                              # without Lithops
    python -m benchmarks.lambda_calls --lithops .venv/lithops/bin/python

Every measurement is a fresh process, in random order; the median of the rounds is printed. *First* is the first map of
an open pool, with cold starts; *again* is the same once more. CPU is that of the client's process alone.
Lithops (pip install lithops==3.8.0, in an environment of its own) runs on its localhost backend, which starts no Lambda:
"version 1" is its older one, and the default takes so long for a call that it gets fewer of them.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CALLS = 1000
AT_ONCE = 50
FEWER = 50
MODULE = "def double(x):\n    return 2 * x\n\n\ndef handler(event, context):\n    return 2 * event\n"


def measured(work, calls=CALLS):
    """Seconds, and the client's CPU seconds, of the first run and the next."""
    found = {}
    for name in ("first", "again"):
        begun, cpu = time.perf_counter(), time.process_time()
        work()
        found[name] = time.perf_counter() - begun
        found[f"{name} cpu"] = time.process_time() - cpu
    return {**found, "calls": calls}


async def measured_here(work):
    """The same for coroutine functions."""
    found = {"calls": CALLS}
    for name in ("first", "again"):
        begun, cpu = time.perf_counter(), time.process_time()
        await work()
        found[name] = time.perf_counter() - begun
        found[f"{name} cpu"] = time.process_time() - cpu
    return found


# The peers


async def asyncpar_map(folder, **options):
    from asyncpar_lambda import LambdaPool

    sys.path.insert(0, folder)
    import calls_module

    async with LambdaPool.local([calls_module.__file__], limit=AT_ONCE) as pool:

        async def work():
            assert await pool.map(calls_module.double, range(CALLS), **options) == [
                2 * i for i in range(CALLS)
            ]

        return await measured_here(work)


async def asyncpar_each(folder):
    return await asyncpar_map(folder, chunksize=1)


async def boto3_threads(folder):
    import boto3
    from botocore.config import Config

    from asyncpar_lambda.local import LocalLambda
    from asyncpar_lambda.package import Target, build

    package = build([Path(folder, "calls_module.py")], Target.here())
    async with LocalLambda() as cloud:
        await cloud.deploy("f", package, handler="calls_module.handler")
        aws = boto3.client(
            "lambda", region_name="us-east-1", endpoint_url=cloud.endpoint_url, aws_access_key_id="x",
            aws_secret_access_key="y", config=Config(max_pool_connections=AT_ONCE, retries={"total_max_attempts": 1}),
        )  # fmt: skip

        def call(i):
            return json.loads(aws.invoke(FunctionName="f", Payload=json.dumps(i).encode())["Payload"].read())

        def work():
            with ThreadPoolExecutor(AT_ONCE) as threads:
                assert list(threads.map(call, range(CALLS))) == [2 * i for i in range(CALLS)]

        return await asyncio.to_thread(measured, work)


def lithops(version, calls):
    import lithops as library

    config = {
        "lithops": {"backend": "localhost", "storage": "localhost", "log_level": "ERROR", "telemetry": False},
        "localhost": {"version": version},
    }
    with library.FunctionExecutor(config=config) as executor:

        def work():
            assert executor.get_result(executor.map(double, list(range(calls)))) == [
                2 * i for i in range(calls)
            ]

        return measured(work, calls)


def double(x):
    return 2 * x


# Running them


def child(name, folder):
    if name == "lithops":
        return lithops(2, FEWER)
    if name == "lithops, version 1":
        return lithops(1, CALLS)
    import uvloop

    peers = {
        "asyncpar": asyncpar_map,
        "asyncpar, one call an invocation": asyncpar_each,
        "boto3, 50 threads": boto3_threads,
    }
    return uvloop.run(peers[name](folder))


def run(python, name, folder):
    """One measurement, in a process of its own."""
    path = Path(folder, "result.json")
    environ = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}  # Lithops runs "python"
    subprocess.run(
        [python, __file__, "--child", name, folder], check=True, stdout=subprocess.DEVNULL, env=environ
    )
    found = json.loads(path.read_text())
    path.unlink()
    return found


def main():
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--lithops", help="a Python that has Lithops")
    options.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.child:
        name, folder = chosen.child
        Path(folder, "result.json").write_text(json.dumps(child(name, folder)))
        return
    pythons = dict.fromkeys(
        ("asyncpar", "asyncpar, one call an invocation", "boto3, 50 threads"), sys.executable
    )
    if chosen.lithops:
        pythons |= dict.fromkeys(("lithops", "lithops, version 1"), chosen.lithops)
    found = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "calls_module.py").write_text(MODULE)
        for _ in range(chosen.rounds):
            for name in random.sample(list(pythons), len(pythons)):
                found[name].append(run(pythons[name], name, folder))
    print("| | calls | first, s | again, s | again, calls/s | client CPU, us a call |")
    print("|---|---|---|---|---|---|")
    for name, results in found.items():
        middle = {key: statistics.median(one[key] for one in results) for key in results[0]}
        calls = middle["calls"]
        print(
            f"| {name} | {calls:.0f} | {middle['first']:.2f} | {middle['again']:.2f} | {calls / middle['again']:,.0f} | "
            f"{middle['again cpu'] / calls * 1e6:,.0f} |"
        )


if __name__ == "__main__":
    main()
