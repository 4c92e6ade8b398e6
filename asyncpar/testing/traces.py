"""What a program may leave behind, and a block that fails if it does."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

GRACE = 20.0
"""Seconds for what is ending to end: a reaped child, a thread on its last line. Only what is left behind takes them."""


@asynccontextmanager
async def assert_nothing_left(grace: float = GRACE) -> AsyncGenerator[None]:
    """Fail if the block leaves something behind: ``async with assert_nothing_left(): ...``.

    Counted are the running loop's tasks, this process's threads and, on Linux, its children, descriptors and the files
    in ``/dev/shm``. Other parts of the program must be at rest meanwhile. An error of the block itself goes first.

    :param grace: seconds that what is ending may still take
    :raises AssertionError: names everything that was left
    """
    loop = asyncio.get_running_loop()
    before = await _traces()
    yield
    end = loop.time() + grace
    while (left := await _traces() - before) and loop.time() < end:
        gc.collect()  # a cycle may be all that holds a descriptor
        await asyncio.sleep(0.01)
    if left:
        raise AssertionError("left behind: " + "; ".join(sorted(left)))


async def _traces() -> set[str]:
    found = {f"task {task.get_name()}: {task.get_coro()!r}" for task in asyncio.all_tasks()}
    found |= {f"thread {thread.name} ({thread.ident})" for thread in threading.enumerate()}
    # /proc is read in a thread of its own: reading on the loop's would be a blocking call, and an executor stays.
    reader = threading.Thread(target=lambda: found.update(_children(), _descriptors(), _shared_memory()))
    reader.start()
    while reader.is_alive():
        await asyncio.sleep(0.001)
    return found


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


def _shared_memory() -> set[str]:
    return {f"shared memory {name}" for name in _names("/dev/shm")}


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # not Linux
        return []
