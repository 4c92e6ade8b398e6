"""The loop's side of the zygote: asks for workers, hears how they ended, owns the shared memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from asyncpar.errors import BrokenPoolError
from asyncpar.process.arena import REGIONS, Arena, shared_file
from asyncpar.process.zygote import LENGTH

SPARE_SLOTS = 62
"""Workers there can be besides the pool's own: actors, streams and replacements."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip


class Nursery:
    """One zygote and the workers that it made."""

    def __init__(
        self, workers: int, settings: dict[str, Any], threads: int | None, on_lost: Callable[[], None]
    ) -> None:
        self.slots = list(range(workers + SPARE_SLOTS, 0, -1))
        self.total = len(self.slots)
        self.settings = settings
        self.threads = threads
        self.on_lost = on_lost
        self.places: dict[int, Any] = {}  # slot -> place
        self.region_live: dict[int, dict[int, int]] = {}  # slot -> offset -> size class
        self.failure: BrokenPoolError | None = None
        self.closing = False
        self._data = b""
        self._out: deque[tuple[bytes, list[int]]] = (
            deque()
        )  # what the socket had no room for, and descriptors

    def open(self) -> None:
        """Start the zygote. It is ready when it is; what is asked of it waits in the socket."""
        self.loop = asyncio.get_running_loop()
        self.arena = _shared_memory(self.total)
        try:
            self.start()
        except OSError:
            self.arena.close()
            raise

    def start(self) -> None:
        """Start a zygote over the same shared memory. What is sent to it waits in the socket until it is there."""
        self.control, theirs = socket.socketpair()
        self.control.setblocking(False)
        settings = self.settings | {"arena": self.arena.fd, "slots": self.total}
        data = pickle.dumps(settings, 5)
        self._data = b""
        self._send(data, [])
        self.loop.add_reader(self.control.fileno(), self._readable)
        self.process: subprocess.Popen[bytes] | None = None
        self.started = self.loop.create_future()
        # Starting a process takes milliseconds, which are not the loop's to lose.
        threading.Thread(target=self._start, args=(theirs, settings["flags"]), name="asyncpar-start").start()

    def _start(self, theirs: socket.socket, flags: list[str]) -> None:
        environment = dict(os.environ)
        if self.threads is not None:
            environment.update(dict.fromkeys(THREAD_VARIABLES, str(self.threads)))
        if self.settings["preload"] and self.settings["start"] == "zygote":
            # What is preloaded may compile parallel kernels, and GNU OpenMP ends a process that is forked after that.
            environment.setdefault("NUMBA_THREADING_LAYER", "forksafe")
        code = f"import sys; sys.path[:] = {sys.path!r}; from asyncpar.process.zygote import main; main({theirs.fileno()})"
        # Ctrl-C goes to every process of the terminal, and must not find the zygote before it ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-c", code],
                pass_fds=(theirs.fileno(), self.arena.fd),
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            self.failure = BrokenPoolError(f"no process can be started: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            theirs.close()
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self.loop.call_soon_threadsafe(self.started.set_result, None)

    def spawn(self, place: Any, read_fd: int, write_fd: int, settings: dict[str, Any]) -> None:
        """Have a worker made that reads and writes these descriptors, which are closed here."""
        live = self.region_live.setdefault(place.slot, {})
        data = pickle.dumps((place.slot, settings | {"live": dict(live), "log_level": _log_level()}), 5)
        self.places[place.slot] = place
        self._send(data, [read_fd, write_fd])

    def _send(self, data: bytes, fds: list[int]) -> None:
        self._out.append((LENGTH.pack(len(data)) + data, fds))
        if len(self._out) == 1:
            self._flush()

    def _flush(self) -> None:
        """Send what the socket takes now: a zygote that does not read must not hold up the loop."""
        while self._out:
            data, fds = self._out[0]
            try:
                sent = socket.send_fds(self.control, [data], fds) if fds else self.control.send(data)
            except BlockingIOError:
                self.loop.add_writer(self.control.fileno(), self._flush)
                return
            except OSError:
                self._drop()  # the zygote is gone: its socket's end says so, and everything starts anew
                return
            for fd in fds:
                os.close(fd)
            self._out[0] = data[sent:], []
            if sent == len(data):
                self._out.popleft()
        self.loop.remove_writer(self.control.fileno())

    def _drop(self) -> None:
        """Nobody will read what was not sent."""
        for _, fds in self._out:
            for fd in fds:
                os.close(fd)
        self._out.clear()
        if self.control.fileno() >= 0:
            self.loop.remove_writer(self.control.fileno())

    def _readable(self) -> None:
        """Read all that is there: of a peer that has gone in error libuv tells only once."""
        while self.control.fileno() >= 0:
            try:
                data = self.control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._data += data
                self._take_messages()
            else:
                self._drop()
                self.loop.remove_reader(self.control.fileno())
                self.control.close()
                if not self.closing:
                    self.on_lost()

    def _take_messages(self) -> None:
        while len(self._data) >= LENGTH.size:
            (size,) = LENGTH.unpack_from(self._data)
            if len(self._data) < LENGTH.size + size:
                return
            message = pickle.loads(self._data[LENGTH.size : LENGTH.size + size])
            self._data = self._data[LENGTH.size + size :]
            self._heard(*message)

    def _heard(self, what: str, detail: Any, pid: int, over: Any) -> None:
        if what == "born":
            place = self.places.get(detail)
            if place is not None:
                place.born(pid)
        elif what == "died":
            for place in [p for p in self.places.values() if p.pid == pid]:
                place.died(detail, over)
        elif what == "preload":
            self.failure = BrokenPoolError(f"preload={detail!r} failed in the zygote: {over}")

    def released(self, slot: int) -> None:
        """The worker in this slot is gone."""
        self.places.pop(slot, None)
        if self.region_live.get(slot):
            self.slots.insert(0, slot)  # results in its region are still read: use it last
        else:
            self.slots.append(slot)

    async def ended(self) -> int | None:
        """Wait until the zygote, whose socket is closed, has gone; its exit code."""
        await self.started
        process = self.process
        if process is None:
            return None
        for _ in range(500):
            if process.poll() is not None:
                return process.returncode
            await asyncio.sleep(0.002)
        process.kill()
        return process.wait()

    async def close(self) -> None:
        """End the zygote; every worker has gone before."""
        self.closing = True
        self._drop()
        if self.control.fileno() >= 0:
            self.loop.remove_reader(self.control.fileno())
            self.control.close()
        await self.ended()
        self.arena.close()


def _shared_memory(slots: int) -> Arena:
    """The largest that the limits of this process allow."""
    refused: OSError | None = None
    for region in REGIONS:
        try:
            return _arena(slots, region)
        except OSError as error:
            if error.errno not in (errno.ENOMEM, errno.EFBIG):
                raise
            refused = error
    raise BrokenPoolError(
        f"the shared memory of a ProcessPool cannot be made: {refused}. It needs at least "
        f"{Arena.size(slots, REGIONS[-1]) >> 20:,} MiB of address space, though memory only for what is used: "
        "raise the limits of this program (ulimit -v, ulimit -f)"
    ) from refused


def _arena(slots: int, region: int) -> Arena:
    fd = shared_file(Arena.size(slots, region))
    try:
        return Arena(fd, slots, 0)
    except OSError:
        os.close(fd)
        raise


def _log_level() -> int:
    """The lowest level that any logger of this process is set to."""
    levels = [logging.getLogger().level or logging.WARNING]
    loggers = logging.Logger.manager.loggerDict.values()
    levels += [logger.level for logger in loggers if isinstance(logger, logging.Logger) and logger.level]
    return min(levels)
