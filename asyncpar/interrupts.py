"""Ctrl-C and SIGTERM while a program runs: they cancel its main function, also where the loop stands still."""

from __future__ import annotations

import _thread
import asyncio
import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

STUCK_SECONDS = 0.25
"""How long the loop may stand still after a signal before what holds it is interrupted."""


_DEFAULTS = ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))


class Interrupt(KeyboardInterrupt, SystemExit):
    """Ctrl-C, as ``run`` raises it: a ``KeyboardInterrupt`` that, uncaught, ends the program with exit code 130.

    Python by itself would print a traceback and end with the signal, which only shells show as 130.
    """

    code = 128 + signal.SIGINT


class Interrupts:
    """Handles the signals that nobody else handles, in the main thread, while ``main`` runs on the loop.

    The first cancels ``main``, once, in a turn of the loop. If the loop does not turn, ``KeyboardInterrupt`` is raised
    in the code that holds it. A second Ctrl-C raises that at once.
    """

    loop: asyncio.AbstractEventLoop

    def __init__(self) -> None:
        self.main: asyncio.Task[Any] | None = None
        self.came: int | None = None  # the first signal
        self.turned = threading.Event()  # the loop has, since then
        self.forced = False  # the next signal is our own
        self.told = False  # main knows
        self.insisted = False  # by a second Ctrl-C
        self.closed = False
        self.watching = _thread.allocate_lock()
        self.before: dict[int, Any] = {}

    def run(self, runner: asyncio.Runner, main: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end, which comes after a signal, too."""
        self.loop = runner.get_loop()
        self.install()
        try:
            return runner.run(self._become(main))
        except KeyboardInterrupt:
            if self.came is None or self.insisted or self.main is None or self.main.done():
                raise
            # it was raised in another task, and so left the loop: main is yet to clean up
            made: T = runner.run(self._finish(self.main))
            return made
        finally:
            self.restore()

    async def _become(self, main: Coroutine[Any, Any, T]) -> T:
        self.main = asyncio.current_task()
        return await main

    async def _finish(self, main: asyncio.Task[T]) -> T:
        self.cancel()
        return await main

    def leave(self, error: BaseException) -> None:
        """Raise what the program is to end with, if a signal has ended it."""
        if self.came == signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)
        if isinstance(error, KeyboardInterrupt):
            raise Interrupt(*error.args) from None
        if self.came is not None:
            raise Interrupt from None

    # -- signals

    def install(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number, default in _DEFAULTS:
            if signal.getsignal(number) == default:
                self.before[number] = signal.signal(number, self.handle)

    def restore(self) -> None:
        self.closed = True
        self.turned.set()
        with self.watching:  # its thread has ended
            pass
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """In the main thread, in the midst of whatever it does."""
        if self.forced:
            self.forced = False
            if not self.turned.is_set():
                self.interrupt()
        elif self.closed and number == signal.SIGTERM:
            sys.exit(128 + number)
        elif self.closed or (self.came is not None and number == signal.SIGINT):
            self.insisted = True
            self.interrupt()
        elif self.came is None:
            self.came = number
            self.watching.acquire()
            _thread.start_new_thread(self.watch, ())  # threading's own takes locks, which this frame may hold
            self.loop.call_soon_threadsafe(self.cancel)

    def interrupt(self) -> NoReturn:
        task = asyncio.current_task(self.loop) if self.loop.is_running() else None
        if task is not None and task is self.main:
            self.told = True
        elif task is not None:
            task.add_done_callback(_retrieve)
        raise KeyboardInterrupt

    def cancel(self) -> None:
        """The loop has turned."""
        self.turned.set()
        if not self.told and self.main is not None:
            self.told = True
            self.main.cancel()

    def watch(self) -> None:
        """In a thread: if the loop does not turn, send the signal again."""
        try:
            if not self.turned.wait(STUCK_SECONDS):
                self.forced = True
                signal.pthread_kill(threading.main_thread().ident or 0, self.came or signal.SIGINT)
        finally:
            self.watching.release()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """The interrupt has left the loop: that nobody awaits the task it was raised in is no news."""
    if not task.cancelled():
        task.exception()
