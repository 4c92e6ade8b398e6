"""A device with its slots, and the line of chunks that wait there. On the loop's thread."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from asyncpar.chunks import Chunk
from asyncpar_streams.budget import Budget, Request
from asyncpar_streams.device import Device
from asyncpar_streams.slot import Work

if TYPE_CHECKING:
    from asyncpar_streams.pool import StreamPool


class Line:
    """Stands for a chunk's place while it waits for a slot of the device that its data lies on."""

    def __init__(self) -> None:
        self.load = 0


class Site:
    """One device of a pool.

    :param budget: who may run on the device; that of the pool itself is also its actors'
    """

    def __init__(self, pool: StreamPool, device: Device, budget: Budget, *, owner: bool) -> None:
        self.pool, self.device, self.budget, self.owner = pool, device, budget, owner
        self.slots: list[Any] = []
        self.line: deque[Work] = deque()
        self.desk = Line()

    async def open(self, streams: int) -> None:
        """Open the device, if it is not open, and have its streams made."""
        await self._add(1)
        await self._add(min(streams, self.device.most_streams) - 1)

    async def _add(self, count: int) -> None:
        made = []
        for _ in range(count):
            slot = self.pool.make_slot(self, len(self.slots) + 1, first=self.owner and not self.slots)
            self.slots.append(slot)
            made.append(slot)
            slot.start()
        if made:
            await asyncio.wait([slot.ready for slot in made])
            for slot in made:
                slot.ready.result()

    async def close(self) -> None:
        """End the slots; the first last, since the device is its."""
        for work in self.line:
            work.chunk.place.load -= 1
        self.line.clear()
        for slot in reversed(self.slots):
            await slot.close()
            if slot.ready.done() and not slot.ready.cancelled():
                slot.ready.exception()  # told where it mattered

    @property
    def load(self) -> int:
        """Chunks here."""
        load: int = self.desk.load + sum(slot.load for slot in self.slots)
        return load

    def idle(self) -> Any:
        """A slot without a chunk, or ``None``."""
        return next((slot for slot in self.slots if not slot.load), None)

    def send(self, work: Work, slot: Any) -> None:
        """Have a chunk run here: in this slot, or as the next for which there is one."""
        work.slot = slot
        if slot is None:
            self.line.append(work)
        else:
            run(self.budget.ask(work.request))

    def advance(self) -> None:
        """Slots may be free for those in line."""
        while self.line and (slot := self.idle()) is not None:
            work = self.line.popleft()
            chunk: Chunk = work.chunk
            chunk.place.load -= 1
            chunk.place = slot
            slot.load += 1
            self.send(work, slot)


def run(requests: Iterable[Request]) -> None:
    """Start what a budget has admitted."""
    for request in requests:
        request.start()
