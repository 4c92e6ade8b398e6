"""What is measured, written once for all peers. A case gets an open peer and sizes, and returns numbers.

The cases are written on anyio so that they run on trio too; on the hot paths only the peer's own `await` is timed.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks import functions, starting
from benchmarks.meters import IdealCores, iterations_for, memcpy, quantile, resident_bytes

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator

    from benchmarks.peers import Peer

Values = dict[str, float | str]
clock = time.perf_counter
IN_FLIGHT = 64
COROUTINES = 100
TICK = 0.005
LAG_RESOLUTION = 0.00005


@dataclass(frozen=True)
class Sizes:
    calls: int = 2_000
    seconds: float = 2.0
    map_items: int = 200_000
    map_budget: float = 10.0
    map_repeats: int = 5
    chunks: tuple[int, ...] = (1_000, 5_000, 25_000)
    cpu_calls: int = 1_000
    uneven_items: int = 2_000
    repeats: int = 3
    array_bytes: int = 64 << 20
    array_calls: int = 9
    broadcast_calls: int = 200
    sampled_calls: int = 8
    stream_items: int = 3_000_000
    coroutines: int = 20_000
    starts: int = 5
    busy_seconds: float = 5.0
    kill_calls: int = 2_000


QUICK = Sizes(
    calls=200,
    seconds=0.3,
    map_items=5_000,
    map_budget=1.0,
    map_repeats=1,
    chunks=(500,),
    cpu_calls=100,
    uneven_items=200,
    repeats=1,
    array_bytes=4 << 20,
    array_calls=3,
    broadcast_calls=20,
    sampled_calls=4,
    stream_items=100_000,
    coroutines=2_000,
    starts=1,
    busy_seconds=1.5,
    kill_calls=200,
)


async def lanes(width: int, source: Iterable[int], call: Callable[..., Awaitable[Any]], *args: Any) -> int:
    """`width` calls in flight until the source ends; how many there were."""
    numbers = iter(source)
    done = 0

    async def lane() -> None:
        nonlocal done
        for number in numbers:
            await call(*args, number)
            done += 1

    async with anyio.create_task_group() as group:
        for _ in range(width):
            group.start_soon(lane)
    return done


def until(moment: float) -> Iterator[int]:
    return itertools.takewhile(lambda _: clock() < moment, itertools.count())


async def warm(peer: Peer, function: Callable[..., Any] = functions.trivial, *args: Any) -> None:
    """Every worker started, and what the function imports imported there."""
    await lanes(peer.workers, range(8 * peer.workers), lambda i: peer.run(function, *(args or (i,))))


# --- single calls -----------------------------------------------------------------------------------------------


async def latency(peer: Peer, sizes: Sizes) -> Values:
    await warm(peer)
    call = peer.caller()
    times: list[float] = []
    deadline = clock() + 3 * sizes.seconds
    for number in range(sizes.calls + sizes.calls // 10):
        start = clock()
        await call(functions.trivial, number)
        times.append(clock() - start)
        if clock() > deadline:
            break
    times = times[len(times) // 11 :]
    return {"p50_us": quantile(times, 0.5) * 1e6, "p99_us": quantile(times, 0.99) * 1e6}


async def throughput(peer: Peer, sizes: Sizes) -> Values:
    call = peer.caller()
    await lanes(IN_FLIGHT, until(clock() + sizes.seconds / 4), call, functions.trivial)
    lags: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(tick, lags)
        start = clock()
        done = await lanes(IN_FLIGHT, until(start + sizes.seconds), call, functions.trivial)
        rate = done / (clock() - start)
        group.cancel_scope.cancel()
    return {"calls_per_s": rate, "lag_p50_ms": lag_ms(lags, 0.5), "lag_p99_ms": lag_ms(lags, 0.99)}


async def tick(lags: list[float]) -> None:
    while True:
        start = clock()
        await anyio.sleep(TICK)
        lags.append(clock() - start - TICK)


def lag_ms(lags: list[float], share: float) -> float:
    """A lag under a clock's step is no lag, and a ratio of such would say nothing."""
    return max(quantile(lags, share), LAG_RESOLUTION) * 1e3


