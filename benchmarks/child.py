"""One case on one peer in a fresh process: `python -m benchmarks.child REQUEST RESULT_FILE` (JSON both)."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from benchmarks.cases import CASES, QUICK, Case, Sizes
from benchmarks.peers import PEERS, Peer, Unsupported


@dataclass(frozen=True)
class Request:
    case: str
    peer: str
    workers: int
    loop: str
    quick: bool


async def measure(case: Case, peer: Peer, sizes: Sizes) -> dict[str, Any]:
    if case.opens:
        await peer.open()
    return {"values": await case.measure(peer, sizes)}


async def answer(request: Request, result_path: str) -> None:
    """The result is on disk before the peer is closed: some never return from that after a lost worker."""
    case, peer = CASES[request.case], PEERS[request.peer](request.workers)
    try:
        result = await measure(case, peer, QUICK if request.quick else Sizes())
    except BaseException as error:
        result = failure(innermost(error))
    Path(result_path).write_text(json.dumps(result))
    if case.opens:
        await peer.close()


def innermost(error: BaseException) -> BaseException:
    """Task groups wrap what their lanes raised, alike in all of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def failure(error: BaseException) -> dict[str, Any]:
    if isinstance(error, Unsupported):
        return {"unsupported": str(error)}
    return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def run(request: Request, result_path: str) -> None:
    peer = PEERS[request.peer]
    uvloop = {"use_uvloop": request.loop == "uvloop"} if peer.backend == "asyncio" else {}
    anyio.run(answer, request, result_path, backend=peer.backend, backend_options=uvloop)


if __name__ == "__main__":
    request = Request(**json.loads(sys.argv[1]))
    if CASES[request.case].pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run(request, sys.argv[2])
