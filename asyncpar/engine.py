"""What the pools have in common that run on an engine which others wrote, such as Dask: a chunk is one task there.

An adapter supplies how to connect, the places, and three coroutines: ``_submit`` has a request run, ``_keep`` puts a
constant where its workers find it, and ``_withdraw`` stops what nobody wants. The rest is here; the far side is ``far``.
"""

from __future__ import annotations

import asyncio
import pickle
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asyncpar import sharing
from asyncpar.chunks import Chunk, Errors, Function
from asyncpar.errors import WorkerLostError
from asyncpar.far import Constant, Dump, Parcels, Reply, Request, pack
from asyncpar.pool import Pool
from asyncpar.process.encoding import HEAVY, explain, found_by_name, heavy
from asyncpar.process.packing import plain

AHEAD = 2
"""Chunks at a place: one that runs, and one that waits there, so that the worker does not idle while answers travel."""


class Place:
    """Room for chunks: what one worker of the engine runs at a time.

    :ivar chunks: those that are there, the one that runs first
    :ivar since: when the first came to be the first
    """

    def __init__(self) -> None:
        self.load = 0
        self.chunks: list[Chunk] = []
        self.since = 0.0


class LostError(Exception):
    """For ``_submit`` to raise: the worker died, and with it what the chunk had brought. The text says how."""

    pid: int | None = None


class WithdrawnError(Exception):
    """For ``_submit`` to raise: the engine stopped the chunk, as asked."""


