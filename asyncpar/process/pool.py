"""The process pool, the loop's side: pipes, dispatch, healing. No threads but one for large pickles."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from asyncpar import sharing
from asyncpar.chunks import Chunk, Function
from asyncpar.cpus import usable_cpus
from asyncpar.errors import (
    BrokenPoolError,
    MemoryLimitError,
    NestedPoolError,
    SerializationError,
    UnsupportedError,
    WorkerLostError,
    signal_name,
)  # fmt: skip
from asyncpar.feed import LONG_SECONDS
from asyncpar.pool import Call, Pool
from asyncpar.process import transit
from asyncpar.process.arena import Packer, pack, unpack
from asyncpar.process.encoding import by_value, dump_yielding, explain, heavy, picklable_by_name
from asyncpar.process.layout import (
    BUSY,
    CALLS,
    FORGET,
    FREE,
    FUNCTION,
    HEADER,
    KEYWORDS,
    LOG_AT,
    MAP,
    NOTHING,
    OUT_OF_BAND,
    PARCEL,
    PLAIN,
    READY,
    SEQ,
    SHARE,
    SINCE,
    SLABS,
    STAR,
    TIMED,
    WRITTEN,
)  # fmt: skip
from asyncpar.process.link import Link
from asyncpar.process.nursery import Nursery

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    Dump = Callable[..., bytes]

DEPTH = 2
"""Chunks in a worker: one runs, one waits, so that it never idles while its answer travels."""
RECEIVE = 1 << 18
PIPE_SIZE = 1 << 18
SPIN_SECONDS = 50e-6
"""How long worker and loop poll before they sleep, where a core is to spare: about what waking one costs."""
HOT_SECONDS = 200e-6
START_TRIES = 5
SETTLED_SECONDS = 1.0
"""A worker that has been ready for this long did not die of its start."""
FEW = 64
SMALL = 16
"""Entries of a container that are looked at: pickling a larger one by itself costs less than the look."""
NO_CALL = NOTHING, 0, pickle.dumps((), 5)
log = logging.getLogger("asyncpar")


class Packed(NamedTuple):
    """The items of a map's chunk, ready to be sent."""

    kind: int  # of the frame
    payload: bytes
    refs: list[int]  # slabs of the payload itself
    slabs: list[Sequence[int]]  # see ``Chunk.slabs``
    weight: int  # bytes in all
    shared: list[Any]
    errors: dict[int, SerializationError]  # items that cannot be sent


