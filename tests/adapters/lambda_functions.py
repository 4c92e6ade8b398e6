"""Functions of a user's, as tests deploy them."""

import os
import time


def text(size):
    return "x" * size


def mark(path):
    """Append a line to a file; how many are there now."""
    if not isinstance(path, str):
        raise TypeError("no path")
    with open(path, "a+") as file:
        file.write("x\n")
        file.flush()
        file.seek(0)
        return file.read().count("x")


def mark_slowly(path):
    time.sleep(0.3)
    return mark(path)


def mark_and_hold(path):
    """Mark, and return when there is a file beside it that says go on."""
    marked = mark(path)
    while not os.path.exists(f"{path}.go"):
        time.sleep(0.01)
    return marked


def weigh(model_and_index):
    model, index = model_and_index
    return model["weights"][index]
