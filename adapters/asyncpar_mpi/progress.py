"""Operations that MPI carries out: one poller a loop steps them, while there are any.

An operation is a generator: it starts requests, looks whether they are complete, and yields how it stands when it
cannot go on. Its frame keeps the buffers that MPI reads and writes. Who awaits it may be cancelled: the operation goes
on until MPI is done, and its outcome is dropped.
"""

from __future__ import annotations

import asyncio
import atexit
import enum
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from mpi4py import MPI

from asyncpar_mpi.wire import Backoff as MessageBackoff

T = TypeVar("T")


class Stand(enum.Enum):
    """How an operation stands that cannot go on yet."""

    LOOSE = enum.auto()  # nothing was given to MPI: it may be given up
    WAITING = enum.auto()
    MOVED = enum.auto()  # so is it, but something has begun or ended since the last look


Steps = Generator[Stand, None, T]
Begin = Callable[[], MPI.Request]

abandoned: list[Any] = []
"""Requests that nobody steps any more, because another of their operation failed or the loop has gone, and their
buffers: MPI may use them still."""


# -- parts of operations


def complete(request: MPI.Request, kept: object = None) -> Steps[None]:
    """Until the request is; ``kept`` is what it reads and writes."""
    yield from complete_all([lambda: (request, kept)[0]], 1)  # its closure has both


def complete_all(begins: Iterable[Begin], most: int) -> Steps[None]:
    """Begin requests in their order, so many at the same time, until all are complete."""
    running: deque[tuple[MPI.Request, Begin]] = deque()
    waiting = iter(begins)
    begun, stand = True, Stand.WAITING
    try:
        while True:
            moved = False
            while running and running[0][0].Test():
                del running[0]
                moved = True
            while begun and len(running) < most:
                begin = next(waiting, None)
                if begin is None:
                    begun = False
                else:
                    running.append((begin(), begin))  # whose closure has the buffers
                    moved = True
            if moved:
                stand = Stand.MOVED
                continue  # what has begun may be complete at once
            if not running:
                return
            yield stand
            stand = Stand.WAITING
    except BaseException:  # MPI's errors, and the generator's end: what is left of it must be kept
        abandoned.extend(running)
        raise


def together(parts: Iterable[Steps[T]]) -> Steps[list[T]]:
    """Step them side by side until each is through; their results, in order."""
    values: dict[int, T] = {}
    running = dict(enumerate(parts))
    while running:
        stand = Stand.WAITING
        for index, steps in list(running.items()):
            try:
                if next(steps) is Stand.MOVED:
                    stand = Stand.MOVED
            except StopIteration as end:
                values[index] = end.value
                del running[index]
                stand = Stand.MOVED
        if running:
            yield stand
    return [values[index] for index in sorted(values)]


def find(
    comm: MPI.Intracomm, source: int, tag: int, status: MPI.Status, *, loose: bool
) -> Steps[MPI.Message]:
    """Until such a message is there. The first probe after it came often only makes progress: a second has to look."""
    stand = Stand.LOOSE if loose else Stand.WAITING
    while True:
        message = comm.Improbe(source, tag, status) or comm.Improbe(source, tag, status)
        if message is not None:
            return message
        yield stand


# -- operations on a loop


