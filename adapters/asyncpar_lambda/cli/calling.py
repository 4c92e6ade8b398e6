"""``asyncpar lambda invoke``, ``logs``, ``plan`` and ``local``."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import asyncpar
from asyncpar.cli.errors import CommandError
from asyncpar.errors import AsyncparError
from asyncpar_lambda.aws import LambdaPool
from asyncpar_lambda.cli.deploying import cloud_of, deploy_now, plainly
from asyncpar_lambda.cost import Tariff, make_plan
from asyncpar_lambda.package import Target
from asyncpar_lambda.settings import Settings, read_settings

ENDPOINT = "AWS_ENDPOINT_URL"


def invoke(file: Path, function: str, arguments: Sequence[str]) -> int:
    """Call it once, and print its value as JSON, or as Python shows it."""
    with plainly():
        settings = read_settings(file)
        found = _find(settings, function)
        begun = time.perf_counter()
        try:
            value, dollars, cold = asyncpar.run(_call, settings, found, [_parse(one) for one in arguments])
        except AsyncparError:
            raise
        except Exception as error:  # the function's own, with what it said there
            print("".join(traceback.format_exception_only(error)), end="", file=sys.stderr)
            return 1
    print(_shown(value))
    took = f"{time.perf_counter() - begun:.2f} s{', a cold start' if cold else ''}, ${dollars:.7f}"
    print(f"{settings.name}: {took}", file=sys.stderr)
    return 0


async def _call(
    settings: Settings, function: Callable[..., Any], arguments: list[Any]
) -> tuple[Any, float, bool]:
    async with LambdaPool(
        settings.name, limit=1, region=settings.region, endpoint_url=os.environ.get(ENDPOINT)
    ) as cloud:
        value = await cloud.run(function, *arguments)
        statistics = cloud.statistics()
        return value, statistics.dollars, bool(statistics.cold)


def _find(settings: Settings, name: str) -> Callable[..., Any]:
    """The function, imported from the paths that were deployed."""
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise CommandError(f"{name}: name a function as module:function", exit_code=2)
    sys.path[:0] = [str(one.resolve().parent) for one in settings.paths]
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise CommandError(f"{name} cannot be found: {error}", exit_code=2) from error
    if not callable(found):
        raise CommandError(f"{name} is a {type(found).__name__}, and no function", exit_code=2)
    function: Callable[..., Any] = found
    return function


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def logs(file: Path, minutes: float) -> int:
    """Print the lines of the log."""
    with plainly():
        settings = read_settings(file)
        with cloud_of(settings) as cloud:
            lines = 0
            for line in cloud.log(minutes):
                print(line)
                lines += 1
    if not lines:
        print(f"{settings.name} wrote nothing in the last {minutes:g} minutes: try --since", file=sys.stderr)
    return 0


def show_plan(file: Path, calls: int, seconds: float | None, limit: int) -> int:
    """Print what so many calls would take."""
    with plainly():
        settings = read_settings(file)
    tariff = Tariff(settings.memory, settings.machine)
    limit = min(limit, settings.concurrency or limit)
    chunk_seconds = 2 * LambdaPool.chunk_seconds
    made = make_plan(calls, seconds, tariff, limit=limit, chunk_seconds=chunk_seconds, overhead=0.01)
    print(str(made).replace("pass seconds=, or run a few first", "pass --seconds"))
    return 0


def serve(file: Path, port: int, concurrency: int) -> int:
    """Run a Lambda on this machine with the deployment in it, until Ctrl-C."""
    with plainly():
        here = Target.here()
        settings = dataclasses.replace(
            read_settings(file), python=here.python, machine=here.machine, region=None
        )
        try:
            asyncpar.run(_serve, settings, port, concurrency)
        except KeyboardInterrupt:
            print("stopped; nothing is left")
    return 0


async def _serve(settings: Settings, port: int, concurrency: int) -> None:
    from asyncpar_lambda.local import LocalLambda

    async with LocalLambda(port=port, concurrency=concurrency) as server:
        environment = {
            ENDPOINT: server.endpoint_url, "AWS_REGION": server.region, "AWS_DEFAULT_REGION": server.region,
            "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
        }  # fmt: skip
        os.environ.pop("AWS_PROFILE", None)
        os.environ.update(environment)
        await asyncio.to_thread(deploy_now, settings)
        print("In another terminal:")
        for name, value in environment.items():
            print(f"  export {name}={value}")
        print("  asyncpar lambda invoke MODULE:FUNCTION ARGUMENTS...")
        print("Ctrl-C ends it, and removes everything in it.", flush=True)
        await asyncio.get_running_loop().create_future()
