"""The errors of asyncpar, one tree.

    AsyncparError
    ├── PoolClosedError                   the pool is not open (any more)
    ├── BrokenPoolError                   the pool can run nothing, and says why
    ├── WorkerLostError                   a worker died while it ran a call
    ├── MemoryLimitError  (MemoryError)   a call went over its worker's memory limit
    ├── CallTimeoutError  (TimeoutError)  a call ran longer than its timeout
    ├── SerializationError  (TypeError)   something could not travel to a worker or back
    ├── NestedPoolError                   a process pool inside a worker, or an unguarded script
    ├── UnsupportedError                  this pool does not have this feature
    ├── JournalError                      a journal cannot be used, or not for this function or item
    └── PoolNotFoundError  (LookupError)  no pool of that name is installed

Whatever a call itself raises arrives as it is, with the worker's traceback in a note.
"""

from __future__ import annotations

import signal as _signal

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any, TypeVar

    E = TypeVar("E", bound=BaseException)

__all__ = [
    "AsyncparError",
    "BrokenPoolError",
    "CallTimeoutError",
    "JournalError",
    "MemoryLimitError",
    "NestedPoolError",
    "PoolClosedError",
    "PoolNotFoundError",
    "SerializationError",
    "UnsupportedError",
    "WorkerLostError",
]


class AsyncparError(Exception):
    """The base of every error that asyncpar itself raises."""


class PoolClosedError(AsyncparError):
    """The pool is not open: enter it with ``async with`` and stay inside while calls run."""


class BrokenPoolError(AsyncparError):
    """The pool can run nothing any more; the message says why. Open a new one."""


class WorkerLostError(AsyncparError):
    """A worker died (exit, crash, signal, out of memory) while it ran this call.

    Only the call that was running is lost. ``retries=`` of ``map`` runs such calls again.

    :ivar pid: process id of the worker, or ``None`` where workers are not processes
    :ivar signal: number of the signal that ended it, or ``None``
    :ivar exitcode: its exit code, or ``None`` if a signal ended it
    :ivar function: name of the function that was running
    """

    def __init__(
        self,
        message: str,
        *,
        pid: int | None = None,
        signal: int | None = None,
        exitcode: int | None = None,
        function: str | None = None,
    ) -> None:
        super().__init__(message)
        self.pid = pid
        self.signal = signal
        self.exitcode = exitcode
        self.function = function

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)

    @classmethod
    def from_status(
        cls,
        pid: int,
        signal: int | None,
        exitcode: int | None,
        function: str,
        again: str | None = None,
    ) -> WorkerLostError:
        """The error for a worker process that ended so while it ran ``function``; ``again`` says how to go on."""
        end = f"was killed by {signal_name(signal)}" if signal else f"exited with code {exitcode}"
        return cls(
            f"worker {pid} {end} while it ran {function}; {_advice(signal, again)}",
            pid=pid,
            signal=signal,
            exitcode=exitcode,
            function=function,
        )


def _rebuild(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def fresh(error: E) -> E:
    """An error that was raised before, to be raised again: its traceback would grow."""
    made = _rebuild(type(error), error.args, error.__dict__)
    made.__cause__ = error.__cause__
    return made  # type: ignore[return-value]


def foreign(error: BaseException) -> RuntimeError:
    """KeyboardInterrupt and the like must not travel as themselves: they would stop the loop."""
    made = RuntimeError(f"the call raised {type(error).__name__}: {said(error)}")
    made.__cause__ = error
    return made


def said(error: object) -> str:
    """What ``str`` says of an error, and what can be said where that fails."""
    try:
        return str(error)
    except Exception:  # the user's __str__ may do anything
        return "(its text cannot be made)"


def describe(value: object, limit: int = 60) -> str:
    """A short repr that never fails."""
    try:
        text = repr(value)
    except Exception:  # the user's __repr__ may do anything
        text = object.__repr__(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """The exception, then what it was raised from, outermost first."""
    links: list[tuple[BaseException, str]] = []
    seen: set[int] = set()
    link: BaseException | None = error
    how = ""
    while link is not None and id(link) not in seen and len(links) < 32:
        seen.add(id(link))
        links.append((link, how))
        if link.__cause__ is not None:
            link, how = link.__cause__, "cause"
        elif link.__context__ is not None and not link.__suppress_context__:
            link, how = link.__context__, "context"
        else:
            link = None
    return links


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the bare number for a signal without a name."""
    try:
        return _signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _advice(signal: int | None, again: str | None) -> str:
    again = again or "the pool goes on; run it again with retries= if that is safe"
    if signal == _signal.SIGKILL:
        return f"if nobody sent that signal, the machine ran out of memory: try fewer workers or memory_limit=; {again}"
    if signal in (_signal.SIGSEGV, _signal.SIGBUS, _signal.SIGABRT, _signal.SIGILL, _signal.SIGFPE):
        return f"native code crashed, its stack is on stderr; {again}"
    return again


class MemoryLimitError(AsyncparError, MemoryError):
    """A call made its worker larger than ``memory_limit``; the worker was killed and replaced."""


class CallTimeoutError(AsyncparError, TimeoutError):
    """A call ran longer than the ``timeout`` (in seconds) of its map."""


class SerializationError(AsyncparError, TypeError):
    """An argument, a function, a result or an exception could not be pickled; the message names it."""


class NestedPoolError(AsyncparError, RuntimeError):
    """A process pool was opened inside a worker, which would multiply processes without end."""


class UnsupportedError(AsyncparError, NotImplementedError):
    """This pool does not have the feature that the call asked for; the message says what has."""


class JournalError(AsyncparError):
    """A journal cannot be used: in use elsewhere, damaged, on a full disk, of a changed function; or an item has no key.

    What it holds is not lost. The message says what to do.
    """


class PoolNotFoundError(AsyncparError, LookupError):
    """No pool of this name is installed; the message lists those that are."""
