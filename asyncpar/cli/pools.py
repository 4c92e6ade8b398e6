"""A pool's name, as the user typed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpar
from asyncpar.cli.errors import CommandError
from asyncpar.errors import PoolNotFoundError
from asyncpar.runtime import find_pool


def check_pool(name: str) -> None:
    """Raise CommandError unless `asyncpar.open_pool(name)` finds its pool and what that needs is installed."""
    try:
        find_pool(name)
    except PoolNotFoundError as error:
        raise CommandError(f"{error}. See: asyncpar doctor", exit_code=2) from error
    except ImportError as error:
        raise CommandError(f"the pool {name!r} cannot be loaded: {error}. See: asyncpar doctor") from error


def open_workers(name: str, functions: list[str]) -> asyncpar.Pool:
    """Return the pool of this name, not opened, for functions of asyncpar's own.

    A pool in the cloud, named without the deployment that it is to use, runs on this machine if it can: such a pool
    has a class method `local`, which takes files to deploy and the functions to allow.
    """
    kind, deployment = find_pool(name)
    local: Any = getattr(kind, "local", None)
    if deployment or local is None:
        return asyncpar.open_pool(name)
    pool: asyncpar.Pool = local([Path(asyncpar.__file__).parent], allow=functions)
    return pool
