"""What the contract runs on workers. Imports nothing heavy: every worker imports this."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any


class ContractError(Exception):
    """An error whose constructor does not take its ``args``, as users' errors often do not."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code
        self.reason = reason


def square(x: int) -> int:
    return x * x


def add(a: int, b: int) -> int:
    return a + b


def slow_add(a: int, b: int) -> int:
    nap(0.01)
    return a + b


def concat(a: str, b: str) -> str:
    """Associative, but not commutative: shows whether order is kept."""
    return a + b


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


def nap(seconds: float) -> float:
    """Block this worker; returns its argument. In short naps, so that an interrupt is taken at once."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))
    return seconds


def fail(x: Any) -> Any:
    raise ValueError(f"no {x}")


def fail_on(bad: int, x: int) -> int:
    """``x``, unless it is the bad one."""
    if x == bad:
        raise ValueError(f"no {x}")
    return x


def fail_because(x: Any) -> Any:
    """An error with a cause."""
    try:
        raise KeyError(x)
    except KeyError as error:
        raise ContractError(7, reason="it was missing") from error


def call_it(function: Callable[[], Any]) -> Any:
    return function()


def pick(items: list[Any], index: int) -> Any:
    return items[index]


def stop_iteration() -> None:
    raise StopIteration("enough")


def leave_program() -> None:
    raise SystemExit(3)


async def square_async(x: int) -> int:
    import asyncio

    await asyncio.sleep(0)
    return x * x


async def concat_async(a: str, b: str) -> str:
    return a + b


def value_of(thing: Any) -> Any:
    """What arrives where a ``Shared`` was passed."""
    return type(thing).__name__, list(thing)


def mark(path: str, text: str = "x") -> int:
    """Append a line to a file; returns how many are there now."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, f"{text}\n".encode())
        return os.pread(fd, 1 << 20, 0).count(b"\n")
    finally:
        os.close(fd)


def lines(path: str) -> list[str]:
    """What was appended to a file; none if it is not there."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        return os.pread(fd, 1 << 20, 0).decode().split()
    finally:
        os.close(fd)


def flaky(path: str, failures: int) -> str:
    """Fails so many times, by the count in the file, then succeeds."""
    if mark(path) <= failures:
        raise ConnectionError("try again")
    return "done"


def flaky_position(path: str, position: int) -> int:
    """Every other call fails the first time."""
    if position % 2 == 0 and mark(path) == 1:
        raise ConnectionError("try again")
    return position


def wait_for_file(path: str, seconds: float = 50.0) -> None:
    """Block this worker until there is such a file; in short naps, as ``nap``."""
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(f"nobody made {path}")
        time.sleep(0.002)


def release(path: str) -> None:
    """Make the file that ``hold`` waits for, without a call that blocks a loop."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT))


def hold(path: str, value: Any = None) -> Any:
    """Note in ``path.begun`` that this call runs, and return the value when there is a file at ``path``."""
    mark(f"{path}.begun")
    wait_for_file(path)
    return value


def hold_if(path: str, held: Any, value: Any) -> Any:
    """``hold`` if the value is the one to be held, else return it at once."""
    return hold(path, value) if value == held else value


def hold_and_mark(path: str) -> None:
    """``hold``; a line in ``path.ended`` if it comes to its end."""
    hold(path)
    mark(f"{path}.ended")


def meet(path: str, many: int) -> int:
    """Return how many such calls there are when there are so many: they run at the same time, or never return."""
    mark(path)
    end = time.monotonic() + 50
    while (there := len(lines(path))) < many:
        if time.monotonic() > end:
            raise TimeoutError(f"{there} of {many} calls came")
        time.sleep(0.002)
    return many


def span(seconds: float) -> tuple[float, float]:
    """When a call began and ended, by a clock that all processes of a machine share."""
    began = time.monotonic()
    nap(seconds)
    return began, time.monotonic()


class Counter:
    """An actor."""

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise ValueError("start must not be negative")
        self.n = start
        self.seen: list[int] = []

    def add(self, n: int = 1) -> int:
        self.n += n
        return self.n

    def see(self, n: int) -> None:
        self.seen.append(n)

    def all_seen(self) -> list[int]:
        return self.seen

    def fail(self) -> None:
        self.n += 100
        raise ValueError("the counter is tired")

    async def add_async(self, n: int) -> int:
        self.n += n
        return self.n


def count(n: int) -> Iterator[int]:
    yield from range(n)


async def count_async(path: str, n: int) -> AsyncIterator[int]:
    """The numbers below ``n``, from an async generator; the last line of the file is ``closed``."""
    import asyncio

    try:
        for i in range(n):
            await asyncio.sleep(0)
            yield i
    finally:
        await asyncio.to_thread(mark, path, "closed")


def count_and_fail(n: int) -> Iterator[int]:
    yield from range(n)
    raise ValueError("the stream broke")


async def count_and_fail_async(n: int) -> AsyncIterator[int]:
    for i in range(n):
        yield i
    raise ContractError(n, reason="the stream broke")


def count_and_mark(path: str) -> Iterator[int]:
    """Endless; a line in the file for every item made, and one at the end."""
    n = 0
    try:
        while True:
            mark(path)
            yield n
            n += 1
    finally:
        mark(path, "closed")
