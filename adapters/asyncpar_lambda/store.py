"""The object store, from the client's side: what is too large for a request, and what many requests share.

Workers get presigned URLs and no credentials. Everything lies under one prefix for each pool that was opened; the
bucket's lifecycle rule removes it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from asyncpar_lambda.errors import MissingError, StoreError
from asyncpar_lambda.objects import MISSING, OWNER
from asyncpar_lambda.patience import Patience, pause
from asyncpar_lambda.sigv4 import Signer
from asyncpar_lambda.transport import Reply, TransportError
from asyncpar_lambda.transport.fast import Identity
from asyncpar_lambda.transport.http import Client

TRANSIENT = (429, 500, 502, 503, 504)


class Store:
    """One bucket.

    :param endpoint: of S3 in the bucket's region
    :param by_path: the bucket goes into the path, not before the host: for servers that are not AWS
    :param prefix: of every key, ending with a slash; keys are made of letters, digits and ``-_./``
    :param owner: account that the bucket must belong to; the name of one that was removed is anybody's to take
    :param patience: seconds for which the store may be out of reach
    """

    def __init__(
        self,
        endpoint: str,
        region: str,
        bucket: str,
        prefix: str,
        identity: Identity,
        *,
        owner: str = "",
        by_path: bool = False,
        patience: float = 10.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        scheme, _, host = endpoint.rstrip("/").partition("://")
        self.origin = f"{scheme}://{host}" if by_path else f"{scheme}://{bucket}.{host}"
        self._base = f"/{bucket}/{prefix}" if by_path else f"/{prefix}"
        self._client = Client(self.origin, seconds=120, context=context)
        self._signer = Signer("s3", region)
        self._identity = identity
        self.owner, self._patience = owner, patience
        self._signed = {OWNER: owner} if owner else {}

    async def put(self, key: str, data: bytes) -> None:
        """Write an object.

        :raises StoreError: the store does not take it
        """
        reply = await self._request("PUT", key, data)
        if reply.status != 200:
            raise StoreError(_describe("PUT", key, reply))

    async def get(self, key: str) -> bytes:
        """Read an object.

        :raises MissingError: it is not there, or may not be read
        :raises StoreError: the store does not answer
        """
        reply = await self._request("GET", key)
        if reply.status in MISSING:
            raise MissingError(_describe("GET", key, reply))
        if reply.status != 200:
            raise StoreError(_describe("GET", key, reply))
        return reply.body

    async def presigner(self, seconds: int) -> Callable[[str, str], str]:
        """A function of method and key that makes URLs which are good for so many seconds.

        With an ``owner``, whoever uses them has to send it as the header ``x-amz-expected-bucket-owner``.
        """
        credentials = await self._identity.credentials()

        def sign(method: str, key: str) -> str:
            return self._signer.presign(
                credentials, method, self.origin, self._base + key, seconds=seconds, extra=self._signed
            )

        return sign

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _request(self, method: str, key: str, data: bytes = b"") -> Reply:
        """Repeated, as reading and writing whole objects may be."""
        path, patience, loop = self._base + key, Patience(self._patience), asyncio.get_running_loop()
        while True:
            headers = self._signer.headers(
                await self._identity.credentials(), method, self._client.host, path, data, extra=self._signed
            )
            try:
                reply = await self._client.request(method, path, {**self._signed, **headers}, data)
                problem = _describe(method, key, reply)
            except TransportError as error:
                reply, problem = None, f"{method} {key}: {error}"
            if reply is not None and reply.status not in TRANSIENT:
                return reply
            patience.failed(loop.time())
            if patience.over:
                raise StoreError(f"{problem}; given up after {patience}")
            await asyncio.sleep(pause(patience.attempts))


def _describe(method: str, key: str, reply: Reply) -> str:
    text = reply.body[:200].decode("utf-8", "replace")
    return f"the object store answered {method} {key} with {reply.status}: {text}"
