"""``FunctionPool``: calls as invocations of one function in a cloud. What Lambda and other clouds have in common."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from asyncpar.chunks import Chunk, Errors
from asyncpar.errors import BrokenPoolError, UnsupportedError, WorkerLostError
from asyncpar.pool import Pool
from asyncpar.statistics import PoolStatistics
from asyncpar_lambda.batch import Batches, Job, Request, indices
from asyncpar_lambda.control import Concurrency, ConcurrencyStatistics
from asyncpar_lambda.deployment import Deployment
from asyncpar_lambda.errors import CodecError, RefusedError, StoreError
from asyncpar_lambda.replies import Verdict, judge, printed
from asyncpar_lambda.transport import Reply, Transport, TransportError

if TYPE_CHECKING:
    from asyncpar.feed import Feed
    from asyncpar_lambda.envelope import Answer

BUDGET_CHUNKS = 3
"""A worker starts no more calls after so many times the chunk's duration: what is left goes elsewhere."""
MOST_UNREACHABLE = 8
"""Failures in a row to reach Lambda or to start the function, before calls fail."""
MOST_ATTEMPTS = 20
"""How often a call is sent that may be sent again, before it counts as lost."""
LOOK_SECONDS = 0.05
"""How often to look whether an invocation has become one of the slowest."""
HEDGE_SAMPLES = 20
"""Invocations whose durations have to be known before one is sent twice."""


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
    """

    concurrency: ConcurrencyStatistics
    invocations: int
    repeated: int
    hedged: int
    unreachable: int
    cold: int
    environments: int


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
    """

    chunk_seconds = 0.75
    default_limit = 100_000
    service: ClassVar[str] = "the service"
    remedy: ClassVar[str] = "Repeat with retries="
    control: Concurrency
    deployment: Deployment

    def __init__(
        self, function_name: str, *, limit: int, functions: Literal["names", "by_value"] = "names"
    ) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise TypeError(f"limit= must be a whole number, not {type(limit).__name__}")
        if limit < 1:
            raise ValueError(f"limit= must be at least 1, not {limit}")
        if functions not in ("names", "by_value"):
            raise ValueError(f"functions= must be 'names' or 'by_value', not {functions!r}")
        super().__init__(limit)
        self.function_name = function_name
        self._by_value = functions == "by_value"
        self._transport: Transport | None = None
        self._batches: Batches | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._environments: set[str] = set()
        self._counts = {"repeated": 0, "hedged": 0, "unreachable": 0, "cold": 0, "invocations": 0}
        self._in_a_row = 0
        self._run = ""

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
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for part in (self._batches, self._transport):
            if part is not None:
                await part.aclose()

    # -- what clouds differ in

    def _judge(self, reply: Reply) -> Verdict:
        """What a reply means for the calls that were sent."""
        return judge(reply)

    def _bill(self, job: Job | None, log: bytes, measured: float) -> None:
        """An invocation took so many seconds."""

    def statistics(self) -> FunctionStatistics:
        """Counts at this moment, as a frozen object."""
        basic = super().statistics()
        return FunctionStatistics(
            basic.workers, basic.running, basic.queued, basic.completed, basic.lost, **self._own_statistics()
        )

    def _own_statistics(self) -> dict[str, Any]:
        concurrency = self.control.statistics(self.loop.time())
        return {**self._counts, "concurrency": concurrency, "environments": len(self._environments)}

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
        self.control.begin(self.loop.time())
        _ = self._spawn(self._work(chunk, self.loop.time()))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self.loop.create_task(work, name="asyncpar: invocation")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "asyncpar: sending an invocation failed", "exception": error, "task": task}
            self.loop.call_exception_handler(context)

    async def _work(self, chunk: Chunk, began: float) -> None:
        """One chunk, sent once (or twice, hedged), and what becomes of it."""
        job = _job(chunk)
        assert self._batches is not None
        budget = BUDGET_CHUNKS * 2 * self.chunk_seconds if len(chunk.items) > 1 else None
        try:
            request = await self._batches.request(chunk, job, self._run, budget)
        except StoreError as error:
            self.control.failed()
            self._fail(chunk, error)
        except (CodecError, UnsupportedError) as error:
            self.control.failed()
            if len(chunk.items) > 1:
                self._scatter(chunk)
            else:
                self._fail(chunk, error)
        except Exception as error:  # what the user's pickling raised
            self.control.failed()
            self._fail(chunk, error)
        else:
            try:
                await self._carry(chunk, request, job, began)
            except Exception as error:  # nothing may leave a call without an end
                self._fail(chunk, error)

    async def _carry(self, chunk: Chunk, request: Request, job: Job | None, began: float) -> None:
        if job is not None:
            job.invocations += 1
        if job is not None and job.hedge is not None:
            await self._hedged(chunk, request, job, began)
        else:
            await self._settle(chunk, request, job, *await self._invoke(request, job, began))

    # -- one invocation

    async def _invoke(self, request: Request, job: Job | None, began: float) -> tuple[Verdict, bytes]:
        """Send a request; the verdict, and the body of the answer. Tells the controller and the meters."""
        assert self._transport is not None
        sent = self.loop.time()
        try:
            reply = await self._transport.invoke(request.payload, tail=True)
        except TransportError as error:
            if not error.sent:
                self._unreachable(began)
                return Verdict("again", str(error)), b""
            self.control.failed()
            self._bill(job, b"", self.loop.time() - sent)
            return Verdict("lost", str(error)), b""
        except Exception as error:  # credentials that cannot be renewed, for one
            self._unreachable(began)
            return Verdict("again", f"{type(error).__name__}: {error}"), b""
        now = self.loop.time()
        verdict = self._judge(reply)
        if verdict.kind == "throttled":
            self.control.throttled(now, began, verdict.reason, verdict.wish)
            return verdict, b""
        if verdict.kind == "again":
            self._unreachable(began)
            return verdict, b""
        self._in_a_row = 0
        self.control.succeeded(now)
        self._counts["invocations"] += 1
        if verdict.kind != "refused":
            self._bill(job, verdict.log, now - sent)
        if job is not None and verdict.kind == "answer":
            job.seconds.append(now - sent)
            del job.seconds[:-200]
        return verdict, reply.body

    def _unreachable(self, began: float) -> None:
        self._counts["unreachable"] += 1
        self._in_a_row += self.control.unreachable(self.loop.time(), began)

    async def _hedged(self, chunk: Chunk, request: Request, job: Job, began: float) -> None:
        """Send it again when it takes longer than most, and take the answer that comes first."""
        assert self._batches is not None
        first = self._spawn(self._invoke(request, job, began))
        if await self._straggles(first, job, began):
            job.hedged += 1
            self._counts["hedged"] += 1
            again = await self._batches.request(chunk, job, self._run, None)
            began = self.loop.time()
            self.control.begin(began)
            second = self._spawn(self._invoke(again, job, began))
            await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
            better = second if second.done() else first
            if better.result()[0].kind != "answer":  # the other may still bring one
                better = first if better is second else second
            if better is second:
                request = again
            first = better
        await self._settle(chunk, request, job, *await first)

    async def _straggles(self, first: asyncio.Task[Any], job: Job, began: float) -> bool:
        """Wait until it has ended, or until it has taken longer than most and may be sent again."""
        assert job.hedge is not None
        while True:
            patience = _patience(job)
            taken = self.loop.time() - began
            left = LOOK_SECONDS if patience is None else max(patience - taken, LOOK_SECONDS)
            done, _ = await asyncio.wait([first], timeout=left)
            if done:
                return False
            now = self.loop.time()
            late = patience is not None and now - began >= patience
            if late and job.hedged < 1 + (1 - job.hedge) * job.invocations and self.control.room(now) > 0:
                return True

    # -- what becomes of a chunk

    async def _settle(
        self, chunk: Chunk, request: Request, job: Job | None, verdict: Verdict, body: bytes
    ) -> None:
        """Deliver what there is, and send the rest again where that is allowed."""
        if verdict.kind == "answer":
            await self._take_answer(chunk, request, job, verdict, body)
        elif verdict.kind == "throttled":
            self._give_back(chunk)
        elif verdict.kind == "again":
            if self._in_a_row >= MOST_UNREACHABLE:
                self._fail(chunk, BrokenPoolError(f"{self.service} cannot be reached: {verdict.reason}"))
            else:
                self._give_back(chunk)
        elif verdict.kind == "refused":
            self._fail(
                chunk, BrokenPoolError(f"{self.function_name} cannot run: {verdict.reason}"), verdict.log
            )
        else:
            await self._lose(chunk, request, job, verdict)

    async def _take_answer(
        self, chunk: Chunk, request: Request, job: Job | None, verdict: Verdict, body: bytes
    ) -> None:
        assert self._batches is not None
        try:
            answer = await self._batches.answer(request, body)
        except RefusedError as error:
            if error.reason in ("replayed", "expired", "unavailable") and self._may_repeat(
                chunk, request, job, False
            ):
                await self._later(chunk, 1)
            else:
                self._fail(chunk, error, verdict.log)
        except (CodecError, StoreError) as error:
            self._fail(chunk, error, verdict.log)
        else:
            self._deliver(chunk, job, answer, verdict.log)
            if not answer.outcomes and not chunk.finished:  # another worker runs the first of them
                await asyncio.sleep(0.2)
            self._end(chunk)

    def _deliver(self, chunk: Chunk, job: Job | None, answer: Answer, log: bytes) -> None:
        self._environments.add(answer.environment)
        self._counts["cold"] += answer.cold
        outcomes = answer.outcomes[: len(chunk.items) - chunk.done]
        if not outcomes:
            return
        chunk.function.measured(sum(answer.seconds), len(outcomes))
        values: list[Any] = []
        errors: Errors = {}
        for index, (ok, value) in enumerate(outcomes):
            values.append(value if ok else None)
            if not ok:
                _attach(value, log)
                errors[index] = value
        if job is not None:
            for index in indices(chunk)[: len(outcomes)]:
                job.attempts.pop(index, None)
            if job.budget is not None:
                job.budget.ended += len(outcomes)
        chunk.deliver(values, errors or None)

    async def _lose(self, chunk: Chunk, request: Request, job: Job | None, verdict: Verdict) -> None:
        """Its calls may have run, and nobody knows their outcomes."""
        if self._may_repeat(chunk, request, job, verdict.dead):
            self._counts["repeated"] += 1
            assert job is not None
            await self._later(chunk, len(job.attempts[indices(chunk)[0]]))
            return
        many = len(chunk.items) - chunk.done
        self._lost += many
        what = "this call" if many == 1 else f"these {many} calls"
        names = {chunk.label(i) for i in range(chunk.done, len(chunk.items))}
        label = names.pop() if len(names) == 1 else "several functions"
        message = (
            f"an invocation of {self.function_name} was lost while it ran {label}: {verdict.reason}; {what} may have "
            f"run. {self.remedy}"
        )
        self._fail(chunk, WorkerLostError(message, function=label), verdict.log)

    def _may_repeat(self, chunk: Chunk, request: Request, job: Job | None, dead: bool) -> bool:
        """Whether the caller allowed it; notes this attempt."""
        if job is None or not job.repeatable:
            return False
        for index in indices(chunk):
            job.attempts.setdefault(index, []).append((request.nonce, dead))
        return len(job.attempts[indices(chunk)[0]]) < MOST_ATTEMPTS

    async def _later(self, chunk: Chunk, attempt: int) -> None:
        """Send it again after a backoff, with full jitter."""
        self._vacate(chunk)
        await asyncio.sleep(random.uniform(0, min(10.0, 0.05 * 2**attempt)))
        chunk.requeue()

    def _give_back(self, chunk: Chunk) -> None:
        self._vacate(chunk)
        chunk.requeue()

    def _scatter(self, chunk: Chunk) -> None:
        """One of these is to blame: let each travel alone."""
        self._vacate(chunk)
        while len(chunk.items) > 1:
            chunk.split(len(chunk.items) - 1).requeue()
        chunk.requeue()

    def _end(self, chunk: Chunk) -> None:
        """It has brought what it could; what it did not start goes elsewhere."""
        self._vacate(chunk)
        chunk.requeue()
        self._room_again()

    def _fail(self, chunk: Chunk, error: Exception, log: bytes = b"") -> None:
        """The same error for each call that is left."""
        self._vacate(chunk)
        many = len(chunk.items) - chunk.done
        if many:
            job = _job(chunk)
            if job is not None and job.budget is not None:
                job.budget.ended += many
            _attach(error, log)
            chunk.deliver([None] * many, dict.fromkeys(range(many), error))
        self._room_again()

    def _vacate(self, chunk: Chunk) -> None:
        if chunk in self._running:
            self.vacate(chunk)


def _job(chunk: Chunk) -> Job | None:
    """What the chunk's map asked for; ``None`` for single calls and for ``asyncpar.map``."""
    found: Job | None = None if chunk.singles else cast("Feed", chunk.source).options.extra
    return found


def _patience(job: Job) -> float | None:
    """Seconds after which an invocation is among the slowest; ``None`` while that is not known."""
    assert job.hedge is not None
    if len(job.seconds) < HEDGE_SAMPLES:
        return None
    ordered = sorted(job.seconds)
    return ordered[int(job.hedge * len(ordered))]


def _attach(error: BaseException, log: bytes) -> None:
    """Note what the failed invocation printed."""
    text = printed(log)
    if text and not isinstance(error, RefusedError):
        error.add_note(f"The log of its invocation ends with:\n{text}")


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
