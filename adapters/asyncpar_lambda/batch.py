"""From a chunk to a signed request, and from a reply to outcomes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from asyncpar.chunks import Chunk
from asyncpar.errors import UnsupportedError
from asyncpar.sharing import Shared
from asyncpar_lambda import calls, codec, envelope
from asyncpar_lambda.constants import Constants
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.errors import StoreError
from asyncpar_lambda.job import Job, first_index, indices
from asyncpar_lambda.naming import Names
from asyncpar_lambda.store import Store

LARGE_BYTES = 256 * 1024
"""Answers from this size are decoded in a thread; and so are arguments encoded, if the last chunk's had this size."""
URL_SECONDS = 3600
"""How long presigned URLs are good for, beside the function's timeout."""
START_SECONDS = 120.0
"""How long a request may wait in Lambda before it is stale: for cold starts, and clocks that differ."""
MOST_ONCE = 256
"""Calls in a request with ``exactly_once``: signing their URLs holds the loop up for 10 ms, and as each takes two
requests to the store, no worker gets further before it hands back the rest."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be sent.

    :ivar answer_key: where an answer lies that is too large to be sent
    :ivar constants: numbers of those that it names
    :ivar made: when, by the clock of ``Constants``
    """

    payload: bytes
    answer_key: str
    constants: tuple[int, ...]
    made: float


class TooManyError(Exception):
    """What a request says of its calls, beside their arguments, is more than a request may be: let fewer travel."""


