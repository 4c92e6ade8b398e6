"""What the tests of the process pool run in workers. Imports nothing heavy: workers import it."""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import datetime as dt
import logging
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from typing import Any, NoReturn

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")
kept: list[Any] = []
state: dict[str, Any] = {}


# Plain calls


def double(x: int) -> int:
    return 2 * x


def add(x: int, y: int = 0, *, z: int = 0) -> int:
    return x + y + z


def identity(x: Any) -> Any:
    return x


def apply(function: Any) -> Any:
    return function()


def pid(_: Any = None) -> int:
    return os.getpid()


def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def meet(path: str) -> int:
    """Return when two such calls run, each on a worker of its own."""
    note(path, str(os.getpid()))
    wait_for_lines(path, 2)
    return os.getpid()


def wait_for_lines(path: str, many: int) -> None:
    """Until a file is there and has so many lines."""
    end = time.monotonic() + 50
    while not os.access(path, os.R_OK) or _count_lines(path) < many:
        if time.monotonic() > end:
            raise TimeoutError(f"{path} has not got {many} lines")
        time.sleep(0.002)


def _count_lines(path: str) -> int:
    with open(path) as file:
        return file.read().count("\n")


def spin(seconds: float) -> float:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return seconds


def environment(name: str) -> str | None:
    return os.environ.get(name)


def loaded(name: str) -> bool:
    return name in sys.modules


async def slowly(x: int, seconds: float = 0.0) -> int:
    import asyncio

    await asyncio.sleep(seconds)
    return x + 1


async def tidy(path: str) -> None:
    import asyncio

    try:
        note(path, "started")
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        note(path, "cancelled")
        raise


async def stuck(path: str) -> None:
    """Blocks the loop that it runs on."""
    note(path, f"started {pid()}")
    time.sleep(30)


def note(path: str, line: str) -> None:
    """One line more in a file, at once."""
    with open(path, "a") as file:
        file.write(line + "\n")


# Ends


def die(how: str) -> NoReturn:
    if how == "exit":
        os._exit(7)
    if how == "segfault":
        ctypes_free_segfault()
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)
    raise AssertionError("still alive")


def ctypes_free_segfault() -> None:
    ctypes.string_at(0)


def die_at(x: int, where: int) -> int:
    if x == where:
        os._exit(7)
    return 2 * x


def die_at_13(x: int) -> int:
    return die_at(x, 13_000)


def counted(x: int) -> int:
    """Long enough that a kill finds calls running."""
    end = time.perf_counter() + 20e-6
    while time.perf_counter() < end:
        pass
    return x * x


def start_badly() -> None:
    raise RuntimeError("no licence")


def exit_at_start() -> None:
    os._exit(9)


def start_once(path: str) -> None:
    """Starts well the first time, and never again."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        os._exit(9)


def start_alone(path: str) -> None:
    """Starts well the first time; later fails, once ``busy`` runs elsewhere."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        while not os.access(path + ".busy", os.R_OK):
            time.sleep(0.001)
        start_badly()


def busy(path: str, seconds: float) -> None:
    note(path + ".busy", "")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def introduces(path: str) -> None:
    note(path, str(os.getpid()))


def start_well() -> None:
    state["ready"] = True


def was_initialized() -> bool:
    return bool(state.get("ready"))


def eat(megabytes: int, seconds: float = 0.0) -> int:
    block = bytearray(megabytes << 20)
    for i in range(0, len(block), 4096):
        block[i] = 1
    time.sleep(seconds)
    return len(block)


