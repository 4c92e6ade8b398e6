"""How tests wait: for what is to come about, and not for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

LONG = 50.0
"""Seconds that only a failure takes: no pause of a busy machine is as long, and a test may take longer."""


async def until(condition: Callable[[], object], seconds: float = LONG) -> None:
    """Wait until something is true; fail if it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)
