"""Starts the demo's server, and ends it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NamedTuple

from asyncpar.cli.errors import CommandError


class Server(NamedTuple):
    """The running server: where it answers, and its process."""

    url: str
    pid: int


@asynccontextmanager
async def serving(latency: float) -> AsyncGenerator[Server]:
    """Serve the demo's input for the time of the block.

    Raises:
        CommandError: The server did not start; its own words are on stderr.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asyncpar.cli.demo.server", str(latency)),
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for the demo; the server ends with it
    )
    try:
        assert process.stdout is not None
        port = await process.stdout.readline()
        if not port:
            raise CommandError("the server of the demo did not start")
        yield Server(f"http://127.0.0.1:{int(port)}/", process.pid)
    finally:
        if process.returncode is None:
            process.kill()
        await asyncio.shield(process.wait())
