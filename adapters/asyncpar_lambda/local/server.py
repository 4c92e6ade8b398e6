"""The process of the local Lambda: one port for Invoke, the control plane and the object store.

It is started by ``LocalLambda`` with its settings as a line of JSON on standard input, writes its port and its folder as a line to
standard output, and ends, with all that it started, when standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from asyncpar_lambda.local.control import Functions, Logs, Roles, reply
from asyncpar_lambda.local.environment import runtime_folder
from asyncpar_lambda.local.faults import Dice, Faults
from asyncpar_lambda.local.functions import Lambda
from asyncpar_lambda.local.http import HttpServer, Request, from_a_browser
from asyncpar_lambda.local.invoke import Invoker, fail
from asyncpar_lambda.local.store import Store

LAMBDA_API = re.compile(r"/20\d\d-\d\d-\d\d/")


class Server:
    """Routes requests to the parts.

    :param folder: for everything that is written to disk
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        runtime = folder / "runtime"
        runtime.mkdir()
        runtime_folder(runtime)
        self.dice = Dice(Faults.of(settings["faults"]))
        self.logs = Logs()
        self.account = Lambda(
            folder,
            runtime,
            region=settings["region"],
            concurrency=settings["concurrency"],
            ramp_environments=settings["ramp_environments"],
            ramp_seconds=settings["ramp_seconds"],
            cold_start=lambda: self.dice.faults.cold_start,
            log=self.logs.keep,
        )
        self.store = Store(settings["region"])
        self.functions = Functions(self.account, self.store)
        self.invoker = Invoker(self.account, self.dice, settings["event_seconds"])
        self.roles = Roles()
        self.http = HttpServer(self.handle)

    def handle(self, request: Request) -> None:
        """One request."""
        if from_a_browser(request.headers):
            fail(
                request,
                403,
                "AccessDeniedException",
                "web pages may not use the local Lambda: it runs any code",
            )
            return
        path = request.path
        if LAMBDA_API.match(path):
            parts = request.parts()[1:]
            if parts[0] == "functions" and parts[-1] == "invocations":
                self.invoker.invoke(request, parts[1])
            else:
                self.functions.handle(request, parts)
        elif path.startswith("/_local/"):
            self.on_local(request, path.removeprefix("/_local/"))
        elif path == "/" and request.method == "POST":
            target = request.headers.get("x-amz-target", "")
            if target:
                self.logs.handle(request, target.split(".")[-1])
            else:
                self.roles.handle(request, dict(parse_qsl(request.body.decode())))
        else:
            self.store.handle(request)

    def on_local(self, request: Request, what: str) -> None:
        """What ``LocalLambda`` asks of its server."""
        if what == "faults" and request.method == "PUT":
            self.dice.faults = Faults.of(json.loads(request.body))
            reply(request, {})
        elif what == "statistics":
            reply(request, self.statistics())
        else:
            request.answer(404)

    def statistics(self) -> dict[str, Any]:
        """Counts since the start."""
        editions = [e for function in self.account.functions.values() for e in function.editions()]
        return {
            **self.invoker.counts,
            **self.store.counts,
            "environments_started": self.account.started,
            "environments": sum(len(edition.environments) for edition in editions),
            "busy": sum(function.busy for function in self.account.functions.values()),
            "faults": self.dice.counts,
            "objects": sum(map(len, self.store.buckets.values())),
            "pids": [env.process.pid for e in editions for env in e.environments if hasattr(env, "process")],
        }


async def serve(settings: dict[str, Any]) -> None:
    """Serve until standard input is closed, or a signal asks to stop."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    os.set_blocking(0, False)
    loop.add_reader(0, _on_input, stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    folder = Path(tempfile.mkdtemp(prefix="asyncpar-lambda-"))
    try:
        server = Server(folder, settings)
        port = await server.http.start(settings["port"])
        os.write(1, f"{port} {folder}\n".encode())
        await stop.wait()
        server.http.close()
        await server.account.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _on_input(stop: asyncio.Event) -> None:
    if not os.read(0, 4096):
        asyncio.get_running_loop().remove_reader(0)
        stop.set()


def main() -> None:
    """Read the settings and serve."""
    settings = json.loads(sys.stdin.readline())
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run  # type: ignore[assignment]
    run(serve(settings))
