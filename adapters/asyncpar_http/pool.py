"""``HTTPPool``: calls as requests to one function behind an address."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from asyncpar.errors import AsyncparError, UnsupportedError
from asyncpar_http.batch import InlineBatches
from asyncpar_http.folder import NAME
from asyncpar_http.replies import judge
from asyncpar_http.transport import HTTPTransport, check_url
from asyncpar_lambda.control import Concurrency
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.envelope import VERSION
from asyncpar_lambda.keys import key_path, load_key
from asyncpar_lambda.naming import Imported
from asyncpar_lambda.pool import FunctionPool, main_name
from asyncpar_lambda.replies import Verdict
from asyncpar_lambda.transport import Reply

MARGIN = 30.0
"""Seconds that a reply may take beyond the function's timeout: for an instance to start, and the network."""
OPEN_TRIES = 6
"""How often a function that is busy is asked for its settings."""
MOST_WAIT = 10.0
"""Seconds between two such questions, whatever it wishes."""


class HTTPPool(FunctionPool):
    """Runs calls as requests to a function that is deployed in a cloud and answers at an address.

    Functions, arguments, results and losses are those of ``asyncpar_lambda.LambdaPool``, and so is the number of requests
    in flight, which follows what the cloud takes. Different is: there is no object store, so what is too large for a
    request or a reply is refused, ``share()``d constants travel with each request, and ``exactly_once=`` and ``hedge=``
    are not there; nothing is known of costs; and logs stay in the cloud.

    :param url: where the function answers
    :param limit: the most requests at the same time
    :param key: the private key of the deployment, or the file that holds it; default: where it was made
    :param functions: ``"names"`` or ``"by_value"``
    :param patience: seconds for which the function may be out of reach, with pauses that grow to 10 s, before calls fail
    """

    place: ClassVar[str]
    max_bytes: ClassVar[int]
    longest: ClassVar[float]
    advice: ClassVar[str]

    def __init__(
        self,
        url: str = "",
        *,
        limit: int = 100,
        key: bytes | str | Path | None = None,
        functions: Literal["names", "by_value"] = "names",
        patience: float = 120.0,
    ) -> None:
        if not url:
            raise ValueError(
                f"name the function's address: {type(self).__name__}('https://…') or open_pool('{self.place}:https://…')"
            )
        super().__init__(  # a key may be in the query
            url.partition("?")[0], limit=limit, functions=functions, patience=patience
        )
        self.url = check_url(url)
        self._key = key

    async def _open(self) -> None:
        self._transport = transport = await HTTPTransport.open(
            self.url, self._headers, seconds=self.longest + MARGIN
        )
        self.deployment = _parse(self.function_name, await self._about(transport))
        self._check_deployment(self.deployment)
        transport.seconds = self.deployment.timeout + MARGIN
        key = self._key
        if not isinstance(key, bytes):
            path = Path(key) if key else key_path(self.deployment.job, self.place)
            key = await asyncio.to_thread(load_key, path)
        self.control = Concurrency(self.workers)
        self._batches = InlineBatches(
            self.deployment, key, Imported(main_name()), self._pickle(), self.max_bytes
        )

    async def _headers(self) -> Mapping[str, str]:
        """What shows the cloud who asks."""
        return {}

    async def _about(self, transport: HTTPTransport) -> Reply:
        """The function's settings; it is asked again while it is busy."""
        for attempt in range(OPEN_TRIES):
            reply = await transport.about()
            verdict = self._judge(reply)
            if verdict.kind == "answer":
                return reply
            if verdict.kind != "throttled" or attempt == OPEN_TRIES - 1:
                raise AsyncparError(f"{self.function_name} does not say what it is: {verdict.reason}")
            await asyncio.sleep(min(MOST_WAIT, verdict.wish or 0.2 * 2**attempt))
        raise AssertionError

    def _judge(self, reply: Reply) -> Verdict:
        return judge(reply, self.advice)

    def _check_deployment(self, deployment: Deployment) -> None:
        super()._check_deployment(deployment)
        if deployment.timeout > self.longest:
            raise UnsupportedError(
                f"{self.function_name} was made for calls of {deployment.timeout:g} s, more than {self.longest:g}: "
                "make its calls shorter"
            )


def _parse(url: str, reply: Reply) -> Deployment:
    try:
        said: Any = json.loads(reply.body)
        version, job, code = said["asyncpar"], str(said["job"]), str(said["code"])
        timeout, by_value = float(said["timeout"]), said["functions"] == "by_value"
    except (ValueError, TypeError, KeyError):
        raise AsyncparError(
            f"{url} is no function of asyncpar's, it says {reply.body[:80]!r}: deploy what package() makes"
        ) from None
    if version != VERSION:
        raise AsyncparError(f"{url} speaks version {version!r}, this is {VERSION}: package and deploy again")
    if not re.fullmatch(NAME, job):  # it becomes the name of a file
        raise AsyncparError(f"{url} says that its name is {job[:80]!r}, which is no name of a deployment")
    return Deployment(job=job, code=code, by_value=by_value, bucket="", timeout=timeout, memory=0, machine="")
