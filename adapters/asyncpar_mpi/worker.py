"""The far side: a rank that serves rank 0, one pool after another, until the job ends.

Calls run as in a worker of the process pool, whose code this is. What differs is how frames come and go, and how a
running call is reached. There everything is seen in shared memory, and the loop sends signals; here a thread wakes
the main one every 20 ms while a call runs, so that it looks for messages and sends what is ready. All MPI calls are
made in the main thread.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from mpi4py import MPI

from asyncpar import residence
from asyncpar.process import options, transit
from asyncpar.process.arena import slabs
from asyncpar.process.layout import (
    BUSY,
    CANCELS,
    FORGET,
    HEADER,
    KEPT,
    MODE,
    PICKLED,
    RANGES,
    READY,
    RECALL,
    RING,
    SEQ,
    TIMED,
)
from asyncpar.process.worker import Worker
from asyncpar_mpi import wire
from asyncpar_mpi.buffers import Buffers
from asyncpar_mpi.faults import gone, tolerated

if TYPE_CHECKING:
    from asyncpar_mpi.wire import Arrival

PULSE = 20e-3
"""Seconds after which a running call is interrupted for a look at what has come, and then every so often."""
SLOW_PULSE = 250e-3
"""The longest between two looks, of a call that has run for long: an eighth of the time."""
MOST_SENDS = 128
"""Messages of answers that may be on their way."""
WORD = struct.Struct("<Q")
RANGE = struct.Struct("<QQ")


class Luggage(NamedTuple):
    """Frames and the buffers that they name."""

    frames: bytes
    buffers: list[wire.Buffer]


def serve(comm: MPI.Intracomm | None = None) -> None:
    """Serve the pool of rank 0 until it ends: for ranks of programs that are not started by ``python -m asyncpar_mpi``.

    Every rank of ``comm`` but 0 calls this while rank 0 opens ``MPIPool(comm)``; it returns when that pool is closed.
    A rank that outlives rank 0 leaves at once, with exit code 1.

    :param comm: default: ``COMM_WORLD``
    """
    rank = Rank(MPI.COMM_WORLD if comm is None else comm)
    try:
        rank.serve()
    except MPI.Exception as error:
        if not gone(error):
            raise
        rank.abandon()


class Rank:
    """What lives as long as the rank serves: the post, and the thread that wakes the main one."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        self.post = wire.Post(comm)
        self.post.comm.gather((os.getpid(), socket.gethostname()))
        self.backoff = wire.Backoff()
        self.parent = os.getppid()
        self.inbox: deque[Luggage | None] = deque()
        self.opening: dict[str, Any] | None = None
        self.finished = False
        self.worker: RankWorker | None = None
        self.faults = tolerated()

    def serve(self) -> None:
        """Be the worker of one pool after another."""
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCONT)}
        environment = os.environ.get("ASYNCPAR_WORKER")
        os.environ["ASYNCPAR_WORKER"] = str(os.getpid())
        pulse = Pulse()
        try:
            while not self.finished:
                if self.opening is None:
                    self.wait()
                    continue
                settings, self.opening = self.opening, None
                self.worker = RankWorker(self, pulse, settings)
                self.worker.work(settings)
                self.worker = None
                residence.enter({})
                self.post.send(0, wire.CLOSED)
        finally:
            pulse.end()
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            if environment is None:
                del os.environ["ASYNCPAR_WORKER"]
        self.settle(0)
        if not self.faults:  # collective, which the dead cannot join
            self.post.close()

    def wait(self) -> None:
        """Look for a message; sleep if none comes."""
        if self.take():
            self.backoff.reset()
            return
        self.post.progress()
        self.backoff.wait()

    def settle(self, most: int) -> None:
        """Wait until no more than so many messages are on their way: a loop that reads slowly holds its ranks back."""
        if self.post.sending:
            self.post.progress()
        backoff = wire.Backoff()
        while len(self.post.sending) > most:
            backoff.wait(self.post.progress())

    def take(self) -> bool:
        """Take one message in, if one has come."""
        try:
            arrival = self.post.receive(0)
        except MPI.Exception as error:
            if not gone(error):
                raise
            self.abandon()
            return False
        if arrival is None:
            if os.getppid() != self.parent:
                self.abandon()
            return False
        self.note(arrival)
        return True

    def note(self, arrival: Arrival) -> None:
        tag, body = arrival.tag, arrival.body
        if tag == wire.FRAMES:
            incoming = wire.Incoming(self.post.bulk, 0, body)
            backoff = wire.Backoff()
            while not incoming.progress():
                backoff.wait(incoming.moved)
            self.inbox.append(Luggage(incoming.frames, incoming.buffers))
        elif tag == wire.CONTROL:
            if self.worker is not None:
                self.worker.controlled(body)
        elif tag == wire.OPEN:
            self.opening = pickle.loads(body)
        elif tag == wire.RENEW:
            self.inbox.append(Luggage(HEADER.pack(0, FORGET, 1, 0, 0), []))  # in its order among the calls
        elif tag == wire.CLOSE:
            self.inbox.append(None)
        elif tag == wire.FINISH:
            self.finished = True

    def abandon(self) -> None:
        """Rank 0 or the launcher has gone: nobody waits for anything any more."""
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(1)


