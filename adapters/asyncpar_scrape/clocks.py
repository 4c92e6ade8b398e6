"""Time limits that stand still meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def stopped(limit: asyncio.Timeout) -> Generator[None, None, None]:
    """Within ``limit``'s own block: what this block takes does not count."""
    due = limit.when()
    if due is None or limit.expired():
        yield
        return
    loop = asyncio.get_running_loop()
    began = loop.time()
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(due + loop.time() - began)
