"""The command: `python -m benchmarks [--cases ...] [--peers ...] [--rounds N] [--quick] [--json FILE] [--markdown]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.cases import CASES
from benchmarks.metrics import NULL, OURS
from benchmarks.peers import PEERS
from benchmarks.runner import Plan, execute, finished, requests

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    document = (
        json.loads(options.show.read_text()) if options.show else measure(plan_from(options), options.json)
    )
    print(report.render(document, options.markdown, options.brief))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="asyncpar beside its peers.")
    parser.add_argument("--cases", type=names_of(CASES), default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--peers", type=names_of(PEERS), default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--rounds", type=int, default=3, help="3 by default")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="usable CPUs by default"
    )
    parser.add_argument(
        "--timeout", type=float, default=180, metavar="SECONDS", help="for one run; 180 by default"
    )
    parser.add_argument("--quick", action="store_true", help="one round of tiny sizes: does everything run?")
    parser.add_argument("--seed", type=int, default=1, help="of the order of runs")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="keep every run here; what it holds already is not run again",
    )
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="measure nothing: print the table of such a file"
    )
    parser.add_argument("--brief", action="store_true", help="only the first table")
    parser.add_argument("--markdown", action="store_true", help="print Markdown")
    return parser.parse_args(arguments)


def names_of(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",")]
        if unknown := sorted(set(chosen) - set(known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
        return chosen

    return names


def plan_from(options: argparse.Namespace) -> Plan:
    """The control takes part wherever asyncpar does."""
    peers = options.peers + [NULL] * (OURS in options.peers and NULL not in options.peers)
    rounds = 1 if options.quick else options.rounds
    return Plan(
        options.cases,
        peers,
        rounds,
        options.loop,
        options.workers,
        options.timeout,
        options.quick,
        options.seed,
    )


def measure(plan: Plan, file: Path | None) -> dict[str, Any]:
    """Measure what the file does not hold, and keep it there run by run, so that a run may be stopped and taken up."""
    document: dict[str, Any] = {
        "machine": report.machine(plan.peers, plan.loop),
        "plan": asdict(plan),
        "runs": [],
    }
    if file and file.exists():
        document = continued(json.loads(file.read_text()), document)
        plan = replace(
            plan, peers=document["plan"]["peers"]
        )  # a block is measured with all its peers, or not
    runs = document["runs"]
    done = finished(plan, runs)
    # A block that was broken off is measured anew: a ratio is worth little if its two runs lie hours apart.
    planned = {(number, request.case) for number, request in requests(plan, done)}
    runs[:] = [run for run in runs if (run["round"], run["case"]) not in planned]
    for run in execute(plan, done):
        runs.append(run)
        print(progress(run), file=sys.stderr, flush=True)
        if file:
            keep(file, document)
    return document


def continued(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The old document, to be added to: the conditions must be the same, cases, peers and rounds may be more."""
    for what in ("loop", "workers", "quick"):
        if old["plan"][what] != new["plan"][what]:
            sys.exit(f"the file was measured with {what}={old['plan'][what]}: name another for --json")
    for what in ("cases", "peers"):
        old["plan"][what] += [name for name in new["plan"][what] if name not in old["plan"][what]]
    old["plan"]["rounds"] = max(old["plan"]["rounds"], new["plan"]["rounds"])
    old["machine"]["versions"] |= new["machine"]["versions"]
    return old


def keep(file: Path, document: dict[str, Any]) -> None:
    """Written whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(file)


def progress(run: dict[str, Any]) -> str:
    result = run.get("values") or run.get("unsupported") or run.get("error")
    return f"round {run['round']}  {run['case']:8}{run['peer']:20}{run['wall_s']:7.1f} s  {result}"


if __name__ == "__main__":
    sys.exit(main())