class RankWorker(Worker):
    """The worker of one pool."""

    def __init__(self, rank: Rank, pulse: Pulse, settings: dict[str, Any]) -> None:
        self.rank, self.pulse = rank, pulse
        self.buffers = Buffers(copies=False)  # nothing goes on before they are sent
        arena: Any = self.buffers
        super().__init__(-1, -1, arena, 0, 0.0)
        self.outgoing: deque[bytes] = deque()
        self.main = threading.get_ident()
        self.constant_buffers: dict[int, dict[int, Any]] = {}  # of constants that no call has named yet
        self.attending = self.pulsed = False
        self.prompt = self.always_prompt = rank.faults
        if settings["by_value"]:
            self.dump = transit.dump_by_value

    def work(self, settings: dict[str, Any]) -> None:
        """Get ready, then run calls until the pool is closed."""
        residence.enter({})
        residence.find_constant = self.constant
        transit.adapted = self.adapted
        signal.signal(signal.SIGINT, self.on_signal)
        signal.signal(
            signal.SIGCONT, self.on_signal
        )  # what it had may have gone elsewhere while it was stopped
        if (
            settings["main"] == options.main_location()
        ):  # this rank runs the same script: it need not be imported
            sys.modules["__mp_main__"] = sys.modules["__main__"]
        transit.prepare(self.send, settings)
        try:
            if settings["initializer"] is not None:
                pickle.loads(settings["initializer"])()
        except BaseException as error:  # it may call sys.exit
            self.send(READY, transit.dump_error(error))
        else:
            self.send(READY, b"")
        self.pulse.watch(self.words)
        try:
            self.serve()
        finally:
            self.pulse.watch(None)
            if self.runner is not None:
                self.runner.close()

    # -- frames in and out

    def read(self) -> bytes:
        """The frames of the next message; none at the end."""
        rank = self.rank
        rank.backoff.reset()
        while not rank.inbox:
            rank.wait()
        luggage = rank.inbox.popleft()
        if luggage is None:
            return b""
        self.buffers.received = dict(luggage.buffers)
        if self.pulse.parked:
            self.pulse.wake()
        return luggage.frames

    def send(self, kind: int, payload: bytes, count: int = 0, flags: int = 0, aux: int = 0) -> None:
        """Send a frame; one that a call or a thread of its makes waits for the next look."""
        self.outgoing.append(HEADER.pack(len(payload), kind, flags, count, min(aux, 0xFFFF_FFFF)) + payload)
        if not self.inside[0] and threading.get_ident() == self.main:
            self.ship()

    def ship(self) -> None:
        """Send all that is ready. Returns when buffers have gone, which the next call may change."""
        frames: list[bytes] = []
        while self.outgoing:
            frames.append(self.outgoing.popleft())
        if not frames:
            return
        buffers = self.buffers.take_packed()
        self.rank.post.send_frames(0, b"".join(frames), buffers)
        if buffers:
            self.rank.settle(0)
        else:
            self.rank.settle(MOST_SENDS)
        if self.pulsed and not self.inside[0]:
            self.pulsed = False
            while self.rank.take():
                pass
            self.note_cancelled()

    # -- what a worker process sees in shared memory

    def controlled(self, body: memoryview) -> None:
        """Write down what was cancelled, and what is wanted back, where a worker looks for it."""
        words = self.words
        (recall,) = WORD.unpack_from(body)
        for first, last in RANGE.iter_unpack(body[WORD.size :]):
            at = RANGES + 2 * (words[CANCELS] % RING)
            words[at], words[at + 1] = first, last
            words[CANCELS] += 1
            if words[CANCELS] - self.cancels_read >= RING // 2:
                self.note_cancelled()
        words[RECALL] = max(words[RECALL], recall)

    def on_signal(self, signum: int, frame: Any) -> None:
        """Look for messages in the midst of a call, and let out what is ready. Ctrl-C does no more than that."""
        if self.attending:
            return
        if self.inside[0]:
            self.attending = True
            try:
                self.attend()
            finally:
                self.attending = False
        else:
            self.pulsed = True
        super().on_signal(signum, frame)

    def attend(self) -> None:
        while self.rank.take():
            pass
        self.note_recall()
        if self.values or self.out:
            self.flush(self.words[SEQ])
        self.ship()

    def note_recall(self) -> None:
        before = self.recalled
        super().note_recall()
        if self.recalled != before:
            self.rank.post.send(0, wire.KEPT, WORD.pack(self.words[KEPT]))

    # -- outcomes: no log outlives this process. Where a rank may die, or is timed, each is sent before the next call.

    def record(self, value: Any) -> bool:
        return False if self.prompt else super().record(value)

    def log_answer(self, mark: int, answer: bytes) -> bool:
        return False if self.prompt else super().log_answer(mark, answer)

    def on_calls(self, payload: bytes, flags: int, count: int, number: int) -> None:
        self.begin(flags)
        super().on_calls(payload, flags, count, number)

    def on_map(self, payload: bytes, flags: int, count: int, number: int) -> None:
        self.begin(flags)
        super().on_map(payload, flags, count, number)

    def begin(self, flags: int) -> None:
        self.prompt = self.always_prompt or bool(flags & TIMED)
        if self.prompt:
            self.words[MODE] = self.mode = PICKLED
        if flags & TIMED:
            self.rank.post.send(0, wire.BEGAN, WORD.pack(self.words[SEQ]))

    # -- arguments

    def lend(self, at: int, view: Any) -> None:
        """They are this rank's own, for as long as the function keeps them."""

    def on_share(self, payload: bytes, flags: int, count: int, number: int) -> None:
        super().on_share(payload, flags, count, number)
        received = self.buffers.received
        self.constant_buffers[number] = {buffer: received.pop(buffer) for buffer in slabs(payload)}

    def constant(self, number: int) -> Any:
        self.buffers.received.update(self.constant_buffers.pop(number, {}))
        return super().constant(number)

    def on_forget(self, payload: bytes, flags: int, count: int, aux: int) -> None:
        if not count:
            residence.enter({})
        if flags:
            for number in WORD.iter_unpack(payload):
                self.constant_buffers.pop(number[0], None)
        super().on_forget(payload, flags, count, aux)


