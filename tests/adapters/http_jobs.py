"""What the tests of functions behind HTTP run there: packaged from this file."""

import asyncio
import os
import time


def square(x):
    return x * x


def add(a, b):
    return a + b


def size(data):
    return len(data)


def blow_up(n):
    return b"x" * n


def pick(items, index):
    return items[index]


def nap(seconds):
    time.sleep(seconds)
    return seconds


async def nap_async(seconds):
    await asyncio.sleep(seconds)
    return seconds


def pid(seconds):
    time.sleep(seconds)
    return os.getpid()


def hold(path, x):
    """Tell which process this is, then wait until the file is gone."""
    with open(f"{path}.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{path}.new", path)
    while os.path.exists(path):
        time.sleep(0.01)
    return x


def mark(path):
    """Append a line to a file."""
    with open(path, "a") as file:
        file.write("x\n")


def tell(x):
    raise ValueError(f"no {x}")


def deaf(seconds):
    """Go on whatever is raised in it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except BaseException:
            pass
