"""One writer at a time. Readers need no lock.

The lock is ``flock`` on a file beside the journal: the kernel drops it with the process, however that ends. The journal
itself will not do: closing any descriptor of it would drop SQLite's own locks.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from pathlib import Path

from asyncpar.errors import JournalError

PATIENCE = 0.1
"""Seconds: somebody may just look whether the lock is held."""


class Lock:
    """Holds a journal for writing, until ``release``.

    :raises JournalError: somebody else holds it; the message says which process
    """

    def __init__(self, journal: Path) -> None:
        self.path = Path(f"{journal}-lock")
        try:
            self._fd = self._take(journal)
        except OSError as error:
            raise JournalError(f"the journal {journal} cannot be used: {error}") from error
        _locks.add(self)

    def _take(self, journal: Path) -> int:
        give_up = time.monotonic() + PATIENCE
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(fd):
                    os.ftruncate(fd, 0)
                    os.pwrite(fd, b"%d\n" % os.getpid(), 0)
                    kept, fd = fd, -1
                    return kept
            except BlockingIOError:
                if time.monotonic() >= give_up:
                    raise in_use(journal, holder(fd)) from None
                time.sleep(0.01)
            finally:
                if fd >= 0:
                    os.close(fd)

    def _is_current(self, fd: int) -> bool:
        """Whether the locked file still has its name: its last holder may just have removed it."""
        try:
            return os.path.samestat(os.fstat(fd), self.path.stat())
        except FileNotFoundError:
            return False

    def _forget(self) -> None:
        """In a child that was forked: the lock is not its own, and must not outlive its owner there."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def release(self) -> None:
        """Let others write."""
        if self._fd >= 0:
            self.path.unlink(missing_ok=True)
            fd, self._fd = self._fd, -1
            os.close(fd)


_locks: weakref.WeakSet[Lock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_locks):
        lock._forget()


os.register_at_fork(after_in_child=_forget_all)


def holder(fd: int) -> int | None:
    """The process that wrote its number there."""
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else None


def in_use(journal: Path, pid: int | None) -> JournalError:
    """Why a second run is refused."""
    if pid == os.getpid():
        return JournalError(
            f"the journal {journal} is in use by another map of this program: give both maps one "
            f"asyncpar.Journal({str(journal)!r})"
        )
    who = "another process" if pid is None else f"process {pid}"
    return JournalError(
        f"the journal {journal} is in use by {who}: wait until that has ended, or take another path"
    )


def is_held(journal: Path) -> int | None:
    """The process that writes to this journal now, if one does."""
    try:
        fd = os.open(f"{journal}-lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return holder(fd)
    finally:
        os.close(fd)
    return None
