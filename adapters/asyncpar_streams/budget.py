"""Who may run on a device: bytes of memory, and the one that runs alone after the memory did not suffice.

No I/O, no threads, no time: a method is told what happened, and returns the requests that may run now.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Request:
    """A call, or a batch of them, that is to run on a device.

    :ivar need: bytes that it holds while it runs; ``None``: not known, and so the whole budget
    :ivar alone: whether nothing else may run meanwhile
    :ivar start: has it run; called by whoever asked the budget
    """

    __slots__ = ("alone", "held", "need", "start")

    def __init__(self, need: int | None, start: Callable[[], object]) -> None:
        self.need = need
        self.alone = False
        self.held = 0
        self.start = start


class Budget:
    """Bytes of device memory that calls hold while they run. Requests run in the order in which they came.

    One that needs more than there is runs when nothing else holds any. One that ran out of memory all the same goes to
    the front, and runs with nothing beside it.

    :param limit: bytes; ``None``: no limit, and only what ran out of memory ever waits
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.used = 0
        self.running: set[Request] = set()
        self.waiting: deque[Request] = deque()

    def ask(self, request: Request) -> list[Request]:
        """A request has come. It is in one of the lists that are returned, now or later, unless withdrawn."""
        self.waiting.append(request)
        return self._admit()

    def leave(self, request: Request) -> list[Request]:
        """One that ran has ended."""
        self._release(request)
        return self._admit()

    def again(self, request: Request) -> list[Request]:
        """One that ran has run out of memory: it is to run once more, alone."""
        self._release(request)
        request.alone = True
        first_by_turn = sum(other.alone for other in self.waiting)
        self.waiting.insert(first_by_turn, request)
        return self._admit()

    def withdraw(self, request: Request) -> list[Request]:
        """One that waits is not to run any more."""
        self.waiting.remove(request)
        return self._admit()

    def _release(self, request: Request) -> None:
        self.running.remove(request)
        self.used -= request.held
        request.held = 0

    def _admit(self) -> list[Request]:
        admitted = []
        while self.waiting and self._fits(self.waiting[0]):
            request = self.waiting.popleft()
            request.held = self._holds(request)
            self.used += request.held
            self.running.add(request)
            admitted.append(request)
        return admitted

    def _holds(self, request: Request) -> int:
        if self.limit is None:
            return 0
        return self.limit if request.need is None else request.need

    def _fits(self, request: Request) -> bool:
        if not self.running:
            return True
        if request.alone or any(other.alone for other in self.running):
            return False
        return self.limit is None or not self.used or self.used + self._holds(request) <= self.limit
