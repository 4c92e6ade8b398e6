"""What one map asks for beside the keywords that every pool has, and what is known of its invocations. No I/O."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from asyncpar.chunks import Chunk
from asyncpar_lambda.cost import Budget, Meter

if TYPE_CHECKING:
    from asyncpar.feed import Feed

MOST_ATTEMPTS = 20
"""How often a call is sent that may be sent again, before it counts as lost."""
HEDGE_SAMPLES = 20
"""Invocations whose durations have to be known before one is sent twice."""


@dataclass(slots=True)
class Job:
    """One map on Lambda.

    :ivar meter: what this map has cost
    :ivar exactly_once: keep each call's outcome in the store, so that it completes once however often it is sent
    :ivar hedge: the quantile of durations after which an invocation is sent a second time
    :ivar attempts: by the index of a call, the deliveries that may have run it, each by Lambda's id if it certainly
        runs no more, else empty
    :ivar failures: by the index of a call, how often it has ended with an error, and ``retries=`` may have repeated it
    :ivar waits: by the index of a call, how often another worker was found to run it
    :ivar seconds: how long the invocations took that were answered last
    """

    meter: Meter
    exactly_once: bool = False
    hedge: float | None = None
    budget: Budget | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    attempts: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    failures: dict[int, int] = field(default_factory=dict[int, int])
    waits: dict[int, int] = field(default_factory=dict[int, int])
    seconds: list[float] = field(default_factory=list[float])
    invocations: int = 0
    hedged: int = 0

    # -- what may be sent again

    def may_repeat(self, calls: Iterable[int], ended: str) -> bool:
        """Whether calls that may have run may be sent again; notes this attempt.

        :param ended: Lambda's id of the delivery, if it certainly runs no more
        """
        if not self.exactly_once and self.hedge is None:
            return False
        tried = 0
        for index in calls:
            noted = self.attempts.setdefault(index, [])
            noted.append(ended)
            tried = max(tried, len(noted))
        return tried < MOST_ATTEMPTS

    def dead(self, calls: Iterable[int]) -> tuple[str, ...]:
        """Deliveries of these calls that certainly run no more."""
        return tuple(sorted({one for index in calls for one in self.attempts.get(index, ()) if one}))

    def outcome_key(self, index: int) -> str:
        """Of the object that keeps a call's outcome. What failed and is to be run again gets another one."""
        again = self.failures.get(index)
        return f"outcomes/{self.run}/{index}" + (f"-{again}" if again else "")

    def ended(self, index: int, failed: bool) -> None:
        """A call has its outcome."""
        self.attempts.pop(index, None)
        self.waits.pop(index, None)
        if failed and self.exactly_once:
            self.failures[index] = self.failures.get(index, 0) + 1

    # -- hedging

    def answered(self, seconds: float) -> None:
        """An invocation took so long."""
        self.seconds.append(seconds)
        del self.seconds[:-200]

    def straggles_after(self) -> float | None:
        """Seconds after which an invocation is among the slowest; ``None`` while that is not known."""
        assert self.hedge is not None
        if len(self.seconds) < HEDGE_SAMPLES:
            return None
        ordered = sorted(self.seconds)
        return ordered[int(self.hedge * len(ordered))]

    def may_hedge(self) -> bool:
        """Whether another may be sent a second time: at most the part that the quantile leaves out."""
        assert self.hedge is not None
        return self.hedged < 1 + (1 - self.hedge) * self.invocations


def job_of(chunk: Chunk) -> Job | None:
    """What the chunk's map asked for; ``None`` for single calls and for ``asyncpar.map``."""
    if chunk.singles:
        return None
    found: Job | None = cast("Feed", chunk.source).options.extra
    return found


def first_index(chunk: Chunk) -> int:
    """The index of the chunk's next call in the source of its map; 0 for single calls."""
    return 0 if chunk.singles else int(chunk.block.first) + chunk.offset + chunk.done


def indices(chunk: Chunk) -> range:
    """Of all calls of a map's chunk that have no outcome yet."""
    first = first_index(chunk)
    return range(first, first + len(chunk.items) - chunk.done)
