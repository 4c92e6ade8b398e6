"""The far side of the process pool: one worker, reading frames and answering them.

Runs in a process of its own and imports almost nothing, so that a worker is there in a
millisecond. Blocking throughout: a worker does one thing at a time.

A result is kept in shared memory before the next call starts and sent with others, at the
latest after a millisecond. So a crash loses the call that was running, and no other.
"""

from __future__ import annotations

import os
import pickle
import signal
import struct
import sys
import time
import weakref
from collections.abc import Callable

from asyncpar import residence
from asyncpar.chunks import is_async
from asyncpar.process import transit
from asyncpar.process.arena import Arena, Packer, pack, unpack
from asyncpar.process.layout import (
    BUSY,
    CALLS,
    CANCELS,
    ERROR,
    FLOATS,
    FORGET,
    FRAME_SECONDS,
    FREE,
    FUNCTION,
    HEADER,
    HELD,
    INLINE,
    INTEGERS,
    KEPT,
    KEYWORDS,
    LOG_AT,
    LOG_SIZE,
    LOGGED,
    MAP,
    MODE,
    NOTHING,
    PARCEL,
    PICKLED,
    RANGES,
    RECALL,
    RELEASED,
    RESULTS,
    RETURNED,
    RING,
    SEQ,
    SHARE,
    SINCE,
    SLABS,
    STAR,
    STOPPED,
    TIMED,
    VALUES,
    WRITTEN,
)  # fmt: skip

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any, NoReturn

NUMBERS = frozenset((int, float, bool, complex, type(None)))
LENGTH = struct.Struct("<I")
RECEIVE = 1 << 18
FRAME_NS = int(FRAME_SECONDS * 1e9)
BIG = 1 << 62
MOST_AUX = 0xFFFF_FFFF
FEW = 8
BULKY = 4096  # bytes from which a value is not pickled twice: for the log, and in a list


class Interrupted(KeyboardInterrupt):
    """The caller cancelled this call, or its timeout passed. Clean up and let it through."""


