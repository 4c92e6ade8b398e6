"""The window of a map: what was read and not yet taken, in order or not. No I/O, no event loop.

It is the one place that knows the two promises of a map: what is in flight plus what is finished
but unread never exceeds the limit, and with ``ordered`` results leave in the order of the source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from asyncpar.chunks import Errors

MANY = 64
"""Results of single calls that are handed out in one go: fewer would cost the consumer, more would hold up the source."""
HOLE: Any = type("Hole", (), {"__repr__": lambda self: "<no result yet>"})()


class Failure:
    """A failed call's place among the results, when errors are to be raised."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class Block:
    """The results of one stretch of the source, whose first item is number ``first`` there."""

    __slots__ = ("first", "missing", "nbytes", "size", "taken", "values")

    def __init__(self, first: int, size: int) -> None:
        self.first = first
        self.size = self.missing = size
        self.nbytes = 0
        self.taken = 0
        self.values: list[Any] = []


class Window:
    """Bounded by ``limit`` calls and ``limit_bytes`` bytes."""

    hits = 0
    """Results that came from a journal: see ``journal.replay``."""

    def __init__(
        self, limit: int, *, limit_bytes: int | None = None, ordered: bool = True, raising: bool = True
    ) -> None:
        self.limit, self.limit_bytes, self.ordered, self.raising = limit, limit_bytes, ordered, raising
        self.read = 0  # items read from the source
        self.finished = 0  # calls with an outcome
        self.taken = 0  # results that the consumer has done with
        self.lent = 0  # results of the list that the consumer works on
        self.lent_bytes = 0
        self.bytes = 0
        self.failure: BaseException | None = None
        self._greedy = False
        self._failed = False
        self._blocks: deque[Block] = deque()  # ordered
        self._lists: deque[tuple[list[Any], int]] = deque()  # unordered

    def take_all(self) -> None:
        """From now on the consumer takes every result as it comes: it makes a list of them."""
        self._greedy = True
        self.taken, self.lent = self.finished, 0

    def room(self) -> int:
        """How many items may be read from the source now."""
        if self.failure is not None:
            return 0
        room = self.limit - (self.read - self.taken)
        if self.limit_bytes is None or room <= 0:
            return max(room, 0)
        if not self.read:
            return 1
        outstanding = self.read - self.taken
        return min(room, fitting(self.limit_bytes, outstanding, self.bytes, self.finished, self.seen_bytes))

    seen_bytes = 0

    def open(self, size: int, nbytes: int = 0) -> Block:
        """The place for the results of the ``size`` items that were read last."""
        block = Block(self.read - size, size)
        if nbytes:
            self.grow(block, nbytes)
        if self.ordered:
            self._blocks.append(block)
        return block

    def grow(self, block: Block, nbytes: int) -> None:
        """So many serialised bytes of this block's arguments or results are held."""
        block.nbytes += nbytes
        self.bytes += nbytes
        self.seen_bytes += nbytes

    def fill(self, block: Block, first: int, values: Sequence[Any], errors: Errors | None) -> None:
        """Outcomes for the block's calls from ``first`` on; ``HOLE`` where one is still to come.

        ``errors`` is ``None`` where there are neither errors nor holes.
        """
        holes = 0
        if errors is None and self.ordered and len(values) == block.size:
            block.values = values if type(values) is list else list(values)
            block.missing = 0
            self._finish(block.size)
            return
        if errors is not None:
            values = list(values)
            for i, error in errors.items():
                values[i] = Failure(error) if self.raising else error
            self._failed = self._failed or (self.raising and bool(errors))
            holes = sum(value is HOLE for value in values)
        block.missing -= len(values) - holes
        self._finish(len(values) - holes)
        if not self.ordered:
            kept = [value for value in values if value is not HOLE] if holes else values
            share = 0 if block.missing else block.nbytes
            self._lists.append((list(kept), share))
        elif len(values) == block.size:
            block.values = list(values)
        else:
            if not block.values:
                block.values = [HOLE] * block.size
            block.values[first : first + len(values)] = values

    def put(self, block: Block, value: Any) -> None:
        """The result of a block's only call."""
        if self.ordered:
            block.values = [value]
            block.missing = 0
        else:
            self._lists.append(([value], block.nbytes))
        self.finished += 1
        if self._greedy:
            self.taken += 1

    def _finish(self, count: int) -> None:
        self.finished += count
        if self._greedy:
            self.taken += count

    def settle(self) -> None:
        """The consumer is done with the list that was handed out last."""
        self.taken += self.lent
        self.bytes -= self.lent_bytes
        self.lent = self.lent_bytes = 0

    def pull(self) -> list[Any] | None:
        """Results to hand out next, or ``None`` if there are none yet.

        The list handed out before counts as taken from now on. After a failure there is nothing more.
        """
        self.settle()
        if self.failure is not None:
            return None
        values, nbytes = self._next()
        if values is None:
            return None
        self.lent, self.lent_bytes = 0 if self._greedy else len(values), nbytes
        if self._failed and any(type(value) is Failure for value in values):
            at = next(i for i, value in enumerate(values) if type(value) is Failure)
            self.failure = values[at].error
            values = values[:at]
        return values

    def _next(self) -> tuple[list[Any] | None, int]:
        if not self.ordered:
            return self._next_list()
        if not self._blocks:
            return None, 0
        blocks = self._blocks
        block = blocks[0]
        if not block.missing:
            blocks.popleft()
            if block.size > 1:
                return (block.values[block.taken :] if block.taken else block.values), block.nbytes
            values, nbytes = block.values, block.nbytes
            while blocks and blocks[0].size == 1 and not blocks[0].missing and len(values) < MANY:
                block = blocks.popleft()
                values.append(block.values[0])
                nbytes += block.nbytes
            return values, nbytes
        start = end = block.taken
        values = block.values
        while end < len(values) and values[end] is not HOLE:
            end += 1
        if end == start:
            return None, 0
        block.taken = end
        return values[start:end], 0

    def _next_list(self) -> tuple[list[Any] | None, int]:
        lists = self._lists
        if not lists:
            return None, 0
        values, nbytes = lists.popleft()
        while lists and len(values) + len(lists[0][0]) <= MANY:
            more, weight = lists.popleft()
            values += more
            nbytes += weight
        return values, nbytes


def fitting(limit_bytes: int, outstanding: int, held: int, finished: int, seen: int) -> int:
    """How many items more fit into so many bytes, when ``outstanding`` ones hold ``held`` bytes so far.

    What is in flight counts as what was seen before (``seen`` bytes of ``finished`` calls): its results are still to come.
    """
    mean = max(held / max(outstanding, 1), seen / max(finished, 1), 1.0)
    return max(int(limit_bytes / mean) - outstanding, 0 if outstanding else 1)
