"""A chunk's way to Lambda and back: sent, perhaps twice, and sent again where that is allowed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncpar.chunks import Chunk, Errors
from asyncpar.errors import BrokenPoolError, UnsupportedError, WorkerLostError
from asyncpar_lambda.batch import Batches, Request, TooManyError
from asyncpar_lambda.control import Concurrency
from asyncpar_lambda.envelope import new_nonce
from asyncpar_lambda.errors import CodecError, RefusedError, StoreError
from asyncpar_lambda.job import Job, indices, job_of
from asyncpar_lambda.patience import Patience, pause
from asyncpar_lambda.replies import Verdict, printed
from asyncpar_lambda.transport import Reply, Transport, TransportError

if TYPE_CHECKING:
    from asyncpar_lambda.envelope import Answer

BUDGET_CHUNKS = 3
"""A worker starts no more calls after so many times the chunk's duration: what is left goes elsewhere."""
LOOK_SECONDS = 0.05
"""How often to look whether an invocation has become one of the slowest."""
NOT_RUN = frozenset(("expired", "unavailable", "missing"))
"""Refusals of a worker which mean that it has run nothing, and may run it if it is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """What clouds differ in.

    :ivar service: its name, for messages
    :ivar function: the function's
    :ivar remedy: what to write where calls may be lost
    :ivar judge: what a reply means
    :ivar bill: told of each invocation: of which map, the end of its log, seconds as measured here
    """

    service: str
    function: str
    remedy: str
    judge: Callable[[Reply], Verdict]
    bill: Callable[[Job | None, bytes, float], None]


class Sender:
    """Sends chunks, and brings their outcomes.

    :param chunk_seconds: how long an invocation should take
    :param patience: seconds for which Lambda, or what a worker needs, may be out of reach
    :param vacate: told when a chunk runs no more
    :param ready: told when there may be room for another
    """

    def __init__(
        self,
        cloud: Cloud,
        transport: Transport,
        batches: Batches,
        control: Concurrency,
        *,
        chunk_seconds: float,
        patience: float,
        vacate: Callable[[Chunk], None],
        ready: Callable[[], None],
    ) -> None:
        self.cloud, self.transport, self.batches, self.control = cloud, transport, batches, control
        self.vacate, self.ready = vacate, ready
        self.loop = asyncio.get_running_loop()
        self.counts: Counter[str] = Counter()
        self.environments: set[str] = set()
        self.memory = 0
        self._budget = BUDGET_CHUNKS * chunk_seconds
        self._run = new_nonce()  # of calls that belong to no map
        self._reaching = Patience(patience)  # Lambda
        self._starting = Patience(patience)  # calls, on a worker that answers
        self._tasks: set[asyncio.Task[Any]] = set()

    def send(self, chunk: Chunk) -> None:
        """Have the chunk run; it ends, or goes back to its source, later."""
        self.control.begin(self.loop.time())
        _ = self._spawn(self._work(chunk, self.loop.time()))

    async def aclose(self) -> None:
        """Wait for nothing any more; what was started runs on in Lambda."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

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

    # -- one chunk

    async def _work(self, chunk: Chunk, began: float) -> None:
        """One chunk, sent once (or twice, hedged), and what becomes of it."""
        job = job_of(chunk)
        try:
            request = await self._request(chunk, job)
        except Exception as error:  # the store's, the codec's, and what the user's pickling raised
            self.control.failed()
            splits = isinstance(error, (CodecError, UnsupportedError, TooManyError))
            if splits and len(chunk.items) - chunk.done > 1:
                self._divide(chunk, halve=isinstance(error, TooManyError))
            else:
                self._fail(chunk, _said(error))
            return
        try:
            await self._carry(chunk, request, job, began)
        except Exception as error:  # nothing may leave a call without an end
            self._fail(chunk, error)

    async def _request(self, chunk: Chunk, job: Job | None) -> Request:
        budget = self._budget if len(chunk.items) > 1 else None
        return await self.batches.request(chunk, job, self._run, budget)

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
        sent = self.loop.time()
        try:
            reply = await self.transport.invoke(request.payload, tail=True)
        except TransportError as error:
            if not error.sent:
                return self._unreachable(began, str(error))
            self.control.failed()
            self.cloud.bill(job, b"", self.loop.time() - sent)
            return Verdict("lost", str(error)), b""
        except Exception as error:  # credentials that cannot be renewed, for one
            return self._unreachable(began, f"{type(error).__name__}: {error}")
        now = self.loop.time()
        verdict = self.cloud.judge(reply)
        if verdict.kind == "throttled":
            self._reaching.succeeded()
            self.control.throttled(now, began, verdict.reason, verdict.wish)
            return verdict, b""
        if verdict.kind == "again":
            return self._unreachable(began, verdict.reason)
        self._reaching.succeeded()
        self.control.succeeded(now)
        self.counts["invocations"] += 1
        if verdict.kind != "refused":
            self.cloud.bill(job, verdict.log, now - sent)
        if job is not None and verdict.kind == "answer":
            job.answered(now - sent)
        return verdict, reply.body

    def _unreachable(self, began: float, reason: str) -> tuple[Verdict, bytes]:
        now = self.loop.time()
        self.counts["unreachable"] += 1
        self._reaching.failed(now)
        self.control.unreachable(now, began)
        return Verdict("again", reason), b""

    # -- the same twice

    async def _hedged(self, chunk: Chunk, request: Request, job: Job, began: float) -> None:
        """Send it again when it takes longer than most, and take the answer that comes first."""
        first = self._spawn(self._invoke(request, job, began))
        if await self._straggles(first, job, began) and (again := await self._second(chunk, job)) is not None:
            job.hedged += 1
            self.counts["hedged"] += 1
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

    async def _second(self, chunk: Chunk, job: Job) -> Request | None:
        try:
            return await self.batches.request(chunk, job, self._run, None)
        except StoreError:  # then there is the first, which runs
            return None

    async def _straggles(self, first: asyncio.Task[Any], job: Job, began: float) -> bool:
        """Wait until it has ended, or until it has taken longer than most and may be sent again."""
        while True:
            limit = job.straggles_after()
            taken = self.loop.time() - began
            left = LOOK_SECONDS if limit is None else max(limit - taken, LOOK_SECONDS)
            done, _ = await asyncio.wait([first], timeout=left)
            if done:
                return False
            now = self.loop.time()
            late = limit is not None and now - began >= limit
            if late and job.may_hedge() and self.control.room(now) > 0:
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
            if self._reaching.over:
                message = (
                    f"{self.cloud.service} cannot be reached, or does not start {self.cloud.function}: "
                    f"{self._reaching}, the last of them: "
                    f"{verdict.reason}. Nothing ran in these; patience= says how long to try"
                )
                self._fail(chunk, BrokenPoolError(message))
            else:
                self._give_back(chunk)
        elif verdict.kind == "refused":
            self._fail(
                chunk, BrokenPoolError(f"{self.cloud.function} cannot run: {verdict.reason}"), verdict.log
            )
        else:
            await self._lose(chunk, job, verdict)

    async def _take_answer(
        self, chunk: Chunk, request: Request, job: Job | None, verdict: Verdict, body: bytes
    ) -> None:
        try:
            answer = await self.batches.answer(request, body)
        except RefusedError as error:
            await self._refused(chunk, request, job, verdict, error)
        except StoreError as error:  # what came out lies there, and cannot be had
            await self._lose(chunk, job, Verdict("lost", str(error), log=verdict.log))
        except CodecError as error:
            self._fail(chunk, error, verdict.log)
        else:
            self._starting.succeeded()
            self._deliver(chunk, job, answer, verdict.log)
            if not answer.outcomes and not chunk.finished and job is not None:
                await self._wait_for_another(chunk, job)
            self._end(chunk)

    async def _refused(
        self, chunk: Chunk, request: Request, job: Job | None, verdict: Verdict, error: RefusedError
    ) -> None:
        """The worker ran nothing of this request."""
        if error.reason == "replayed":  # the other delivery of it did, and brings no answer
            await self._lose(chunk, job, Verdict("lost", str(error), log=verdict.log))
            return
        if error.reason not in NOT_RUN:
            self._fail(chunk, error)
            return
        if error.reason == "missing":
            self.batches.missing(request)
        self._starting.failed(self.loop.time())
        if self._starting.over:
            message = f"{error.message}; given up after {self._starting}: patience= says how long to try"
            self._fail(chunk, RefusedError(error.reason, message))
        else:
            await self._later(chunk, self._starting.attempts)

    async def _wait_for_another(self, chunk: Chunk, job: Job) -> None:
        """Another worker runs the first of these calls: ask again for its outcome, later each time."""
        index = indices(chunk)[0]
        job.waits[index] = waits = job.waits.get(index, 0) + 1
        self.vacate(chunk)
        await asyncio.sleep(pause(waits))

    def _deliver(self, chunk: Chunk, job: Job | None, answer: Answer, log: bytes) -> None:
        self.environments.add(answer.environment)
        self.counts["cold"] += answer.cold
        self.memory = max(self.memory, answer.memory)
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
            for position, index in enumerate(indices(chunk)[: len(outcomes)]):
                job.ended(index, position in errors)
            if job.budget is not None:
                job.budget.ended += len(outcomes)
        chunk.deliver(values, errors or None)

    async def _lose(self, chunk: Chunk, job: Job | None, verdict: Verdict) -> None:
        """Its calls may have run, and nobody knows their outcomes."""
        if job is not None and job.may_repeat(indices(chunk), verdict.ended):
            self.counts["repeated"] += 1
            await self._later(chunk, len(job.attempts[indices(chunk)[0]]))
            return
        many = len(chunk.items) - chunk.done
        self.counts["lost"] += many
        what = "this call" if many == 1 else f"these {many} calls"
        names = {chunk.label(i) for i in range(chunk.done, len(chunk.items))}
        label = names.pop() if len(names) == 1 else "several functions"
        message = (
            f"an invocation of {self.cloud.function} was lost while it ran {label}: {verdict.reason}; {what} may have "
            f"run. {self.cloud.remedy}"
        )
        self._fail(chunk, WorkerLostError(message, function=label), verdict.log)

    # -- how it leaves

    async def _later(self, chunk: Chunk, attempt: int) -> None:
        """Send it again after a backoff, with full jitter."""
        self.vacate(chunk)
        await asyncio.sleep(pause(attempt))
        chunk.requeue()

    def _give_back(self, chunk: Chunk) -> None:
        self.vacate(chunk)
        chunk.requeue()

    def _divide(self, chunk: Chunk, *, halve: bool) -> None:
        """One of these is to blame: let each travel alone. Or they are too many together: let half of them."""
        self.vacate(chunk)
        while (many := len(chunk.items) - chunk.done) > 1:
            chunk.split(len(chunk.items) - (many // 2 if halve else 1)).requeue()
            if halve:
                break
        chunk.requeue()

    def _end(self, chunk: Chunk) -> None:
        """It has brought what it could; what it did not start goes elsewhere."""
        self.vacate(chunk)
        chunk.requeue()
        self.ready()

    def _fail(self, chunk: Chunk, error: Exception, log: bytes = b"") -> None:
        """The same error for each call that is left."""
        self.vacate(chunk)
        many = len(chunk.items) - chunk.done
        if many:
            job = job_of(chunk)
            if job is not None and job.budget is not None:
                job.budget.ended += many
            _attach(error, log)
            chunk.deliver([None] * many, dict.fromkeys(range(many), error))
        self.ready()


def _said(error: Exception) -> Exception:
    """The error of a call that cannot be sent."""
    if isinstance(error, TooManyError):
        return CodecError(
            "what this call's request says beside its arguments is too large: share() fewer constants in one call"
        )
    return error


def _attach(error: BaseException, log: bytes) -> None:
    """Note what the failed invocation printed."""
    text = printed(log)
    if text and not isinstance(error, RefusedError):
        error.add_note(f"The log of its invocation ends with:\n{text}")