class Operation:
    """Steps, and who waits for them.

    :param ended: called when it is over, however it ended
    """

    def __init__(self, steps: Steps[Any], ended: Callable[[], None]) -> None:
        self.steps, self.ended = steps, ended
        self.stand = Stand.WAITING
        self.over = self.released = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.future: asyncio.Future[Any] | None = None

    @property
    def dropped(self) -> bool:
        """Whether who awaited it was cancelled."""
        return self.future is not None and self.future.cancelled()

    def step(self) -> bool:
        """Go on as far as can be; true if it moved."""
        try:
            self.stand = next(self.steps)
        except StopIteration as end:
            self.value = end.value
        except BaseException as error:  # the user's reduction may raise anything
            self.error = error
            if not isinstance(error, Exception):
                self.settle()
                raise
        else:
            return self.stand is Stand.MOVED
        self.settle()
        return True

    def settle(self) -> None:
        self.over = True
        if self.dropped:
            self.release()
        if self.future is None or self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.value)
        else:
            self.future.set_exception(self.error)
            self.future.exception()  # seen: its awaiter may have been cancelled in this very turn

    def release(self) -> None:
        """It is over, for whoever awaited it too: not before that goes on, so that tasks overlap or not whatever
        the other ranks do.
        """
        if not self.released:
            self.released = True
            self.ended()

    def outcome(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Backoff(MessageBackoff):
    """When to look again at a request that MPI has: all ranks have to look several times until it is complete, and
    none sees how far it is. So it spins for longer, as long as asyncio's timers, of 1 ms, would be too slow by far;
    then it looks after a part of the time that nothing moved, at most 20 ms.
    """

    SPIN = 8e-3
    PART = 1 / 32

    def delay(self) -> float:
        idle = time.perf_counter() - self.since
        return 0.0 if idle < self.SPIN else min(self.MOST, idle * self.PART)


class Progress:
    """The poller of a loop: spins for a moment, then looks less and less often, at least every 20 ms.

    It runs only while an operation is under way.
    """

    def __init__(self) -> None:
        self.running: list[Operation] = []
        self.backoff, self.message_backoff = Backoff(), MessageBackoff()
        self.polling: asyncio.Handle | None = None
        self.asleep = False

    async def run(self, operation: Operation) -> Any:
        """Until the operation is over; its value, or its error.

        Cancelling gives it up where it stands loose. Elsewhere it goes on, and its outcome is dropped.
        """
        try:
            operation.step()
            if operation.over:
                await asyncio.sleep(0)  # many that need not wait must not keep the others from running
                return operation.outcome()
            future = operation.future = asyncio.get_running_loop().create_future()
            future.add_done_callback(lambda future: self.give_up(operation) if future.cancelled() else None)
            self.running.append(operation)
            self.look_now()
            return await future
        finally:
            if operation.over:
                operation.release()

    def give_up(self, operation: Operation) -> None:
        """Nobody wants it any more."""
        if operation.stand is Stand.LOOSE and not operation.over:
            operation.steps.close()
            self.running.remove(operation)
            operation.settle()

    def look_now(self) -> None:
        self.reset()
        if self.polling is not None:
            if not self.asleep:
                return
            self.polling.cancel()
        self.asleep = False
        self.polling = asyncio.get_running_loop().call_soon(self.poll)

    def poll(self) -> None:
        """Step all, and come back."""
        self.polling = None
        try:
            for operation in list(self.running):
                if operation.step():
                    self.reset()
        finally:
            self.running = [operation for operation in self.running if not operation.over]
            if self.running:
                self.come_back()

    def reset(self) -> None:
        self.backoff.reset()
        self.message_backoff.reset()

    def come_back(self) -> None:
        loop = asyncio.get_running_loop()
        posted = any(operation.stand is not Stand.LOOSE for operation in self.running)
        delay = (self.backoff if posted else self.message_backoff).delay()
        self.asleep = delay > 0
        if self.asleep:
            self.polling = loop.call_later(delay, self.poll)
        else:
            os.sched_yield()  # on a shared core the other ranks go first
            self.polling = loop.call_soon(self.poll)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Progress] = WeakKeyDictionary()


def of_loop() -> Progress:
    """The running loop's poller."""
    loop = asyncio.get_running_loop()
    progress = _of_loops.get(loop)
    if progress is None:
        progress = _of_loops[loop] = Progress()
    return progress


def pieces(view: memoryview, size: int) -> Iterator[memoryview]:
    """The bytes, cut."""
    for start in range(0, len(view), size):
        yield view[start : start + size]


@atexit.register
def _finalize() -> None:
    """End MPI while the buffers are there of what is still under way; mpi4py would do it when modules are gone."""
    under_way = abandoned or any(progress.running for progress in _of_loops.values())
    if under_way and MPI.Is_initialized() and not MPI.Is_finalized():
        MPI.Finalize()
