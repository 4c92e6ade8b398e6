"""One small class a library, all with the same methods. Libraries are imported when a peer is opened.

A method that a library has no counterpart for raises `Unsupported` with the reason; the table prints it.
Every library is used as its documentation shows, with its own defaults, and with the number of workers given.
Libraries whose map blocks are called straight from the loop's thread, which spares them a thread hop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from benchmarks import functions

STREAM_CHUNK = 10_000
STREAM_LIMIT = 10_000
Function = Callable[..., Any]


class Unsupported(Exception):
    """This library has no counterpart for the case; the message says why."""


class Peer:
    name: ClassVar[str]
    package: ClassVar[str] = ""
    """The distribution whose version is printed; the standard library where empty."""
    kind: ClassVar[str] = "process"
    backend: ClassVar[str] = "asyncio"
    cases: ClassVar[tuple[str, ...]] = ()
    """The only cases that it is measured in; all of its kind where empty."""
    hand_chunks: ClassVar[bool] = False
    """Its map takes no chunk size: the tuned map cuts chunks by hand."""
    shares_constants: ClassVar[bool] = False
    """Its `broadcast` sends the constant once; else the time of a few calls is multiplied."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def run(self, function: Function, *args: Any) -> Any:
        raise Unsupported("has no single calls, only whole maps")

    def caller(self) -> Function:
        """What makes a single call: the library's own function where it has one, with nothing of ours around it."""
        return self.run

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        """All results; with no `chunk`, whatever the library does by itself. Here: one call an item."""
        return await many(self.run, function, items, width=64)

    async def tuned_map(self, function: Function, items: Sequence[Any], chunk: int) -> Any:
        if not self.hand_chunks:
            return await self.map(function, items, chunk)
        cut = [(function, items[i : i + chunk]) for i in range(0, len(items), chunk)]
        return await many(self._run_tuple, functions.each, cut, width=2 * self.workers)

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        raise Unsupported("has no map over a stream")

    async def broadcast(self, function: Function, constant: Any, indices: Sequence[int]) -> Any:
        """`function(constant, index)` for each; by default the constant travels in every call."""
        pairs = [(constant, index) for index in indices]
        return await many(self._run_tuple, function, pairs, width=2 * self.workers)

    async def cancelled(self, function: Function, *args: Any, after: float) -> float:
        """Cancel a call that runs, wait until its `await` returned, and give the time of the cancelling."""
        task = asyncio.ensure_future(self.run(function, *args))
        await asyncio.sleep(after)
        moment = time.perf_counter()
        task.cancel()
        await asyncio.wait([task])
        return moment

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        raise Unsupported("does not run coroutines on the loop")

    async def _run_tuple(self, function: Function, args: tuple[Any, ...]) -> Any:
        return await self.run(function, *args)


async def many(run: Function, function: Function, items: Sequence[Any], width: int) -> list[Any]:
    """What a user writes who has only single calls: `width` of them in flight."""
    import anyio

    results: list[Any] = [None] * len(items)
    source = iter(enumerate(items))

    async def lane() -> None:
        for index, item in source:
            results[index] = await run(function, item)

    async with anyio.create_task_group() as group:
        for _ in range(width):
            group.start_soon(lane)
    return results


async def over(items: Iterator[Any]) -> AsyncGenerator[Any]:
    for item in items:
        yield item


def answer(start: Callable[[Function, Function], Any]) -> Awaitable[Any]:
    """An awaitable for a library that answers by callbacks from a thread: `start(on_value, on_error)`."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(setter: Function, value: Any) -> None:
        if not future.done():
            setter(value)

    def from_thread(setter: Function) -> Function:
        return lambda value: loop.call_soon_threadsafe(settle, setter, value)

    start(from_thread(future.set_result), from_thread(future.set_exception))
    return future


class Asyncpar(Peer):
    name = "asyncpar"
    package = "asyncpar"
    kind = "both"
    shares_constants = True

    async def open(self) -> None:
        import asyncpar

        self.pool = await asyncpar.ProcessPool(self.workers).__aenter__()

    async def close(self) -> None:
        await self.pool.__aexit__(None, None, None)

    async def run(self, function: Function, *args: Any) -> Any:
        return await self.pool.run(function, *args)

    def caller(self) -> Function:
        return self.pool.run

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        """Never tuned: `chunk` is left to the library in the tuned map too."""
        return await self.pool.map(function, items)

    async def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        async with self.pool.map(function, items, limit=STREAM_LIMIT) as results:
            async for value in results:
                yield value

    async def broadcast(self, function: Function, constant: Any, indices: Sequence[int]) -> Any:
        import asyncpar

        shared = asyncpar.share(constant)
        return await self.pool.map(function, [shared] * len(indices), indices)

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        import asyncpar

        taken = 0
        async for _ in asyncpar.map(function, items, limit=limit):
            taken += 1
        return taken


class AsyncparNull(Asyncpar):
    """The control: the same once more, so that its ratio shows what the machine's noise is worth."""

    name = "asyncpar (null)"
    package = ""


