"""The numbers that a case gives, their units, and the reach of each: the last column of the project's plan."""

from __future__ import annotations

from dataclasses import dataclass

OURS = "asyncpar"
NULL = "asyncpar (null)"
REFERENCES = ("plain tasks (floor)",)
"""Rows that are not libraries: shown, never the best peer."""
NOISE = 0.15
"""Differences smaller than this mean nothing; the null control shows the true size."""


@dataclass(frozen=True)
class Reach:
    """A bound on the value, or on its ratio to a peer's (`best`: to every peer's)."""

    bound: float
    against: str = ""

    def text(self, more: bool) -> str:
        sign = ">=" if more else "<="
        return f"{sign} {self.bound:g}" + (f" of {self.against}" if self.against else "")

    def met(self, number: float, more: bool) -> bool:
        return number >= self.bound if more else number <= self.bound


@dataclass(frozen=True)
class Metric:
    case: str
    key: str
    title: str
    unit: str
    more: bool = False
    """Whether more is better."""
    reaches: tuple[Reach, ...] = ()


def metric(case: str, key: str, title: str, unit: str, *reaches: Reach, more: bool = False) -> Metric:
    return Metric(case, key, title, unit, more, reaches)


METRICS = [
    metric("lat", "p50_us", "one trivial call, round trip p50, free", "us", Reach(0.25, "anyio")),
    metric("lat", "p99_us", "the same, p99", "us"),
    metric(
        "latpin",
        "p50_us",
        "one trivial call, p50, pinned to one core",
        "us",
        Reach(0.33, "anyio"),
        Reach(0.2, "ppe"),
    ),
    metric(
        "thr",
        "calls_per_s",
        "trivial calls awaited one by one, 64 in flight",
        "calls/s",
        Reach(10, "anyio"),
        Reach(15, "ppe"),
        Reach(5, "mppool"),
        more=True,
    ),
    metric("thr", "lag_p50_ms", "lag of a 5 ms ticker meanwhile, p50", "ms", Reach(1 + NOISE, "best")),
    metric("thr", "lag_p99_ms", "lag of a 5 ms ticker meanwhile, p99", "ms", Reach(1 + NOISE, "best")),
    metric(
        "mapd", "items_per_s", "map of trivial items, nothing tuned", "items/s", Reach(6, "joblib"), more=True
    ),
    metric(
        "mapt", "items_per_s", "the same, peers hand-tuned", "items/s", Reach(1 - NOISE, "best"), more=True
    ),
    metric("cpu", "share", "calls of 1 ms CPU, share of the ideal cores", "", Reach(0.85), more=True),
    metric("uneven", "over_ideal", "map of 1 ms, one in a hundred 100 ms, over the ideal", "x", Reach(1.08)),
    metric("array", "in_memcpys", "array into a worker", "memcpys", Reach(1.2)),
    metric("array", "out_memcpys", "array out of a worker", "memcpys", Reach(2.0)),
    metric("bcast", "seconds", "constant array used by 200 calls", "s", Reach(0.12)),
    metric("mem", "ahead", "endless source, paused consumer: items read ahead", "items", Reach(10_000)),
    metric("mem", "rss_mib", "growth of resident memory meanwhile", "MiB", Reach(1.0)),
    metric("coros", "us", "coroutines through map, an item", "us", Reach(4.0)),
    metric("start", "import_ms", "interpreter start to imported", "ms", Reach(60)),
    metric("start", "over_asyncio_ms", "import, over import asyncio", "ms", Reach(40)),
    metric("start", "first_ms", "interpreter start to first result", "ms", Reach(80)),
    metric("cancel", "burnt_s", "cancelled busy call: CPU burnt on", "s", Reach(0.05)),
    metric("cancel", "burnt_deaf_s", "the same, deaf to interruptions (grace: 1 s)", "s", Reach(1.05)),
    metric("cancel", "next_ms", "next call after the cancelling", "ms", Reach(5)),
    metric("kill", "ok", "one worker killed in 2,000 calls: answered", "calls", more=True),
    metric("kill", "lost", "calls failed or hung", "calls", Reach(1)),
    metric("kill", "usable", "usable after (1: yes)", "", Reach(1), more=True),
]