class EnginePool(Pool):
    """Runs chunks as tasks of an engine. See the module."""

    chunk_seconds = 0.02
    default_limit = 10_000
    knows_what_runs = False

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.places: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._constants: dict[int, asyncio.Future[Any]] = {}
        self._dump: Dump = pickle.dumps
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="asyncpar-engine")

    # -- what an adapter supplies

    @abstractmethod
    async def _submit(self, chunk: Chunk, request: Request, constants: Sequence[Any]) -> Reply:
        """Have a request run at ``chunk.place``; its reply.

        :raises LostError, WithdrawnError: it has none
        """

    @abstractmethod
    async def _keep(self, constant: Constant) -> Any:
        """Put a constant where the workers find it; ``_submit`` gets what this returns, and drops it in the end."""

    def _withdraw(self, chunk: Chunk) -> bool:
        """Stop a chunk that nobody wants any more; true if its calls will end through it."""
        return False

    # -- as a pool

    def _place(self) -> Any:
        place = min(self.places, key=lambda place: place.load, default=None)
        return None if place is None or place.load >= AHEAD else place

    def _send(self, place: Any, chunk: Chunk) -> None:
        if not place.chunks:
            place.since = self.loop.time()
        place.chunks.append(chunk)
        task = self.loop.create_task(self._carry(chunk), name="asyncpar: a chunk on its way")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def vacate(self, chunk: Chunk) -> None:
        """As every pool does; what waited behind it has begun."""
        place = chunk.place
        if chunk in place.chunks:
            place.chunks.remove(chunk)
            place.since = self.loop.time()
        super().vacate(chunk)

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        place = chunk.place
        if not place.chunks or place.chunks[0] is not chunk:
            return None
        return chunk.done, self.loop.time() - place.since

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        return not self._wanted(chunk) and self._withdraw(chunk)

    def _wanted(self, chunk: Chunk) -> bool:
        """Whether a call is left in it that was not told to stop."""
        stops = chunk.stops or {}
        return any(index not in stops for index in range(chunk.done, len(chunk.items)))

    async def _carry(self, chunk: Chunk) -> None:
        """One chunk, and what becomes of it."""
        try:
            await self._bring(chunk)
        except WithdrawnError:
            self._vacate(chunk)
            chunk.stopped(len(chunk.items) - chunk.done)
        except LostError as error:
            self._lose(chunk, error)
        except Exception as error:  # of the engine or its connection: no call may be left without an end
            self._fail(chunk, error)
        except asyncio.CancelledError:
            self._vacate(chunk)
            raise
        if self._state == "open":
            self.pump()

    async def _bring(self, chunk: Chunk) -> None:
        sent, request, errors, shared = await self._packed(chunk)
        values: list[Any] = [None] * len(chunk.items)
        end = len(values)
        if sent and not chunk.finished:
            constants = [await self._constant(one) for one in shared]
            if not self._wanted(chunk):
                raise WithdrawnError
            reply = await self._submit(chunk, request, constants)
            large = reply.values.weight() > HEAVY
            brought, raised = await self._off_loop(reply.open) if large else reply.open()
            chunk.function.measured(reply.seconds, max(1, len(brought)))
            for position, value in enumerate(brought):
                values[sent[position]] = value
            errors.update({sent[position]: error for position, error in raised.items()})
            if len(brought) < len(sent):
                end = sent[len(brought)]
        self._vacate(chunk)
        if not chunk.finished:
            chunk.deliver(values[:end], {i: error for i, error in errors.items() if i < end} or None)
            chunk.requeue()

    # -- packing

    async def _packed(self, chunk: Chunk) -> tuple[list[int], Request, Errors, list[Any]]:
        """Indices of the calls that can be sent, the request of these, the errors of the others, the constants."""
        items = chunk.items
        arguments = [(call.args, call.kwargs) for call in items] if chunk.singles else items
        if heavy(list(arguments), self._constants):
            packed: tuple[list[int], Request, Errors, list[Any]] = await self._off_loop(self._pack, chunk)
            return packed
        return self._pack(chunk)

    def _pack(self, chunk: Chunk) -> tuple[list[int], Request, Errors, list[Any]]:
        errors: Errors = {}
        shared: list[Any] = []
        sharing.packing.shared = shared
        try:
            kind, functions, sent, values = self._parts(chunk, errors)
            parcels, unsendable = _singles(values, self._dump) if chunk.singles else pack(values, self._dump)
        finally:
            sharing.packing.shared = None
        for position, error in unsendable.items():
            index = sent[position]
            _, args, kwargs = chunk.call(index)
            what = (args, kwargs) if kwargs else args
            errors[index] = explain(what, error, True, chunk.label(index), bool(kwargs))
        sent = [index for position, index in enumerate(sent) if position not in unsendable]
        constants = list({one.number: one for one in shared}.values())
        numbers = [one.number for one in constants]
        return sent, Request(kind, functions, parcels, numbers, self._dump), errors, constants

    def _parts(self, chunk: Chunk, errors: Errors) -> tuple[str, list[bytes], list[int], list[Any]]:
        """The kind of a request, its functions, the calls whose function can be sent, and what they take."""
        known: dict[int, int] = {}
        blobs: list[bytes] = []
        sent: list[int] = []
        values: list[Any] = []
        for index, item in enumerate(chunk.items):
            function = item.function if chunk.singles else chunk.function
            try:
                number = known.get(id(function))
                if number is None:
                    number = known[id(function)] = len(blobs)
                    blobs.append(self._function_blob(function))
            except Exception as error:  # the user's __reduce__ may raise anything
                known.pop(id(function), None)
                errors[index] = explain(function.call, error, True)
                continue
            sent.append(index)
            values.append((number, item.args, item.kwargs) if chunk.singles else item)
        return "singles" if chunk.singles else "star" if chunk.star else "map", blobs, sent, values

    def _function_blob(self, function: Function) -> bytes:
        """Kept for functions that have a name. What has a state is sent as it is then."""
        if function.blob:
            return function.blob
        blob = self._dump(function.call, 5)
        if found_by_name(function.call) and function.call.__module__ != "__main__":
            function.blob = blob
        return blob

    # -- constants

    async def _constant(self, shared: Any) -> Any:
        kept = self._constants.get(shared.number)
        if kept is None:
            kept = asyncio.ensure_future(self._keep(Constant(shared.value)))
            self._constants[shared.number] = kept
            weakref.finalize(shared, self._constants.pop, shared.number, None).atexit = False
        return await asyncio.shield(kept)

    # -- ends without a reply

    def _lose(self, chunk: Chunk, error: LostError) -> None:
        """Its worker died. Nobody knows which of its calls ran."""
        many = len(chunk.items) - chunk.done
        self._lost += many
        names = {chunk.label(i) for i in range(chunk.done, len(chunk.items))}
        label = names.pop() if len(names) == 1 else "several functions"
        what = (
            ""
            if many == 1
            else f"; it was one of the {many} calls that travelled together, and any may have run"
        )
        message = f"{error} while it ran {label}{what}; the pool goes on; run it again with retries= if that is safe"
        self._fail(chunk, WorkerLostError(message, pid=error.pid, function=label))

    def _fail(self, chunk: Chunk, error: BaseException) -> None:
        """The same error for each call that is left."""
        self._vacate(chunk)
        many = len(chunk.items) - chunk.done
        if many:
            chunk.deliver([None] * many, dict.fromkeys(range(many), error))

    def _vacate(self, chunk: Chunk) -> None:
        if chunk in self._running:
            self.vacate(chunk)

    async def _off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call what blocks, on a thread of the pool's own, which ends with it."""
        return await self.loop.run_in_executor(self._threads, function, *args)

    async def _close(self) -> None:
        """For an adapter to call in the end."""
        self._threads.shutdown(wait=False)  # they idle, and end at once

    async def _end_tasks(self) -> None:
        """For ``_close``: no chunk is waited for any more."""
        tasks = [*self._tasks, *self._constants.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._constants.clear()


def _singles(values: list[Any], dump: Dump) -> tuple[Parcels, dict[int, Exception]]:
    """Calls that were made one by one: plain ones share a pickle."""
    if all(not kwargs for _, _, kwargs in values) and plain([args for _, args, _ in values]):
        return Parcels(pickle.dumps(values, 5)), {}
    return pack(values, dump)
