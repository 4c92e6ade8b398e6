"""``share()``d constants in the object store: put there once, and again when the bucket's lifecycle rule may act."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Any

from asyncpar.sharing import Shared
from asyncpar_lambda.envelope import Blob
from asyncpar_lambda.store import Store

DAY = 24 * 3600.0


class Constants:
    """What was put, and when.

    :param dump: encodes a value; runs in a thread
    :param keep_days: after so many the lifecycle rule removes objects; they are put again after half of that
    :param clock: seconds; of the wall, which goes on while a machine sleeps
    """

    def __init__(
        self,
        store: Store,
        dump: Callable[[Any], bytes],
        keep_days: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.dump, self.clock = store, dump, clock
        self.fresh = keep_days * DAY / 2
        self._put: dict[int, tuple[float, asyncio.Task[Blob]]] = {}

    async def blob(self, one: Shared[Any], sign: Callable[[str, str], str]) -> Blob:
        """Where the constant lies; it is put there when it is first named.

        :raises StoreError: the store does not take it
        :raises CodecError: it is no plain data
        """
        found = self._put.get(one.number)
        if found is None or self.clock() - found[0] > self.fresh or _failed(found[1]):
            if found is None:
                weakref.finalize(one, self._put.pop, one.number, None)
            task = asyncio.create_task(self._upload(one), name="asyncpar: upload a constant")
            found = self._put[one.number] = self.clock(), task
        blob = await asyncio.shield(found[1])
        url = sign("GET", f"constants/{blob.sha256}")
        return Blob(url=url, size=blob.size, sha256=blob.sha256, id=str(one.number))

    def missing(self, numbers: Iterable[int], asked: float) -> None:
        """A worker did not find one of these: put them again, unless that was done since.

        :param asked: when the request was made, by ``clock``
        """
        for number in numbers:
            found = self._put.get(number)
            if found is not None and found[1].done() and found[0] <= asked:
                self._put[number] = float("-inf"), found[1]

    async def _upload(self, one: Shared[Any]) -> Blob:
        data = await asyncio.to_thread(self.dump, one.value)
        digest = sha256(data).hexdigest()
        await self.store.put(f"constants/{digest}", data)
        return Blob(url="", size=len(data), sha256=digest)

    async def aclose(self) -> None:
        """End uploads that are under way."""
        uploads = [task for _, task in self._put.values() if not task.done()]
        for task in uploads:
            task.cancel()
        if uploads:
            await asyncio.wait(uploads)


def _failed(task: asyncio.Task[Blob]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
