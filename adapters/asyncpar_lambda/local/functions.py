"""Deployed functions: their code, their environments, and how many of these there may be."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from asyncpar_lambda.local.environment import Environment, Invocation, Outcome, Settings

ACCOUNT = "000000000000"


class ThrottledError(Exception):
    """A 429. Its argument is Lambda's Reason."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class Ramp:
    """How fast environments may be added: ``burst`` at once, then as many every ``seconds``."""

    def __init__(self, burst: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.seconds, self.clock = burst, seconds, clock
        self.tokens = float(burst)
        self.at = clock()

    def take(self) -> float:
        """Take one; 0, or the seconds until there is one."""
        now = self.clock()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.burst / self.seconds)
        self.at = now
        if self.tokens < 1:
            return (1 - self.tokens) * self.seconds / self.burst
        self.tokens -= 1
        return 0.0


class Edition:
    """One version of a function: code and configuration that do not change, and environments that run it."""

    def __init__(self, function: Function, version: str, configuration: dict[str, Any], root: Path) -> None:
        self.function = function
        self.version = version
        self.configuration = configuration
        self.root = root
        self.idle: list[Environment] = []
        self.environments: set[Environment] = set()
        self.current = True

    def settings(self) -> Settings:
        """What its environments have in common."""
        configuration, owner = self.configuration, self.function.owner
        return Settings(
            name=self.function.name,
            version=self.version,
            handler=configuration["Handler"],
            root=self.root,
            runtime=owner.runtime,
            timeout=float(configuration.get("Timeout", 3)),
            memory=int(configuration.get("MemorySize", 128)),
            region=owner.region,
            variables=dict(configuration.get("Environment", {}).get("Variables", {})),
        )

    def run(self, invocation: Invocation) -> None:
        """Have it run, in a warm environment or a new one; it was admitted."""
        function = self.function
        function.busy += 1
        inner = invocation.done

        def done(invocation: Invocation, outcome: Outcome) -> None:
            function.busy -= 1
            assert outcome.environment is not None
            function.owner.log(function.name, outcome.environment.log_stream, outcome.report)
            inner(invocation, outcome)

        invocation.done = done
        if self.idle:
            self.idle.pop().assign(invocation)  # the one used last, as Lambda does
            return
        owner = function.owner
        environment = Environment(self.settings(), self.on_ready, self.on_gone, owner.cold_start())
        environment.assigned = invocation
        self.environments.add(environment)
        owner.started += 1
        owner.spawn(environment.start())

    def on_ready(self, environment: Environment) -> None:
        if self.current:
            self.idle.append(environment)
        else:
            environment.kill("replaced")

    def on_gone(self, environment: Environment) -> None:
        self.environments.discard(environment)
        if environment in self.idle:
            self.idle.remove(environment)

    def retire(self) -> None:
        """Take no more invocations; what runs ends first."""
        self.current = False
        for environment in self.idle:
            environment.kill("replaced")
        self.idle.clear()