# --- maps -------------------------------------------------------------------------------------------------------


async def untuned_map(peer: Peer, sizes: Sizes) -> Values:
    items = range(await affordable(peer, sizes))
    seconds = [await checked_map(peer, items)]
    while len(seconds) < sizes.map_repeats and sum(seconds) < sizes.map_budget / 5:
        seconds.append(await checked_map(peer, items))
    note = "measured on fewer items, in seconds" if len(items) < sizes.map_items else ""
    return {"items_per_s": len(items) / statistics.median(seconds), "items": len(items), "note": note}


async def affordable(peer: Peer, sizes: Sizes) -> int:
    """All the items, or as many as a slow peer maps in half of its budget."""
    await checked_map(peer, range(100))
    trial = range(min(1_000, sizes.map_items))
    rate = len(trial) / await checked_map(peer, trial)
    if sizes.map_items / rate <= sizes.map_budget or len(trial) == sizes.map_items:
        return sizes.map_items
    return max(len(trial), int(rate * sizes.map_budget / 2))


async def checked_map(peer: Peer, items: range, chunk: int | None = None) -> float:
    start = clock()
    if chunk is None:
        results = await peer.map(functions.trivial, items)
    else:
        results = await peer.tuned_map(functions.trivial, items, chunk)
    seconds = clock() - start
    last = results[-1][-1] if isinstance(results[-1], list) else results[-1]
    assert last == items[-1], f"wrong result: {last}"
    return seconds


async def tuned_map(peer: Peer, sizes: Sizes) -> Values:
    """The best of a few chunk sizes, each a median; asyncpar is not told any."""
    items = range(sizes.map_items)
    await checked_map(peer, items, sizes.chunks[-1])
    rates = {}
    for chunk in sizes.chunks if peer.kind != "both" else sizes.chunks[:1]:
        seconds = [await checked_map(peer, items, chunk) for _ in range(sizes.map_repeats)]
        rates[chunk] = len(items) / statistics.median(seconds)
    best = max(rates, key=rates.__getitem__)
    return {"items_per_s": rates[best], "chunk": best}


# --- work -------------------------------------------------------------------------------------------------------


@contextmanager
def ideal_cores(workers: int) -> Iterator[IdealCores]:
    cores = IdealCores(workers)
    try:
        yield cores
    finally:
        cores.close()


async def beside_ideal(peer: Peer, sizes: Sizes, calls: int, work: Callable[[int], Awaitable[Any]]) -> float:
    """Ideal over measured time of `calls` milliseconds of work, taken in turns; medians of both."""
    iterations = iterations_for(0.001)
    ideal, real = [], []
    with ideal_cores(peer.workers) as cores:
        await work(iterations)
        for _ in range(sizes.repeats):
            ideal.append(cores.seconds(iterations, calls))
            start = clock()
            await work(iterations)
            real.append(clock() - start)
            ideal.append(cores.seconds(iterations, calls))
    return statistics.median(ideal) / statistics.median(real)


async def cpu(peer: Peer, sizes: Sizes) -> Values:
    async def work(iterations: int) -> None:
        await lanes(IN_FLIGHT, range(sizes.cpu_calls), lambda _: peer.run(functions.spin, iterations))

    await warm(peer)
    return {"share": await beside_ideal(peer, sizes, sizes.cpu_calls, work)}


async def uneven(peer: Peer, sizes: Sizes) -> Values:
    weights = [100 if i % 100 == 50 else 1 for i in range(sizes.uneven_items)]
    random.Random(1).shuffle(weights)

    async def work(iterations: int) -> None:
        await peer.map(functions.spin, [weight * iterations for weight in weights])

    return {"over_ideal": 1 / await beside_ideal(peer, sizes, sum(weights), work)}


# --- data -------------------------------------------------------------------------------------------------------


