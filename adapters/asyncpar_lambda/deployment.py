"""What is deployed, as the function itself says: its settings are read when a pool opens."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import quote

from asyncpar.errors import AsyncparError
from asyncpar_lambda.patience import Patience, pause
from asyncpar_lambda.sigv4 import Signer
from asyncpar_lambda.transport import Reply, TransportError
from asyncpar_lambda.transport.fast import Identity
from asyncpar_lambda.transport.http import Client


@dataclass(frozen=True, slots=True)
class Deployment:
    """A function that was deployed.

    :ivar job: what requests are signed for
    :ivar code: hash of its package
    :ivar by_value: whether functions may travel by value
    :ivar bucket: for what is too large for a request, or empty
    :ivar timeout: after which an invocation is killed, in seconds
    :ivar memory: in MB
    :ivar machine: ``"arm64"`` or ``"x86_64"``
    :ivar reserved: the function's reserved concurrency, or ``None``
    :ivar account: that it is in, or empty
    :ivar keep_days: how long objects stay in the bucket
    """

    job: str
    code: str
    by_value: bool
    bucket: str
    timeout: float
    memory: int
    machine: str
    reserved: int | None = None
    account: str = ""
    keep_days: float = 1.0


async def read_deployment(
    endpoint: str, region: str, identity: Identity, function: str, patience: float = 0.0
) -> Deployment:
    """Ask Lambda for the settings of a function.

    :param function: its name, with ``:alias`` if it has one
    :param patience: seconds for which Lambda may be out of reach, or too busy: its limit for such questions is low
    :raises AsyncparError: it is not there, may not be read, or was not deployed by asyncpar
    :raises TransportError: Lambda cannot be reached
    """
    client, signer = Client(endpoint, seconds=30), Signer("lambda", region)

    async def get(path: str) -> Reply:
        spell, loop = Patience(patience), asyncio.get_running_loop()
        while True:
            headers = signer.headers(await identity.credentials(), "GET", client.host, path, b"")
            try:
                reply = await client.request("GET", path, headers)
            except TransportError:
                spell.failed(loop.time())
                if spell.over:
                    raise
            else:
                spell.failed(loop.time())
                if spell.over or (reply.status != 429 and reply.status < 500):
                    return reply
            await asyncio.sleep(pause(spell.attempts))

    try:
        reply = await get(f"/2015-03-31/functions/{quote(function, safe='')}/configuration")
        if reply.status != 200:
            raise AsyncparError(_problem(function, region, reply))
        name = function.partition(":")[0]
        limits = await get(f"/2019-09-30/functions/{quote(name, safe='')}/concurrency")
    finally:
        await client.aclose()
    return _parse(function, json.loads(reply.body), limits)


def _parse(function: str, settings: dict[str, object], limits: Reply) -> Deployment:
    environment = settings.get("Environment")
    found = environment.get("Variables", {}) if isinstance(environment, dict) else {}
    if "ASYNCPAR_CODE" not in found:
        raise AsyncparError(
            f"the function {function} was not deployed by asyncpar: deploy it with 'asyncpar lambda deploy'"
        )
    machines = settings.get("Architectures") or ["x86_64"]
    # Who may invoke may not always read this; the controller then finds the limit by itself.
    reserved = json.loads(limits.body).get("ReservedConcurrentExecutions") if limits.status == 200 else None
    return Deployment(
        job=found.get("ASYNCPAR_JOB", ""),
        code=found["ASYNCPAR_CODE"],
        by_value=found.get("ASYNCPAR_FUNCTIONS") == "by_value",
        bucket=found.get("ASYNCPAR_BUCKET", ""),
        timeout=float(str(settings.get("Timeout", 3))),
        memory=int(str(settings.get("MemorySize", 128))),
        machine=machines[0] if isinstance(machines, list) else "x86_64",
        reserved=reserved,
        account=_account(str(settings.get("FunctionArn", ""))),
        keep_days=float(found.get("ASYNCPAR_KEEP_DAYS", 1)),
    )


def _account(arn: str) -> str:
    """The account's number, out of Amazon's name of a function."""
    parts = arn.split(":")
    return parts[4] if len(parts) > 4 and parts[4].isdigit() else ""


def _problem(function: str, region: str, reply: Reply) -> str:
    if reply.status == 404:
        return (
            f"there is no function {function} in {region}: deploy it with 'asyncpar lambda deploy', "
            "or look at region= and the name"
        )
    text = reply.body[:300].decode("utf-8", "replace")
    return f"the settings of {function} cannot be read ({reply.status}): {text}"