class Batches:
    """Makes requests of chunks and outcomes of answers.

    :param pickle: for ``functions="by_value"``
    """

    def __init__(
        self,
        deployment: Deployment,
        key: bytes,
        names: Names,
        store: Store | None,
        pickle: Callable[[Any], bytes] | None,
    ) -> None:
        self.deployment, self.names, self.store, self.pickle = deployment, names, store, pickle
        self.signer = envelope.Signer(key)
        self.constants: Constants | None = None
        if store is not None:
            dump = partial(codec.dumps, names=names, pickle=pickle)
            self.constants = Constants(store, dump, deployment.keep_days)
        self._large: set[int] = set()  # functions whose arguments take long to encode

    # -- requests

    async def request(self, chunk: Chunk, job: Job | None, run: str, budget: float | None) -> Request:
        """The chunk as a signed request; what does not fit into it lies in the store.

        With ``exactly_once``, a chunk of more calls than may travel so is cut, and the rest goes back to its map.

        :param run: of calls that belong to no map
        :param budget: seconds for which the worker may start further calls
        :raises CodecError: something in it is no plain data
        :raises UnsupportedError: it is too large, or names constants, and there is no bucket
        :raises StoreError: the store does not take it
        :raises TooManyError: its head is too large
        """
        if job is not None and job.exactly_once and len(chunk.items) - chunk.done > MOST_ONCE:
            chunk.split(chunk.done + MOST_ONCE).requeue()
        made = time.time()
        shared: dict[int, Shared[Any]] = {}
        functions, body = await self._encode(chunk, shared)
        head: dict[str, Any] = {
            "job": self.deployment.job,
            "code": self.deployment.code,
            "run": job.run if job else run,
            "functions": tuple(functions.listed),
            "first": first_index(chunk),
            "count": len(chunk.items) - chunk.done,
            "expires": 0.0,  # of when it is sent: uploads come first
            "nonce": envelope.new_nonce(),
            "budget": budget,
            "timeout": chunk.timeout,
        }
        answer_key = f"answers/{head['nonce']}"
        if self.store is not None:
            await self._use_store(self.store, head, chunk, job, shared, answer_key)
            body = await self._fitted(self.store, head, body)
        else:
            await self._without_store(head, shared, body)
        head["expires"] = time.time() + START_SECONDS
        payload = await self._seal(envelope.Head(**head), body)
        return Request(payload, answer_key, tuple(shared), made)

    async def _fitted(self, store: Store, head: dict[str, Any], body: bytes) -> bytes:
        """What of the body travels in the request: all, or nothing."""
        if len(body) * 4 // 3 + (size := envelope.head_size(envelope.Head(**head))) > envelope.MAX_INLINE:
            if size > envelope.MAX_INLINE:
                raise TooManyError
            head["body"] = await self._spill(store, f"requests/{head['nonce']}", body)
            return b""
        return body

    async def _seal(self, head: envelope.Head, body: bytes) -> bytes:
        """Signed on the loop, unless that takes long."""
        if len(body) + sum(len(blob.url) for blob in head.constants) > LARGE_BYTES:
            return await asyncio.to_thread(self.signer.seal, head, body)
        return self.signer.seal(head, body)

    async def _without_store(self, head: dict[str, Any], shared: dict[int, Shared[Any]], body: bytes) -> None:
        """Make it fit into the request, or say why it does not."""
        if shared or len(body) * 4 // 3 > envelope.MAX_INLINE:
            what = "share() needs" if shared else f"a request of {len(body):,} bytes needs"
            raise UnsupportedError(f"{what} a bucket: deploy with one, it is the default")

    async def _use_store(
        self,
        store: Store,
        head: dict[str, Any],
        chunk: Chunk,
        job: Job | None,
        shared: dict[int, Shared[Any]],
        answer_key: str,
    ) -> None:
        """Name what lies in the store, or will."""
        assert self.constants is not None
        sign = await self._presigner(store)
        head["owner"] = store.owner
        head["answer_url"] = sign("PUT", answer_key)
        head["constants"] = tuple([await self.constants.blob(one, sign) for one in shared.values()])
        if job is not None and job.exactly_once:
            keys = [job.outcome_key(index) for index in indices(chunk)]
            head["slots"] = tuple(envelope.Slot(get=sign("GET", key), put=sign("PUT", key)) for key in keys)
            head["lost"] = job.dead(indices(chunk))

    def _presigner(self, store: Store) -> Awaitable[Callable[[str, str], str]]:
        return store.presigner(int(self.deployment.timeout) + URL_SECONDS)

    async def _encode(self, chunk: Chunk, shared: dict[int, Shared[Any]]) -> tuple[calls.Functions, bytes]:
        """On the loop, unless the arguments of this function were large before."""
        key = id(chunk.function)
        if key in self._large:
            encoded = await asyncio.to_thread(self._dump, chunk, shared)
        else:
            encoded = self._dump(chunk, shared)
        (self._large.add if len(encoded[1]) > LARGE_BYTES else self._large.discard)(key)
        return encoded

    def _dump(self, chunk: Chunk, shared: dict[int, Shared[Any]]) -> tuple[calls.Functions, bytes]:
        def share(one: Shared[Any]) -> str:
            shared[one.number] = one
            return str(one.number)

        functions = calls.Functions(self.names, self.pickle)
        items = chunk.items[chunk.done :]
        if not chunk.singles:
            functions.add(chunk.function.call)
            return functions, calls.dump_items(functions, items, chunk.star, share)
        sent = [(functions.add(call.function.call), call.args, call.kwargs) for call in items]
        return functions, calls.dump_singles(functions, sent, share)

    async def _spill(self, store: Store, key: str, body: bytes) -> envelope.Blob:
        await store.put(key, body)
        url = (await self._presigner(store))("GET", key)
        return envelope.Blob(url=url, size=len(body), sha256=sha256(body).hexdigest())

    def missing(self, request: Request) -> None:
        """A worker did not find something that the request names."""
        if self.constants is not None:
            self.constants.missing(request.constants, request.made)

    async def aclose(self) -> None:
        """End uploads that are under way."""
        if self.constants is not None:
            await self.constants.aclose()

    # -- answers

    async def answer(self, request: Request, body: bytes) -> envelope.Answer:
        """What the worker says.

        :raises RefusedError: it ran nothing
        :raises CodecError: this is no answer of a worker
        :raises StoreError: the answer lies in the store and cannot be had
        """
        found = envelope.open_answer(body)
        if isinstance(found, envelope.Spilled):
            assert self.store is not None
            data = await self.store.get(request.answer_key)
            if len(data) != found.size or sha256(data).hexdigest() != found.sha256:
                raise StoreError(
                    "the answer there is another's: of a second delivery, or put there by somebody"
                )
            found = data
        if len(found) > LARGE_BYTES:
            return await asyncio.to_thread(calls.load_answer, found, self.names)
        return calls.load_answer(found, self.names)
