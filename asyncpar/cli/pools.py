"""A pool's name, as the user typed it."""

from __future__ import annotations

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
