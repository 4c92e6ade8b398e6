"""The zygote: a small process without threads that forks the workers, reaps them and says how they ended.

Workers are never forked from the user's process, which may have threads and locks. When the user's
process goes, however it goes, the control socket closes, and the zygote kills every worker and leaves.
"""

from __future__ import annotations

import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys

from asyncpar.process import transit, worker
from asyncpar.process.arena import Arena

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any, NoReturn

LENGTH = struct.Struct("<I")
POLL_SECONDS = 0.01
"""How often memory is looked at: a process that fills memory at 4 GB/s gets 40 MB past its limit."""

OPENMP = (
    "it has numba start OpenMP, which ends workers forked after that at their first parallel kernel; "
    "take another threading layer (NUMBA_THREADING_LAYER=forksafe), or start='spawn'"
)


class Zygote:
    """Serves one control socket."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self.control, self.settings = control, settings
        self.arena = Arena(settings["arena"], settings["slots"], 0)
        self.children: dict[int, int] = {}  # pid -> slot
        self.over: dict[int, int] = {}  # pid -> bytes, for those killed for their memory
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_read, False)
        os.set_blocking(self.wake_write, False)

    def serve(self) -> NoReturn:
        try:
            self.run()
        except BaseException:  # a mistake of ours, or no process can be made: workers must not stay behind
            import traceback

            traceback.print_exc()
            self.leave(1)

    def run(self) -> NoReturn:
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        limit = self.settings["memory_limit"]
        sources: list[Any] = [self.control, self.wake_read]
        while True:
            ready, _, _ = select.select(sources, [], [], POLL_SECONDS if limit else None)
            if self.wake_read in ready:
                os.read(self.wake_read, 4096)
            self.reap()
            if limit:
                self.watch(limit)
            if self.control in ready:
                self.receive()

    def receive(self) -> None:
        try:
            header, fds, _, _ = socket.recv_fds(self.control, LENGTH.size, 2)
            if not header:
                self.leave()
            header += self.read(LENGTH.size - len(header))
            data = self.read(*LENGTH.unpack(header))
        except OSError:  # the user's process has gone and left unread what was told to it
            self.leave()
        slot, settings = pickle.loads(data)
        self.spawn(slot, fds[0], fds[1], settings)

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.control.recv(size - len(data))
            if not part:
                self.leave()
            data += part
        return data

    def spawn(self, slot: int, read_fd: int, write_fd: int, settings: dict[str, Any]) -> None:
        if self.settings["start"] == "spawn":
            pid = self.spawn_fresh(slot, read_fd, write_fd, settings)
        else:
            pid = os.fork()
            if not pid:
                self.become_worker(slot, read_fd, write_fd, settings)
        os.close(read_fd)
        os.close(write_fd)
        self.children[pid] = slot
        self.tell("born", slot, pid, 0)

    def become_worker(self, slot: int, read_fd: int, write_fd: int, settings: dict[str, Any]) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.control.close()
            os.close(self.wake_read)
            os.close(self.wake_write)
            worker.start(read_fd, write_fd, self.arena, slot, self.settings | settings)
        finally:
            os._exit(1)

    def spawn_fresh(self, slot: int, read_fd: int, write_fd: int, settings: dict[str, Any]) -> int:
        """A worker from a new interpreter: slower, and free of whatever was preloaded here."""
        import subprocess

        everything = self.settings | settings
        reader, writer = os.pipe()
        code = f"from asyncpar.process.zygote import fresh; fresh({slot}, {read_fd}, {write_fd}, {reader})"
        process = subprocess.Popen(
            [sys.executable, *self.settings["flags"], "-c", _bootstrap(code)],
            pass_fds=(read_fd, write_fd, reader, self.arena.fd),
        )
        process.returncode = 0  # reaped by reap()
        os.close(reader)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(pickle.dumps(everything, 5))
        return process.pid

    def reap(self) -> None:
        while self.children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.children:
                del self.children[pid]
                self.tell("died", os.waitstatus_to_exitcode(status), pid, self.over.pop(pid, 0))

    def watch(self, limit: int) -> None:
        """Kill workers over the limit. Shared pages do not count: they are the pool's."""
        for pid in self.children:
            try:
                with open(f"/proc/{pid}/statm", "rb") as file:
                    fields = file.read().split()
            except OSError:
                continue
            used = (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
            if used > limit and pid not in self.over:
                self.over[pid] = used
                os.kill(pid, signal.SIGKILL)

    def tell(self, *message: Any) -> None:
        data = pickle.dumps(message, 5)
        try:
            self.control.sendall(LENGTH.pack(len(data)) + data)
        except OSError:
            self.leave()

    def leave(self, code: int = 0) -> NoReturn:
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in self.children:
            os.waitpid(pid, 0)
        os._exit(code)


def _bootstrap(code: str) -> str:
    """Python code that finds asyncpar where this process found it, then runs ``code``."""
    return f"import sys; sys.path[:] = {sys.path!r}; {code}"


def main(control_fd: int) -> NoReturn:
    """Be the zygote: read settings from the control socket, preload, serve."""
    # Sent to the whole group they are the user's process's to handle; the end of the socket tells when to go.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    control = socket.socket(fileno=control_fd)
    (size,) = LENGTH.unpack(_receive_exactly(control, LENGTH.size))
    settings = pickle.loads(_receive_exactly(control, size))
    settings["main"] = settings["main"] and tuple(settings["main"])
    sys.path[:] = settings["path"]
    zygote = Zygote(control, settings)
    for name in settings["preload"]:
        try:
            if name == "__main__":
                main_module = transit.LazyMain(settings["main"])
                sys.modules["__main__"] = main_module
                getattr(main_module, "_nothing", None)
            else:
                importlib.import_module(name)
        except BaseException as error:  # a module may raise anything, SystemExit too
            zygote.tell("preload", name, 0, f"{type(error).__name__}: {error}")
            os._exit(1)
        if settings["start"] == "zygote" and _has_openmp_threads():
            zygote.tell("preload", name, 0, OPENMP)
            os._exit(1)
    zygote.serve()


def _has_openmp_threads() -> bool:
    """Whether numba started GNU OpenMP here, as it does when it compiles or loads a parallel kernel."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    return getattr(parallel, "_threading_layer", None) == "omp"


def _receive_exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            part = control.recv(size - len(data))
        except OSError:  # the user's process has gone
            part = b""
        if not part:
            os._exit(0)
        data += part
    return data


def fresh(slot: int, read_fd: int, write_fd: int, settings_fd: int) -> NoReturn:
    """Be a worker in a new interpreter."""
    with os.fdopen(settings_fd, "rb") as pipe:
        settings = pickle.loads(pipe.read())
    arena = Arena(settings["arena"], settings["slots"], 0)
    worker.start(read_fd, write_fd, arena, slot, settings)
