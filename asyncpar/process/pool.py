"""The process pool, the loop's side: dispatch, cancelling, healing. No threads but one for large pickles."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pickle
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from asyncpar.chunks import Chunk, Function, name_of
from asyncpar.cpus import usable_cpus
from asyncpar.errors import (
    BrokenPoolError,
    MemoryLimitError,
    NestedPoolError,
    UnsupportedError,
    WorkerLostError,
    fresh,
    signal_name,
)  # fmt: skip
from asyncpar.feed import LONG_SECONDS
from asyncpar.pool import KNOWN_FUNCTIONS, Call, Pool
from asyncpar.process import options, transit
from asyncpar.process.encoding import dump_yielding, explain, heavy, refuse_local
from asyncpar.process.layout import BUSY, INLINE, OUT_OF_BAND, PLAIN, READY, SEQ, SINCE
from asyncpar.process.nursery import SPARE_SLOTS, Nursery
from asyncpar.process.packing import Packing, Snapshot
from asyncpar.process.place import Place

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

DEPTH = 2
"""Chunks in a worker: one runs, one waits, so that it never idles while its answer travels."""
RECEIVE = 1 << 18
SPIN_SECONDS = 50e-6
"""How long worker and loop poll before they sleep, where a core is to spare: about what waking one costs."""
HOT_SECONDS = 200e-6
START_TRIES = 5
SETTLED_SECONDS = 1.0
"""A worker that has been ready for this long did not die of its start."""
GONE = "what lived in it is gone: open the actor or the stream again"
log = logging.getLogger("asyncpar")


class ProcessPool(Pool):
    """Worker processes for CPU-bound functions. Nothing that happens in a worker breaks it.

    :param workers: how many; default: the CPUs this process may use (affinity and cgroup quota counted)
    :param initializer: called once in each worker before its first call
    :param start: ``"zygote"``: workers are forked from a small clean process (about 1 ms each);
        ``"spawn"``: each is a fresh interpreter (about 50 ms)
    :param memory_limit: bytes of memory of its own (RSS without shared pages) that a worker may reach; a call that
        makes it larger fails with ``MemoryLimitError`` and the worker is replaced. Linux only.
    :param max_calls: a worker is replaced after this many calls
    :param threads_per_worker: threads that BLAS, OpenMP and numba may use in a worker (default 1: workers are the
        parallelism); ``None`` leaves the environment alone
    :param grace: seconds between the interrupt (``KeyboardInterrupt`` inside the function) that stops a cancelled call
        and the kill, if it goes on (default 1)
    :param preload: names of modules that the zygote imports before it forks, so that workers have them at once. What
        they make at import, random state and connections included, is then the same in all workers.
    :param functions: ``"by_value"``: lambdas, closures and what a notebook defines travel by cloudpickle, both ways
    :param context: context variables (module-level ones) whose values calls see
    :raises NestedPoolError: when opened inside a worker

    Arguments and results are pickled; buffers of 64 KiB and more (NumPy arrays, ``PickleBuffer``) travel through shared
    memory and are not copied by the receiver. ``print`` goes to the real stdout; ``logging`` records and warnings of
    workers reach the loggers of this process.
    """

    chunk_seconds = 1e-3
    default_limit = 4096
    default_limit_bytes = 256 << 20

    def __init__(
        self,
        workers: int | None = None,
        *,
        initializer: Callable[[], object] | None = None,
        start: Literal["zygote", "spawn"] = "zygote",
        memory_limit: int | None = None,
        max_calls: int | None = None,
        threads_per_worker: int | None = 1,
        grace: float = 1.0,
        preload: Sequence[str] = (),
        functions: Literal["by_reference", "by_value"] = "by_reference",
        context: Sequence[Any] = (),
    ) -> None:
        if workers is None:
            workers = usable_cpus()
        options.check(
            initializer,
            workers,
            start,
            memory_limit,
            max_calls,
            threads_per_worker,
            grace,
            preload,
            functions,
        )
        super().__init__(workers)
        self.grace, self.max_calls, self.threads = grace, max_calls, threads_per_worker
        self.memory_limit = memory_limit
        self.packing = Packing(functions)
        self.context = options.Context(context)
        self.spin = SPIN_SECONDS if usable_cpus() > 1 else 0.0
        self.settings = options.program() | {
            "start": start,
            "memory_limit": memory_limit,
            "preload": tuple(preload),
            "initializer": None if initializer is None else self.packing.dump_function(initializer),
            "by_value": self.packing.by_value,
        }
        self.owner: ProcessPool | None = None  # of the nursery, if that is another pool
        self.places: list[Place] = []
        self.leaving: set[Place] = set()
        self.heir: Place | None = None  # a worker that was started before another is missed
        self.deaths = 0  # workers that died at start since one that did not
        self.broken: BrokenPoolError | WorkerLostError | None = None
        self.carriers: dict[tuple[Callable[..., Any], str], Function] = {}
        self.watch: asyncio.TimerHandle | None = None
        self.hot_until = 0.0
        self.hot = False
        self.thread: ThreadPoolExecutor | None = None
        self.pickling: set[asyncio.Task[None]] = set()

    # -- opening and closing

    async def _open(self) -> None:
        if os.environ.get("ASYNCPAR_WORKER") == str(os.getpid()):
            main = "this script has no 'if __name__ == \"__main__\":' around its start; or "
            raise NestedPoolError(
                f"a ProcessPool cannot be opened inside a worker: {main if transit.importing_main else ''}"
                "return the work to the caller, or use a ThreadPool or InlinePool here"
            )
        buffer = bytearray(RECEIVE)
        self.buffers, self.view = [buffer], memoryview(buffer)
        try:
            self._start_workers()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise BrokenPoolError(
                f"no {type(self).__name__} with workers={self.workers} can be opened: {error}. Each worker takes two "
                "descriptors: raise the limit of open files of this program (ulimit -n), or take fewer workers"
            ) from error

    def _start_workers(self) -> None:
        if self.owner is None:
            nursery = Nursery(self.workers, self.settings, self.threads, self._zygote_lost)
            nursery.open()
            self.packing.open(nursery)
            self.nursery = nursery
        for _ in range(self.workers):
            self.places.append(self._start_worker())

    def _start_worker(self) -> Place:
        slots = self.nursery.slots
        if not slots:
            raise UnsupportedError(
                f"a ProcessPool has at most {SPARE_SLOTS} actors, streams and workers that are being replaced at a time: "
                "close some first, or open another pool for more"
            )
        return Place(self, slots.pop())

    async def _close(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
        if not hasattr(self, "nursery"):
            return
        everyone = self._everyone()
        self.places.clear()
        for place in everyone:
            place.retired = True
            place.leave_if_idle()
        deadline = self.loop.time() + self.grace + 0.05
        while not all(place.gone for place in everyone) and self.loop.time() < deadline:
            if self.nursery.control.fileno() < 0:
                break
            await asyncio.sleep(0.001)
        for _ in range(2000):
            left = [place for place in everyone if not place.gone]
            if not left or self.nursery.control.fileno() < 0:
                break
            for place in left:
                place.signal(signal.SIGKILL)
            await asyncio.sleep(0.005)
        for place in everyone:
            if not place.gone:
                place.died(-signal.SIGKILL, 0)
        if self.pickling:
            await asyncio.wait(self.pickling)
        if self.thread is not None:
            self.thread.shutdown(wait=False)
            while any(thread.is_alive() for thread in self.thread._threads):  # without blocking the loop
                await asyncio.sleep(0.001)
        if self.owner is None:
            await self.nursery.close()

    def _everyone(self) -> list[Place]:
        return [*self.places, *self.leaving, *([self.heir] if self.heir else [])]

    def _solo(self) -> ProcessPool:
        solo = ProcessPool(1, grace=self.grace)
        solo.settings, solo.threads, solo.memory_limit = self.settings, self.threads, self.memory_limit
        solo.packing, solo.context = self.packing, self.context
        solo.owner = self.owner or self
        solo.nursery = self.nursery
        return solo

    # -- places

    def _place(self) -> Place | None:
        if self.broken is not None:
            self._fail_all(self.broken)
        best: Place | None = None
        for place in self.places:
            load = place.load
            if load < DEPTH and not place.retired and not place.stuck and (best is None or load < best.load):
                if load and self.max_calls is not None:
                    continue
                best = place
                if not load:
                    break
        if best is not None and self.max_calls is not None:
            self.most_calls = self.max_calls - best.calls
        return best

    def pump(self) -> None:
        super().pump()
        if self._running and self.watch is None and not all(place.load for place in self.places):
            self.watch = self.loop.call_later(LONG_SECONDS, self._look)

    def _look(self) -> None:
        """While a worker idles, take back what waits behind a call that turned out to be long."""
        self.watch = None
        if not self._running or all(place.load for place in self.places):
            return
        for place in self.places:
            link = place.link
            if link.recalling:
                self._take_back(place)
            elif link.stuck(place.seen):
                link.recall()
                place.stuck = True
                place.signal(signal.SIGINT)
            place.seen = link.words[SEQ]
        if self._running:
            self.watch = self.loop.call_later(LONG_SECONDS, self._look)

    def _take_back(self, place: Place) -> None:
        for chunk in place.link.take_back():
            self.vacate(chunk)
            chunk.requeue()
        place.after()

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        place: Place = chunk.place
        if chunk not in place.link.in_flight:
            return False
        running = place.link.cancel(chunk, first, last)
        # Signal even if none of them runs yet: one may start before the worker looks at what was cancelled.
        place.signal(signal.SIGINT)
        self.loop.call_later(self.grace / 2, self._doubt, place, chunk, first, last)
        return running

    def _doubt(self, place: Place, chunk: Chunk, first: int, last: int) -> None:
        """Half of the grace period is over: if the call goes on, another worker gets ready."""
        if not place.gone and place.link.running_in(chunk, first, last):
            self._start_heir()
        self.loop.call_later(self.grace / 2, self._kill, place, chunk, first, last)

    def _kill(self, place: Place, chunk: Chunk, first: int, last: int) -> None:
        """The grace period is over: the call goes on, so its process ends."""
        if place.gone or chunk not in place.link.in_flight or chunk.done > last:
            return
        if place.link.running_in(chunk, first, last):
            place.signal(signal.SIGKILL)
        else:
            self.loop.call_later(self.grace or 0.01, self._kill, place, chunk, first, last)

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        words = chunk.place.link.words
        index = words[SEQ] - chunk.seq
        if not words[BUSY] or not chunk.done <= index < len(chunk.items) or not words[SINCE]:
            return None
        return index, (time.monotonic_ns() - words[SINCE]) / 1e9

    # -- functions and arguments

    def _new_function(self, call: Callable[..., Any]) -> Function:
        function = super()._new_function(call)
        self.packing.number(function)
        if not self._remembers(call):  # it goes with its map
            self.packing.forget_with(function)
        return function

    def _remembers(self, call: Callable[..., Any]) -> bool:
        return self.packing.named(call) and super()._remembers(call)

    def _make_call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Call:
        known = self._known(function)
        if known is None and callable(function) and not self._remembers(function):
            known = self._carrier(transit.carry, name_of(function))
            args = (self.packing.carried(function), *args)
        return Call(self, known or self._function(function), args, kwargs)

    def _carrier(self, through: Callable[..., Any], label: str) -> Function:
        """A function that calls another, which comes with the arguments; its costs and its name are the other's."""
        carrier = self.carriers.get((through, label))
        if carrier is None:
            if len(self.carriers) >= KNOWN_FUNCTIONS:
                self.carriers.clear()
            known = self._function(through)
            self.carriers[through, label] = carrier = Function(through)
            carrier.label, carrier.number, carrier.blob = label, known.number, known.blob
        return carrier

    def _forget(self, function: Function) -> None:
        self.packing.forget(function.number)

    def _prepare(self, call: Call) -> Coroutine[Any, Any, None] | None:
        args, kwargs = call.args, call.kwargs
        if not kwargs and not self.context:
            for arg in args:
                if type(arg) not in PLAIN or (type(arg) in (str, bytes) and len(arg) > OUT_OF_BAND // 4):
                    break
            else:
                call.payload, call.mark = args, INLINE
                return None  # nothing in it is shared, lent or large
        if self.context:
            call.args, call.kwargs = (self.context.values(), args, kwargs), {}
            call.function = self._carrier(transit.InContext(call.function.call), call.function.label)
        if heavy((call.args, call.kwargs), self.packing.constants):
            return self._prepare_slowly(call)
        self.packing.pack_call(call)
        return None

    async def _prepare_slowly(self, call: Call) -> None:
        """Pickle large arguments in the thread. A caller that goes meanwhile leaves their buffers behind."""
        work = asyncio.ensure_future(self._in_thread(self.packing.pack_call, call, dump_yielding))

        def drop(work: asyncio.Future[None]) -> None:
            if not work.cancelled() and work.exception() is None:
                self._drop(call)

        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(drop)
            raise

    def _mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if not callable(function):
            return function
        if self.context:
            function = transit.InContext(function, self.context.values())
        if self._remembers(function):
            self._function(function)  # what cannot be sent is refused now
            return function
        return Snapshot(function, self.packing.dump_function(function))

    @classmethod
    def _refuse(cls, function: Callable[..., Any]) -> None:
        refuse_local(function)

    def _check_function(self, function: Callable[..., Any]) -> None:
        self.packing.dump_function(function)

    def _drop(self, call: Call) -> None:
        self.packing.free(call.lends)
        call.lends = ()

    # -- sending

    def _send(self, place: Place, chunk: Chunk) -> None:
        if self.packing.freed:
            self.packing.give_back()
        if chunk.singles:
            self._dispatch(place, chunk, self.packing.calls_frame(place, chunk))
        elif heavy(chunk.items, self.packing.constants):
            task = self.loop.create_task(
                self._send_slowly(place, chunk), name="asyncpar: pickle a large chunk"
            )
            self.pickling.add(task)
            task.add_done_callback(self.pickling.discard)
        else:
            try:
                packed = self.packing.pack_chunk(chunk)
            except Exception as error:
                self._unpicklable(chunk, error)
            else:
                self._dispatch(place, chunk, self.packing.map_frame(place, chunk, packed))

    async def _send_slowly(self, place: Place, chunk: Chunk) -> None:
        """Pickle a large chunk in the thread, then send it, unless its worker was lost or nobody wants it any more."""
        try:
            packed = await self._in_thread(self.packing.pack_chunk, chunk, dump_yielding)
        except Exception as error:
            self._unpicklable(chunk, error)
            return
        lost = place.gone or place.link.behind()  # at a call that goes on for nobody
        if not lost and not chunk.stops and chunk in self._running:
            self._dispatch(place, chunk, self.packing.map_frame(place, chunk, packed))
            return
        self.packing.free(chain.from_iterable(packed.slabs))
        self.vacate(chunk)
        if chunk.stops:
            chunk.stopped(len(chunk.items) - chunk.done)
        else:
            chunk.requeue()
        self.pump()

    def _dispatch(self, place: Place, chunk: Chunk, frames: bytes) -> None:
        place.link.sent(chunk)
        place.calls += len(chunk.items)
        place.write(frames)
        if self.max_calls is not None:
            self._count(place, self.max_calls)
        if not self.spin:
            return
        cost = chunk.function.seconds
        if cost is not None and cost * len(chunk.items) < HOT_SECONDS:
            self.hot_until = time.perf_counter() + HOT_SECONDS
            if not self.hot:
                self.hot = True
                self.loop.call_soon(self._keep_hot)

    def _count(self, place: Place, most: int) -> None:
        """A worker goes after its ``max_calls``, and before that another gets ready."""
        if place.calls >= most:
            self._retire(place)
        elif place.calls >= most / 2:
            self._start_heir()

    def _keep_hot(self) -> None:
        """Keep the loop from sleeping for a moment while a short call is under way."""
        if self._running and time.perf_counter() < self.hot_until:
            os.sched_yield()  # on a shared core the worker goes first
            self.loop.call_soon(self._keep_hot)
        else:
            self.hot = False

    def _unpicklable(self, chunk: Chunk, error: Exception) -> None:
        """There is no memory for the pickle of a whole chunk."""
        made = explain(tuple(chunk.items), error, self.packing.by_value, chunk.function.label)
        self.loop.call_soon(self._settled, chunk, made)

    def _settled(self, chunk: Chunk, error: BaseException) -> None:
        self.vacate(chunk)
        left = len(chunk.items) - chunk.done  # none, if the pool was closed meanwhile
        if left:
            chunk.deliver([None] * left, dict.fromkeys(range(left), error))
        self.pump()

    # -- large pickles

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        if self.thread is None:
            from concurrent.futures import ThreadPoolExecutor

            self.thread = ThreadPoolExecutor(1, "asyncpar-copy")
        return await self.loop.run_in_executor(self.thread, function, *args)

    def read_heavy(self, place: Place, payload: bytes) -> None:
        """Unpickle something large in the thread; the worker's later answers wait for it."""
        task = self.loop.create_task(self._read_heavy(place, payload))
        self.reading = task

    async def _read_heavy(self, place: Place, payload: bytes) -> None:
        value, error = await self._in_thread(place.link.load, payload, True)
        if place.link.heavy is not payload:
            return  # the worker has died, and what it had said was settled then
        place.link.resume(value, error)
        place.after()

    # -- what workers say besides outcomes, and how they end

    def told(self, place: Place, kind: int, body: bytes, label: str | None) -> None:
        """Take a logging record, or how the initializer ended."""
        if kind == READY:
            place.ready = self.loop.time()
            if body:
                self._break(BrokenPoolError("the initializer failed in a worker"), transit.load_error(body))
            return
        record = logging.makeLogRecord(pickle.loads(body))
        record.pid = place.pid
        record.call = label
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def _retire(self, place: Place) -> None:
        place.retired = True
        if place in self.places:
            self.places.remove(place)
            self.leaving.add(place)
            if self._state == "open" and self.owner is None:
                self._replace()

    def _start_heir(self) -> None:
        """Start a worker before another is missed, so that its imports and its initializer are done by then."""
        if self.heir is None and self.owner is None and self._state == "open" and self.nursery.slots:
            with contextlib.suppress(OSError):  # it is tried again when the worker is needed
                self.heir = self._start_worker()

    def _replace(self) -> None:
        """Another worker takes the place of one that has gone or is to go."""
        if self.heir is None and not self.nursery.slots:
            return  # actors and streams have them all; the one that is to go leaves its own
        try:
            self.places.append(self.heir or self._start_worker())
        except OSError as error:
            self._break(
                BrokenPoolError(f"no worker can be started in place of one that has gone: {error}"), error
            )
        self.heir = None

    def buried(self, place: Place, exitcode: int, over: int) -> None:
        """A worker is dead: settle what it had, replace it."""
        number = -exitcode if exitcode < 0 else None

        def error(label: str) -> BaseException:
            if over:
                return MemoryLimitError(
                    f"worker {place.pid} used {over:,} bytes while it ran {label}, over memory_limit="
                    f"{self.memory_limit:,}, and was killed; raise the limit or give the call less to do at a time"
                )
            code = exitcode if number is None else None
            again = GONE if self.owner is not None else None
            return WorkerLostError.from_status(place.pid or 0, number, code, label, again)

        link = place.link
        while link.heavy is not None:
            link.resume(*link.load(link.heavy, True))
        running = link.lost(error)
        (self.owner or self)._lost += running
        for chunk in link.ended:
            self.vacate(chunk)
        link.ended.clear()
        messages, link.messages = link.messages, []
        for message in messages:
            self.told(place, *message)
        self.leaving.discard(place)
        if place is self.heir:
            self.heir = None
        self.nursery.released(place.slot)
        if place not in self.places:
            if self._state == "open" and self.owner is None and len(self.places) < self.workers:
                self._replace()
                self.pump()
            return
        self.places.remove(place)
        self._heal(place, exitcode, running)

    def _heal(self, place: Place, exitcode: int, running: bool) -> None:
        if self._state not in ("open", "opening"):
            return
        if not place.served and not running and self.loop.time() - place.ready < SETTLED_SECONDS:
            self.deaths += 1
        how = f"was killed by {signal_name(-exitcode)}" if exitcode < 0 else f"exited with code {exitcode}"
        if self.owner is not None:
            self._break(
                WorkerLostError(f"worker {place.pid} {how}, and {GONE}", pid=place.pid),
                None,
            )
        elif self.nursery.failure is not None:
            self._break(self.nursery.failure, None)
        elif self.deaths >= START_TRIES:
            self._break(
                BrokenPoolError(
                    f"{self.deaths} workers in a row died at start, the last {how}; see stderr for what they said"
                ),
                None,
            )
        elif self.broken is None:
            self._replace()
            self.pump()

    def _zygote_lost(self) -> None:
        """The zygote died. Its workers cannot be watched any more: end them, start again."""
        self.recovery = self.loop.create_task(self._recover(), name="asyncpar: start another zygote")

    async def _recover(self) -> None:
        exitcode = await self.nursery.ended()
        if self.nursery.failure is not None:
            self._break(self.nursery.failure, None)
            return
        log.warning("the process that makes workers ended with code %s; starting another", exitcode)
        self.deaths += 1
        everyone = list(self.nursery.places.values())
        if self.deaths < START_TRIES and self._state in ("open", "opening"):
            self.nursery.start()
        for place in everyone:
            place.ready = float("-inf")  # it does not die of its start
            place.signal(signal.SIGKILL)
            place.died(-signal.SIGKILL, 0)

    def _break(self, error: BrokenPoolError | WorkerLostError, cause: BaseException | None) -> None:
        if self.broken is None:
            error.__cause__ = cause
            self.broken = error
            self._state = "broken"
            self._fail_all(error)

    def _fail_all(self, error: Exception) -> None:
        running, self._running = self._running, set()  # what is delivered may come back here
        for chunk in running:
            if not chunk.finished:
                left = len(chunk.items) - chunk.done
                chunk.deliver([None] * left, {i: fresh(error) for i in range(left)})
        for place in self._everyone():
            place.link.abandon()
            place.signal(signal.SIGKILL)  # what runs there is for nobody
        self._fail_waiting(error)

    def _check_open(self) -> None:
        if self.broken is not None:
            raise fresh(self.broken)
        super()._check_open()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there now."""
        return [place.pid for place in self.places if place.pid is not None]
