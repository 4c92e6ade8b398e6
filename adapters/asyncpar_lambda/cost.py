"""What invocations cost, and how long they will take. No I/O.

Prices are those of us-east-1 without any free tier or discount (most regions' are the same or up to a quarter higher);
pass a ``Prices`` of your own where they are not yours. https://aws.amazon.com/lambda/pricing/
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import length_hint
from types import GeneratorType
from typing import Any

from asyncpar.errors import AsyncparError
from asyncpar_lambda.control import BURST, RAMP

ASSUMED_SECONDS = 1.0
"""How long a call is thought to take where nothing is known of it."""
COLD_SECONDS = 0.4
"""What starting an environment takes; billed since August 2025."""
_BILLED = re.compile(rb"Billed Duration: (\d+) ms")


Source = Iterable[Any] | AsyncIterable[Any]


class CostError(AsyncparError):
    """A map has reached its ``max_cost`` and started no more calls. What it had started has ended.

    :ivar max_cost: what it was allowed
    :ivar done: how many items were read from its source and run; with ``ordered`` these are the first
    :ivar left: how many items were not read, or ``None`` if the source does not say
    :ivar results: of an awaited map, the results of what was done; a stream has handed them out already
    :ivar rest: the items that were not run, of each of the map's iterables, sync or async as that is:
        ``cloud.map(function, *error.rest)`` goes on. Generators among them are yours to close.
    """

    def __init__(self, meter: Meter, max_cost: float, done: int, left: int | None) -> None:
        super().__init__(max_cost, done, left)
        self._meter = meter  # what runs when this is made goes on to cost
        self.max_cost, self.done, self.left = max_cost, done, left
        self.results: list[Any] = []
        self.rest: tuple[Source, ...] = ()

    @property
    def spent(self) -> float:
        """What the map cost, in dollars."""
        return self._meter.dollars

    def __str__(self) -> str:
        rest = "the rest of its items were" if self.left is None else f"{self.left:,} items were"
        return (
            f"max_cost=${self.max_cost:.2f} is reached: {self.done:,} calls ran for ${self.spent:.4f}, {rest} not "
            "started; map(function, *error.rest, max_cost=...) goes on with them"
        )


@dataclass(frozen=True, slots=True)
class Prices:
    """Dollars.

    :ivar arm_second: of a second of an environment, for each GB of memory, on arm64
    :ivar x86_second: the same on x86_64
    :ivar invocation: of each
    """

    arm_second: float = 0.0000133334
    x86_second: float = 0.0000166667
    invocation: float = 0.0000002


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a second of one function costs.

    :ivar memory: in MB
    :ivar machine: ``"arm64"`` or ``"x86_64"``
    """

    memory: int
    machine: str
    prices: Prices = Prices()

    def dollars(self, seconds: float, invocations: int) -> float:
        """Of so many billed seconds in so many invocations."""
        prices = self.prices
        second = prices.arm_second if self.machine == "arm64" else prices.x86_second
        return seconds * self.memory / 1024 * second + invocations * prices.invocation


class Meter:
    """Adds up what was billed.

    :ivar invocations: how many were billed
    :ivar seconds: how many
    """

    def __init__(self, tariff: Tariff) -> None:
        self.tariff = tariff
        self.invocations = 0
        self.seconds = 0.0

    @property
    def dollars(self) -> float:
        """What it comes to."""
        return self.tariff.dollars(self.seconds, self.invocations)

    def add(self, seconds: float) -> None:
        """One invocation, of so many billed seconds."""
        self.invocations += 1
        self.seconds += seconds


def billed_seconds(log: bytes, measured: float) -> float:
    """What one invocation is billed, as the end of its log says, else from what was measured.

    :param measured: seconds; they are billed by the millisecond begun
    """
    found = _BILLED.search(log)
    return int(found[1]) / 1000 if found else math.ceil(measured * 1000) / 1000


