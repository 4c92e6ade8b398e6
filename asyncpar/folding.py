"""Associative folds on the workers: pair by pair, order kept, bounded memory."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar

from asyncpar.chunks import is_async, not_callable

if TYPE_CHECKING:
    from asyncpar.pool import Pool

T = TypeVar("T")
_MISSING: Any = object()
MOST_RUN = 1024
"""The longest run of neighbours that is folded in one call."""


class Node:
    """A stretch of the source: folded to a value, or on its way."""

    __slots__ = ("busy", "left", "right", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.busy = False


class Fold:
    """Which neighbours to fold next. No I/O.

    Values stand in the order of the source. A run of neighbours that are there is folded in one call and becomes one
    value; runs grow while such calls stay short, so that a cheap function goes in long runs.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.length = 2
        self.busy = 0

    def add(self, value: Any) -> None:
        """The next value of the source."""
        self.nodes.append(Node(value))

    def take(self, ended: bool) -> list[Node] | None:
        """A run to fold now; shorter ones only when the source has ended."""
        run: list[Node] = []
        best: list[Node] = []
        for node in self.nodes:
            if node.busy:
                run = []
                continue
            run.append(node)
            if len(run) >= self.length:
                best = run
                break
            if ended and len(run) > len(best):
                best = run[:]
        if len(best) < 2:
            return None
        for node in best:
            node.busy = True
        self.busy += 1
        return best[:]

    def done(self, run: list[Node], value: Any, seconds: float, target: float) -> None:
        """A run has become one value."""
        self.busy -= 1
        first = run[0]
        gone = set(map(id, run[1:]))
        self.nodes = [node for node in self.nodes if id(node) not in gone]
        first.value, first.busy = value, False
        if seconds < target:
            self.length = min(MOST_RUN, self.length * 2)
        elif seconds > 8 * target:
            self.length = max(2, self.length // 2)


async def fold(
    pool: Pool | None,
    function: Callable[[T, T], T] | Callable[[T, T], Awaitable[T]],
    items: Iterable[T] | AsyncIterable[T],
    *initial: T,
) -> T:
    """Fold ``items`` on ``pool``, or on the loop if that is ``None`` (coroutine functions)."""
    _check_callable(function)
    if not any(hasattr(items, name) for name in ("__aiter__", "__iter__", "__getitem__")):
        raise TypeError(
            f"argument 2 of reduce must be an iterable or async iterable, not {type(items).__name__}"
        )
    if pool is not None:
        pool._check_function(function)
    state = Fold()
    for value in initial:
        state.add(value)
    width = pool.workers if pool is not None else 16
    target = (pool.chunk_seconds if pool is not None else 0.0) or 1e-3
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    source = _each(items)

    async def step(run: list[Node]) -> None:
        begun = loop.time()
        value = await _fold_run(pool, function, [node.value for node in run])
        state.done(run, value, loop.time() - begun, target)

    def launch(ended: bool) -> None:
        while len(tasks) < 2 * width and (run := state.take(ended)) is not None:
            tasks.add(loop.create_task(step(run)))

    async def wait() -> None:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            tasks.discard(task)
            task.result()

    try:
        fresh = 0
        async for item in source:
            state.add(item)
            fresh += 1
            if fresh >= state.length:
                fresh = 0
                launch(ended=False)
            while len(state.nodes) >= 2 * width * state.length and tasks:
                await wait()
                launch(ended=False)
        while len(state.nodes) > 1:
            launch(ended=True)
            await wait()
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await source.aclose()
    if not state.nodes:
        raise TypeError("reduce() of an empty iterable with no initial value: pass initial=")
    result: T = state.nodes[0].value
    return result


def _check_callable(function: object) -> None:
    if not callable(function):
        raise not_callable(function)


async def _fold_run(pool: Pool | None, function: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    if is_async(function):
        return await (
            _fold_async(function, values) if pool is None else pool.run(_fold_async, function, values)
        )
    assert pool is not None
    return await pool.run(functools.reduce, function, values)


async def _fold_async(function: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    result = values[0]
    for value in values[1:]:
        result = await function(result, value)
    return result


async def _each(items: Any) -> AsyncGenerator[Any, None]:
    """The items, of a sync or async iterable; a generator is closed with this one."""
    try:
        if hasattr(items, "__aiter__"):
            async for item in items:
                yield item
        else:
            for n, item in enumerate(items):
                if n % 64 == 63:
                    await asyncio.sleep(0)
                yield item
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()
        elif isinstance(items, GeneratorType):
            items.close()


async def reduce(
    function: Callable[[T, T], T] | Callable[[T, T], Awaitable[T]],
    items: Iterable[T] | AsyncIterable[T],
    on: Pool | str | None = None,
    initial: T = _MISSING,
) -> T:
    """Fold ``items`` with an associative function, pair by pair, on the workers, order kept.

    ``function(a, b)`` must be associative (it need not be commutative): neighbours are folded in any grouping, in
    parallel. At most a few runs for each worker are held at a time, so the source may be endless in all but time.

    :param on: a pool or the name of a default one; by default the process pool, or the loop for a coroutine function
    :param initial: stands before the first item
    :raises TypeError: there are no items and no ``initial``
    """
    from asyncpar.runtime import default_pool

    _check_callable(function)
    pool: Any = on
    if on is None:
        pool = None if is_async(function) else await default_pool("process")
    elif isinstance(on, str):
        pool = await default_pool(on)
    return await fold(pool, function, items, *([] if initial is _MISSING else [initial]))
