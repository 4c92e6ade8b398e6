"""``LocalLambda``: starts the local Lambda in a process of its own, and ends it."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from asyncpar.errors import BrokenPoolError
from asyncpar_lambda.local.faults import Faults
from asyncpar_lambda.package import Package, Target, build

STOP_SECONDS = 10.0


class LocalLambda:
    """AWS Lambda on this machine, for as long as the block runs.

    It listens on 127.0.0.1 only, with Lambda's Invoke API, as much of the control plane as a deployment needs, and an
    object store. Every environment is a process that runs AWS's own runtime client on an unpacked zip. Any AWS client
    can talk to ``endpoint_url``; every credential is taken.

    :param concurrency: of the account: how many environments may run at the same time; more gets a 429
    :param ramp: environments that may be added in each 10 seconds, for each function
    :param faults: what goes wrong, see ``Faults``
    :param port: to listen on; a free one by default
    :param region: that it claims to be in
    :param event_seconds: between the attempts of an asynchronous invocation that fails (minutes on AWS)
    """

    def __init__(
        self,
        *,
        concurrency: int = 1000,
        ramp: int = 1000,
        faults: Faults | None = None,
        port: int = 0,
        region: str = "us-east-1",
        event_seconds: float = 0.1,
    ) -> None:
        self.region = region
        self.endpoint_url = ""
        self.port = port
        self._settings = {
            "port": port,
            "region": region,
            "concurrency": concurrency,
            "ramp_environments": ramp,
            "ramp_seconds": 10.0,
            "faults": asdict(faults or Faults()),
            "event_seconds": event_seconds,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._folder = ""

    async def __aenter__(self) -> Self:
        """Start it; it is ready when this returns.

        :raises BrokenPoolError: it cannot be started; its reason is on standard error
        """
        pythonpath = ":".join(path for path in sys.path if path)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asyncpar_lambda.local",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={**_environ(), "PYTHONPATH": pythonpath},
            start_new_session=True,  # Ctrl-C is for the program; this ends when the program lets it
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._settings).encode() + b"\n")
        line = await self._process.stdout.readline()
        if not line:
            await self.aclose()
            raise BrokenPoolError("the local Lambda did not start; its standard error says why")
        port, _, self._folder = line.decode().strip().partition(" ")
        self.port = int(port)
        self.endpoint_url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End it and all of its environments, at once."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        process._transport.close()  # type: ignore[attr-defined]
        if process.returncode and self._folder:  # it was killed, and could not tidy up
            shutil.rmtree(self._folder, ignore_errors=True)

    # -- deploying, by the API that every client may use

    async def deploy(
        self,
        function_name: str,
        package: Package,
        *,
        timeout: float = 900,
        memory: int = 1769,
        variables: dict[str, str] | None = None,
        handler: str = "asyncpar_lambda.worker.handler",
        reserved: int | None = None,
    ) -> None:
        """Create a function, or replace what is there under this name.

        :param timeout: in seconds; may be a fraction here
        :param memory: in MB, which the function is told; it is not enforced
        :param variables: its environment variables
        :param reserved: its reserved concurrency
        """
        path = f"/2015-03-31/functions/{function_name}"
        await self.request("DELETE", path)
        status, body = await self.request(
            "POST",
            "/2015-03-31/functions",
            {
                "FunctionName": function_name,
                "Runtime": Target.here().runtime,
                "Role": "arn:aws:iam::000000000000:role/local",
                "Handler": handler,
                "Timeout": timeout,
                "MemorySize": memory,
                "Environment": {"Variables": variables or {}},
                "Code": {"ZipFile": base64.b64encode(package.data).decode()},
            },
        )
        if status != 201:
            raise BrokenPoolError(f"the local Lambda did not take the function: {status} {body!r}")
        if reserved is not None:
            path = f"/2017-10-31/functions/{function_name}/concurrency"
            await self.request("PUT", path, {"ReservedConcurrentExecutions": reserved})

    async def create_bucket(self, name: str) -> None:
        """Make a bucket, if it is not there."""
        await self.request("PUT", f"/{name}")

    async def set_faults(self, faults: Faults) -> None:
        """From now on, these go wrong."""
        await self.request("PUT", "/_local/faults", asdict(faults))

    async def statistics(self) -> dict[str, Any]:
        """Counts since the start: invocations, throttled, environments and faults."""
        _, body = await self.request("GET", "/_local/statistics")
        found: dict[str, Any] = json.loads(body)
        return found

    async def request(self, method: str, path: str, content: Any = None) -> tuple[int, bytes]:
        """One request on a connection of its own: its status and body."""
        data = b"" if content is None else json.dumps(content).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
            writer.write(head.encode() + data)
            answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        first, _, body = answer.partition(b"\r\n\r\n")
        return int(first.split(b" ", 2)[1]), body


def _environ() -> dict[str, str]:
    import os

    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


async def build_here(paths: Iterable[str | Path], requirements: Iterable[str] = ()) -> Package:
    """A package for this machine, made off the loop's thread."""
    return await asyncio.to_thread(build, list(paths), Target.here(), list(requirements))
