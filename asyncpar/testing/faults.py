"""A pool that fails now and then, by a seed, so that retries can be tested."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Generic, TypeVar

from asyncpar.chunks import Chunk
from asyncpar.errors import WorkerLostError
from asyncpar.pool import Pool

P = TypeVar("P", bound=Pool)


class FaultyPlace:
    """Room for one chunk on the inner pool."""

    def __init__(self) -> None:
        self.load = 0
        self.task: asyncio.Task[None] | None = None
        self.calling = False
        self.since = 0.0  # when the call that runs began, on the loop's clock


class FaultyPool(Pool, Generic[P]):
    """Runs calls on another pool, and loses, delays and reorders some: ``FaultyPool(InlinePool(), lose=0.1)``.

    A lost call ends with ``WorkerLostError``, as if its worker had died. The same seed gives the same faults for the
    same order of calls, which only an ``InlinePool`` inside makes certain.

    :param inner: a pool that was not opened yet; it opens and closes with this one
    :param lose: probability (0 to 1) that a call is lost before it ran
    :param lose_answers: probability that a call runs and its answer is lost: what is then run again runs twice
    :param delay: a call is held back by up to so many seconds before it starts, so that calls overtake one another
    :param workers: how many calls may be under way; default: as many as the inner pool has workers
    :param seed: of the random numbers

    Calls travel one by one. Cancelling, timeouts, actors and streams work as they do on the inner pool.
    """

    def __init__(
        self,
        inner: P,
        *,
        lose: float = 0.0,
        lose_answers: float = 0.0,
        delay: float = 0.0,
        workers: int | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(inner, Pool):
            raise TypeError(
                f"FaultyPool takes a pool to run calls on, not {type(inner).__name__}: FaultyPool(InlinePool())"
            )
        for name, probability in (("lose", lose), ("lose_answers", lose_answers)):
            if not 0 <= probability <= 1:
                raise ValueError(f"{name}= is a probability between 0 and 1, not {probability}")
        if delay < 0:
            raise ValueError(f"delay= must be a number of seconds of at least 0, not {delay}")
        super().__init__(inner.workers if workers is None else workers)
        self.inner = inner
        self.lose, self.lose_answers, self.delay = lose, lose_answers, delay
        self.random = random.Random(seed)
        self.places = [FaultyPlace() for _ in range(self.workers)]

    async def _open(self) -> None:
        await self.inner.__aenter__()

    async def _close(self) -> None:
        tasks = [place.task for place in self.places if place.task is not None]
        await self.inner.aclose()  # what runs there ends, and the tasks with it
        if tasks:
            await asyncio.wait(tasks)

    def _solo(self) -> FaultyPool[Pool]:
        return FaultyPool(
            self.inner._solo(),
            lose=self.lose, lose_answers=self.lose_answers, delay=self.delay, seed=self.random.getrandbits(32),
        )  # fmt: skip

    def _place(self) -> FaultyPlace | None:
        return next((place for place in self.places if not place.load), None)

    def _send(self, place: FaultyPlace, chunk: Chunk) -> None:
        place.task = self.loop.create_task(self._serve(place, chunk), name="asyncpar: faulty call")

    async def _serve(self, place: FaultyPlace, chunk: Chunk) -> None:
        while not chunk.finished:
            if chunk.stops and chunk.done in chunk.stops:
                chunk.stopped(1)
                continue
            place.calling, place.since = True, self.loop.time()
            value, error = await self._outcome(chunk)
            place.calling = False
            if not chunk.finished:
                chunk.deliver([value], None if error is None else {0: error})
        place.task = None
        self.vacate(chunk)
        if self._state == "open":
            self.pump()

    async def _outcome(self, chunk: Chunk) -> tuple[Any, BaseException | None]:
        index = chunk.done
        try:
            return await self._call(chunk, index), None
        except asyncio.CancelledError as error:
            return None, (chunk.stops or {}).get(index, error)
        except Exception as error:  # the call's own
            return None, error

    async def _call(self, chunk: Chunk, index: int) -> Any:
        lost, mute = self.random.random() < self.lose, self.random.random() < self.lose_answers
        if self.delay:
            await asyncio.sleep(self.random.uniform(0, self.delay))
        if lost:
            raise self._loss(chunk.label(index), "before it ran")
        function, args, kwargs = chunk.call(index)
        value = await self.inner.run(function, *args, **kwargs)
        if mute:
            raise self._loss(chunk.label(index), "after it ran")
        return value

    def _loss(self, label: str, when: str) -> WorkerLostError:
        self._lost += 1
        return WorkerLostError(f"{label} was lost {when}: this is a FaultyPool", function=label)

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        place: FaultyPlace = chunk.place
        return (chunk.done, self.loop.time() - place.since) if place.calling else None

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        place: FaultyPlace = chunk.place
        if place.task is None:
            return False
        if place.calling and first <= chunk.done <= last:
            place.task.cancel()
        return True  # what has not started is skipped
