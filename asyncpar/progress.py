"""How far a map has come, on stderr: a live bar where rich and a terminal are there, else a line now and then."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BAR_INTERVAL = 0.1  # seconds: faster than this, nobody sees a difference
LINE_INTERVAL = 5.0  # seconds: logs are kept, so a line has to be worth its place


class Progress:
    """What `map(progress=...)` shows. It never raises: a broken terminal must not break the work it shows.

    Several may be shown at once, from any thread. One instance belongs to one thread.
    """

    def __init__(self) -> None:
        self._display: _Display | None = None
        self._done = 0
        self._replayed = 0
        self._next_update = 0.0

    def start(self, total: int | None = None, label: str = "map") -> None:
        """Show the display.

        Args:
            total: How many items there will be; None where nobody knows.
            label: The words in front of it.
        """
        self._display = _open_display(total, label)
        if self._display is not None:
            # What ends within one interval shows its end alone.
            self._next_update = time.monotonic() + self._display.interval

    def advance(self, count: int = 1, replayed: int = 0) -> None:
        """Count finished items. Cheap: the display is touched ten times a second at most.

        Args:
            count: How many more.
            replayed: How many of all so far came from a journal.
        """
        self._done += count
        self._replayed = replayed
        now = time.monotonic()
        if self._display is not None and now >= self._next_update:
            self._next_update = now + self._display.interval
            with contextlib.suppress(Exception):
                self._display.show(self._done, self._replayed)

    def close(self) -> None:
        """Show the last count and leave it there. Closing twice is harmless."""
        display, self._display = self._display, None
        if display is not None:
            with contextlib.suppress(Exception):
                display.close(self._done, self._replayed)


class _Display(Protocol):
    interval: float

    def show(self, done: int, replayed: int) -> None: ...
    def close(self, done: int, replayed: int) -> None: ...


def _open_display(total: int | None, label: str) -> _Display | None:
    with contextlib.suppress(Exception):
        if sys.stderr.isatty():
            return _Bar(total, label)
    with contextlib.suppress(Exception):
        return _Lines(total, label)
    return None


def _of_which(replayed: int) -> str:
    return f", {replayed:,} from the journal" if replayed else ""


class _Lines:
    """`label: 120 of 800, 100 from the journal, 3.4 s`, every few seconds."""

    interval = LINE_INTERVAL

    def __init__(self, total: int | None, label: str) -> None:
        self._of = "" if total is None else f" of {total:,}"
        self._label = label
        self._stream = sys.stderr
        self._started = time.monotonic()

    def show(self, done: int, replayed: int) -> None:
        seconds = time.monotonic() - self._started
        self._stream.write(f"{self._label}: {done:,}{self._of}{_of_which(replayed)}, {seconds:.1f} s\n")
        self._stream.flush()

    close = show


class _Bar:
    """A line of the one live display that all the maps of this process share: a terminal has room for one."""

    interval = BAR_INTERVAL
    _lock = threading.Lock()
    _shown: RichProgress | None = None
    _open = 0

    def __init__(self, total: int | None, label: str) -> None:
        with _Bar._lock:
            if _Bar._shown is None:
                _Bar._shown = _new_live_display()
            self._live = _Bar._shown
            self._label = label
            self._task: TaskID = self._live.add_task(label, total=total)
            _Bar._open += 1

    def show(self, done: int, replayed: int) -> None:
        self._live.update(self._task, completed=done, description=f"{self._label}{_of_which(replayed)}")

    def close(self, done: int, replayed: int) -> None:
        with _Bar._lock:
            _Bar._open -= 1
            # An unknown total is known now; a known one stays, so that a map left early does not look complete.
            known = self._live.tasks[self._task].total
            total, label = done if known is None else known, f"{self._label}{_of_which(replayed)}"
            self._live.update(self._task, completed=done, total=total, description=label)
            self._live.stop_task(self._task)
            if not _Bar._open:
                _Bar._shown = None
                self._live.stop()


def _new_live_display() -> RichProgress:
    """Start rich's display. Its own thread draws, ten times a second, so that the event loop does not."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    live = Progress(*columns, console=Console(file=sys.stderr), refresh_per_second=1 / BAR_INTERVAL)
    live.start()
    return live
