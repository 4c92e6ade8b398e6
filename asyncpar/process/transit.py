"""What crosses from a worker besides values: errors with their tracebacks, logging records, warnings.

Also how a worker process is set up before its first call. Imports nothing of asyncpar but errors.
"""

from __future__ import annotations

import os
import pickle
import sys
import types
import warnings
from collections.abc import Callable

from asyncpar.errors import SerializationError, _rebuild, chain, describe, foreign, said
from asyncpar.process.layout import LOG, READY

TYPE_CHECKING = False  # typing takes 10 ms to import, which a worker does without
if TYPE_CHECKING:
    from typing import Any

Send = Callable[..., None]
OWN = ("asyncpar.process.worker", "asyncpar.far")  # whose frames are left out of tracebacks


# -- errors


def dump_by_value(value: Any, protocol: int = 5, buffer_callback: Any = None) -> bytes:
    """``cloudpickle.dumps``, imported when something needs it."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, protocol, buffer_callback)
    return data


def unpicklable_result(value: object, error: BaseException) -> SerializationError:
    made = SerializationError(
        f"the result, a {type(value).__qualname__}, cannot be pickled: {type(error).__name__}: {said(error)}; "
        "return plain data, or keep the object in the worker with pool.actor()"
    )
    made.__cause__ = error
    return made


def unloadable(what: str, error: BaseException) -> SerializationError:
    made = SerializationError(
        f"{what} cannot be unpickled in the worker: {type(error).__name__}: {said(error)}; "
        "it must be importable there under the same name"
    )
    made.__cause__ = error
    return made


def dump_error(error: BaseException, dump: Callable[..., bytes] = pickle.dumps) -> bytes:
    """An exception with its type, notes and causes, and the worker's traceback as a note.

    ``dump`` is for those that plain pickle refuses.
    """
    if not isinstance(error, Exception):
        error = foreign(error)
    import traceback

    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_globals.get("__name__") in OWN:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    try:
        # a note is a note already for an exception that was raised here before
        error.add_note(f"\nTraceback in worker {os.getpid()}:\n{text.rstrip()}")
        links = chain(error)
        return pickle.dumps([(_dump_one(link, dump), how) for link, how in links], 5)
    finally:
        error.__traceback__ = None


def _dump_one(error: BaseException, dump: Callable[..., bytes]) -> bytes:
    reason: Exception | None = None
    for way in dict.fromkeys((pickle.dumps, dump)):
        for value in (error, Rebuilt(error)):  # a constructor with other arguments than .args: the usual trap
            try:
                data: bytes = way(value, 5)
                if type(pickle.loads(data)) is type(error):
                    return data
            except Exception as raised:  # the user's classes may raise anything
                reason = raised
    made = SerializationError(
        f"the call raised {type(error).__qualname__}: {said(error)}; "
        f"that exception cannot be pickled: {type(reason).__name__}: {said(reason)}"
    )
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return pickle.dumps(made, 5)


class Rebuilt:
    """Pickles an exception by type, args and attributes, without calling its constructor."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self.error), self.error.args, self.error.__dict__)


def load_error(data: bytes) -> BaseException:
    """The exception that ``dump_error`` packed."""
    outer: BaseException | None = None
    last: BaseException | None = None
    for blob, how in pickle.loads(data):
        try:
            link = pickle.loads(blob)
        except Exception as reason:  # the user's classes may raise anything
            link = SerializationError(f"an exception of the worker cannot be unpickled here: {reason}")
        if last is None:
            outer = link
        elif how == "cause":
            last.__cause__ = link
        else:
            last.__context__ = link
        last = link
    assert outer is not None
    return outer


# -- setting a worker up


def prepare(send: Send, settings: dict[str, Any]) -> None:
    """Make this process a worker: main module, random numbers, output, logging, warnings."""
    sys.path[:] = settings["path"]
    sys.argv[:] = settings["argv"]
    sys.modules["__main__"] = sys.modules.get("__mp_main__") or LazyMain(settings["main"])
    if "numpy.random" in sys.modules:  # a fork would repeat its parent's numbers
        sys.modules["numpy.random"].seed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io_text()):
            # a line in one write, also where PYTHONUNBUFFERED asks for a write a piece
            stream.reconfigure(line_buffering=True, write_through=False)  # pyright: ignore[reportAttributeAccessIssue]
    import faulthandler

    if sys.stderr is not None:
        try:
            faulthandler.enable()
        except (ValueError, OSError):  # stderr has no descriptor
            pass
    ForwardLogging(send, settings["log_level"])


