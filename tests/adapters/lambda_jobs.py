"""What the tests of LambdaPool run in Lambda: packaged from this file."""

import os
import time


def square(x):
    return x * x


def add(a, b):
    return a + b


def echo(x):
    return x


def size(data):
    return len(data)


def blow_up(n):
    return b"x" * n


def pick(items, index):
    return items[index]


def nap(seconds):
    time.sleep(seconds)
    return seconds


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def hold(path, x):
    """Return when there is such a file."""
    wait_for(path)
    return x


def die(x):
    """End this environment, unless ``x`` is even."""
    print(f"about to run {x}", flush=True)
    if x % 2:
        os._exit(7)
    return x


def mark_text(path, text):
    with open(path, "a") as file:
        file.write(f"{text}\n")


def mark(path, x):
    """Note on disk that this ran."""
    mark_text(path, x)
    return x * x


def mark_and_blow_up(path, n):
    mark_text(path, n)
    return blow_up(n)


def slow_once(path, x):
    """Slow for 3 the first time, until there is a file that says go on; quick otherwise."""
    if x == 3:
        try:
            os.close(os.open(f"{path}-{x}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return x
        wait_for(f"{path}-go")
    time.sleep(0.02)
    return x


def tell(x):
    """Print, then fail."""
    print(f"looking at {x}", flush=True)
    raise ValueError(f"no {x}")


def begin_and_end(path, x):
    """Note on disk, with this process, that it begins, and that it ends when there is a file that says go on."""
    mark_text(path, f"begin:{os.getpid()}")
    wait_for(f"{path}-go")
    mark_text(path, f"end:{os.getpid()}")
    return x


def fail_at_first(path, x):
    """Fail when there is no such file, which it then makes."""
    mark_text(path, "ran")
    with open(path) as file:
        first = len(file.readlines()) == 1
    if first:
        raise ValueError("the first time")
    return x
