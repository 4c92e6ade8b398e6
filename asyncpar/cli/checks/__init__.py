"""What `asyncpar doctor` tries: the core (`core`), `pools`, GPU and MPI (`hardware`), optional packages (`extras`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table.

    Attributes:
        group: core, pools, hardware or extras. What fails in the core makes the command fail.
        name: What was tried.
        status: `missing` is not installed or not there; `failed` is there and does not work.
        detail: What was found.
        advice: What to do about it; empty where there is nothing to do.
    """

    group: str
    name: str
    status: Status
    detail: str
    advice: str = ""


def attempt(group: str, name: str, trial: Callable[[], str]) -> Check:
    """Try something that returns what it found; whatever it raises is what was found."""
    try:
        return Check(group, name, "ok", trial())
    except Exception as error:  # a doctor who dies of the patient's illness helps nobody
        return Check(group, name, "failed", describe(error))


def describe(error: BaseException) -> str:
    """Return the exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
