"""The pools that have a name here."""

from __future__ import annotations

from importlib.metadata import entry_points

from asyncpar.cli.failure import Failure

BUILT_IN = ("process", "thread", "inline")


def pool_names() -> list[str]:
    """Return the names that `asyncpar.open_pool` takes: ours first, then what other packages registered."""
    others = {point.name for point in entry_points(group="asyncpar.pools")}.difference(BUILT_IN)
    return [*BUILT_IN, *sorted(others)]


def check_pool(name: str) -> None:
    """Raise Failure unless there is such a pool. What follows a colon (`lambda:my-function`) is the pool's own."""
    known = pool_names()
    if name.partition(":")[0] not in known:
        message = f"There is no pool named {name!r} here, only {', '.join(known)}. See: asyncpar doctor"
        raise Failure(message, exit_code=2)