def more_address_space(megabytes: int | None) -> None:
    """From now on this process can have so much more than it has; all it is allowed, if ``None``."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    now = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (hard if megabytes is None else now + (megabytes << 20), hard))


def large(megabytes: int) -> bytes:
    return b"x" * (megabytes << 20)


def large_list(megabytes: int) -> list[str]:
    """Its pickle takes as much again."""
    return [str(i) * 300_000 for i in range(100, 100 + megabytes)]


def eat_in(group: str, megabytes: int) -> int:
    """Eats in a control group of its own."""
    with open(f"{group}/cgroup.procs", "w") as file:
        file.write("0")
    return eat(megabytes)


# Being cancelled


def cleans_up(path: str, spinning: bool = False) -> None:
    try:
        note(path, f"started {os.getpid()}")
        spin(30) if spinning else time.sleep(30)
    finally:
        note(path, "cleaned up")


def swallows(path: str) -> None:
    note(path, f"started {os.getpid()}")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(1)


def marks(path: str, go_on: float | str = 0.0) -> None:
    """Note that it ran; end after some seconds, or when there is a line in that file."""
    note(path, f"ran {os.getpid()}")
    wait_for_lines(go_on, 1) if isinstance(go_on, str) else time.sleep(go_on)


def deaf_or_counts(path: str, deaf: int) -> int:
    """How often it was called with 0. With 1 it hears no signal, as in C code, until there is a second line."""
    if deaf:
        heard = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        note(path, "deaf")
        wait_for_lines(path, 2)
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
    else:
        state["calls"] = state.get("calls", 0) + 1
    return int(state["calls"])


class SlowToPickle:
    """Large by its looks, and pickled when it is told to go on."""

    nbytes = 1 << 30

    def __init__(self, array: Any) -> None:
        self.array = array
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __reduce__(self) -> tuple[Any, ...]:
        self.begun.set()
        assert self.go_on.wait(50)
        return identity, (self.array,)


def late(x: float) -> float:
    time.sleep(x)
    return x


def annoyed(seconds: float) -> float:
    """Makes an error of its own of the interrupt."""
    try:
        nap(seconds)
    except KeyboardInterrupt:
        raise ValueError("do not disturb") from None
    return seconds


def unmoved(seconds: float) -> float:
    """Goes on, and returns something, when it is interrupted."""
    with contextlib.suppress(KeyboardInterrupt):
        nap(seconds)
    return seconds


def stop_itself(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGSTOP)
    return x


# Errors


class OddError(Exception):
    """Its constructor takes other arguments than `args` holds."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class SecretiveError(Exception):
    def __init__(self) -> None:
        super().__init__("cannot travel")
        self.lock = open(os.devnull)  # noqa: SIM115

    def __reduce__(self) -> NoReturn:
        raise TypeError("this error stays here")

    def __del__(self) -> None:
        self.lock.close()


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise TypeError("no way")

    def __repr__(self) -> str:
        return "<an unpicklable>"


class Holder:
    def __init__(self) -> None:
        self.name = "holder"
        self.inner = {"good": 1, "bad": Unpicklable()}


class PoisonForWorkers:
    """Pickles here, and fails to be unpickled in a worker."""

    def __init__(self, home: int) -> None:
        self.home = home

    def __reduce__(self) -> Any:
        return _poison, (self.home,)


def _poison(home: int) -> PoisonForWorkers:
    if os.getpid() != home:
        raise ValueError("it is poison here")
    return PoisonForWorkers(home)


class PoisonAtHome:
    """Is made in a worker, and cannot be unpickled at home."""

    def __reduce__(self) -> Any:
        return _not_at_home, (os.getpid(),)


def _not_at_home(worker: int) -> PoisonAtHome:
    if os.getpid() != worker:
        raise ValueError("it is poison there")
    return PoisonAtHome()


def raise_value_error(text: str = "bad value") -> NoReturn:
    raise ValueError(text)


def raise_noted() -> NoReturn:
    error = KeyError("k")
    error.add_note("the user's own note")
    raise error


def raise_odd() -> NoReturn:
    raise OddError(42, reason="odd")


def raise_chained() -> NoReturn:
    try:
        try:
            raise OSError("the disk")
        except OSError as error:
            raise LookupError("the index") from error
    except LookupError as error:
        raise ValueError("the query") from error


def raise_in_context() -> NoReturn:
    try:
        raise OSError("first")
    except OSError:
        raise ValueError("second")  # noqa: B904


def raise_secretive() -> NoReturn:
    raise SecretiveError


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("there is no text")


def raise_mute(how: str) -> NoReturn:
    if how == "local":

        class Local(Mute):
            pass

        raise Local
    raise Mute


