"""``FunctionPool``: calls as invocations of one function in a cloud. What Lambda and other clouds have in common."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from asyncpar.chunks import Chunk
from asyncpar.errors import UnsupportedError
from asyncpar.pool import Pool
from asyncpar.statistics import PoolStatistics
from asyncpar_lambda.batch import Batches
from asyncpar_lambda.control import Concurrency, ConcurrencyStatistics
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.job import Job
from asyncpar_lambda.replies import Verdict, judge
from asyncpar_lambda.sending import Cloud, Sender
from asyncpar_lambda.transport import Reply, Transport


@dataclass(frozen=True, slots=True)
class FunctionStatistics(PoolStatistics):
    """A pool at one moment.

    :ivar concurrency: how many invocations may be in flight, and why
    :ivar invocations: that were started and not throttled
    :ivar repeated: that were sent again because their outcome was lost (``exactly_once`` and ``hedge`` only)
    :ivar hedged: that were sent a second time because the first took long
    :ivar unreachable: times that the service could not be reached or could not start the function
    :ivar cold: that started an environment
    :ivar environments: that have answered so far
    :ivar memory: the most that one of them has used, in bytes
    """

    concurrency: ConcurrencyStatistics
    invocations: int
    repeated: int
    hedged: int
    unreachable: int
    cold: int
    environments: int
    memory: int


class Place:
    """Room for one invocation."""

    __slots__ = ("load",)

    def __init__(self) -> None:
        self.load = 0


class FunctionPool(Pool):
    """Runs calls as invocations of one function in a cloud.

    A subclass opens it: it reads what is deployed, and sets ``deployment``, ``control``, the transport and the batches.

    :param function_name: for messages, and for the service
    :param limit: the most invocations at the same time
    :param functions: ``"names"`` or ``"by_value"``
    :param patience: seconds for which the service may be out of reach, before calls fail
    """

    chunk_seconds = 0.75
    default_limit = 100_000
    service: ClassVar[str] = "the service"
    remedy: ClassVar[str] = "Repeat with retries="
    deployment: Deployment

    def __init__(
        self,
        function_name: str,
        *,
        limit: int,
        functions: Literal["names", "by_value"] = "names",
        patience: float = 120.0,
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit= must be a whole number, not {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"limit= must be at least 1, not {limit}")
        if functions not in ("names", "by_value"):
            raise ValueError(f"functions= must be 'names' or 'by_value', not {functions!r}")
        if not patience >= 0:
            raise ValueError(f"patience= must be at least 0 seconds, not {patience}")
        super().__init__(limit)
        self.function_name = function_name
        self.control = Concurrency(limit)
        self._by_value = functions == "by_value"
        self._patience = patience
        self._transport: Transport | None = None
        self._batches: Batches | None = None
        self._sender: Sender | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- opening and closing, for subclasses

    def _check_deployment(self, deployment: Deployment) -> None:
        if self._by_value and not deployment.by_value:
            raise UnsupportedError(
                f"{self.function_name} takes no functions by value: deploy it with functions='by_value'"
            )

    def _pickle(self) -> Callable[[Any], bytes] | None:
        if not self._by_value:
            return None
        try:
            import cloudpickle
        except ImportError:
            raise UnsupportedError(
                "functions='by_value' needs cloudpickle: pip install asyncpar[by-value]"
            ) from None
        dumps: Callable[[Any], bytes] = cloudpickle.dumps
        return dumps

    async def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for part in (self._sender, self._batches, self._transport):
            if part is not None:
                await part.aclose()

    # -- what clouds differ in

    def _judge(self, reply: Reply) -> Verdict:
        """What a reply means for the calls that were sent."""
        return judge(reply)

    def _bill(self, job: Job | None, log: bytes, measured: float) -> None:
        """An invocation took so many seconds."""

    def statistics(self) -> FunctionStatistics:
        """Counts at this moment, as a frozen object; zeros before the pool is open."""
        return FunctionStatistics(**self._counts())

    def _counts(self) -> dict[str, Any]:
        basic, sender = super().statistics(), self._sender
        counts: Mapping[str, int] = Counter() if sender is None else sender.counts
        return {
            "workers": basic.workers, "running": basic.running, "queued": basic.queued, "completed": basic.completed,
            "lost": basic.lost + counts["lost"],
            "concurrency": self.control.statistics(0.0 if sender is None else sender.loop.time()),
            "environments": 0 if sender is None else len(sender.environments),
            "memory": 0 if sender is None else sender.memory,
            **{name: counts[name] for name in ("invocations", "repeated", "hedged", "unreachable", "cold")},
        }  # fmt: skip

    # -- as a pool

    def _place(self) -> Place | None:
        now = self.loop.time()
        if self.control.room(now) > 0:
            return Place()
        delay = self.control.delay(now)
        if delay is not None and self._timer is None:
            self._timer = self.loop.call_later(max(delay, 1e-3), self._room_again)
        return None

    def _room_again(self) -> None:
        self._timer = None
        if self._state == "open":
            self.pump()

    def _send(self, place: Place, chunk: Chunk) -> None:
        if self._sender is None:
            self._sender = self._make_sender()
        self._sender.send(chunk)

    def _make_sender(self) -> Sender:
        assert self._transport is not None
        assert self._batches is not None
        cloud = Cloud(
            service=self.service, function=self.function_name, remedy=self.remedy, judge=self._judge, bill=self._bill
        )  # fmt: skip
        return Sender(
            cloud, self._transport, self._batches, self.control, chunk_seconds=2 * self.chunk_seconds,
            patience=self._patience, vacate=self.vacate, ready=self._room_again,
        )  # fmt: skip


def main_name() -> str | None:
    """Under which name workers import the user's script."""
    import sys

    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name.removesuffix(".__main__") if name.endswith(".__main__") else name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else None
