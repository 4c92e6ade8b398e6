"""A function of a user's that shows how often each call is run."""

import os


def mark(path, index):
    with open(path, "a") as file:
        file.write(f"{index} {os.getpid()}\n")
    return index * index
