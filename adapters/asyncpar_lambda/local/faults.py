"""What can be made to go wrong, as it does on AWS."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults that the local Lambda injects. Chances are between 0 and 1, for each invocation; times are in seconds.

    :ivar cold_start: that a new environment takes at least
    :ivar latency: added before each answer
    :ivar throttles: chance of a 429, as the ramp and the limits of an account give
    :ivar errors: chance of a 500 before the function runs
    :ivar lost: chance that the connection is lost: half of them before the function runs, half after
    :ivar kills: chance that the environment dies while it runs
    :ivar duplicates: chance that the function runs twice for one request, as asynchronous and retried requests may
    :ivar seed: of the random choices
    """

    cold_start: float = 0.0
    latency: float = 0.0
    throttles: float = 0.0
    errors: float = 0.0
    lost: float = 0.0
    kills: float = 0.0
    duplicates: float = 0.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("throttles", "errors", "lost", "kills", "duplicates"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a chance between 0 and 1, not {getattr(self, name)!r}")
        for name in ("cold_start", "latency"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is in seconds, not {getattr(self, name)!r}")

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Faults:
        """From plain data, as they come over the wire.

        :raises ValueError: there is no such fault
        """
        unknown = set(settings) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"there is no fault {min(unknown)!r}")
        return cls(**settings)


class Dice:
    """Decides, invocation by invocation, and counts what it decided."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.random = random.Random(faults.seed)
        self.counts: dict[str, int] = {}

    def roll(self, name: str) -> bool:
        """Whether this fault happens now."""
        chance: float = getattr(self.faults, name)
        if not chance or self.random.random() >= chance:
            return False
        self.counts[name] = self.counts.get(name, 0) + 1
        return True

    def either(self, *choices: Any) -> Any:
        """One of them."""
        return self.random.choice(choices)
