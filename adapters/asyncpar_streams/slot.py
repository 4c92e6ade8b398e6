"""A slot: a thread that owns a stream. It submits a call, waits until the device has done it, and answers the loop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Sequence
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from asyncpar.chunks import Chunk, Errors
from asyncpar.errors import MemoryLimitError, foreign
from asyncpar.sharing import unwrap
from asyncpar.thread import Caller, joined
from asyncpar_streams.batching import signature, split, stacked
from asyncpar_streams.budget import Request
from asyncpar_streams.device import Device, Stream
from asyncpar_streams.needs import show_bytes
from asyncpar_streams.transfer import Result, Transfer, taken

if TYPE_CHECKING:
    from asyncpar_streams.site import Site

Arguments = tuple[Sequence[Any], dict[str, Any]]


class Work:
    """A chunk on its way over a device, and what came of it so far.

    :ivar todo: calls without an outcome; those of which the device's memory did not suffice stay there
    :ivar peaks: of each run, its calls and the bytes that each took
    :ivar fault: the error after which the device runs nothing more
    """

    def __init__(self, site: Site, chunk: Chunk, need: int | None) -> None:
        self.site, self.chunk = site, chunk
        self.context = contextvars.copy_context()
        self.request = Request(need, self.begin)
        self.slot: Any = None
        self.begun = False
        self.todo = list(range(len(chunk.items)))
        self.values: list[Any] = [None] * len(chunk.items)
        self.errors: Errors = {}
        self.peaks: list[tuple[int, int]] = []
        self.batches = 0
        self.seconds = 0.0
        self.fault: BaseException | None = None

    def begin(self) -> None:
        """It is its turn: on the loop's thread."""
        self.begun = True
        self.slot.begin(self)

    def arguments(self, index: int) -> tuple[Callable[..., Any], Sequence[Any], dict[str, Any]]:
        """Function, arguments and keywords of one call."""
        function, args, kwargs = self.chunk.call(index)
        return (function, *unwrap(args, kwargs))


class Runner:
    """Runs calls on one stream, in the thread that owns it.

    :ivar peak: the most bytes that the last run had allocated, if the library tells
    """

    def __init__(self, device: Device, stream: Stream, result: Result) -> None:
        self.result: Result = result
        self.device, self.stream = device, stream
        self.caller = Caller()
        self.peak: int | None = None

    def run(self, function: Callable[..., Any], calls: Sequence[Arguments], label: str) -> list[Any]:
        """The results of one call, or of several that are run as one."""
        self.stream.begin()
        try:
            if len(calls) == 1:
                return [self._run(function, lambda: calls[0])]
            value = self._run(function, lambda: stacked(self.device, self.stream, calls))
            return split(self.device, value, len(calls), label)
        finally:
            self.peak = self.stream.end()

    def _run(self, function: Callable[..., Any], arguments: Callable[[], Arguments]) -> Any:
        transfer, value = Transfer(self.device, self.stream, self.result), None
        try:
            args, kwargs = transfer.send(arguments())
            value = self.caller.call(function, args, kwargs)
            fetched = transfer.fetch(value)
        finally:
            self.stream.synchronize(value)
        return taken(fetched)

    def close(self) -> None:
        """Give up the stream."""
        self.caller.close()
        with contextlib.suppress(Exception):  # a device that has failed fails here, too
            self.stream.close()