class Executor(Peer):
    name = "ppe"

    async def open(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self.pool: Any = ProcessPoolExecutor(self.workers)

    async def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)

    async def run(self, function: Function, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)

    def caller(self) -> Function:
        return functools.partial(asyncio.get_running_loop().run_in_executor, self.pool)

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        return list(self.pool.map(function, items, chunksize=chunk or 1))

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        return over(self.pool.map(function, items, chunksize=STREAM_CHUNK))


class Loky(Executor):
    name = "loky"
    package = "loky"

    async def open(self) -> None:
        import loky

        self.pool = loky.get_reusable_executor(max_workers=self.workers)

    async def close(self) -> None:
        self.pool.shutdown(kill_workers=True)


class MultiprocessingPool(Peer):
    name = "mppool"

    async def open(self) -> None:
        import multiprocessing

        self.pool = multiprocessing.Pool(self.workers)

    async def close(self) -> None:
        self.pool.terminate()

    async def run(self, function: Function, *args: Any) -> Any:
        return await answer(lambda value, error: self.pool.apply_async(function, args, {}, value, error))

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        """Untuned, `imap`, its map that streams; `MultiprocessingMap` is the one that needs the whole list."""
        if chunk is None:
            return list(self.pool.imap(function, items))
        return self.pool.map(function, items, chunk)

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        return over(self.pool.imap(function, items, STREAM_CHUNK))


class MultiprocessingMap(MultiprocessingPool):
    """The same pool's `map`, which knows the length and cuts the list into four chunks a worker."""

    name = "mppool.map"
    cases = ("mapd", "uneven")

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        return self.pool.map(function, items, chunk)


class Anyio(Peer):
    name = "anyio"
    package = "anyio"
    hand_chunks = True

    async def open(self) -> None:
        import anyio.to_process

        self.limiter: Any = anyio.CapacityLimiter(self.workers)
        self.run_sync = anyio.to_process.run_sync

    async def run(self, function: Function, *args: Any) -> Any:
        return await self.run_sync(function, *args, cancellable=True, limiter=self.limiter)

    def caller(self) -> Function:
        return functools.partial(self.run_sync, cancellable=True, limiter=self.limiter)


class TrioParallel(Peer):
    name = "trio-parallel"
    package = "trio-parallel"
    backend = "trio"
    hand_chunks = True

    async def open(self) -> None:
        import trio
        import trio_parallel

        self.limiter = trio.CapacityLimiter(self.workers)
        self.run_sync = trio_parallel.run_sync

    async def run(self, function: Function, *args: Any) -> Any:
        return await self.run_sync(function, *args, kill_on_cancel=True, limiter=self.limiter)

    def caller(self) -> Function:
        return functools.partial(self.run_sync, kill_on_cancel=True, limiter=self.limiter)

    async def cancelled(self, function: Function, *args: Any, after: float) -> float:
        import trio

        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.run, function, *args)
                await trio.sleep(after)
                moment = time.perf_counter()
                scope.cancel()
        return moment


class Joblib(Peer):
    name = "joblib"
    package = "joblib"
    shares_constants = True

    async def open(self) -> None:
        import joblib

        self.delayed = joblib.delayed
        self.parallel = joblib.Parallel

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        batch = chunk or "auto"
        return self.parallel(self.workers, batch_size=batch)(self.delayed(function)(item) for item in items)

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        calls = (self.delayed(function)(item) for item in items)
        return over(self.parallel(self.workers, return_as="generator")(calls))

    async def broadcast(self, function: Function, constant: Any, indices: Sequence[int]) -> Any:
        """It maps large arrays into the workers by itself."""
        return self.parallel(self.workers)(self.delayed(function)(constant, index) for index in indices)