class Place:
    """One worker: its pipes, and the state of the talk with it."""

    def __init__(self, pool: ProcessPool, slot: int) -> None:
        self.pool, self.slot = pool, slot
        self.load = 0
        self.pid: int | None = None
        self.calls = 0  # sent to it so far
        self.retired = False
        self.gone = False
        self.ready = float("inf")  # since when, in the loop's time
        self.served = False  # has answered something
        self.seen = -1  # the call that ran when it was last looked at
        self.stuck = False  # in a call that turned out to be long
        self.out: deque[memoryview] = deque()  # what the pipe had no room for
        self.heavy: bytes | None = None  # what is being read in the thread
        self.written = 0
        self.functions: set[int] = set()
        self.constants: set[int] = set()
        block = pool.nursery.arena.block(slot)
        self.link = Link(block[:LOG_AT].cast("Q"), block[LOG_AT:], self.unpack, pool.nursery.arena.free)
        read_fd, self.write_fd = os.pipe()
        try:
            self.read_fd, write_fd = os.pipe()
        except OSError:
            os.close(read_fd)
            os.close(self.write_fd)
            raise
        for fd in (self.write_fd, self.read_fd):
            os.set_blocking(fd, False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # over the user's pipe quota: smaller pipes work too
                    fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        pool.nursery.spawn(self, read_fd, write_fd, {"spin": pool.spin})
        pool.loop.add_reader(self.read_fd, self.readable)

    # -- bytes

    def write(self, data: bytes) -> None:
        """Send what the pipe takes now, keep the rest."""
        if self.gone or self.write_fd < 0:
            return
        if self.out:
            self.out.append(memoryview(data))
            return
        n = self.write_some(data)
        if n < len(data):
            self.out.append(memoryview(data)[n:])
            self.pool.loop.add_writer(self.write_fd, self.writable)

    def write_some(self, data: bytes | memoryview) -> int:
        try:
            n = os.write(self.write_fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            return len(data)  # it is dead: its death is dealt with when the zygote reports it
        self.written += n
        self.link.words[WRITTEN] = self.written
        return n

    def writable(self) -> None:
        """The pipe has room again."""
        out = self.out
        while out:
            n = self.write_some(out[0])
            if n < len(out[0]):
                out[0] = out[0][n:]
                return
            del out[0]
        self.pool.loop.remove_writer(self.write_fd)
        if self.retired:
            self.leave_if_idle()

    def readable(self) -> None:
        pool = self.pool
        try:
            n = os.readv(self.read_fd, pool.buffers)
        except BlockingIOError:
            return
        if not n:
            pool.loop.remove_reader(self.read_fd)  # the zygote tells how it ended
            return
        self.link.feed(bytes(pool.view[:n]))
        self.after()

    def after(self) -> None:
        """Bytes were taken in: refill before the consumers run."""
        link, pool = self.link, self.pool
        for chunk in link.ended:
            pool.vacate(chunk)
        if link.ended:
            link.ended.clear()
            self.stuck = link.behind()
            if not self.served:
                self.served = True
                pool.deaths = 0  # another start went well
            pool.pump()
        if link.messages:
            messages, link.messages = link.messages, []
            for message in messages:
                pool.told(self, *message)
        if link.heavy is not None and link.heavy is not self.heavy:
            self.heavy = link.heavy  # it may be looked at again before it has been read
            pool.read_heavy(self, link.heavy)
        if self.retired:
            self.leave_if_idle()

    def unpack(self, payload: bytes) -> Any:
        """Read a payload in this worker's region; slabs go back to it when nobody reads them any more."""
        pool, slot = self.pool, self.slot
        nursery = pool.nursery
        live = nursery.region_live[slot]

        def keep(at: int, view: Any) -> None:
            live[at] = max(16, (len(view) - 1).bit_length())
            weakref.finalize(view, pool.freed.append, (slot, at)).atexit = False

        return unpack(nursery.arena, payload, keep)

    # -- life

    def born(self, pid: int) -> None:
        self.pid = pid

    def signal(self, number: int) -> bool:
        if self.pid is None or self.gone:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
        return True

    def died(self, exitcode: int, over: int) -> None:
        """The zygote has reaped it. Take what it still said, then settle what it had."""
        if self.gone:
            return
        self.gone = True
        with contextlib.suppress(BlockingIOError, OSError):
            while n := os.readv(self.read_fd, self.pool.buffers):
                self.link.feed(bytes(self.pool.view[:n]))
        self.pool.buried(self, exitcode, over)
        self.link.release()
        self.close_pipes()

    def close_pipes(self) -> None:
        loop = self.pool.loop
        loop.remove_reader(self.read_fd)
        os.close(self.read_fd)
        self.stop_writing()

    def stop_writing(self) -> None:
        if self.write_fd >= 0:
            self.pool.loop.remove_writer(self.write_fd)
            os.close(self.write_fd)
            self.write_fd = -1

    def leave_if_idle(self) -> None:
        """A retired worker goes when its last chunk has ended: the end of its pipe tells it so."""
        if not self.load and not self.out:
            self.stop_writing()


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
        _positive("workers", workers)
        _positive("memory_limit", memory_limit)
        _positive("max_calls", max_calls)
        _positive("threads_per_worker", threads_per_worker)
        if not isinstance(grace, (int, float)) or grace < 0:
            raise ValueError(f"grace= must be a number of seconds of at least 0, not {grace!r}")
        if start not in ("zygote", "spawn"):
            raise ValueError(f"start= must be 'zygote' or 'spawn', not {start!r}")
        if functions not in ("by_reference", "by_value"):
            raise ValueError(f"functions= must be 'by_reference' or 'by_value', not {functions!r}")
        if memory_limit is not None and not os.path.exists("/proc/self/statm"):
            raise UnsupportedError("memory_limit= needs /proc (Linux); it is not available on this system")
        if isinstance(preload, str):
            raise TypeError(f"preload= takes a sequence of module names: preload=({preload!r},)")
        super().__init__(workers)
        # Workers know the user's script by this name, and so what they send back from it.
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        self.grace, self.max_calls, self.threads = grace, max_calls, threads_per_worker
        self.memory_limit = memory_limit
        self.dump = by_value() if functions == "by_value" else pickle.dumps
        self.by_value = functions == "by_value"
        self.context = [(variable, _locate(variable)) for variable in context]
        self.spin = SPIN_SECONDS if usable_cpus() > 1 else 0.0
        self.settings = {
            "start": start,
            "memory_limit": memory_limit,
            "preload": tuple(preload),
            "initializer": None if initializer is None else self._dump_function(initializer),
            "by_value": self.by_value,
            "main": _main_location(),
            "path": list(sys.path),
            "argv": list(sys.argv),
            "flags": subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
        }
        self.owner: ProcessPool | None = None  # of the nursery, if that is another pool
        self.places: list[Place] = []
        self.leaving: set[Place] = set()
        self.freed: deque[tuple[int, int]] = deque()
        self.constants: dict[int, tuple[bytes, list[int], Any]] = {}
        self.deaths = 0  # workers that died at start since one that did not
        self.broken: BrokenPoolError | WorkerLostError | None = None
        self.numbers = 0
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
        if self.owner is None:
            nursery = Nursery(self.workers, self.settings, self.threads, self._zygote_lost)
            nursery.open()
            self.nursery = nursery
        for _ in range(self.workers):
            self._spawn()

    def _spawn(self) -> None:
        slots = self.nursery.slots
        if not slots:
            raise BrokenPoolError(
                f"this pool has {self.nursery.total} workers, actors and streams: close some first"
            )
        self.places.append(Place(self, slots.pop()))

    def _replace(self) -> None:
        try:
            self._spawn()
        except OSError as error:
            self._break(
                BrokenPoolError(f"no worker can be started in place of one that has gone: {error}"), error
            )

    async def _close(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
        if not hasattr(self, "nursery"):
            return
        everyone = [*self.places, *self.leaving]
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

    def _solo(self) -> ProcessPool:
        solo = ProcessPool(1, grace=self.grace)
        solo.settings, solo.threads, solo.memory_limit = self.settings, self.threads, self.memory_limit
        solo.dump, solo.by_value, solo.context = self.dump, self.by_value, self.context
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
        self.loop.call_later(self.grace, self._kill, place, chunk, first, last)
        return running

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

    # -- functions

    def _dump_function(self, function: Callable[..., Any]) -> bytes:
        try:
            blob: bytes = self.dump(function, 5) if not self.by_value else self.dump(function)
        except Exception as error:  # __reduce__ may raise anything, here and below
            raise explain(function, error, self.by_value) from error
        else:
            if not self.by_value:
                picklable_by_name(function)
            return blob

    def _new_function(self, call: Callable[..., Any]) -> Function:
        function = super()._new_function(call)
        function.blob = self._dump_function(call)
        root = self.owner or self
        root.numbers += 1
        function.number = root.numbers
        return function

    def _forget(self, function: Function) -> None:
        frame = HEADER.pack(8, FORGET, 0, 1, 0) + struct.pack("<Q", function.number)
        for place in self.places:
            if function.number in place.functions:
                place.functions.discard(function.number)
                place.write(frame)

    def _introduce(self, place: Place, function: Function) -> bytes:
        """The frame that makes a function known to a worker, the first time."""
        if function.number in place.functions:
            return b""
        place.functions.add(function.number)
        return HEADER.pack(len(function.blob), FUNCTION, 0, 0, function.number) + function.blob

    # -- calls

    def _prepare(self, call: Call) -> Coroutine[Any, Any, None] | None:
        args, kwargs = call.args, call.kwargs
        if not kwargs and not self.context:
            for arg in args:
                if type(arg) not in PLAIN or (type(arg) in (str, bytes) and len(arg) > OUT_OF_BAND // 4):
                    break
            else:
                call.payload = pickle.dumps(args, 5)
                return None  # nothing in it is shared, lent or large
        if self.context:
            call.args, call.kwargs = (self._context_values(), args, kwargs), {}
            call.function = self._function(transit.InContext(call.function.call))
        if heavy((call.args, call.kwargs)):
            return self._prepare_slowly(call)
        self._pack_call(call)
        return None

    def _context_values(self) -> list[tuple[tuple[str, str], Any]]:
        return [(where, variable.get()) for variable, where in self.context if _is_set(variable)]

    def _mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        if self.context and callable(function):
            return transit.InContext(function, self._context_values())
        return function

    def _drop(self, call: Call) -> None:
        for at in call.lends:
            self.nursery.arena.free(at)
        call.lends = ()

    async def _prepare_slowly(self, call: Call) -> None:
        await self._in_thread(self._pack_call, call, dump_yielding)

    def _pack_call(self, call: Call, dump: Dump = pickle.dumps) -> None:
        value = (call.args, call.kwargs) if call.kwargs else call.args
        shared: list[Any] = []
        sharing.packing.shared = shared
        try:
            call.payload, refs = self._pack(Packer(self.nursery.arena, dump), value, shared)
        except Exception as error:
            raise explain(value, error, self.by_value, call.function.label, bool(call.kwargs)) from error
        finally:
            sharing.packing.shared = None
        call.lends = refs[::2]
        call.mark = (KEYWORDS if call.kwargs else 0) | (SLABS if refs else 0)
        call.args, call.shared = (), shared

    def _pack(self, packer: Packer, value: Any, shared: list[Any]) -> tuple[bytes, list[int]]:
        """Pickle arguments, and the constants among them, which come to be in ``shared``."""
        try:
            blob, refs = packer.pack(value)
        except Exception:  # whatever plain pickle could not do, cloudpickle is to try
            if not self.by_value:
                raise
            shared.clear()
            blob, refs = pack(packer.arena, value, self.dump)
        try:
            for constant in shared:
                self._pack_constant(constant)
        except BaseException:  # only to give the buffers back; it goes on
            self._free(refs[::2])
            raise
        return blob, refs

    def _free(self, slabs: Iterable[int]) -> None:
        for at in slabs:
            self.nursery.arena.free(at)

    def _pack_constant(self, shared: Any) -> None:
        root = self.owner or self
        if shared.number in root.constants:
            return
        try:
            blob, refs = pack(self.nursery.arena, shared.value, self.dump if self.by_value else pickle.dumps)
        except Exception as error:
            raise explain(shared.value, error, self.by_value, "share()") from error
        if not refs:
            blob = pickle.dumps((blob, []), 5)
        ref = weakref.finalize(shared, root._unshare, shared.number)
        ref.atexit = False
        root.constants[shared.number] = (blob, refs[::2], ref)

    def _unshare(self, number: int) -> None:
        """Nobody holds the constant any more; may be called by the garbage collector, in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all is gone with it
            self.loop.call_soon_threadsafe(self._drop_constant, number)

    def _drop_constant(self, number: int) -> None:
        known = self.constants.pop(number, None)
        if known is None or self._state == "closed":
            return
        frame = HEADER.pack(8, FORGET, 1, 1, 0) + struct.pack("<Q", number)
        for place in list(self.nursery.places.values()):
            if number in place.constants:
                place.constants.discard(number)
                place.write(frame)
        # the slabs stay: a worker may still read them; they go with the pool

    def _send_constants(self, place: Place, shared: Sequence[Any]) -> bytes:
        frames = b""
        for constant in shared:
            if constant.number not in place.constants:
                place.constants.add(constant.number)
                blob = (self.owner or self).constants[constant.number][0]
                frames += HEADER.pack(len(blob), SHARE, 0, 0, constant.number) + blob
        return frames

    # -- sending

    def _send(self, place: Place, chunk: Chunk) -> None:
        if self.freed:
            self._give_back()
        if chunk.singles:
            self._dispatch(place, chunk, self._calls_frame(place, chunk))
        elif heavy(chunk.items[0]) or (len(chunk.items) <= FEW and heavy(chunk.items)):
            task = self.loop.create_task(
                self._send_slowly(place, chunk), name="asyncpar: pickle a large chunk"
            )
            self.pickling.add(task)
            task.add_done_callback(self.pickling.discard)
        else:
            try:
                packed = self._pack_chunk(chunk)
            except Exception as error:
                self._unpicklable(chunk, error)
            else:
                self._dispatch(place, chunk, self._map_frame(place, chunk, packed))

    async def _send_slowly(self, place: Place, chunk: Chunk) -> None:
        """Pickle a large chunk in the thread, then send it, unless its worker has died or nobody wants it any more."""
        try:
            packed = await self._in_thread(self._pack_chunk, chunk, dump_yielding)
        except Exception as error:
            self._unpicklable(chunk, error)
            return
        if not place.gone and not chunk.stops and chunk in self._running:
            self._dispatch(place, chunk, self._map_frame(place, chunk, packed))
            return
        self._free(chain.from_iterable(packed.slabs))
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
        if self.max_calls is not None and place.calls >= self.max_calls:
            self._retire(place)
        if not self.spin:
            return
        cost = chunk.function.seconds
        if cost is not None and cost * len(chunk.items) < HOT_SECONDS:
            self.hot_until = time.perf_counter() + HOT_SECONDS
            if not self.hot:
                self.hot = True
                self.loop.call_soon(self._keep_hot)

    def _keep_hot(self) -> None:
        """Keep the loop from sleeping for a moment while a short call is under way."""
        if self._running and time.perf_counter() < self.hot_until:
            os.sched_yield()  # on a shared core the worker goes first
            self.loop.call_soon(self._keep_hot)
        else:
            self.hot = False

    def _calls_frame(self, place: Place, chunk: Chunk) -> bytes:
        calls: list[tuple[int, int, bytes]] = []
        frames = b""
        for call in chunk.items:
            function = call.function
            if function.number not in place.functions:
                frames += self._introduce(place, function)
            if call.shared:
                frames += self._send_constants(place, call.shared)
            calls.append((function.number, call.mark, call.payload))
        chunk.slabs = [call.lends for call in chunk.items]
        body = pickle.dumps(calls, 5)
        return frames + HEADER.pack(len(body), CALLS, 0, len(calls), 0) + body

    def _pack_chunk(self, chunk: Chunk, dump: Dump = pickle.dumps) -> Packed:
        """The items of a map's chunk: in one pickle if they are plain, else each in its own, as if it travelled alone.

        What two items have in common would be one object there, and what one call does to it the next would see.
        """
        items = chunk.items
        packer = Packer(self.nursery.arena, dump)
        if _plain(items):
            payload, refs = packer.pack(items)
            return Packed(MAP, payload, refs, [refs[::2]], len(payload) + sum(refs[1::2]), [], {})
        calls: list[bytes | tuple[int, int, bytes]] = []
        slabs: list[Sequence[int]] = [()] * len(items)
        errors: dict[int, SerializationError] = {}
        weight = 0
        constants: dict[Any, None] = {}
        shared: list[Any] = []
        sharing.packing.shared = shared
        try:
            for i, args in enumerate(items if chunk.star else zip(items)):
                try:
                    blob, refs = self._pack(packer, args, shared)
                except Exception as error:
                    errors[i] = explain(args, error, self.by_value, chunk.function.label)
                    calls.append(NO_CALL)
                    shared.clear()
                    continue
                if shared:
                    constants |= dict.fromkeys(shared)
                    shared.clear()
                if refs:
                    weight += sum(refs[1::2])
                    slabs[i] = refs[::2]
                    calls.append((chunk.function.number, SLABS, blob))
                else:
                    calls.append(blob)
            payload, refs = packer.pack(calls)
        except BaseException:  # only to give the buffers back; it goes on
            self._free(chain.from_iterable(slabs))
            raise
        finally:
            sharing.packing.shared = None
        weight += len(payload) + sum(refs[1::2])
        slabs[0] = [*slabs[0], *refs[::2]]  # all of the frame is read before the first call
        return Packed(CALLS, payload, refs, slabs, weight, list(constants), errors)

    def _map_frame(self, place: Place, chunk: Chunk, packed: Packed) -> bytes:
        chunk.slabs = packed.slabs
        for index, error in packed.errors.items():
            chunk.stop(index, error)
        chunk.source.window.grow(chunk.block, packed.weight)  # type: ignore[attr-defined]
        flags = (PARCEL if packed.refs else 0) | (STAR if chunk.star else 0) | (TIMED if chunk.timeout else 0)
        frames = self._introduce(place, chunk.function) + self._send_constants(place, packed.shared)
        header = HEADER.pack(len(packed.payload), packed.kind, flags, len(chunk.items), chunk.function.number)
        return frames + header + packed.payload

    def _unpicklable(self, chunk: Chunk, error: Exception) -> None:
        """There is no memory for the pickle of a whole chunk."""
        made = explain(tuple(chunk.items), error, self.by_value, chunk.function.label)
        self.loop.call_soon(self._settled, chunk, made)

    def _settled(self, chunk: Chunk, error: BaseException) -> None:
        self.vacate(chunk)
        left = len(chunk.items) - chunk.done  # none, if the pool was closed meanwhile
        if left:
            chunk.deliver([None] * left, dict.fromkeys(range(left), error))
        self.pump()

    def _give_back(self) -> None:
        """Tell workers which of their slabs nobody reads any more."""
        by_slot: dict[int, list[int]] = {}
        while self.freed:
            slot, at = self.freed.popleft()
            if self.nursery.region_live.get(slot, {}).pop(at, None) is not None:
                by_slot.setdefault(slot, []).append(at)
        for slot, offsets in by_slot.items():
            place = self.nursery.places.get(slot)
            if place is not None:
                place.write(
                    HEADER.pack(8 * len(offsets), FREE, 0, len(offsets), 0)
                    + struct.pack(f"<{len(offsets)}Q", *offsets)
                )

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

    def buried(self, place: Place, exitcode: int, over: int) -> None:
        """A worker is dead: settle what it had, replace it."""
        number = -exitcode if exitcode < 0 else None

        def error(label: str) -> BaseException:
            if over:
                return MemoryLimitError(
                    f"worker {place.pid} used {over:,} bytes while it ran {label}, over memory_limit="
                    f"{self.memory_limit:,}, and was killed; raise the limit or give the call less to do at a time"
                )
            return WorkerLostError.from_status(
                place.pid or 0, number, exitcode if number is None else None, label
            )

        link = place.link
        while link.heavy is not None:
            link.resume(*link.load(link.heavy, True))
        running = link.lost(error)
        self._lost += running
        for chunk in link.ended:
            self.vacate(chunk)
        link.ended.clear()
        messages, link.messages = link.messages, []
        for message in messages:
            self.told(place, *message)
        self.leaving.discard(place)
        self.nursery.released(place.slot)
        if place not in self.places:
            return
        self.places.remove(place)
        self._heal(place, exitcode, running)

    def _heal(self, place: Place, exitcode: int, running: bool) -> None:
        if self._state not in ("open", "opening"):
            return
        if not place.served and not running and self.loop.time() - place.ready < SETTLED_SECONDS:
            self.deaths += 1
        if self.owner is not None:
            how = (
                f"was killed by {signal_name(-exitcode)}" if exitcode < 0 else f"exited with code {exitcode}"
            )
            self._break(
                WorkerLostError(f"worker {place.pid} {how}, and what lived in it is gone", pid=place.pid),
                None,
            )
        elif self.deaths >= START_TRIES or self.nursery.failure is not None:
            how = (
                f"was killed by {signal_name(-exitcode)}" if exitcode < 0 else f"exited with code {exitcode}"
            )
            self._break(
                BrokenPoolError(
                    f"{self.deaths} workers in a row died at start, the last {how}; see stderr for what they said"
                ),
                self.nursery.failure,
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
            self._break(BrokenPoolError(str(self.nursery.failure)), self.nursery.failure)
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
                chunk.deliver([None] * left, dict.fromkeys(range(left), error))
        for place in (*self.places, *self.leaving):
            place.link.abandon()
            place.signal(signal.SIGKILL)  # what runs there is for nobody
        for call in list(self._queue.calls):
            call.end(None, error)
        self._queue.calls.clear()
        for results in list(self._maps):
            results._pool_failed(error)

    def _check_open(self) -> None:
        if self.broken is not None:
            raise self.broken
        super()._check_open()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there now."""
        return [place.pid for place in self.places if place.pid is not None]

    async def __aenter__(self) -> Self:
        return await super().__aenter__()


def _plain(items: Sequence[Any]) -> bool:
    """Whether no two of these have anything in common that can be changed, by a look that C code takes.

    True for numbers, strings, and small containers of such that are all different objects.
    """
    kinds = set(map(type, items))
    if kinds <= PLAIN:
        return True
    kind = kinds.pop()
    if kinds or kind not in (tuple, list, dict) or sum(map(len, items)) > SMALL * len(items):
        return False
    inner = chain.from_iterable(items)
    if kind is dict:
        inner = chain(inner, chain.from_iterable(map(dict.values, items)))
    return PLAIN.issuperset(map(type, inner)) and (kind is tuple or len(set(map(id, items))) == len(items))


def _positive(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}= must be at least 1, not {value}")


def _main_location() -> tuple[str, str] | None:
    """Where a worker finds the user's script: as multiprocessing's spawn does it."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return "module", spec.name
    path = getattr(main, "__file__", None)
    return ("path", os.path.abspath(path)) if path else None


def _locate(variable: Any) -> tuple[str, str]:
    """Module and name of a context variable: workers look it up there."""
    import contextvars

    if not isinstance(variable, contextvars.ContextVar):
        raise TypeError(f"context= takes ContextVar objects, not {type(variable).__name__}")
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is variable:
                return module_name, name
    raise ValueError(f"context= takes module-level variables; {variable.name!r} was found in no module")


_UNSET = object()


def _is_set(variable: Any) -> bool:
    return variable.get(_UNSET) is not _UNSET
