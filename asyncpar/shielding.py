"""Cleaning up goes on although its caller is cancelled once more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from typing import Any


def against_scopes() -> AbstractContextManager[Any]:
    """A shield against anyio's cancel scopes: unlike asyncio they cancel again in each turn of the loop."""
    anyio = sys.modules.get("anyio")  # where nobody has imported it there is no scope
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)


async def shielded(work: Coroutine[Any, Any, None]) -> None:
    """Await this to its end. Being cancelled meanwhile is raised after that."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    with against_scopes():
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError as error:
                if task.done() and task.cancelled():
                    raise
                cancelled = error
            except BaseException:  # the task's own, which its result raises
                break
    task.result()
    if cancelled is not None:
        raise cancelled
