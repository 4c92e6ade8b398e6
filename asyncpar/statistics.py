"""What a pool counts. By itself, since dataclasses take 6 ms to import and few programs ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment. A pool that counts more extends it.

    :ivar workers: how many calls can run at the same time
    :ivar running: chunks that are with a worker
    :ivar queued: calls of ``run`` that wait for a worker
    :ivar completed: calls that have ended since the pool was opened, however they ended
    :ivar lost: calls that were lost with their worker
    """

    workers: int
    running: int
    queued: int
    completed: int
    lost: int
