"""Optional packages, as our own metadata declares them: what is installed, and the line that installs the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from asyncpar.cli.checks import Check

# `uvloop>=0.21; extra == 'fast'`, perhaps with more conditions before the extra
REQUIREMENT = re.compile(r"""^([\w.-]+)(\[.*\])?[^;]*;.*\bextra\s*==\s*["']([\w.-]+)["']""")


def examine() -> Iterator[Check]:
    """Yield a check for every package of every extra."""
    declared = declared_extras()
    if not declared:
        detail = "asyncpar itself is not installed, so its extras are not known (a checkout?)"
        yield Check("extras", "extras", "missing", detail, "pip install --editable .")
    for extra, packages in declared.items():
        for package in packages:
            yield _examine(package, extra)


def declared_extras() -> dict[str, list[str]]:
    """Return the packages of each extra of the installed asyncpar; empty where it is not installed."""
    try:
        return parse_extras(requires("asyncpar") or [])
    except PackageNotFoundError:
        return {}


def parse_extras(requirements: Iterable[str]) -> dict[str, list[str]]:
    """Return the packages by extra; of one that contains others whole, what it adds (`all` adds nothing)."""
    extras: dict[str, list[str]] = {}
    for requirement in requirements:
        match = REQUIREMENT.match(requirement)
        if match and match[1] != "asyncpar":
            extras.setdefault(match[3], []).append(match[1])
    return {extra: own for extra, packages in extras.items() if (own := _own(packages, extras))}


def _own(packages: list[str], extras: dict[str, list[str]]) -> list[str]:
    """Return the packages that no smaller extra, contained in this one, names already."""
    inner = [set(other) for other in extras.values() if set(other) < set(packages)]
    return [package for package in packages if not any(package in other for other in inner)]


def _examine(package: str, extra: str) -> Check:
    name = f"{package} ({extra})"
    try:
        return Check("extras", name, "ok", version(package))
    except PackageNotFoundError:
        return Check("extras", name, "missing", "not installed", f'pip install "asyncpar[{extra}]"')