class Worker:
    """Serves one pair of pipes until the other end closes."""

    def __init__(self, read_fd: int, write_fd: int, arena: Arena, slot: int, spin: float) -> None:
        self.read_fd, self.write_fd, self.arena, self.spin = read_fd, write_fd, arena, spin
        block = arena.block(slot)
        self.words = block[:LOG_AT].cast("Q")
        self.log = block[LOG_AT:]
        self.integers = self.log[: 8 * (LOG_SIZE // 8)].cast("q")
        self.floats = self.log[: 8 * (LOG_SIZE // 8)].cast("d")
        self.mode = self.words[MODE] = PICKLED
        self.logged_bytes = 0
        self.values: list[Any] = []  # plain values that are not sent yet ...
        self.out: list[bytes] = []  # ... or, never both, outcomes that are pickled
        self.sizes: list[int] = []  # and their sizes and flags
        self.packer = Packer(arena)
        self.begun = 0  # when the first of them was, in nanoseconds
        self.functions: dict[int, Callable[..., Any]] = {NOTHING: lambda: None}
        self.constants: dict[int, Any] = {}
        self.packed_constants: dict[int, bytes] = {}
        self.buffer = bytearray(RECEIVE)
        self.view = memoryview(self.buffer)
        self.received = 0
        self.inside = [0]  # 1 while a call may be interrupted
        self.interrupted = -1  # the call that got an interrupt already
        self.signals = 0  # that came since the handler began
        self.cancelled: list[tuple[int, int]] = []
        self.cancels_read = 0
        self.kept = self.recalled = 0  # calls in between go back to the loop: see `note_recall`
        self.next = 0  # the first call that has not begun, between chunks
        self.lent: list[tuple[int, weakref.ref[Any]]] = []
        self.released: list[int] = []
        self.dump: Callable[..., bytes] = pickle.dumps  # for what plain pickle refuses
        self.runner: Any = None
        self.task: Any = None

    # -- frames in and out

    def serve(self) -> None:
        """Answer frames until the pipe closes."""
        handlers = {
            FUNCTION: self.on_function,
            CALLS: self.on_calls,
            MAP: self.on_map,
            SHARE: self.on_share,
            FORGET: self.on_forget,
            FREE: self.on_free,
        }
        data = b""
        while more := self.read():
            data = data + more if data else more
            at, end = 0, len(data)
            while end - at >= HEADER.size:
                size, kind, flags, count, aux = HEADER.unpack_from(data, at)
                stop = at + HEADER.size + size
                if stop > end:
                    data, at, end = self.read_rest(data, at, stop), 0, stop - at
                    stop = end
                if kind <= MAP:  # FUNCTION too: to import one may kill, and that costs its first call
                    self.words[BUSY] = 1
                    if self.words[CANCELS] != self.cancels_read:
                        self.note_cancelled()
                handlers[kind](data[at + HEADER.size : stop], flags, count, aux)
                at = stop
            data = data[at:]

    def read(self) -> bytes:
        """Some bytes. Spins a moment first: waking a sleeping core costs 50 to 100 us."""
        if self.spin:
            end = time.perf_counter() + self.spin
            while self.words[WRITTEN] == self.received and time.perf_counter() < end:
                os.sched_yield()
        n = os.readv(self.read_fd, [self.buffer])
        self.received += n
        return bytes(self.view[:n])

    def read_rest(self, data: bytes, at: int, stop: int) -> bytes:
        """The frame that starts at ``at``, all of it."""
        whole = bytearray(data[at:])
        while len(whole) < stop - at:
            n = os.readv(self.read_fd, [self.view[: min(RECEIVE, stop - at - len(whole))]])
            if not n:
                os._exit(0)
            self.received += n
            whole += self.view[:n]
        return bytes(whole)

    def send(self, kind: int, payload: bytes, count: int = 0, flags: int = 0, aux: int = 0) -> None:
        """Write one frame, waiting for room: the loop that reads slowly holds its workers back."""
        data = HEADER.pack(len(payload), kind, flags, count, min(aux, MOST_AUX)) + payload
        n = os.write(self.write_fd, data)
        if n < len(data):
            rest = memoryview(data)[n:]
            while rest:
                rest = rest[os.write(self.write_fd, rest) :]

    def send_offsets(self, kind: int, offsets: list[int]) -> None:
        for start in range(0, len(offsets), 8192):
            part = offsets[start : start + 8192]
            self.send(kind, struct.pack(f"<{len(part)}Q", *part), len(part))

    # -- small frames

    def on_function(self, payload: bytes, flags: int, count: int, number: int) -> None:
        try:
            function = pickle.loads(payload)
        except BaseException as error:  # importing the user's module may raise anything
            self.functions[number] = _raiser(transit.unloadable("the function", error))
        else:
            self.functions[number] = self.adapted(function)
        self.words[BUSY] = 0

    def adapted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as it is called here: coroutine functions run on this worker's own loop."""
        return self.awaiting(function) if is_async(function) else function

    def awaiting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            return self.run_coroutine(function(*args, **kwargs))

        return call

    def run_coroutine(self, coroutine: Any) -> Any:
        import asyncio

        if self.runner is None:
            self.runner = asyncio.Runner()
        loop = self.runner.get_loop()

        async def main() -> Any:
            return await coroutine

        self.task = loop.create_task(main())
        try:
            return loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            if self.interrupted == self.words[SEQ]:
                raise Interrupted from None
            raise
        finally:
            self.task = None

    def on_share(self, payload: bytes, flags: int, count: int, number: int) -> None:
        self.packed_constants[number] = payload

    def constant(self, number: int) -> Any:
        """The object behind a ``Shared``, unpickled at its first use here."""
        if number not in self.constants:
            payload = self.packed_constants.pop(number)
            self.constants[number] = unpack(self.arena, payload, lambda at, view: None)
        return self.constants[number]

    def on_forget(self, payload: bytes, flags: int, count: int, aux: int) -> None:
        for number in struct.unpack(f"<{count}Q", payload):
            if flags:
                self.constants.pop(number, None)
                self.packed_constants.pop(number, None)
            else:
                self.functions.pop(number, None)

    def on_free(self, payload: bytes, flags: int, count: int, aux: int) -> None:
        for at in struct.unpack(f"<{count}Q", payload):
            self.arena.free(at)

    # -- interrupts

    def on_signal(self, signum: int, frame: Any) -> None:
        """The loop has cancelled calls. Raises inside the one that runs; the others never start."""
        self.signals += 1
        if self.signals > 1:
            return  # in the midst of the handling of another, which looks once more
        seen = 0
        while seen != self.signals:
            seen = self.signals
            self.note_cancelled()
            self.note_recall()
        self.signals = 0
        running = self.words[SEQ]
        if self.inside[0] and self.interrupted != running and self.is_cancelled(running):
            self.interrupted = running
            if self.task is not None:
                self.task.get_loop().call_soon_threadsafe(self.task.cancel)
            else:
                raise Interrupted

    def note_cancelled(self) -> None:
        """Read which calls the loop has cancelled since the last look."""
        words = self.words
        while (number := self.cancels_read) < words[
            CANCELS
        ]:  # a signal may come in here: to read one twice is no harm
            at = RANGES + 2 * (number % RING)
            self.cancelled.append((words[at], words[at + 1]))
            self.cancels_read = number + 1

    def note_recall(self) -> None:
        """Agree to begin no more of what was sent so far, if the loop wants it back: others are idle."""
        words = self.words
        if words[RECALL] > self.recalled:
            self.recalled = words[RECALL]
            self.kept = words[SEQ] + 1 if words[BUSY] else self.next
            self.cancelled.append((self.kept, self.recalled - 1))
            words[KEPT] = self.kept + 1

    def is_cancelled(self, seq: int) -> bool:
        return any(first <= seq <= last for first, last in self.cancelled)

    def give_back(self, count: int) -> None:
        """The rest of this chunk was recalled."""
        self.send(RETURNED, b"", count)
        self.sent(self.words[SEQ] + count, last=True)

    # -- calls

    def on_calls(self, payload: bytes, flags: int, count: int, number: int) -> None:
        """Run calls that have their arguments each in a pickle of its own."""
        loads, functions, function = pickle.loads, self.functions, self.functions[number]

        def call(packed: Any) -> Any:
            one, mark, blob = function, 0, packed
            if type(packed) is tuple:
                named, mark, blob = packed
                one = functions[named]
                if mark == INLINE:
                    return one(*blob)
            try:
                args = unpack(self.arena, blob, self.lend) if mark & SLABS else loads(blob)
            except Interrupted:
                raise
            except BaseException as error:  # the user's classes may raise anything
                raise transit.unloadable("an argument", error) from error
            return one(*args[0], **args[1]) if mark & KEYWORDS else one(*args)

        self.run(call, self.unpack(payload, flags), flags)

    def on_map(self, payload: bytes, flags: int, count: int, number: int) -> None:
        """Run one function on each of the items, which are plain."""
        function = self.functions[number]
        self.run(_starred(function) if flags & STAR else function, self.unpack(payload, flags), flags)

    def unpack(self, payload: bytes, flags: int) -> Any:
        return unpack(self.arena, payload, self.lend) if flags & PARCEL else pickle.loads(payload)

    def run(self, function: Callable[[Any], Any], items: list[Any], flags: int) -> None:
        """Call the function with each of the items, and answer in their order.

        Plain values travel in one list. Any other is pickled before the next call starts, which may change it.
        """
        words, inside, clock, timed = self.words, self.inside, time.perf_counter_ns, flags & TIMED
        cancelled, is_cancelled, out = self.cancelled, self.is_cancelled, self.out
        values, integers, append = self.values, self.integers, self.values.append
        # chunks are long when calls are short: look at the clock less often
        look = 15 if len(items) > 64 else 0
        seq = words[SEQ]
        end = seq + len(items)
        error: BaseException | None = None
        self.begun = clock()
        for item in items:
            if timed:
                words[SINCE] = time.monotonic_ns()
            try:
                try:
                    inside[0] = 1
                    if cancelled and is_cancelled(seq):
                        raise Interrupted
                    value = function(item)
                finally:
                    inside[0] = 0
            except BaseException as raised:  # whatever it is, it is the call's
                inside[0] = 0
                if type(raised) is Interrupted and is_cancelled(seq):
                    if self.kept <= seq < self.recalled:
                        break
                    raised.__traceback__ = None  # the arguments are in there
                    self.flush(seq)
                    self.send(STOPPED, b"", 1)
                    seq += 1
                    self.sent(seq, last=seq == end)
                    continue
                value = error = raised  # which is not plain
            if not out and (type(value) in NUMBERS or _plain(value)):
                append(value)
                kept = None  # not yet looked at
            else:
                mark, answer = self.answer(value, error)
                value = error = None
                kept = self.add(mark, answer, seq)
            seq += 1
            if seq == end:
                break
            if not seq & look:
                now = clock()
                if now - self.begun > FRAME_NS:
                    look = 0 if now - self.begun > 2 * FRAME_NS else look
                    self.flush(seq)
                    continue
            # keep the outcome where it outlives this process, before the next call starts
            if type(value) is int and self.mode == INTEGERS and -BIG < value < BIG:
                integers[len(values) - 1] = value
                words[SEQ] = seq
            elif self.record(value) if kept is None else kept:
                words[SEQ] = seq
            else:
                self.flush(seq)
        value = None
        self.flush(seq, last=seq == end)
        if seq < end:
            self.give_back(end - seq)
        self.done()

    def answer(self, value: Any, error: BaseException | None) -> tuple[int, bytes]:
        """The flags and bytes that carry one outcome."""
        if error is None:
            try:
                blob, refs = self.pack(value)
            except BaseException as raised:  # the user's __reduce__ may raise anything
                error = transit.unpicklable_result(value, raised)
            else:
                return (SLABS if refs else 0), blob
        return ERROR, transit.dump_error(error, self.dump)

    def pack(self, value: Any) -> tuple[bytes, list[int]]:
        try:
            return self.packer.pack(value)
        except Exception:  # whatever plain pickle could not do, cloudpickle is to try
            if self.dump is pickle.dumps:
                raise
            return pack(self.arena, value, self.dump)

    def add(self, mark: int, answer: bytes, seq: int) -> bool:
        """Keep the outcome of call ``seq`` with those that are not sent yet, and in the log.

        False if it must be sent now: there is no room in the log, or it may be large. Such an outcome travels alone,
        so that a thread can read it.
        """
        if self.values or (mark & SLABS and self.out):
            self.flush(seq)
        if self.mode != PICKLED:
            self.words[MODE] = self.mode = PICKLED
        mark |= len(answer)
        self.sizes.append(mark)
        self.out.append(answer)
        return not mark & SLABS and self.log_answer(mark, answer)

    def record(self, value: Any) -> bool:
        """Keep the last of ``values`` in the log; false if it must be sent now, with all before it."""
        kind, count = type(value), len(self.values)
        mode = INTEGERS if kind is int and -BIG < value < BIG else FLOATS if kind is float else PICKLED
        if mode != self.mode:
            if count > 1:
                return False  # the log holds one kind: start it afresh
            self.words[MODE] = self.mode = mode
        if mode == INTEGERS:
            self.integers[count - 1] = value
            return True
        if mode == FLOATS:
            self.floats[count - 1] = value
            return True
        answer = pickle.dumps(value, 5)
        return self.log_answer(len(answer), answer)

    def log_answer(self, mark: int, answer: bytes) -> bool:
        """Put an outcome behind the others in the log; false if there is no room."""
        start = self.logged_bytes
        end = start + 4 + len(answer)
        if end > LOG_SIZE:
            return False
        self.log[start:end] = LENGTH.pack(mark) + answer
        self.logged_bytes = end
        return True

    def flush(self, seq: int, last: bool = False) -> None:
        """Send the outcomes of the calls before ``seq`` that wait here."""
        if self.lent:
            self.settle()
        now = time.perf_counter_ns()
        us = (now - self.begun) // 1000
        self.begun = now
        if self.values:
            self.send(VALUES, pickle.dumps(self.values, 5), len(self.values), 0, us)
            self.values.clear()
        elif self.out:
            count, flags = len(self.out), PARCEL if self.sizes[0] & SLABS else 0
            body = struct.pack(f"<{count}I", *self.sizes) + b"".join(self.out)
            self.send(RESULTS, body, count, flags, us)
            self.sizes.clear()
            self.out.clear()
        else:
            return
        self.sent(seq, last)

    def sent(self, seq: int, last: bool = False) -> None:
        """All outcomes before call ``seq`` are in the pipe: the log starts afresh.

        In this order, so that a death in between is read rightly: see ``Link.lost``.
        """
        if last:
            self.next = seq
            self.words[BUSY] = 0
        self.words[SEQ] = seq
        self.words[LOGGED] = seq
        self.logged_bytes = 0

    # -- arguments that live in shared memory

    def lend(self, at: int, view: Any) -> None:
        self.lent.append((at, weakref.ref(view)))

    def settle(self) -> None:
        """Tell the loop which lent slabs the function kept: they must not be used again yet."""
        held = []
        for at, ref in self.lent:
            view = ref()
            if view is not None:
                held.append(at)
                weakref.finalize(view, self.released.append, at).atexit = False
                del view
        self.lent.clear()
        if held:
            self.send_offsets(HELD, held)

    # -- the end of a chunk, and of the process

    def done(self) -> None:
        """After a chunk: tell what was let go, and let out what was printed."""
        self.words[BUSY] = 0
        if self.cancelled:
            seq = self.words[SEQ]
            for passed in [r for r in self.cancelled if r[1] < seq]:  # a signal may add others meanwhile
                self.cancelled.remove(passed)
        offsets = []
        while self.released:  # so may the garbage collector
            offsets.append(self.released.pop())
        if offsets:
            self.send_offsets(RELEASED, offsets)


def _raiser(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def _plain(value: Any) -> bool:
    """Whether a value that is no number is short and cannot be changed, so that it can travel in a list with others."""
    kind = type(value)
    if kind is tuple and len(value) <= FEW:
        for one in value:
            if type(one) not in NUMBERS and (type(one) is tuple or not _plain(one)):
                return False
        return True
    return (kind is str or kind is bytes) and len(value) <= BULKY


def _starred(function: Callable[..., Any]) -> Callable[[tuple[Any, ...]], Any]:
    def call(args: tuple[Any, ...]) -> Any:
        return function(*args)

    return call


def start(read_fd: int, write_fd: int, arena: Arena, slot: int, settings: dict[str, Any]) -> NoReturn:
    """Be worker number ``slot``: set the process up, then serve until the pipe closes."""
    os.environ["ASYNCPAR_WORKER"] = str(os.getpid())
    arena.own(slot, settings["live"])
    worker = Worker(read_fd, write_fd, arena, slot, settings["spin"])
    residence.find_constant = worker.constant
    transit.adapted = worker.adapted
    if settings["by_value"]:
        worker.dump = transit.dump_by_value
    worker.released.clear()
    signal.signal(signal.SIGINT, worker.on_signal)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    transit.prepare(worker.send, settings)
    code = 0
    try:
        transit.initialize(worker.send, settings)
        worker.serve()
    except BrokenPipeError:
        code = 0  # the loop's process is gone
    except BaseException:  # a mistake of ours: said before the process ends
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                code = code or 1
        os._exit(code)
