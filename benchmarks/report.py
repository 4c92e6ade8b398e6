"""Medians over rounds, ratios within a round, and the tables."""

from __future__ import annotations

import os
import platform
import statistics
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.metrics import METRICS, NOISE, NULL, OURS, REFERENCES, Metric, Reach
from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Run = dict[str, Any]
Row = list[str]
HEADER = ["case", "peer", "value", "unit", "asyncpar/peer", "foreign", "reach", ""]
SUMMARY_HEADER = ["what", "asyncpar", "null", "beside", "ratio", "reach", ""]


def machine(peers: Iterable[str], loop: str) -> dict[str, Any]:
    packages = {PEERS[peer].package for peer in peers} | {loop if loop == "uvloop" else ""}
    return {
        "processor": processor(),
        "cpus": os.cpu_count(),
        "usable_cpus": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in sorted(packages - {""}, key=str.lower)},
    }


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


class Table:
    """The runs of one report, asked by metric and peer."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.notes: list[str] = []

    def of(self, case: str, peer: str) -> list[Run]:
        return [run for run in self.runs if run["case"] == case and run["peer"] == peer]

    def by_round(self, metric: Metric, peer: str) -> dict[int, float]:
        runs = [run for run in self.of(metric.case, peer) if "values" in run]
        return {run["round"]: run["values"][metric.key] for run in runs}

    def value(self, metric: Metric, peer: str) -> float | None:
        values = self.by_round(metric, peer).values()
        return statistics.median(values) if values else None

    def ratio(self, metric: Metric, peer: str) -> float | None:
        """The median over rounds of asyncpar's value over the peer's in the same round."""
        ours, theirs = self.by_round(metric, OURS), self.by_round(metric, peer)
        ratios = [ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number]]
        return statistics.median(ratios) if ratios else None

    def foreign(self, case: str, peer: str) -> float:
        return float(statistics.median(run["foreign"] for run in self.of(case, peer)))

    def peers(self, case: str) -> list[str]:
        present = {run["peer"] for run in self.runs if run["case"] == case}
        return [peer for peer in PEERS if peer in present]

    def rivals(self, metric: Metric) -> dict[str, float]:
        """The ratios to every peer but ourselves."""
        peers = [peer for peer in self.peers(metric.case) if peer not in (OURS, NULL, *REFERENCES)]
        ratios = {peer: self.ratio(metric, peer) for peer in peers}
        return {peer: ratio for peer, ratio in ratios.items() if ratio is not None}

    def closest(self, metric: Metric) -> tuple[str, float] | None:
        """The peer that asyncpar is least ahead of."""
        rivals = self.rivals(metric)
        if not rivals:
            return None
        peer = (min if metric.more else max)(rivals, key=rivals.__getitem__)
        return peer, rivals[peer]

    def judge(self, metric: Metric, reach: Reach) -> str:
        number = self.value(metric, OURS) if not reach.against else self.against(metric, reach.against)
        if number is None:
            return "not measured"
        return "met" if reach.met(number, metric.more) else "NOT MET"

    def against(self, metric: Metric, peer: str) -> float | None:
        if peer != "best":
            return self.ratio(metric, peer)
        closest = self.closest(metric)
        return closest[1] if closest else None

    def note(self, case: str, peer: str) -> str:
        """The number of the footnote that says why a value is missing or partial; '' where there is none."""
        reasons = {reason for run in self.of(case, peer) if (reason := reason_of(run))}
        if not reasons:
            return ""
        text = "; ".join(sorted(reasons))
        if text not in self.notes:
            self.notes.append(text)
        return f" [{self.notes.index(text) + 1}]"


def reason_of(run: Run) -> str:
    if "values" in run:
        return str(run["values"].get("note", ""))
    return str(run.get("unsupported") or run.get("error"))


# --- rows -------------------------------------------------------------------------------------------------------


def summary(table: Table) -> list[Row]:
    measured = [metric for metric in METRICS if table.peers(metric.case)]
    rows: list[Row] = []
    for metric in measured:
        for index, reach in enumerate(metric.reaches or (None,)):
            rows.append(summary_row(table, metric, reach, again=index > 0))
    return rows


def summary_row(table: Table, metric: Metric, reach: Reach | None, again: bool) -> Row:
    """What asyncpar did stands in the first row of a metric only."""
    peer, ratio = compared(table, metric, reach)
    ours = [metric.title, quantity(table, metric, OURS), number(table.ratio(metric, NULL))]
    beside = f"{peer} {quantity(table, metric, peer)}" if peer else "-"
    verdict = [reach.text(metric.more), table.judge(metric, reach)] if reach else ["", ""]
    return [*(["", "", ""] if again else ours), beside, number(ratio), *verdict]


def quantity(table: Table, metric: Metric, peer: str) -> str:
    return f"{number(table.value(metric, peer))} {metric.unit}".strip()


def compared(table: Table, metric: Metric, reach: Reach | None) -> tuple[str, float | None]:
    """The peer that the reach names, else the closest one."""
    if reach and reach.against in PEERS:
        return reach.against, table.ratio(metric, reach.against)
    return table.closest(metric) or ("", None)


def details(table: Table) -> list[Row]:
    rows: list[Row] = []
    for metric in METRICS:
        peers = table.peers(metric.case)
        if peers:
            rows.append([metric.case, f"# {metric.title}", "", metric.unit, "", "", "", ""])
        rows += [detail_row(table, metric, peer) for peer in peers]
    return rows


def detail_row(table: Table, metric: Metric, peer: str) -> Row:
    value = number(table.value(metric, peer)) + table.note(metric.case, peer)
    ratio = "" if peer == OURS else number(table.ratio(metric, peer))
    foreign = f"{table.foreign(metric.case, peer):.0%}"
    return [metric.case, peer, value, metric.unit, ratio, foreign, *verdict_beside(table, metric, peer)]


def verdict_beside(table: Table, metric: Metric, peer: str) -> Row:
    """A reach stands beside the peer that it names; one on the value, or against all, beside asyncpar."""
    if peer == NULL:
        return null_verdict(table.ratio(metric, NULL))
    for reach in metric.reaches:
        if peer == (reach.against if reach.against in PEERS else OURS):
            return [reach.text(metric.more), table.judge(metric, reach)]
    return ["", ""]


def null_verdict(ratio: float | None) -> Row:
    if ratio is None:
        return ["", ""]
    return ["about 1.0", "reads 1.0" if abs(ratio - 1) <= NOISE else "NOISY"]


def number(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value else "0"


# --- text -------------------------------------------------------------------------------------------------------


def render(report: dict[str, Any], markdown: bool, brief: bool = False) -> str:
    table = Table(report["runs"])
    grid = markdown_grid if markdown else text_grid
    parts = [heading(report), grid(SUMMARY_HEADER, summary(table)), verdicts(table)]
    if not brief:
        parts += [grid(HEADER, details(table)), footnotes(table.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def heading(report: dict[str, Any]) -> str:
    host, plan = report["machine"], report["plan"]
    versions = ", ".join(f"{package} {number}" for package, number in host["versions"].items())
    lines = [
        f"{host['processor']}, {host['cpus']} CPUs ({host['usable_cpus']} usable), {host['system']}",
        (
            f"Python {host['python']} · {plan['loop']} loop · {plan['workers']} workers · medians of {plan['rounds']} "
            f"interleaved rounds (seed {plan['seed']}); ratios are taken within a round"
        ),
        versions,
    ]
    if plan["quick"]:
        lines.append("QUICK: sizes far too small to judge by; this only shows that everything runs.")
    return "\n".join(lines)


def verdicts(table: Table) -> str:
    results = [
        table.judge(metric, reach)
        for metric in METRICS
        for reach in metric.reaches
        if table.peers(metric.case)
    ]
    return ", ".join(f"{results.count(kind)} {kind}" for kind in ("met", "NOT MET", "not measured"))


def footnotes(notes: Sequence[str]) -> str:
    return "\n".join(f"[{index}] {note}" for index, note in enumerate(notes, 1))


def text_grid(header: Row, rows: Sequence[Row]) -> str:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(pad(cell, i, widths) for i, cell in enumerate(line)).rstrip() for line in lines
    )


def pad(cell: str, index: int, widths: Sequence[int]) -> str:
    return cell.ljust(widths[index])


def markdown_grid(header: Row, rows: Sequence[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
