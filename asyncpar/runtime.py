"""Running a program: the event loop, signals, and the default pools that short forms use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from asyncpar.chunks import is_async
from asyncpar.errors import NestedPoolError, PoolNotFoundError, describe
from asyncpar.process import transit

if TYPE_CHECKING:
    from asyncpar.pool import Pool

T = TypeVar("T")
P = ParamSpec("P")

OWN_POOLS = {
    "process": ("asyncpar.process.pool", "ProcessPool"),
    "thread": ("asyncpar.thread", "ThreadPool"),
    "inline": ("asyncpar.inline", "InlinePool"),
}
_runtimes: dict[asyncio.AbstractEventLoop, Runtime] = {}


class Runtime:
    """The default pools of one event loop. ``asyncpar.run`` has one; elsewhere use ``async with open_runtime():``."""

    def __init__(self) -> None:
        self._pools: dict[str, asyncio.Task[Pool]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._outer: Runtime | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._outer = _runtimes.get(self._loop)
        _runtimes[self._loop] = self
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._loop is not None
        if self._outer is None:
            del _runtimes[self._loop]
        else:
            _runtimes[self._loop] = self._outer
        pools = [task.result() for task in self._pools.values() if task.done() and not task.exception()]
        self._pools.clear()
        for pool in reversed(pools):
            await pool.aclose()

    async def pool(self, name: str) -> Pool:
        """The default pool of this name, opened at its first use."""
        task = self._pools.get(name)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._open(name))
            self._pools[name] = task
        try:
            return await asyncio.shield(task)
        except BaseException:  # cancelled too; the next to ask tries again, unless the pool is there by then
            if task.done() and (task.cancelled() or task.exception()):
                self._pools.pop(name, None)
            raise

    async def _open(self, name: str) -> Pool:
        return await open_pool(name).__aenter__()


def open_runtime() -> Runtime:
    """Default pools for a program that has an event loop of its own: ``async with asyncpar.open_runtime(): ...``."""
    return Runtime()


async def default_pool(name: str) -> Pool:
    """The default pool of this name in the running loop's runtime."""
    runtime = _runtimes.get(asyncio.get_running_loop())
    if runtime is None:
        raise RuntimeError(
            "there are no default pools in this event loop: start the program with asyncpar.run(main), "
            "or put 'async with asyncpar.open_runtime():' around this, or open a pool yourself"
        )
    return await runtime.pool(name)


def run(main: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an async program: ``asyncpar.run(main)``, on uvloop where that is installed.

    Default pools are opened at first use and closed at the end. Ctrl-C cancels ``main``, which may clean up, and then
    raises ``KeyboardInterrupt`` (exit code 130); SIGTERM does the same with exit code 143. If the loop stands still,
    because a function on it does not return, ``KeyboardInterrupt`` is raised in that function a quarter of a second
    later. A second Ctrl-C raises it at once.

    :raises TypeError: ``main`` is not a coroutine function
    :raises RuntimeError: called while an event loop runs in this thread
    :raises NestedPoolError: called while a worker imports the script, which then lacks its ``__main__`` guard
    """
    if asyncio.iscoroutine(main):
        main.close()
        raise TypeError(
            "asyncpar.run takes the function itself, not a coroutine: asyncpar.run(main), not main()"
        )
    if not is_async(main):
        raise TypeError(f"asyncpar.run takes a coroutine function (async def), not {describe(main)}")
    if transit.importing_main:
        raise NestedPoolError(
            "asyncpar.run was called while a worker was importing this script to find its functions: "
            "put the call under 'if __name__ == \"__main__\":'"
        )
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "asyncpar.run starts an event loop, and one runs in this thread already: await the function there, "
            "inside 'async with asyncpar.open_runtime():' if it uses default pools"
        )
    from asyncpar.interrupts import Interrupts

    interrupts = Interrupts()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return interrupts.run(runner, _main(main, args, kwargs))
    except (KeyboardInterrupt, asyncio.CancelledError) as error:
        interrupts.leave(error)
        raise


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _main(main: Callable[..., Coroutine[Any, Any, T]], args: Any, kwargs: Any) -> T:
    async with open_runtime():
        return await main(*args, **kwargs)


async def to_process(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a CPU-bound function on the default process pool. See ``Pool.run``."""
    return await (await default_pool("process")).run(function, *args, **kwargs)


async def to_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking function on the default thread pool. See ``Pool.run`` and ``ThreadPool``."""
    return await (await default_pool("thread")).run(function, *args, **kwargs)


def open_pool(name: str | None = None, **options: Any) -> Pool:
    """A new pool by name, to be entered with ``async with``: ``open_pool("process", workers=4)``.

    :param name: ``"process"``, ``"thread"``, ``"inline"`` or one that an installed package registers under the
        entry-point group ``asyncpar.pools``; what follows a colon is passed on (``"lambda:my-function"``),
        and is the number of workers for the first two (``"process:4"``).
        Default: the environment variable ``ASYNCPAR_POOL``, else ``"process"``.
    :raises PoolNotFoundError: there is none of that name
    :raises ValueError: what follows the colon is nothing that this pool takes
    """
    name = name or os.environ.get("ASYNCPAR_POOL") or "process"
    cls, argument = find_pool(name)
    made: Pool = cls(_argument(name, argument), **options) if argument else cls(**options)
    return made


def _argument(name: str, argument: str) -> Any:
    """What follows the colon, as the pool takes it: the number of workers, for our own."""
    kind = name.partition(":")[0]
    if kind not in OWN_POOLS:
        return argument
    if kind == "inline":
        raise ValueError(f"there is no pool {name!r}: an inline pool takes nothing behind its name")
    if not argument.isdecimal():
        raise ValueError(
            f"there is no pool {name!r}: what follows the colon is the number of workers, as in '{kind}:4'"
        )
    return int(argument)


def find_pool(name: str) -> tuple[type[Any], str]:
    """The class for a pool's name, and what follows the colon."""
    kind, _, argument = name.partition(":")
    import importlib

    if kind in OWN_POOLS:
        module, attribute = OWN_POOLS[kind]
        return getattr(importlib.import_module(module), attribute), argument
    from importlib.metadata import entry_points  # costs 100 ms, so only when needed

    found = {entry.name: entry for entry in entry_points(group="asyncpar.pools")}
    if kind not in found:
        known = ", ".join(sorted({*OWN_POOLS, *found}))
        raise PoolNotFoundError(f"there is no pool named {kind!r}; installed are: {known}")
    return found[kind].load(), argument
