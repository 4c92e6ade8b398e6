"""From a chunk to a signed request, and from a reply to outcomes."""

from __future__ import annotations

import asyncio
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from asyncpar.chunks import Chunk
from asyncpar.errors import UnsupportedError
from asyncpar.sharing import Shared
from asyncpar_lambda import calls, codec, envelope
from asyncpar_lambda.cost import Budget, Meter
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.errors import CodecError
from asyncpar_lambda.naming import Names
from asyncpar_lambda.store import Store

LARGE_BYTES = 256 * 1024
"""Answers from this size are decoded in a thread; and so are arguments encoded, if the last chunk's had this size."""
URL_SECONDS = 3600
"""How long presigned URLs are good for, beside the function's timeout."""
START_SECONDS = 120.0
"""How long a request may wait in Lambda before it is stale: for cold starts, and clocks that differ."""


@dataclass(slots=True)
class Job:
    """What one map asks for beside the keywords that every pool has.

    :ivar exactly_once: keep each call's outcome in the store, so that it completes once however often it is sent
    :ivar hedge: the quantile of durations after which an invocation is sent a second time
    :ivar meter: what this map has cost
    :ivar attempts: by the index of a call, the nonces of requests that may have run it
    :ivar seconds: how long the invocations took that were answered last
    """

    meter: Meter
    exactly_once: bool = False
    hedge: float | None = None
    budget: Budget | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    attempts: dict[int, list[tuple[str, bool]]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    invocations: int = 0
    hedged: int = 0

    @property
    def repeatable(self) -> bool:
        """Whether a call may be sent again though it may have run."""
        return self.exactly_once or self.hedge is not None


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be sent."""

    payload: bytes
    nonce: str
    answer_key: str


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
        self._constants: dict[int, asyncio.Task[envelope.Blob]] = {}
        self._large: set[int] = set()  # functions whose arguments take long to encode

    # -- requests

    async def request(self, chunk: Chunk, job: Job | None, run: str, budget: float | None) -> Request:
        """The chunk as a signed request; what does not fit into it lies in the store.

        :param run: of calls that belong to no map
        :param budget: seconds for which the worker may start further calls
        :raises CodecError: something in it is no plain data
        :raises UnsupportedError: it is too large, or names constants, and there is no bucket
        :raises StoreError: the store does not take it
        """
        shared: dict[int, Shared[Any]] = {}
        functions, body = await self._encode(chunk, shared)
        head: dict[str, Any] = {
            "job": self.deployment.job,
            "code": self.deployment.code,
            "run": job.run if job else run,
            "functions": tuple(functions.listed),
            "first": first_index(chunk),
            "count": len(chunk.items) - chunk.done,
            "expires": time.time() + START_SECONDS,
            "nonce": envelope.new_nonce(),
            "budget": budget,
            "timeout": chunk.timeout,
        }
        answer_key = f"answers/{head['nonce']}"
        if self.store is not None:
            sign = await self.store.presigner(int(self.deployment.timeout) + URL_SECONDS)
            head["answer_url"] = sign("PUT", answer_key)
            head["constants"] = tuple([await self._constant(one, sign) for one in shared.values()])
            if job is not None and job.exactly_once:
                head.update(_once(chunk, job, sign))
            if len(body) * 4 // 3 > envelope.MAX_INLINE:
                head["body"] = await self._spill(f"requests/{head['nonce']}", body, sign)
                body = b""
        else:
            await self._without_store(head, shared, body)
        return Request(await self._seal(envelope.Head(**head), body), head["nonce"], answer_key)

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

    async def _constant(self, one: Shared[Any], sign: Callable[[str, str], str]) -> envelope.Blob:
        """Where the constant lies; it is put there when it is first named."""
        task = self._constants.get(one.number)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = asyncio.create_task(self._put_constant(one), name="asyncpar: upload a constant")
            self._constants[one.number] = task
            weakref.finalize(one, self._constants.pop, one.number, None)
        blob = await asyncio.shield(task)
        url = sign("GET", f"constants/{blob.sha256}")
        return envelope.Blob(url=url, size=blob.size, sha256=blob.sha256, id=str(one.number))

    async def _put_constant(self, one: Shared[Any]) -> envelope.Blob:
        assert self.store is not None
        data = await asyncio.to_thread(codec.dumps, one.value, self.names, pickle=self.pickle)
        digest = sha256(data).hexdigest()
        await self.store.put(f"constants/{digest}", data)
        return envelope.Blob(url="", size=len(data), sha256=digest)

    async def _spill(self, key: str, body: bytes, sign: Callable[[str, str], str]) -> envelope.Blob:
        assert self.store is not None
        await self.store.put(key, body)
        return envelope.Blob(url=sign("GET", key), size=len(body), sha256=sha256(body).hexdigest())

    async def aclose(self) -> None:
        """End uploads that are under way."""
        uploads = [task for task in self._constants.values() if not task.done()]
        for task in uploads:
            task.cancel()
        if uploads:
            await asyncio.wait(uploads)

    # -- answers

    async def answer(self, request: Request, body: bytes) -> envelope.Answer:
        """What the worker says.

        :raises RefusedError: it ran nothing
        :raises CodecError: this is no answer of a worker
        :raises StoreError: the answer lies in the store and cannot be read
        """
        found = envelope.open_answer(body)
        if isinstance(found, envelope.Spilled):
            assert self.store is not None
            data = await self.store.get(request.answer_key)
            if len(data) != found.size or sha256(data).hexdigest() != found.sha256:
                raise CodecError("the answer in the object store is not the one that the worker put there")
            found = data
        if len(found) > LARGE_BYTES:
            return await asyncio.to_thread(calls.load_answer, found, self.names)
        return calls.load_answer(found, self.names)


def first_index(chunk: Chunk) -> int:
    """The index of the chunk's next call in the source of its map; 0 for single calls."""
    return 0 if chunk.singles else int(chunk.block.first) + chunk.offset + chunk.done


def indices(chunk: Chunk) -> Sequence[int]:
    """Of all calls of a map's chunk that have no outcome yet."""
    first = first_index(chunk)
    return range(first, first + len(chunk.items) - chunk.done)


def _once(chunk: Chunk, job: Job, sign: Callable[[str, str], str]) -> dict[str, Any]:
    """The head's fields for ``exactly_once``."""
    keys = [f"outcomes/{job.run}/{index}" for index in indices(chunk)]
    slots = tuple(envelope.Slot(get=sign("GET", key), put=sign("PUT", key)) for key in keys)
    dead = {nonce for index in indices(chunk) for nonce, ended in job.attempts.get(index, ()) if ended}
    return {"slots": slots, "lost": tuple(sorted(dead))}