async def arrays(peer: Peer, sizes: Sizes) -> Values:
    import numpy as np

    copy, array = memcpy(sizes.array_bytes), np.ones(sizes.array_bytes, "u1")
    copies: list[float] = []
    inward: list[float] = []
    outward: list[float] = []
    copy()
    for number in range(sizes.array_calls + 2 * peer.workers):
        copies.append(copy())
        inward.append(await send_array(peer, array, number % 256))
        outward.append(await receive_array(peer, sizes.array_bytes, number % 256))
    unit = statistics.median(copies)
    settled = slice(2 * peer.workers, None)  # the first calls import numpy and touch fresh pages
    return {
        "in_memcpys": statistics.median(inward[settled]) / unit,
        "out_memcpys": statistics.median(outward[settled]) / unit,
        "memcpy_ms": unit * 1e3,
    }


async def send_array(peer: Peer, array: Any, mark: int) -> float:
    array[0] = mark
    start = clock()
    value = await peer.run(functions.ends, array)
    seconds = clock() - start
    assert value == mark * 256 + 1, f"wrong result: {value}"
    return seconds


async def receive_array(peer: Peer, nbytes: int, mark: int) -> float:
    start = clock()
    array = await peer.run(functions.held_array, nbytes, mark)
    seconds = clock() - start
    assert functions.ends(array) == mark * 256 + 1, "wrong array"
    assert array.nbytes == nbytes, "wrong size"
    return seconds


async def broadcast(peer: Peer, sizes: Sizes) -> Values:
    """A peer that sends the constant with each call does so for a few calls, and the time is multiplied."""
    import numpy as np

    small = np.arange(1_000) % 251
    await peer.broadcast(functions.at, small, range(8 * peer.workers))
    constant = np.ones(sizes.array_bytes, "u1")
    calls = sizes.broadcast_calls if peer.shares_constants else sizes.sampled_calls
    note = (
        "" if peer.shares_constants else "the constant travels in each call: a few measured, and multiplied"
    )
    start = clock()
    results = await peer.broadcast(functions.at, constant, range(calls))
    seconds = clock() - start
    assert list(results) == [1] * calls, "wrong results"
    return {"seconds": seconds * sizes.broadcast_calls / calls, "note": note}


async def memory(peer: Peer, sizes: Sizes) -> Values:
    """The consumer takes 1,000 results and pauses: what was read ahead, and how the process has grown."""
    read = 0

    def source() -> Iterator[int]:
        nonlocal read
        while read < sizes.stream_items:
            read += 1
            yield read

    await take(peer.stream(functions.trivial, iter(range(20_000))), 20_001)
    before = resident_bytes()
    async with aclosing(peer.stream(functions.trivial, source())) as results:
        taken = await take(results, 1_000)
        await anyio.sleep(1)
        grown = resident_bytes() - before
        ahead = read - taken
    return {"ahead": ahead, "rss_mib": max(0, grown) / 2**20}


async def take(results: AsyncGenerator[Any], count: int) -> int:
    for taken in range(count):
        try:
            await anext(results)
        except StopAsyncIteration:
            return taken
    return count


# --- coroutines -------------------------------------------------------------------------------------------------


async def yielding(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


async def coroutines(peer: Peer, sizes: Sizes) -> Values:
    items = range(sizes.coroutines)
    await peer.map_coroutines(yielding, items[:1_000], COROUTINES)
    seconds = []
    for _ in range(sizes.repeats):
        start = clock()
        taken = await peer.map_coroutines(yielding, items, COROUTINES)
        seconds.append(clock() - start)
        assert taken == len(items), f"{taken} results"
    return {"us": statistics.median(seconds) / len(items) * 1e6}


# --- life -------------------------------------------------------------------------------------------------------


async def start(peer: Peer, sizes: Sizes) -> Values:
    imports, firsts, bare = [], [], []
    for _ in range(sizes.starts):
        imported, first = time_program("bare asyncio", peer.workers)
        bare.append(imported)
        imported, first = time_program(peer.name, peer.workers)
        imports.append(imported)
        firsts.append(first)
    import_ms, bare_ms = statistics.median(imports), statistics.median(bare)
    return {
        "import_ms": import_ms,
        "over_asyncio_ms": import_ms - bare_ms,
        "first_ms": statistics.median(firsts),
    }


def time_program(name: str, workers: int) -> tuple[float, float]:
    """Milliseconds from before the interpreter was started to the imports done, and to the first result."""
    command = [sys.executable, "-c", starting.program(name, workers)]
    begin = clock()
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # noqa: PLW1510 - stderr says more
    lines = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("TIMES")]
    assert lines, done.stderr.strip().splitlines()[-1:]
    imported, first = map(float, lines[0])
    return (imported - begin) * 1e3, (first - begin) * 1e3


