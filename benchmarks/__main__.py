"""The command: `python -m benchmarks [--cases ...] [--peers ...] [--rounds N] [--quick] [--json FILE] [--markdown]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import report
from benchmarks.cases import CASES
from benchmarks.metrics import NULL, OURS
from benchmarks.peers import PEERS
from benchmarks.runner import Plan, execute

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    document = json.loads(options.show.read_text()) if options.show else measure(plan_from(options))
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    print(report.render(document, options.markdown))
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
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run")
    parser.add_argument(
        "--show", type=Path, metavar="FILE", help="measure nothing: print the table of such a file"
    )
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


def measure(plan: Plan) -> dict[str, Any]:
    host, runs = report.machine(plan.peers, plan.loop), []
    for run in execute(plan):
        runs.append(run)
        print(progress(run), file=sys.stderr, flush=True)
    return {"machine": host, "plan": asdict(plan), "runs": runs}


def progress(run: dict[str, Any]) -> str:
    result = run.get("values") or run.get("unsupported") or run.get("error")
    return f"round {run['round']}  {run['case']:8}{run['peer']:20}{run['wall_s']:7.1f} s  {result}"


if __name__ == "__main__":
    sys.exit(main())
