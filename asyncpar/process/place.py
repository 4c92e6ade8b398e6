"""A worker's place on the loop's side: its pipes, and the state of the talk with it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from asyncpar.process.arena import unpack
from asyncpar.process.layout import LOG_AT, WRITTEN
from asyncpar.process.link import Link

if TYPE_CHECKING:
    from asyncpar.process.pool import ProcessPool

PIPE_SIZE = 1 << 18


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
            weakref.finalize(view, pool.packing.freed.append, (slot, at)).atexit = False

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
