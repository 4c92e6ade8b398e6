"""The far side: a chunk as a task of a Dask worker."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from asyncpar.far import Reply, Request, run_chunk


def run_task(ticket: tuple[str | None, int], request: Request, *constants: Any) -> Reply:
    """Run a chunk; tell the pool that it begins, if the ticket names a topic for that."""
    topic, number = ticket
    if topic is not None:
        import_module("distributed").get_worker().log_event(topic, number)
    return run_chunk(request, *constants)