class Slot:
    """A place for one chunk of a ``StreamPool``: a thread of this process.

    :ivar ready: done when the stream is there; the device's error if it cannot be made
    """

    def __init__(self, site: Site, number: int, *, first: bool) -> None:
        self.site, self.first = site, first  # the first opens the device, and closes it as the last
        self.load = 0
        self.current: tuple[int, float] | None = None  # call that runs, and since when
        self.ready: asyncio.Future[None] = site.pool.loop.create_future()
        self.inbox: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        name = f"asyncpar-stream-{site.device.number}-{number}"
        self.thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def start(self) -> None:
        """Have the stream made; ``ready`` tells when it is."""
        self.thread.start()

    def begin(self, work: Work) -> None:
        """Run a chunk."""
        self.inbox.put(work)

    async def close(self) -> None:
        """End the thread, once the device is done with what it submitted."""
        if self.thread.ident is not None:
            self.inbox.put(None)
            await joined(self.thread)

    # -- in the thread

    def _serve(self) -> None:
        device = self.site.device
        try:
            if self.first:
                device.open()
            self.runner = Runner(device, device.stream(), self.site.pool.result)
        except BaseException as error:  # whatever it is, the one who opens the pool must hear of it
            self._post(_settle, self.ready, error)
            return
        self._post(_settle, self.ready, None)
        while (work := self.inbox.get()) is not None:
            perform(work, self, self.runner)
            self._post(self.site.pool.answered, work)
            del work  # its arrays must not wait here for the next call
        self.runner.close()
        if self.first:
            device.close()

    def _post(self, function: Callable[..., object], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
            self.site.pool.loop.call_soon_threadsafe(function, *args)


def _settle(ready: asyncio.Future[None], error: BaseException | None) -> None:
    if ready.done():
        return
    if error is None:
        ready.set_result(None)
    else:
        ready.set_exception(error if isinstance(error, Exception) else foreign(error))


def perform(work: Work, slot: Slot, runner: Runner) -> None:
    """Run what is to do of a chunk, in the slot's thread; outcomes are in ``work`` afterwards."""
    begun = time.perf_counter()
    groups, work.todo = groups_of(work, runner.device), []
    for indices in groups:
        slot.current = indices[0], time.monotonic()
        _perform_group(work, indices, runner)
    slot.current = None
    work.seconds = time.perf_counter() - begun


def groups_of(work: Work, device: Device) -> list[list[int]]:
    """The calls that are to run, those together that run as one. What was told to stop gets its end here."""
    stops = work.chunk.stops or {}
    work.errors.update({index: stops[index] for index in work.todo if index in stops})
    left = [index for index in work.todo if index not in stops]
    if work.site.pool.batch is None:
        return [[index] for index in left]
    groups: dict[Any, list[int]] = {}
    for index in left:
        function, args, kwargs = work.arguments(index)
        kind = signature(device, args, kwargs)
        groups.setdefault(index if kind is None else (function, kind), []).append(index)
    return list(groups.values())


def _perform_group(work: Work, indices: list[int], runner: Runner) -> None:
    chunk = work.chunk
    calls = [work.arguments(index) for index in indices]
    label = chunk.label(indices[0])
    work.batches += len(calls) > 1
    try:
        values = work.context.run(runner.run, calls[0][0], [call[1:] for call in calls], label)
    except BaseException as error:  # the call's own, too: it must not end the thread
        outcome = _outcome(work, error, runner.device, label)
        if outcome is None:
            work.todo += indices
            return
        if len(calls) > 1:
            outcome.add_note(f"{label} ran once for {len(calls)} calls, stacked (batch=)")
        work.errors.update(dict.fromkeys(indices, outcome))
        return
    for index, value in zip(indices, values, strict=True):
        work.values[index] = value
        if runner.peak is not None:
            work.peaks.append((index, runner.peak // len(indices)))


def _outcome(work: Work, error: BaseException, device: Device, label: str) -> BaseException | None:
    """What a call ends with that raised this; ``None``: it is to run again, alone."""
    link = error.__traceback__
    if device.out_of_memory(error):
        # The traceback's frames hold arrays of the device, without which the second attempt may do.
        clear_frames(link)
        error.__traceback__ = None
        return out_of_memory(error, device, label) if work.request.alone else None
    if device.fault(error):
        work.fault = error
    clear_frames(link)
    return error if isinstance(error, Exception) else foreign(error)


def out_of_memory(error: BaseException, device: Device, label: str) -> MemoryLimitError:
    """The error of a call that had the device to itself, and not enough memory."""
    memory = device.memory()
    figures = (
        (device.asked(error), "it asked for {}"),
        (memory.free, "{} are free"),
        (memory.held, "this process holds {}"),
        (memory.total, "the device has {} in all"),
    )
    known = [text.format(show_bytes(size)) for size, text in figures if size is not None]
    made = MemoryLimitError(
        f"{label} ran out of memory on {device.name}, also when it ran alone: "
        f"{', '.join(known)}. "
        "Give it smaller arguments, or drop arrays that were left on the device"
    )
    made.__cause__ = error
    return made
