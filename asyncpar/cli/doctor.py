"""`asyncpar doctor`: what works on this machine. Nothing is taken on trust: each line was tried."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncpar.cli.checks import Check, core, extras, hardware, pools

STYLES = {"ok": "green", "missing": "yellow", "failed": "bold red"}


def examine(*, as_json: bool) -> int:
    """Try everything, print it, and return the exit code: 0 unless something of the core failed.

    Args:
        as_json: Print a JSON array of objects with group, name, status (ok, missing, failed), detail and advice.
    """
    checks = list(_all_checks())
    if as_json:
        print(json.dumps([dataclasses.asdict(check) for check in checks], indent=2))
    else:
        Console().print(_table(checks), *_advice(checks), sep="\n")
    return int(any(check.status == "failed" and check.group == "core" for check in checks))


def _all_checks() -> Iterator[Check]:
    yield from core.examine()
    yield from pools.examine()
    yield from hardware.examine()
    yield from extras.examine()


def _table(checks: list[Check]) -> Table:
    table = Table("", "status", "what was found", title="asyncpar doctor")
    group = ""
    for check in checks:
        if group and check.group != group:
            table.add_section()
        group = check.group
        table.add_row(check.name, Text(check.status, STYLES[check.status]), Text(check.detail))
    return table


def _advice(checks: list[Check]) -> Iterator[Text]:
    """Yield each thing to do once, in the order of the table."""
    advice = dict.fromkeys(check.advice for check in checks if check.advice)
    if advice:
        yield Text("To have more:", "bold")
    for line in advice:
        yield Text(f"  {line}")