async def cancel(peer: Peer, sizes: Sizes) -> Values:
    await warm(peer)
    burnt, following = await cancel_one(peer, functions.burn, sizes)
    deaf, _ = await cancel_one(peer, functions.burn_deaf, sizes)
    return {"burnt_s": burnt, "next_ms": following * 1e3, "burnt_deaf_s": deaf}


async def cancel_one(peer: Peer, function: Callable[..., Any], sizes: Sizes) -> tuple[float, float]:
    """Seconds that a cancelled call burnt on, and that the next call took from when the `await` had returned."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(functions.STAMP.size))
        file.flush()
        moment = await peer.cancelled(function, file.name, sizes.busy_seconds, after=0.3)
        begin = clock()
        await peer.run(functions.trivial, 1)
        following = clock() - begin
        last = await last_stamp(file.name, moment + sizes.busy_seconds + 2)
    assert last > 0, "the call never ran"
    return max(0.0, last - moment), following


async def last_stamp(path: str, deadline: float) -> float:
    """The stamp left by `burn` once it has not moved for 0.3 s."""
    before, stamp = -1.0, read_stamp(path)
    while stamp != before and clock() < deadline:
        await anyio.sleep(0.3)
        before, stamp = stamp, read_stamp(path)
    return stamp


def read_stamp(path: str) -> float:
    (stamp,) = functions.STAMP.unpack(Path(path).read_bytes())
    return float(stamp)


async def kill(peer: Peer, sizes: Sizes) -> Values:
    """SIGKILL one worker after a quarter of the calls; what is unanswered 20 s later hangs."""
    await warm(peer)
    iterations = iterations_for(0.001)
    victim = await peer.run(os.getpid)
    tally: Counter[str] = Counter()

    async def one(_: int) -> None:
        try:
            await peer.run(functions.spin, iterations)
            tally["ok"] += 1
        except Exception as error:
            tally["failed"] += 1
            tally[type(error).__name__] += 1
        if tally["ok"] + tally["failed"] == sizes.kill_calls // 4:
            os.kill(victim, signal.SIGKILL)

    with anyio.move_on_after(20):
        await lanes(IN_FLIGHT, range(sizes.kill_calls), one)
    ok, failed = tally.pop("ok", 0), tally.pop("failed", 0)
    usable = await is_usable(peer)
    hung = sizes.kill_calls - ok - failed
    return {
        "ok": ok,
        "lost": failed + hung,
        "hung": hung,
        "usable": float(usable),
        "note": ", ".join(sorted(tally)),
    }


async def is_usable(peer: Peer) -> bool:
    """Each of as many calls as there are workers is answered."""
    with anyio.move_on_after(10):
        try:
            await lanes(peer.workers, range(peer.workers), lambda i: peer.run(functions.trivial, i))
        except Exception:
            return False
        return True
    return False


@dataclass(frozen=True)
class Case:
    measure: Callable[[Peer, Sizes], Awaitable[Values]]
    kinds: tuple[str, ...] = ("process", "both")
    pinned: bool = False
    opens: bool = True
    """Whether the case wants the peer's pool open."""


CASES = {
    "lat": Case(latency),
    "latpin": Case(latency, pinned=True),
    "thr": Case(throughput),
    "mapd": Case(untuned_map),
    "mapt": Case(tuned_map),
    "cpu": Case(cpu),
    "uneven": Case(uneven),
    "array": Case(arrays),
    "bcast": Case(broadcast),
    "mem": Case(memory),
    "coros": Case(coroutines, kinds=("coroutine", "both"), opens=False),
    "start": Case(start, opens=False),
    "cancel": Case(cancel),
    "kill": Case(kill),
}