class Pulse:
    """Wakes the main thread while a call runs, by a signal, so that it looks around."""

    def __init__(self) -> None:
        self.main = threading.main_thread().ident
        self.words: Any = None
        self.parked = False
        self.ended = False
        self.event = threading.Event()
        self.thread = threading.Thread(target=self.run, name="asyncpar-pulse", daemon=True)
        self.thread.start()

    def watch(self, words: Any) -> None:
        """Look at these control words from now on."""
        self.words = words

    def wake(self) -> None:
        """There is something to do."""
        self.parked = False
        self.event.set()

    def end(self) -> None:
        self.ended = True
        self.wake()
        self.thread.join()

    def run(self) -> None:
        while not self.ended:
            words = self.words
            if words is None or not words[BUSY]:
                self.parked = True
                self.event.wait(SLOW_PULSE)  # not for ever: it may have begun just now, unseen
                self.event.clear()
                time.sleep(PULSE / 4)  # what it was woken for is about to begin
                continue
            self.follow(words)

    def follow(self, words: Any) -> None:
        """Wake the main thread now and then, while it is busy."""
        began, seen, pause = time.monotonic(), words[SEQ], PULSE
        while words[BUSY] and not self.ended and words is self.words:
            time.sleep(pause)
            if not words[BUSY] or words is not self.words:
                return
            if words[SEQ] != seen:
                began, seen = time.monotonic(), words[SEQ]
            pause = min(SLOW_PULSE, max(PULSE, (time.monotonic() - began) / 8))
            assert self.main is not None
            signal.pthread_kill(self.main, signal.SIGINT)