class Unsaid:
    def __reduce__(self) -> Any:
        raise Mute


def make_unsaid() -> Unsaid:
    return Unsaid()


def raise_keyboard_interrupt() -> NoReturn:
    raise KeyboardInterrupt("mine")


def make_unpicklable(_: Any = None) -> Unpicklable:
    return Unpicklable()


def unpicklable_at_3(x: int) -> Any:
    return Unpicklable() if x == 3 else x


def make_poison() -> PoisonAtHome:
    return PoisonAtHome()


def poison_at_3(x: int, size: int) -> Any:
    if x == 3:
        return PoisonAtHome()
    if x == 5:
        raise ValueError("no 5")
    return [dt.date(2000, 1, 1 + x), bytearray(size)]


def is_none(x: object) -> bool:
    return x is None


# Logging, warnings, output, context


def logs(text: str) -> None:
    logging.getLogger("tests.worker").warning("%s from the worker", text)
    logging.getLogger("tests.worker").debug("not at this level")


def logs_traceback() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("tests.worker").exception("it failed")


def warns() -> None:
    warnings.warn("take care", UserWarning, stacklevel=1)


def see_tenant(_: Any = None) -> str:
    return tenant.get()


async def see_tenant_async(_: Any = None) -> str:
    return tenant.get()


def set_tenant() -> str:
    tenant.set("changed in the worker")
    return tenant.get()


def speak(text: str) -> None:
    print(text)


def open_pool_inside() -> None:
    import asyncio

    from asyncpar import ProcessPool

    async def main() -> None:
        async with ProcessPool(1):
            pass

    asyncio.run(main())


# Large things


def keep(x: Any) -> int:
    """Keeps its argument beyond the call."""
    kept.append(x)
    return os.getpid()


def first_of_kept() -> list[int]:
    return [int(x[0]) for x in kept]


def drop_kept() -> int:
    n = len(kept)
    kept.clear()
    return n


def add_one(x: Any) -> Any:
    x += 1  # in place: arguments are writable
    return x


def total(x: Any) -> Any:
    return x.sum()


def describe_array(x: Any) -> tuple[Any, ...]:
    return x.shape, x.strides, x.flags.writeable, float(x.sum())


def make_bytes(n: int, kind: str) -> Any:
    made = bytes([n % 251]) * n
    if kind == "bytearray":
        return bytearray(made)
    if kind == "PickleBuffer":
        return pickle.PickleBuffer(bytearray(made))
    return made


def check_bytes(x: Any) -> tuple[str, int, int]:
    view = memoryview(x)
    return type(x).__name__, view.nbytes, view.cast("B")[-1]


def long_if(path_and_number: tuple[str, int]) -> int:
    """The number; with a path, when there is a line in that file."""
    path, number = path_and_number
    if path:
        wait_for_lines(path, 1)
    return number


def total_after(seconds_and_array: tuple[float, Any]) -> int:
    seconds, array = seconds_and_array
    if seconds:
        time.sleep(seconds)
    return int(array.sum())


def bump(box: list[int], by: int = 1) -> int:
    """Change the argument in place."""
    box[0] += by
    return int(box[0])


def put(key: int, config: dict[int, int]) -> dict[int, int]:
    """Change one argument in place, and return it."""
    config[key] = key
    return config


_last: list[int] = []


def grown(n: int) -> Any:
    """A value that the next call changes, now and then between plain ones."""
    _last.append(n)
    return (n, "plain") if n % 4 == 1 else (n, _last) if n % 4 == 2 else n if n % 3 else _last


def last_grown(_: Any) -> dict[str, list[int]]:
    return {"last": _last}


def first_and_type(one: Any, other: Any) -> tuple[Any, str]:
    return one, type(other).__name__


class Counter:
    """Something whose methods have state."""

    def __init__(self, weights: Any = None) -> None:
        self.count, self.weights = 0, weights

    def up(self, x: Any) -> tuple[int, Any]:
        self.count += 1
        return self.count, x

    async def up_slowly(self, x: Any) -> tuple[int, Any]:
        return self.up(x)