def io_text() -> Any:
    import io

    return io.TextIOWrapper


def initialize(send: Send, settings: dict[str, Any]) -> None:
    """Run the user's initializer, if there is one, and report that the worker is ready."""
    try:
        if settings["initializer"] is not None:
            pickle.loads(settings["initializer"])()
    except BaseException as error:  # it may call sys.exit
        send(READY, dump_error(error))
        os._exit(1)
    send(READY, b"")


class ForwardLogging:
    """Has logging records and warnings sent to the loop's process, from when ``logging`` is imported here.

    A finder of ``sys.meta_path``: most calls do not log, and to import ``logging`` takes longer than to fork a worker.
    """

    def __init__(self, send: Send, level: int) -> None:
        self.send, self.level = send, level
        if "logging" in sys.modules:
            self.install()
        else:
            sys.meta_path.insert(0, self)
        warnings.showwarning = show_warning

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "logging":
            return None
        import importlib.machinery

        spec: Any = importlib.machinery.PathFinder.find_spec(name)
        run = spec.loader.exec_module

        def run_and_install(module: types.ModuleType) -> None:
            run(module)
            self.install()
            sys.meta_path.remove(
                self
            )  # at the end: a call that is cancelled before fails to import, and another may try

        spec.loader.exec_module = run_and_install
        return spec

    def install(self) -> None:
        import logging

        send = self.send

        class Forward(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                try:
                    data = {**record.__dict__, "msg": record.getMessage(), "args": None, "exc_info": None}
                    if record.exc_info:
                        data["exc_text"] = logging.Formatter().formatException(record.exc_info)
                    send(LOG, pickle.dumps(_plain(data), 5))
                except Exception:  # as every handler of logging does
                    self.handleError(record)

        root = logging.getLogger()
        root.handlers[:] = [Forward()]
        root.setLevel(self.level)


def show_warning(
    message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    """A warning becomes a record of the logger ``py.warnings``."""
    import logging

    text = warnings.formatwarning(message, category, filename, lineno, line)
    logging.getLogger("py.warnings").warning("%s", text.rstrip())


def _plain(data: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a record that can travel; the others as text."""
    plain: dict[str, Any] = {}
    for key, value in data.items():
        if not isinstance(value, (int, float, str, type(None))):
            value = describe(value)
        plain[key] = value
    return plain


class LazyMain(types.ModuleType):
    """Stands for the user's script until something of it is needed, then runs it as ``__mp_main__``."""

    def __init__(self, where: tuple[str, str] | None) -> None:
        super().__init__("__main__")
        self.__dict__["_where"] = where

    def __getattr__(self, name: str) -> Any:
        where = self.__dict__.get("_where")
        if where is None or name.startswith("__"):
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        self.__dict__["_where"] = None
        import_main(self, *where)
        return getattr(self, name)


importing_main = False


def import_main(module: types.ModuleType, how: str, where: str) -> None:
    """Run the user's script into ``module``, as multiprocessing's spawn does."""
    global importing_main
    import runpy

    importing_main = True
    try:
        run = runpy.run_path if how == "path" else runpy.run_module
        content = run(where, run_name="__mp_main__")
    finally:
        importing_main = False
    module.__dict__.update(content)
    sys.modules["__mp_main__"] = module


def adapted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it is called here; a worker puts its own look-up here, for coroutine functions."""
    return function


def carry(function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Call a function that came with its arguments: it has state, and each call a copy of its own."""
    if type(function) is bytes:
        function = pickle.loads(function)
    return adapted(function)(*args, **kwargs)


class InContext:
    """Calls a function with context variables set, given as ``((module, name), value)``.

    The values of a map are known at its start; those of a single call come with its arguments.
    """

    def __init__(self, function: Callable[..., Any], values: Any = None) -> None:
        self.function, self.values = function, values
        self.as_passed = function  # by the user
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__module__ = getattr(function, "__module__", "builtins")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import contextvars

        values = self.values
        if values is None:
            values, args, kwargs = args
        return contextvars.copy_context().run(self._call, values, args, kwargs)

    def _call(self, values: Any, args: Any, kwargs: Any) -> Any:
        import importlib

        for (module, name), value in values:
            getattr(importlib.import_module(module), name).set(value)
        return adapted(self.function)(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        if self.values is not None or not isinstance(other, InContext):
            return self is other
        return other.values is None and other.function == self.function

    def __hash__(self) -> int:
        return hash(self.function)

    def __reduce__(self) -> tuple[Any, ...]:
        return InContext, (self.function, self.values)
