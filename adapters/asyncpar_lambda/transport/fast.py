"""The Invoke API over our own HTTP/1.1: signed here, sent once."""

from __future__ import annotations

import ssl
from typing import Protocol
from urllib.parse import quote

from asyncpar_lambda.sigv4 import Credentials, Signer
from asyncpar_lambda.transport import Reply
from asyncpar_lambda.transport.http import Client


class Identity(Protocol):
    """Who invokes: see ``identity``."""

    async def credentials(self) -> Credentials:
        """Credentials that are good now."""
        ...


class FastTransport:
    """Invokes one function over kept connections.

    :param endpoint: ``https://lambda.eu-central-1.amazonaws.com``
    :param function: its name, with ``:alias`` if it has one
    :param seconds: how long an invocation may take: the function's timeout and a margin
    """

    def __init__(
        self,
        endpoint: str,
        function: str,
        region: str,
        identity: Identity,
        *,
        seconds: float,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._client = Client(endpoint, seconds=seconds, context=context)
        self._signer = Signer("lambda", region)
        self._identity = identity
        self._path = f"/2015-03-31/functions/{quote(function, safe='')}/invocations"

    async def invoke(self, payload: bytes, *, tail: bool = False) -> Reply:
        """See ``Transport.invoke``."""
        extra = {"x-amz-log-type": "Tail"} if tail else {}
        credentials = await self._identity.credentials()
        signed = self._signer.headers(
            credentials, "POST", self._client.host, self._path, payload, extra=extra
        )
        return await self._client.request("POST", self._path, {**extra, **signed}, payload)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
