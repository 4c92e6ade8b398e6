"""Large buffers of arguments and results: what shared memory is to processes (see ``asyncpar.process.arena``).

They are numbered by their sender. The pickle names the numbers; the buffers themselves travel beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from asyncpar.process.layout import BLOCK
from asyncpar_mpi.wire import Buffer, copied


class Buffers:
    """What one side has received and not yet read, and what it has packed and not yet let go of.

    :param copies: whether what is packed may change before it is sent, and so has to be copied. Bytes never do.
    """

    def __init__(self, *, copies: bool) -> None:
        self.copies = copies
        self.numbers = itertools.count(1)
        self.packed: dict[int, Any] = {}
        self.received: dict[int, Any] = {}

    # -- as an arena

    def put(self, buffer: memoryview) -> int:
        number = next(self.numbers)
        self.packed[number] = copied(buffer) if self.copies and type(buffer.obj) is not bytes else buffer
        return number

    def free(self, number: int) -> None:
        self.packed.pop(number, None)

    def view(self, number: int, size: int) -> Any:
        return self.received.pop(number)

    def block(self, slot: int) -> memoryview:
        """Where a worker keeps its control words and its log: in memory of its own, that nobody else reads."""
        return memoryview(bytearray(BLOCK))

    # -- as luggage

    def named(self, numbers: Iterable[int]) -> list[Buffer]:
        """The packed buffers of these numbers, to be sent."""
        return [(number, self.packed[number]) for number in numbers]

    def take_packed(self) -> list[Buffer]:
        """All packed buffers, which are let go of here."""
        packed = list(self.packed.items())
        self.packed.clear()
        return packed
