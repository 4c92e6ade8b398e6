"""One execution environment: a process that runs AWS's runtime client, and the Runtime API that it talks to."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from asyncpar_lambda.local.http import HttpServer, Request, from_a_browser

MAX_RESPONSE = 6 * 1024 * 1024 + 100
TAIL = 4096
PR_SET_PDEATHSIG = 1
INIT_SECONDS = 60.0
"""Time to import the handler; Lambda's ten seconds are too few for a loaded laptop that starts many at once."""
API = "/2018-06-01/runtime"

_libc = ctypes.CDLL(None)


class Invocation:
    """One run of a function, from its request to its end.

    :ivar doomed: its environment dies while it runs, at the latest when it would answer
    """

    __slots__ = ("client_context", "done", "doomed", "ended", "id", "payload", "started", "timer")

    def __init__(
        self, payload: bytes, done: Callable[[Invocation, Outcome], None], client_context: str = ""
    ) -> None:
        self.id = str(uuid4())
        self.payload = payload
        self.client_context = client_context
        self.done = done
        self.doomed = False
        self.ended = False
        self.started = 0.0
        self.timer: asyncio.TimerHandle | None = None


class Outcome:
    """How an invocation ended: what the function answered, or the error that Lambda reports for it."""

    __slots__ = ("body", "content_type", "environment", "error", "report")

    def __init__(
        self, body: bytes, *, error: bool = False, content_type: str = "application/json", report: bytes = b""
    ) -> None:
        self.body = body
        self.error = error
        self.content_type = content_type
        self.report = report
        self.environment: Environment | None = None


def failure(kind: str, message: str) -> Outcome:
    """An error that Lambda itself reports."""
    return Outcome(json.dumps({"errorType": kind, "errorMessage": message}).encode(), error=True)


class Settings:
    """What the environments of one version of a function have in common.

    :ivar root: folder with the unpacked zip
    :ivar runtime: folder with AWS's runtime client
    """

    __slots__ = ("handler", "memory", "name", "region", "root", "runtime", "timeout", "variables", "version")

    def __init__(
        self, *, name: str, version: str, handler: str, root: Path, runtime: Path, timeout: float, memory: int,
        region: str, variables: dict[str, str],
    ) -> None:  # fmt: skip
        self.name, self.version, self.handler, self.root, self.runtime = name, version, handler, root, runtime
        self.timeout, self.memory, self.region, self.variables = timeout, memory, region, variables