class Function:
    """One function and its versions.

    :param configuration: as CreateFunction takes it
    :param code: the zip
    """

    def __init__(self, name: str, configuration: dict[str, Any], code: bytes, owner: Lambda) -> None:
        self.name = name
        self.owner = owner
        self.busy = 0
        self.reserved: int | None = None
        self.aliases: dict[str, dict[str, Any]] = {}
        self.published: dict[str, Edition] = {}
        self.numbered = 0
        self.tags: dict[str, str] = {}
        self.policy: list[dict[str, Any]] = []
        self.ramp = Ramp(owner.ramp_environments, owner.ramp_seconds)
        self.folders: list[Path] = []
        self.latest = Edition(self, "$LATEST", configuration, self.unpack(code, configuration))
        self.stamp(configuration)

    @property
    def arn(self) -> str:
        """Its name for AWS."""
        return f"arn:aws:lambda:{self.owner.region}:{ACCOUNT}:function:{self.name}"

    def editions(self) -> list[Edition]:
        """All versions that can be invoked."""
        return [self.latest, *self.published.values()]

    def edition(self, qualifier: str) -> Edition | None:
        """The version that a qualifier means: none, a number, or an alias."""
        if qualifier in ("", "$LATEST"):
            return self.latest
        alias = self.aliases.get(qualifier)
        return self.edition(alias["FunctionVersion"]) if alias else self.published.get(qualifier)

    def unpack(self, data: bytes, configuration: dict[str, Any]) -> Path:
        """Where the zip's content is from now on.

        :raises zipfile.BadZipFile: it is none
        """
        folder = Path(tempfile.mkdtemp(prefix="function-", dir=self.owner.folder))
        self.folders.append(folder)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder / "task")
        configuration["CodeSize"] = len(data)
        configuration["CodeSha256"] = base64.b64encode(hashlib.sha256(data).digest()).decode()
        return folder / "task"

    def stamp(self, configuration: dict[str, Any]) -> None:
        """Note that this is new."""
        configuration["RevisionId"] = str(uuid4())
        configuration["LastModified"] = time.strftime("%Y-%m-%dT%H:%M:%S.000+0000", time.gmtime())

    def change(self, changes: dict[str, Any], code: bytes | None = None) -> None:
        """A new ``$LATEST``; published versions stay as they are.

        :raises zipfile.BadZipFile: the code is no zip
        """
        configuration = {**self.latest.configuration, **changes}
        root = self.latest.root if code is None else self.unpack(code, configuration)
        self.stamp(configuration)
        self.latest.retire()
        self.owner.retired.append(self.latest)
        self.latest = Edition(self, "$LATEST", configuration, root)

    def publish(self) -> Edition:
        """A version of what ``$LATEST`` is now; the last one, if nothing has changed since."""
        last = next(reversed(self.published.values()), None)
        if last is not None and last.configuration["RevisionId"] == self.latest.configuration["RevisionId"]:
            return last
        self.numbered += 1
        version = str(self.numbered)
        configuration = {**self.latest.configuration, "Version": version}
        made = self.published[version] = Edition(self, version, configuration, self.latest.root)
        return made

    def discard(self, version: str) -> None:
        """Delete a published version; what runs in it ends."""
        edition = self.published.pop(version)
        edition.retire()
        self.owner.retired.append(edition)

    def admit(self, edition: Edition) -> None:
        """Whether one more invocation may run now.

        :raises ThrottledError: it may not
        """
        if self.reserved is not None:
            if self.busy >= self.reserved:
                raise ThrottledError("ReservedFunctionConcurrentInvocationLimitExceeded")
        elif self.owner.busy() >= self.owner.concurrency - self.owner.all_reserved():
            raise ThrottledError("ConcurrentInvocationLimitExceeded")
        if not edition.idle:
            wait = self.ramp.take()
            if wait:
                raise ThrottledError("ConcurrentInvocationLimitExceeded", wait)


class Lambda:
    """The functions of the account.

    :param folder: for code and temporary files
    :param runtime: folder with AWS's runtime client
    :param concurrency: of the account: environments that may run at the same time
    :param ramp_environments: how many may be added in each ``ramp_seconds``, for each function
    :param log: takes a function's name, the stream of an environment, and what an invocation printed there
    """

    def __init__(
        self, folder: Path, runtime: Path, *, region: str, concurrency: int, ramp_environments: int, ramp_seconds: float,
        cold_start: Callable[[], float], log: Callable[[str, str, bytes], None],
    ) -> None:  # fmt: skip
        self.folder, self.runtime, self.region = folder, runtime, region
        self.concurrency = concurrency
        self.ramp_environments, self.ramp_seconds = ramp_environments, ramp_seconds
        self.cold_start, self.log = cold_start, log
        self.functions: dict[str, Function] = {}
        self.retired: list[Edition] = []
        self.started = 0
        self.tasks: set[asyncio.Task[None]] = set()

    def busy(self) -> int:
        """Invocations that run, in functions without a reservation."""
        return sum(function.busy for function in self.functions.values() if function.reserved is None)

    def all_reserved(self) -> int:
        """What is set aside for functions with a reservation."""
        return sum(function.reserved or 0 for function in self.functions.values())

    def spawn(self, work: Any) -> None:
        """Run something on the side."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def find(self, name: str) -> Function | None:
        """By its name, its name with a qualifier, or its ARN."""
        if name.startswith("arn:"):
            name = name.rsplit(":function:", 1)[-1]
        return self.functions.get(name.split(":", 1)[0])

    def remove(self, name: str) -> None:
        """Delete a function; what runs ends with an error."""
        function = self.functions.pop(name)
        for edition in function.editions():
            edition.retire()
            self.retired.append(edition)
            for environment in list(edition.environments):
                environment.kill("removed")
        for folder in function.folders:
            shutil.rmtree(folder, ignore_errors=True)

    async def close(self) -> None:
        """End every environment and wait until all are gone."""
        if self.tasks:
            await asyncio.wait(self.tasks)
        editions = [e for function in self.functions.values() for e in function.editions()] + self.retired
        while any(edition.environments for edition in editions):
            for edition in editions:
                for environment in list(edition.environments):
                    environment.kill("closed")
            await asyncio.sleep(0.005)
