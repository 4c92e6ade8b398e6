"""What a program may leave behind, and a block that fails if it does."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

GRACE = 2.0
"""Seconds for what is ending to end: a reaped child, a thread on its last line."""


@asynccontextmanager
async def assert_nothing_left(grace: float = GRACE) -> AsyncIterator[None]:
    """Fail if the block leaves something behind: ``async with assert_nothing_left(): ...``.

    Counted are the running loop's tasks, this process's threads and, on Linux, its children, descriptors and the files
    in ``/dev/shm``. Other parts of the program must be at rest meanwhile. An error of the block itself goes first.

    :param grace: seconds that what is ending may still take
    :raises AssertionError: names everything that was left
    """
    before = _traces()
    yield
    end = asyncio.get_running_loop().time() + grace
    while (left := _traces() - before) and asyncio.get_running_loop().time() < end:
        gc.collect()  # a cycle may be all that holds a descriptor
        await asyncio.sleep(0.01)
    if left:
        raise AssertionError("left behind: " + "; ".join(sorted(left)))


def _traces() -> set[str]:
    tasks = {f"task {task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks()}
    threads = {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    return tasks | threads | _children() | _descriptors() | _files("/dev/shm", "shared memory")


def _children() -> set[str]:
    found: set[str] = set()
    for thread in _names("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                found |= {f"process {pid}" for pid in file.read().split()}
        except OSError:  # that thread has ended, or this is not Linux
            pass
    return found


def _descriptors() -> set[str]:
    found: set[str] = set()
    for name in _names("/proc/self/fd"):
        try:
            found.add(f"descriptor {name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the listing's own
            pass
    return found


def _files(folder: str, what: str) -> set[str]:
    return {f"{what} {folder}/{name}" for name in _names(folder)}


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not Linux
        return []