class Environment:
    """A process that runs one invocation at a time.

    :param ready: called whenever it can take an invocation
    :param gone: called once, when its process has ended and everything of it is removed
    """

    def __init__(
        self,
        settings: Settings,
        ready: Callable[[Environment], None],
        gone: Callable[[Environment], None],
        cold_start: float = 0.0,
    ) -> None:
        self.settings = settings
        self.ready, self.gone = ready, gone
        self.cold_start = cold_start
        self.loop = asyncio.get_running_loop()
        self.api = HttpServer(self.on_request)
        self.polling: Request | None = None
        self.current: Invocation | None = None
        self.assigned: Invocation | None = None
        self.log = bytearray()
        self.log_stream = time.strftime(f"%Y/%m/%d/[{settings.version}]{uuid4().hex}")
        self.started = time.monotonic()
        self.init_seconds: float | None = None
        self.init_reported = False
        self.killed_for = ""
        self.ending = False
        self.announced = False  # as ready

    # -- the process

    async def start(self) -> None:
        """Start the process; it says by its first request that it is ready."""
        port = await self.api.start()
        self.tmp = tempfile.mkdtemp(prefix="tmp-", dir=self.settings.root.parent)
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        try:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - takes a millisecond or two
                # Without site-packages: the function sees the standard library, the runtime client and its own zip.
                [sys.executable, "-S", "-m", "awslambdaric", self.settings.handler],
                cwd=self.settings.root,
                env=self.variables(port),
                stdin=subprocess.DEVNULL,
                stdout=write,
                stderr=write,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        except BaseException:  # only to close what nobody will read; it goes on
            os.close(read)
            raise
        finally:
            os.close(write)
        self.output = read
        self.loop.add_reader(read, self.drain)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.loop.add_reader(self.pidfd, self.on_exit)
        self.init_timer = self.loop.call_later(INIT_SECONDS, self.on_init_timeout)

    def variables(self, port: int) -> dict[str, str]:
        """The environment variables that Lambda sets, and the function's own; none of this process."""
        settings = self.settings
        return {
            **settings.variables,
            "PATH": "/usr/local/bin:/usr/bin/:/bin:/opt/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "TMPDIR": self.tmp,
            "PYTHONPATH": str(settings.runtime),
            "PYTHONUNBUFFERED": "1",
            "LAMBDA_TASK_ROOT": str(settings.root),
            "LAMBDA_RUNTIME_DIR": str(settings.runtime),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
            "_HANDLER": settings.handler,
            "AWS_LAMBDA_FUNCTION_NAME": settings.name,
            "AWS_LAMBDA_FUNCTION_VERSION": settings.version,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(settings.memory),
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{settings.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": self.log_stream,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
            "AWS_REGION": settings.region,
            "AWS_DEFAULT_REGION": settings.region,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
        }

    def kill(self, why: str = "") -> None:
        """End the process and all that it started; its invocation ends with an error."""
        self.killed_for = self.killed_for or why
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def on_exit(self) -> None:
        """The process has ended: answer for it, and remove what it leaves."""
        self.init_timer.cancel()
        self.loop.remove_reader(self.pidfd)
        os.close(self.pidfd)
        status = self.process.wait()
        self.kill()  # what it started outlives no environment
        self.drain()
        self.loop.remove_reader(self.output)
        os.close(self.output)
        self.ending = True
        how = f"signal: {signal.Signals(-status).name[3:].lower()}" if status < 0 else f"exit status {status}"
        if status == -signal.SIGKILL:
            how = "signal: killed"
        for invocation in (self.current, self.assigned):
            if invocation is not None:
                self.finish(
                    invocation,
                    failure(
                        "Runtime.ExitError",
                        f"RequestId: {invocation.id} Error: Runtime exited with error: {how}",
                    ),
                )
        self.api.close()
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.gone(self)

    def drain(self) -> None:
        """Read what the process has printed so far."""
        while True:
            try:
                data = os.read(self.output, 65536)
            except BlockingIOError:
                break
            if not data:
                self.loop.remove_reader(self.output)
                break
            self.log += data
        del self.log[: -4 * TAIL]

    # -- invocations

    def assign(self, invocation: Invocation) -> None:
        """Give it an invocation; it must have none."""
        self.announced = False
        self.assigned = invocation
        if self.polling is not None:
            request, self.polling = self.polling, None
            self.deliver(request)

    def deliver(self, request: Request) -> None:
        invocation, self.assigned = self.assigned, None
        assert invocation is not None
        self.current = invocation
        settings = self.settings
        invocation.started = time.monotonic()
        invocation.timer = self.loop.call_later(settings.timeout, self.on_timeout, invocation)
        self.log.clear()
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + settings.timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": (
                f"arn:aws:lambda:{settings.region}:000000000000:function:{settings.name}"
            ),
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{invocation.id.replace('-', '')[:24]};Sampled=0",
        }
        if invocation.client_context:
            headers["Lambda-Runtime-Client-Context"] = invocation.client_context
        request.answer(200, invocation.payload, headers)

    def announce(self) -> None:
        """It takes another invocation: as soon as it has answered, though its next poll is still on the way."""
        if not self.announced and not self.ending:
            self.announced = True
            self.ready(self)

    def on_timeout(self, invocation: Invocation) -> None:
        """The function's time is up: as on AWS, the environment is killed."""
        seconds = self.settings.timeout
        self.finish(
            invocation,
            failure(
                "Sandbox.Timedout",
                f"RequestId: {invocation.id} Error: Task timed out after {seconds:.2f} seconds",
            ),
        )
        self.ending = True
        self.kill("timeout")

    def on_init_timeout(self) -> None:
        """The handler's import takes too long."""
        if self.assigned is not None:
            what = f"INIT timed out after {INIT_SECONDS:.2f} seconds"
            self.finish(
                self.assigned, failure("Sandbox.Timedout", f"RequestId: {self.assigned.id} Error: {what}")
            )
        self.ending = True
        self.kill("timeout")

    def finish(self, invocation: Invocation, outcome: Outcome) -> None:
        """Report the end of an invocation, once."""
        if invocation is self.current:
            self.current = None
        if invocation is self.assigned:
            self.assigned = None
        if invocation.ended:
            return
        invocation.ended = True
        if invocation.timer is not None:
            invocation.timer.cancel()
        if not self.ending:
            self.drain()
        outcome.environment = self
        outcome.report = self.report(invocation)
        invocation.done(invocation, outcome)

    def report(self, invocation: Invocation) -> bytes:
        """The end of the log, with the lines that Lambda adds."""
        seconds = time.monotonic() - (invocation.started or time.monotonic())
        milliseconds = seconds * 1000
        first = ""
        if not self.init_reported and self.init_seconds is not None:
            self.init_reported = True
            first = f"\tInit Duration: {self.init_seconds * 1000:.2f} ms"
        start = f"START RequestId: {invocation.id} Version: {self.settings.version}\n"
        end = (
            f"END RequestId: {invocation.id}\n"
            f"REPORT RequestId: {invocation.id}\tDuration: {milliseconds:.2f} ms\t"
            f"Billed Duration: {int(milliseconds) + 1} ms\tMemory Size: {self.settings.memory} MB\t"
            f"Max Memory Used: {self.memory()} MB{first}\n"
        )
        log = bytes(self.log)
        if log and not log.endswith(b"\n"):
            log += b"\n"
        return start.encode() + log + end.encode()

    def memory(self) -> int:
        """The most memory that the process has used, in MB."""
        try:
            with open(f"/proc/{self.process.pid}/status") as file:  # noqa: PTH123
                for line in file:
                    if line.startswith("VmHWM"):
                        return int(line.split()[1]) // 1024
        except OSError:
            pass
        return 0

    # -- the Runtime API

    def on_request(self, request: Request) -> None:
        """What the runtime client asks."""
        path = request.path
        if from_a_browser(request.headers):
            request.answer(403, b"{}")
        elif path == f"{API}/invocation/next":
            self.on_next(request)
        elif path.startswith(f"{API}/invocation/") and path.endswith("/response"):
            self.on_response(request, path.split("/")[-2])
        elif path.startswith(f"{API}/invocation/") and path.endswith("/error"):
            self.on_error(request, path.split("/")[-2])
        elif path == f"{API}/init/error":
            self.on_init_error(request)
        else:
            request.answer(404, b"{}")

    def on_next(self, request: Request) -> None:
        if self.init_seconds is None:
            self.init_timer.cancel()
            self.init_seconds = time.monotonic() - self.started
            wait = self.cold_start - self.init_seconds
            if wait > 0:
                self.loop.call_later(wait, self.take_next, request)
                return
        self.take_next(request)

    def take_next(self, request: Request) -> None:
        if self.assigned is not None:
            self.deliver(request)
        else:
            self.polling = request
            self.announce()

    def on_response(self, request: Request, number: str) -> None:
        invocation = self.current
        if invocation is None or invocation.id != number:
            request.answer(400, b'{"errorType":"InvalidRequestID"}')
            return
        if invocation.doomed:
            self.kill("fault")
            return
        if len(request.body) > MAX_RESPONSE:
            message = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE} bytes)."
            request.answer(413, b'{"errorType":"RequestEntityTooLarge"}')
            self.finish(invocation, failure("Function.ResponseSizeTooLarge", message))
            return
        request.answer(202, b'{"status":"OK"}')
        content_type = request.headers.get("content-type", "application/json")
        self.finish(invocation, Outcome(request.body, content_type=content_type))
        self.announce()

    def on_error(self, request: Request, number: str) -> None:
        invocation = self.current
        if invocation is not None and invocation.doomed:
            self.kill("fault")
            return
        request.answer(202, b'{"status":"OK"}')
        if invocation is not None and invocation.id == number:
            self.finish(invocation, Outcome(request.body, error=True))
            self.announce()

    def on_init_error(self, request: Request) -> None:
        """The handler could not be imported; the process ends by itself."""
        request.answer(202, b'{"status":"OK"}')
        self.ending = True
        if self.assigned is not None:
            self.finish(self.assigned, Outcome(request.body, error=True))


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def runtime_folder(folder: Path) -> None:
    """Fill a folder with links to AWS's runtime client and what it needs, and nothing else.

    :raises ImportError: it is not installed
    """
    from importlib.metadata import PackageNotFoundError, distribution

    wanted, seen = ["awslambdaric"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            found: Any = distribution(name)
        except PackageNotFoundError:
            raise ImportError(
                f"the local Lambda needs {name}. Install it with: pip install 'asyncpar[lambda-local]'"
            ) from None
        wanted += [
            needed.split(">")[0].split("=")[0].split(";")[0].strip() for needed in found.requires or ()
        ]
        tops = {path.parts[0] for path in found.files if ".." not in path.parts}
        for top in tops - {"__pycache__"}:
            link = folder / top
            if not link.exists():
                link.symlink_to(str(found.locate_file(top)))
