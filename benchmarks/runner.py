"""Rounds of (case, peer) in shuffled order, each in a fresh process with a deadline."""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.cases import CASES
from benchmarks.child import Request
from benchmarks.meters import ForeignCPU
from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
CLOSING_SECONDS = 10
SIGTERM_SECONDS = 1
Run = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    cases: list[str]
    peers: list[str]
    rounds: int
    loop: str
    workers: int
    timeout: float
    quick: bool
    seed: int


def requests(
    plan: Plan, finished: AbstractSet[tuple[int, str]] = frozenset()
) -> Iterator[tuple[int, Request]]:
    """In a round every case is one block, so that the runs whose ratio is taken lie minutes apart at most.

    What is ``finished`` already, (round, case), is left out as a block.
    """
    shuffle = random.Random(plan.seed).shuffle
    for number in range(plan.rounds):
        cases = list(plan.cases)
        shuffle(cases)
        for case in cases:
            peers = [peer for peer in plan.peers if takes_part(peer, case)]
            shuffle(peers)
            for peer in peers if (number, case) not in finished else ():
                yield number, Request(case, peer, plan.workers, plan.loop, plan.quick)


def takes_part(peer: str, case: str) -> bool:
    known = PEERS[peer]
    return known.kind in CASES[case].kinds and (not known.cases or case in known.cases)


def finished(plan: Plan, runs: Iterable[Run]) -> set[tuple[int, str]]:
    """The blocks (round, case) in which every peer of the plan has had its run."""
    done = {(run["round"], run["case"], run["peer"]) for run in runs}
    blocks = [(number, case) for number in range(plan.rounds) for case in plan.cases]
    return {
        (number, case)
        for number, case in blocks
        if all((number, case, peer) in done for peer in plan.peers if takes_part(peer, case))
    }


def execute(plan: Plan, done: AbstractSet[tuple[int, str]] = frozenset()) -> Iterator[Run]:
    adopt_orphans()
    for number, request in requests(plan, done):
        yield {"case": request.case, "peer": request.peer, "round": number, **run(request, plan.timeout)}


def run(request: Request, timeout: float) -> Run:
    """Run one request; what the process leaves behind is killed and waited for, and its CPU is not foreign."""
    with tempfile.TemporaryDirectory() as folder:
        foreign, start = ForeignCPU(), time.perf_counter()
        outcome = outcome_of(request, Path(folder), timeout)
        reap()
        return outcome | {"foreign": foreign.share(), "wall_s": time.perf_counter() - start}


def outcome_of(request: Request, folder: Path, timeout: float) -> Run:
    result, log = folder / "result.json", folder / "log"
    command = [sys.executable, "-m", "benchmarks.child", json.dumps(asdict(request)), str(result)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an import is measured with its bytecode there
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
        wait(process, result, timeout)
    if result.exists() and (text := result.read_text()):
        return dict(json.loads(text))
    tail = log.read_text(errors="replace").strip().splitlines()[-1:] or [""]
    return {
        "error": f"no result within {timeout:g} s" if process.returncode == -signal.SIGKILL else tail[0][:200]
    }


def wait(process: subprocess.Popen[bytes], result: Path, timeout: float) -> None:
    """Until the process ends; one that has its result gets little time to close. Then its session is killed."""
    deadline = time.perf_counter() + timeout
    while process.poll() is None and time.perf_counter() < deadline:
        time.sleep(0.05)
        if result.exists():
            deadline = min(deadline, time.perf_counter() + CLOSING_SECONDS)
    process.kill()
    process.wait()
    end_session(process.pid)


def end_session(leader: int) -> None:
    """Asked first: resource trackers then see their last worker go, and unlink what it left in shared memory."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGTERM)
        deadline = time.perf_counter() + SIGTERM_SECONDS
        while time.perf_counter() < deadline:
            reap_ended()
            os.killpg(leader, 0)
            time.sleep(0.02)
        os.killpg(leader, signal.SIGKILL)


def reap_ended() -> bool:
    """Whether any child is left, after all that have ended were waited for."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def adopt_orphans() -> None:
    """Workers that outlive their parent become this process's children, and their CPU is counted as ours."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(seconds: float = 5) -> None:
    """Wait for every adopted child; those that do not end are killed."""
    deadline = time.perf_counter() + seconds
    while reap_ended() and time.perf_counter() < deadline:
        time.sleep(0.02)
    for pid in children():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def children() -> list[int]:
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]