class Mpire(Peer):
    name = "mpire"
    package = "mpire"
    shares_constants = True

    async def open(self) -> None:
        import mpire

        self.pool = mpire.WorkerPool(self.workers, keep_alive=True)

    async def close(self) -> None:
        self.pool.terminate()

    async def run(self, function: Function, *args: Any) -> Any:
        return await answer(
            lambda value, error: self.pool.apply_async(function, args, callback=value, error_callback=error)
        )

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        return self.pool.map(function, items, chunk_size=chunk)

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        return over(self.pool.imap(function, items, chunk_size=STREAM_CHUNK // 10))

    async def broadcast(self, function: Function, constant: Any, indices: Sequence[int]) -> Any:
        """Its shared objects reach the workers by fork, so that they start after the constant is known."""
        import mpire

        self.pool.stop_and_join(keep_alive=False)
        self.pool = mpire.WorkerPool(self.workers, shared_objects=constant)
        return self.pool.map(function, indices)


class Pebble(Peer):
    name = "pebble"
    package = "Pebble"

    async def open(self) -> None:
        import pebble

        self.pool = pebble.ProcessPool(max_workers=self.workers)

    async def close(self) -> None:
        self.pool.stop()
        self.pool.join(5)

    async def run(self, function: Function, *args: Any) -> Any:
        return await asyncio.wrap_future(self.pool.schedule(function, args=args))

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        return list(self.pool.map(function, items, chunksize=chunk or 1).result())

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        return over(self.pool.map(function, items, chunksize=STREAM_CHUNK).result())


class Aiomultiprocess(Peer):
    name = "aiomultiprocess"
    package = "aiomultiprocess"
    hand_chunks = True

    async def open(self) -> None:
        import aiomultiprocess

        self.pool = aiomultiprocess.Pool(self.workers)

    async def close(self) -> None:
        self.pool.terminate()

    async def run(self, function: Function, *args: Any) -> Any:
        return await self.pool.apply(functions.as_coroutine, (function, *args))

    async def map(self, function: Function, items: Sequence[Any], chunk: int | None = None) -> Any:
        return await self.pool.starmap(functions.as_coroutine, [(function, item) for item in items])

    def stream(self, function: Function, items: Iterable[Any]) -> AsyncGenerator[Any]:
        raise Unsupported("its map reads all items first and starts one task each: hours for 3,000,000")


class PlainTasks(Peer):
    """No library: as many tasks as the limit, which share one iterator. The floor of every such map."""

    name = "plain tasks (floor)"
    kind = "coroutine"

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        source, results = iter(enumerate(items)), [None] * len(items)

        async def lane() -> None:
            for index, item in source:
                results[index] = await function(item)

        await asyncio.gather(*(lane() for _ in range(limit)))
        return len(results)


class SemaphoreGather(Peer):
    name = "semaphore+gather"
    kind = "coroutine"

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        semaphore = asyncio.Semaphore(limit)

        async def one(item: Any) -> Any:
            async with semaphore:
                return await function(item)

        return len(await asyncio.gather(*(one(item) for item in items)))


class AnyioStreams(Peer):
    name = "anyio streams"
    package = "anyio"
    kind = "coroutine"

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        import anyio

        send, receive = anyio.create_memory_object_stream[Any](limit)
        source = iter(items)

        async def lane(out: Any) -> None:
            async with out:
                for item in source:
                    await out.send(await function(item))

        taken = 0
        async with anyio.create_task_group() as group:
            async with send:
                for _ in range(limit):
                    group.start_soon(lane, send.clone())
            async with receive:
                async for _ in receive:
                    taken += 1
        return taken


class Aiometer(Peer):
    name = "aiometer"
    package = "aiometer"
    kind = "coroutine"

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        import aiometer

        taken = 0
        async with aiometer.amap(function, items, max_at_once=limit) as results:
            async for _ in results:
                taken += 1
        return taken


class Aiostream(Peer):
    name = "aiostream"
    package = "aiostream"
    kind = "coroutine"

    async def map_coroutines(self, function: Function, items: Sequence[Any], limit: int) -> int:
        from aiostream import stream

        taken = 0
        async with stream.map(stream.iterate(items), function, task_limit=limit).stream() as results:
            async for _ in results:
                taken += 1
        return taken


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Asyncpar,
        AsyncparNull,
        Executor,
        MultiprocessingPool,
        MultiprocessingMap,
        Anyio,
        TrioParallel,
        Loky,
        Joblib,
        Mpire,
        Pebble,
        Aiomultiprocess,
        PlainTasks,
        SemaphoreGather,
        AnyioStreams,
        Aiometer,
        Aiostream,
    )
}
