"""Requests where there is no object store: everything travels in them, or is refused."""

from __future__ import annotations

import asyncio
import binascii
import weakref
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from asyncpar.errors import UnsupportedError
from asyncpar.sharing import Shared
from asyncpar_lambda import calls, codec
from asyncpar_lambda.batch import LARGE_BYTES, Batches, Request
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.envelope import Answer, Blob, Spilled, open_answer
from asyncpar_lambda.errors import CodecError
from asyncpar_lambda.naming import Names


class InlineBatches(Batches):
    """Makes requests of chunks. Shared constants travel in every request that names them.

    :param max_bytes: the largest request
    """

    def __init__(
        self,
        deployment: Deployment,
        key: bytes,
        names: Names,
        pickle: Callable[[Any], bytes] | None,
        max_bytes: int,
    ) -> None:
        super().__init__(deployment, key, names, None, pickle)
        self.max_bytes = max_bytes
        self._inlined: dict[int, Blob] = {}

    async def _without_store(self, head: dict[str, Any], shared: dict[int, Shared[Any]], body: bytes) -> None:
        blobs = [self._inlined.get(one.number) or await self._inline(one) for one in shared.values()]
        size = len(body) * 4 // 3 + sum(len(blob.url) for blob in blobs) + 4096
        if size > self.max_bytes:
            with_them = f", {len(blobs)} shared constants included," if blobs else ""
            raise UnsupportedError(
                f"a request of {size:,} bytes{with_them} is too large: a function behind HTTP takes "
                f"{self.max_bytes:,}, and there is no object store here. Pass less, or the address of what lies in one"
            )
        head["constants"] = tuple(blobs)

    async def _inline(self, one: Shared[Any]) -> Blob:
        """The constant itself, as a URL; kept for as long as it is there."""
        blob = self._inlined[one.number] = await asyncio.to_thread(self._encode_constant, one)
        weakref.finalize(one, self._inlined.pop, one.number, None)
        return blob

    def _encode_constant(self, one: Shared[Any]) -> Blob:
        data = codec.dumps(one.value, self.names, pickle=self.pickle)
        url = "data:;base64," + binascii.b2a_base64(data, newline=False).decode("ascii")
        return Blob(url=url, size=len(data), sha256=sha256(data).hexdigest(), id=str(one.number))

    async def answer(self, request: Request, body: bytes) -> Answer:
        """See ``Batches.answer``. Large ones are opened off the loop's thread."""
        if len(body) <= LARGE_BYTES:
            return await super().answer(request, body)
        return await asyncio.to_thread(self._open, body)

    def _open(self, body: bytes) -> Answer:
        found = open_answer(body)
        if isinstance(found, Spilled):
            raise CodecError("the answer lies in an object store, and there is none here")
        return calls.load_answer(found, self.names)