class Budget:
    """Lets a map read its source until what was read has cost, or will have, all that it may.

    :param meter: what this map has spent; its invocations are added by the pool
    :param expected: what one call is thought to cost, in dollars, while none has ended
    """

    def __init__(self, max_cost: float, meter: Meter, expected: float) -> None:
        self.max_cost, self.meter, self.expected = max_cost, meter, expected
        self.read = 0
        self.ended = 0
        self.total: int | None = None
        self.items: list[Any] = []

    def allows(self) -> bool:
        """Whether one more call may be read, counting those that run at what calls have cost so far."""
        spent = self.meter.dollars
        each = max(spent / self.ended, 0.0) if self.ended else self.expected
        running = max(0, self.read - self.ended)  # a call that is repeated ends more than once
        return spent + (running + 1) * each <= self.max_cost

    def limits(self, sources: Sequence[Source]) -> list[Source]:
        """The sources of one map; the first ends with ``CostError`` when the budget does."""
        hints = [length_hint(source, -1) for source in sources]
        self.total = min(hints) if min(hints) >= 0 else None
        self.items = [aiter(one) if hasattr(one, "__aiter__") else iter(one) for one in sources]  # type: ignore[arg-type]
        return [
            (_ReadAsync if hasattr(one, "__aiter__") else _Read)(self, number, hints[number])
            for number, one in enumerate(sources)
        ]

    def check(self, item: Any) -> None:
        """Count one row of items, of which the first source has just given its own.

        :raises CostError: it may not be read; nothing that was read is missing in its ``rest``
        """
        if self.allows():
            self.read += 1
            return
        left = None if self.total is None else self.total - self.read
        error = CostError(self.meter, self.max_cost, self.read, left)
        first, *others = self.items
        self.items = []  # they are the error's now, and not to be closed with the map
        began = itertools.chain([item], first) if isinstance(first, Iterator) else _chain(item, first)
        error.rest = (began, *others)
        raise error


class _Source:
    """One source of a map with a budget. Closed with the map if it is a generator, as without a budget."""

    def __init__(self, budget: Budget, number: int, hint: int) -> None:
        self.budget, self.number, self.hint = budget, number, hint

    def __length_hint__(self) -> int:
        return self.hint if self.hint >= 0 else NotImplemented


class _Read(_Source):
    def __iter__(self) -> Iterator[Any]:
        items = self.budget.items[self.number]
        try:
            for item in items:
                if not self.number:
                    self.budget.check(item)
                yield item
        finally:
            if self.budget.items and isinstance(items, GeneratorType):
                items.close()


class _ReadAsync(_Source):
    async def __aiter__(self) -> AsyncIterator[Any]:
        items = self.budget.items[self.number]
        try:
            async for item in items:
                if not self.number:
                    self.budget.check(item)
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if self.budget.items and close is not None:
                await close()


async def _chain(item: Any, items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    yield item
    async for other in items:
        yield other


@dataclass(frozen=True, slots=True)
class Plan:
    """What a map would take. Nothing was run for it.

    :ivar calls: how many
    :ivar invocations: they travel in so many
    :ivar call_seconds: how long one call takes
    :ivar assumed: whether that is a guess, because the pool has not run this function
    :ivar concurrency: the most invocations at the same time
    :ivar seconds: from start to end, cold starts and Lambda's ramp included
    :ivar dollars: all of it
    """

    calls: int
    invocations: int
    call_seconds: float
    assumed: bool
    concurrency: int
    seconds: float
    dollars: float

    def __str__(self) -> str:
        guess = " (a guess: pass seconds=, or run a few first)" if self.assumed else ""
        return (
            f"{self.calls:,} calls of {_time(self.call_seconds)}{guess} in {self.invocations:,} invocations, at most "
            f"{self.concurrency:,} at a time: about {_time(self.seconds)} and {_dollars(self.dollars)}"
        )


def make_plan(
    calls: int,
    call_seconds: float | None,
    tariff: Tariff,
    *,
    limit: int,
    chunk_seconds: float,
    overhead: float,
) -> Plan:
    """Work it out.

    :param call_seconds: how long a call takes, if that is known
    :param limit: the most invocations at the same time
    :param chunk_seconds: how long an invocation should take, where calls are shorter
    :param overhead: seconds that each invocation takes beside its calls
    """
    assumed = call_seconds is None
    each = ASSUMED_SECONDS if call_seconds is None else call_seconds
    together = max(1, min(int(chunk_seconds / max(each, 1e-9)), -(-calls // (2 * limit))))
    invocations = -(-calls // together)
    seconds = overhead + together * each
    environments = min(limit, invocations)
    work = calls * each + invocations * overhead
    billed = work + environments * COLD_SECONDS
    return Plan(
        calls,
        invocations,
        each,
        assumed,
        environments,
        COLD_SECONDS + max(seconds, ramped(work, environments)) if calls else 0.0,
        tariff.dollars(billed, invocations),
    )


def ramped(work: float, limit: int) -> float:
    """Seconds until so many seconds of work are done, where environments come as Lambda starts them."""
    if limit <= BURST:
        return work / max(limit, 1)
    climb = (limit - BURST) / RAMP
    during = BURST * climb + RAMP * climb * climb / 2
    if work >= during:
        return climb + (work - during) / limit
    return (math.sqrt(BURST * BURST + 2 * RAMP * work) - BURST) / RAMP


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _dollars(amount: float) -> str:
    return f"${amount:,.2f}" if amount >= 0.01 or not amount else "less than $0.01"
