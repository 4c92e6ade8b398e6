from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rich", reason="the cli extra is not installed")
pytest.importorskip("aiohttp", reason="the web extra is not installed")

import aiohttp

from asyncpar.cli.demo import counting, meters
from asyncpar.cli.demo.serving import serving
from asyncpar.cli.demo.sources import find_sources
from asyncpar.cli.demo.stages import sequence

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120"}
ENVIRONMENT.pop("ASYNCPAR_POOL", None)
DEMO = [sys.executable, "-m", "asyncpar", "demo"]

SOURCE = b"""# coding: utf-8
import os.path, sys
from collections.abc import Iterator
from . import neighbour
from .cousin import aunt

class A:
    def one(self): ...
    async def two(self):
        def three():
            import os
"""
COUNTS = counting.Counts(1, 11, 3, 1, Counter(os=2, sys=1, collections=1))


# what the workers do


def test_count() -> None:
    """Nested functions and imports count too; relative imports do not."""
    assert counting.count(SOURCE) == COUNTS


def test_count_what_is_no_python() -> None:
    """A file that does not parse is an error."""
    with pytest.raises(SyntaxError):
        counting.count(b"def (:")


def test_merge() -> None:
    """Counts are added, and their order of adding does not matter."""
    other = counting.Counts(2, 1, 0, 5, Counter(sys=4))
    both = counting.Counts(3, 12, 3, 6, Counter(os=2, sys=5, collections=1))
    assert counting.merge(COUNTS, other) == both == counting.merge(other, COUNTS)


def test_workers_import_little() -> None:
    """The counting functions pull in neither the command nor a web library."""
    code = "import sys, asyncpar.cli.demo.counting; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert {"rich", "cyclopts", "aiohttp", "asyncio", "anyio"}.isdisjoint(done.stdout.split())


# input and server


@pytest.fixture(scope="module")
def sources() -> dict[str, Path]:
    return find_sources()  # walks the whole library, which is not for a loop to wait for


def test_sources(sources: dict[str, Path]) -> None:
    """Hundreds of files; neither tests nor site-packages."""
    assert len(sources) > 300
    assert "asyncio/tasks.py" in sources
    assert not [name for name in sources if "/test/" in name or "site-packages" in name]


@pytest.mark.may_block
async def test_the_server_serves_the_sources(sources: dict[str, Path]) -> None:
    """A page is the file; what is no source is not found; an answer may be held back."""
    started = time.perf_counter()
    async with serving(latency=0.05) as server, aiohttp.ClientSession(server.url) as session:
        began = time.perf_counter()
        async with session.get("asyncio/tasks.py") as response:
            assert await response.read() == sources["asyncio/tasks.py"].read_bytes()
        assert time.perf_counter() - began >= 0.05
        async with session.get("../../etc/passwd") as response:
            assert response.status == 404
    assert time.perf_counter() - started < 30


@pytest.mark.may_block
async def test_the_server_ends_when_the_block_fails() -> None:
    """An error inside the block ends the server too, and is not changed."""
    with pytest.raises(ZeroDivisionError):
        async with serving(latency=0):
            1 / 0  # noqa: B018


# measuring


@pytest.mark.may_block
async def test_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that is held up for 100 ms was late by about that; one that is not, by nothing."""
    passed = 0.0

    def clock() -> float:
        """Passes only when the test lets it: pauses of the machine do not count."""
        return passed

    async def tick(seconds: float) -> None:
        nonlocal passed
        await sleep(0.001)
        passed += seconds

    sleep = asyncio.sleep
    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=clock))
    async with meters.measured() as busy:
        await tick(0.1)
    async with meters.measured() as idle:
        await sleep(0.01)
    assert busy.lag >= 0.08
    assert idle.lag <= 0
    assert (busy.seconds, idle.seconds) == (0.1, 0.0)


@pytest.mark.may_block
async def test_lag_of_a_block_that_never_awaits() -> None:
    """The loop is late even where nothing was awaited in the block."""
    async with meters.measured() as meter:
        time.sleep(0.05)
    assert meter.lag >= 0.04


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="this system has no /proc")
@pytest.mark.may_block
async def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that a child held for a moment is seen; that of the process left out is not."""
    monkeypatch.setattr(meters, "LOOK", 0.01)
    hold = "x = bytearray(b'x') * (50 << 20); print('there', flush=True); input()"

    def holding() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    with holding() as counted, holding() as left_out:
        for process in (counted, left_out):
            assert process.stdout is not None
            process.stdout.readline()
        async with meters.PeakMemory(without=left_out.pid) as memory:
            while memory.parent is None:
                await asyncio.sleep(0.01)
        for process in (counted, left_out):
            process.communicate(b"\n")
    assert memory.parent is not None
    assert memory.workers is not None
    assert memory.parent > 10 << 20
    assert 50 << 20 <= memory.workers < 90 << 20


async def test_the_plain_loop() -> None:
    """One by one, in order, and timed by stage."""

    async def fetch(name: str) -> bytes:
        return name.encode()

    counts, times = await sequence(fetch, ["import a", "import b\nimport a"])
    assert counts == counting.Counts(2, 3, 0, 0, Counter(a=2, b=1))
    assert times.fetch + times.count + times.fold == pytest.approx(times.all)


# the whole


@pytest.mark.parametrize("pool", ["process", "thread", "inline", "lambda", "gcf"])
def test_demo(pool: str) -> None:
    """Every pool counts the same files, and the tables say what it took."""
    if pool == "lambda":
        pytest.importorskip("awslambdaric", reason="the lambda-local extra is not installed")
    if pool == "gcf":
        pytest.importorskip("functions_framework", reason="the gcf-local extra is not installed")
    command = [*DEMO, "--pool", pool, "--files", "40", "--limit", "8", "--latency", "2"]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("40 files of Python ")
    assert re.search(r"│ 40 +│ [\d,]+ +│", done.stdout)
    for stage in ("fetch, on the loop", f"count, on {pool}", f"fold, on {pool}", "all three, as a pipeline"):
        assert re.search(rf"{stage} +│ +[\d.]+ s │ +[\d.]+ s │ +[\d.]+x │ +\d+ ms │", done.stdout), stage
    assert "The loop was late by " in done.stdout
    assert "fetch: 40 of 40" in done.stderr


def test_ctrl_c() -> None:
    """One Ctrl-C ends the demo with 130; server and workers are gone."""
    with subprocess.Popen(
        [*DEMO, "--latency", "200", "--limit", "2"],
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=50)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_killed() -> None:
    """The server and the workers end even when the demo is killed and can say nothing."""
    with subprocess.Popen(
        [*DEMO, "--latency", "200", "--limit", "2"],
        env={**ENVIRONMENT, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.5)
        process.kill()
