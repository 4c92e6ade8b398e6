"""``LambdaPool``: calls as invocations of one deployed function."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from asyncpar.chunks import Chunk, Errors
from asyncpar.errors import BrokenPoolError, UnsupportedError, WorkerLostError
from asyncpar.mapping import make_results
from asyncpar.pool import Pool
from asyncpar.results import Results
from asyncpar.statistics import PoolStatistics
from asyncpar_lambda.batch import Batches, Job, Request, indices
from asyncpar_lambda.control import Concurrency, ConcurrencyStatistics
from asyncpar_lambda.cost import Budget, CostError, Meter, Plan, Prices, Tariff, billed_seconds, make_plan
from asyncpar_lambda.deployment import Deployment, read_deployment
from asyncpar_lambda.errors import CodecError, RefusedError, StoreError
from asyncpar_lambda.keys import key_path, load_key
from asyncpar_lambda.naming import Imported
from asyncpar_lambda.replies import Verdict, judge, printed
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.store import Store
from asyncpar_lambda.transport import Transport, TransportError
from asyncpar_lambda.transport.fast import FastTransport

if TYPE_CHECKING:
    from asyncpar.feed import Feed
    from asyncpar_lambda.envelope import Answer
    from asyncpar_lambda.local.pool import LocalPool

MARGIN = 10.0
"""Seconds that an answer may take beyond the function's timeout: cold start and network."""
LONGEST = 600.0
"""Seconds; a function whose timeout is longer is refused: see ``LambdaPool``."""
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
class LambdaStatistics(PoolStatistics):
    """A pool at one moment.

    :ivar concurrency: how many invocations may be in flight, and why
    :ivar invocations: that were started and not throttled
    :ivar repeated: that were sent again because their outcome was lost (``exactly_once`` and ``hedge`` only)
    :ivar hedged: that were sent a second time because the first took long
    :ivar unreachable: times that Lambda could not be reached or could not start the function
    :ivar cold: that started an environment
    :ivar environments: that have answered so far
    :ivar billed_seconds: as the log says
    :ivar dollars: what that comes to
    """

    concurrency: ConcurrencyStatistics
    invocations: int
    repeated: int
    hedged: int
    unreachable: int
    cold: int
    environments: int
    billed_seconds: float
    dollars: float


class LambdaResults(Results[Any]):
    """The results of a map on Lambda. When ``max_cost`` ends an awaited map, the error has what was done."""

    async def _list(self) -> list[Any]:
        done: list[Any] = []
        try:
            async for result in self:
                done.append(result)  # noqa: PERF401 - an error is to leave what is there
        except CostError as error:
            error.results = done
            raise
        finally:
            await self.aclose()
        return done


class Place:
    """Room for one invocation."""

    __slots__ = ("load",)

    def __init__(self) -> None:
        self.load = 0


class LambdaPool(Pool):
    """Runs calls as invocations of an AWS Lambda function that ``asyncpar lambda deploy`` has made.

    Calls travel together until an invocation takes about 1.5 s, so that Lambda's price and latency for each are small
    beside the work. How many are in flight follows what Lambda takes, up to ``limit``.

    Functions are those that the deployment allows, by their names; arguments and results are plain data, NumPy arrays,
    dates and data classes. With ``functions="by_value"``, here and at the deployment, any function and value travels by
    cloudpickle.

    **What runs twice, and what is lost.** What was throttled, or certainly did not run, is sent again until it runs.
    When a connection breaks or an environment dies, its calls may have run: they fail with ``WorkerLostError``, all of
    the chunk, since Lambda does not say which of them ran. ``retries=`` of ``map`` repeats them; ``exactly_once=True``
    repeats them without any of them completing twice; ``chunksize=1`` makes a loss cost one call.

    **Cancelling** stops what was not sent at once, and frees the caller. An invocation that was started runs on, is
    paid for, and its place stays held until it ends: Lambda has no way to stop it. ``timeout=`` travels along, and the
    worker stops the call.

    A function whose timeout is more than 10 minutes is refused: a connection that is silent for so long does not
    survive most networks, and one loss costs all that work. Make calls shorter, or use AWS Batch or Fargate.

    :param function_name: what was deployed
    :param limit: the most invocations at the same time; a function's reserved concurrency bounds it too
    :param alias: the function's alias, or ``None`` for what was deployed last
    :param region: default: as AWS's tools find it; so are credentials
    :param profile: of ``~/.aws/config``
    :param endpoint_url: instead of AWS's own, for Lambda and S3
    :param credentials: instead of those that botocore finds
    :param transport: ``"fast"``, or ``"aiobotocore"`` for proxies (its default there); the object store is always
        reached directly
    :param key: the private key of the deployment, or the file that holds it; default: where ``deploy`` left it
    :param functions: ``"names"`` or ``"by_value"``
    :param prices: for ``plan``, ``max_cost`` and ``statistics``
    """

    chunk_seconds = 0.75
    default_limit = 100_000

    def __init__(
        self,
        function_name: str = "",
        *,
        limit: int = 1000,
        alias: str | None = "live",
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        credentials: Credentials | None = None,
        transport: Literal["fast", "aiobotocore"] | None = None,
        key: bytes | str | Path | None = None,
        functions: Literal["names", "by_value"] = "names",
        prices: Prices | None = None,
    ) -> None:
        if not function_name:
            raise ValueError(
                "name the deployed function: LambdaPool('my-job') or open_pool('lambda:my-job'); without any, "
                "LambdaPool.local(paths) runs on this machine"
            )
        _check(limit, transport, functions)
        super().__init__(limit)
        self.function_name = function_name
        self.endpoint_url = endpoint_url
        self.region = region
        self._alias, self._profile, self._credentials = alias, profile, credentials
        self._wanted, self._key, self._by_value = transport, key, functions == "by_value"
        self._prices = prices or Prices()
        self._transport: Transport | None = None
        self._store: Store | None = None
        self._batches: Batches | None = None
        self._identity: Any = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._environments: set[str] = set()
        self._counts = {"repeated": 0, "hedged": 0, "unreachable": 0, "cold": 0, "invocations": 0}
        self._in_a_row = 0
        self._run = ""

    @classmethod
    def local(cls, paths: Iterable[str | Path], **options: Any) -> LocalPool:
        """A pool on a Lambda of its own on this machine, which lives as long as the pool: see ``LocalPool``.

        :param paths: files and folders whose functions it runs
        """
        from asyncpar_lambda.local.pool import LocalPool

        return LocalPool(paths, **options)

    # -- opening and closing

    async def _open(self) -> None:
        qualified = f"{self.function_name}:{self._alias}" if self._alias else self.function_name
        lambda_endpoint, s3_endpoint, proxy = await self._look_around()
        assert self.region is not None
        deployment = await read_deployment(lambda_endpoint, self.region, self._identity, qualified)
        self._check_deployment(deployment)
        if deployment.reserved is not None:
            self.workers = max(1, min(self.workers, deployment.reserved))
        self.control = Concurrency(self.workers)
        self.tariff = Tariff(deployment.memory, deployment.machine, self._prices)
        self.meter = Meter(self.tariff)
        self.deployment = deployment
        await self._connect(lambda_endpoint, s3_endpoint, qualified, proxy)
        key = self._key
        if not isinstance(key, bytes):
            key = await asyncio.to_thread(load_key, Path(key) if key else key_path(self.function_name))
        self._batches = Batches(deployment, key, Imported(_main_name()), self._store, self._pickle())

    async def _look_around(self) -> tuple[str, str, bool]:
        """Endpoints of Lambda and S3, and whether there is a proxy; sets identity and region."""
        if self._credentials is not None and self.endpoint_url is not None and self.region is not None:
            from asyncpar_lambda.transport.identity import FixedIdentity

            self._identity = FixedIdentity(self._credentials)
            return self.endpoint_url, self.endpoint_url, False
        from asyncpar_lambda.transport.identity import FixedIdentity, look_around

        around = await asyncio.to_thread(look_around, self.region, self._profile, self.endpoint_url)
        self.region = around.region
        self._identity = FixedIdentity(self._credentials) if self._credentials else around.identity
        return around.lambda_endpoint, around.s3_endpoint, around.proxy

    async def _connect(self, lambda_endpoint: str, s3_endpoint: str, qualified: str, proxy: bool) -> None:
        assert self.region is not None
        seconds = self.deployment.timeout + MARGIN
        if self._wanted == "aiobotocore" or (self._wanted is None and proxy):
            from asyncpar_lambda.transport.aio import AiobotocoreTransport

            self._transport = await AiobotocoreTransport.open(
                qualified, seconds=seconds, connections=self.workers, region=self.region, profile=self._profile,
                endpoint_url=self.endpoint_url, credentials=self._credentials,
            )  # fmt: skip
        else:
            self._transport = FastTransport(
                lambda_endpoint, qualified, self.region, self._identity, seconds=seconds
            )
        if self.deployment.bucket:
            self._run = f"{random.getrandbits(64):016x}"
            self._store = Store(
                s3_endpoint, self.region, self.deployment.bucket, f"jobs/{self.deployment.job}/{self._run}/",
                self._identity, by_path=".amazonaws.com" not in s3_endpoint,
            )  # fmt: skip

    def _check_deployment(self, deployment: Deployment) -> None:
        if deployment.timeout > LONGEST:
            raise UnsupportedError(
                f"{self.function_name} has a timeout of {deployment.timeout:g} s, more than {LONGEST:g}: deploy it with "
                "timeout=600 at most and make its calls shorter, or run such work on AWS Batch or Fargate"
            )
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
        for part in (self._batches, self._transport, self._store):
            if part is not None:
                await part.aclose()
        if hasattr(self._identity, "aclose"):
            await self._identity.aclose()

    # -- the verbs

    def map(  # pyright: ignore[reportIncompatibleMethodOverride] - it takes more keywords than others
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        max_cost: float | None = None,
        exactly_once: bool = False,
        hedge: float | None = None,
        **options: Any,
    ) -> Results[Any]:
        """Apply ``function`` to every item, in Lambda. See ``asyncpar.map`` for the keywords of every pool.

        :param max_cost: dollars; when what has run and what runs comes to so much, nothing more is started, and after
            the results of what was, ``CostError`` is raised
        :param exactly_once: what may have run is sent again, and answers what it answered then: its outcome is kept in
            the object store, for two requests to that for each call ($0.00001)
        :param hedge: only for functions that may run twice: a quantile, as 0.95; an invocation that takes longer than
            so many of the others is sent a second time, and the first answer counts. At most as many invocations as
            that leaves out are doubled. What may have run is sent again.
        :raises TypeError, ValueError, UnsupportedError: at once, for arguments that make no sense
        """
        self._check_open()
        self._check_map(max_cost, exactly_once, hedge)
        job = Job(Meter(self.tariff), exactly_once=exactly_once, hedge=hedge)
        sources = list(iterables)
        if max_cost is not None and sources:
            seconds = self._function(function).seconds or 0.0
            job.budget = Budget(max_cost, job.meter, self.tariff.dollars(seconds, 0))
            sources[0] = job.budget.limits(sources[0])
        defaults: dict[str, Any] = {
            "limit": None, "limit_bytes": None, "ordered": True, "timeout": None, "retries": 0,
            "retry_on": (WorkerLostError,), "return_exceptions": False, "progress": False, "chunksize": None,
            "rate": None, "journal": None, "key": None,
        }  # fmt: skip
        unknown = set(options) - set(defaults)
        if unknown:
            raise TypeError(f"map() got an unexpected keyword argument {min(unknown)!r}")
        return make_results(
            function, tuple(sources), pool=self, results_class=LambdaResults, extra=job, **{**defaults, **options}
        )  # fmt: skip

    def _check_map(self, max_cost: float | None, exactly_once: bool, hedge: float | None) -> None:
        if max_cost is not None and not max_cost > 0:
            raise ValueError(f"max_cost= must be more than 0 dollars, not {max_cost}")
        if hedge is not None and not 0.5 <= hedge < 1:
            raise ValueError(f"hedge= is a quantile from 0.5 to below 1, such as 0.95, not {hedge}")
        if hedge is not None and exactly_once:
            raise ValueError(
                "hedge= and exactly_once= exclude each other: a second worker would wait for the first"
            )
        if exactly_once and not self.deployment.bucket:
            raise UnsupportedError("exactly_once= needs a bucket: deploy with one, it is the default")

    async def plan(
        self,
        function: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        seconds: float | None = None,
        chunksize: int | None = None,
    ) -> Plan:
        """What ``map`` of the same arguments would take: invocations, seconds, dollars. Nothing is run or read.

        :param seconds: that one call takes; default: what this pool has measured, or else a guess, which the plan says
        :raises TypeError: an iterable does not know its length
        """
        self._check_open()
        lengths = [length_hint(iterable, -1) for iterable in iterables]
        if not lengths or min(lengths) < 0:
            raise TypeError("a plan needs to know how many items there are: pass a list or a range")
        each = seconds if seconds is not None else self._function(function).seconds
        return make_plan(
            min(lengths), each, self.tariff, limit=self.workers,
            chunk_seconds=chunksize * (each or 1.0) if chunksize else 2 * self.chunk_seconds, overhead=0.01,
        )  # fmt: skip

    def statistics(self) -> LambdaStatistics:
        """Counts at this moment, as a frozen object."""
        basic = super().statistics()
        counts = self._counts
        return LambdaStatistics(
            basic.workers, basic.running, basic.queued, basic.completed, basic.lost,
            concurrency=self.control.statistics(self.loop.time()), invocations=counts["invocations"],
            repeated=counts["repeated"], hedged=counts["hedged"], unreachable=counts["unreachable"],
            cold=counts["cold"], environments=len(self._environments), billed_seconds=self.meter.seconds,
            dollars=self.meter.dollars,
        )  # fmt: skip

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
        verdict = judge(reply)
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

    def _bill(self, job: Job | None, log: bytes, measured: float) -> None:
        seconds = billed_seconds(log, measured)
        self.meter.add(seconds)
        if job is not None:
            job.meter.add(seconds)

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
                self._fail(chunk, BrokenPoolError(f"Lambda cannot be reached: {verdict.reason}"))
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
            "run. Repeat with retries=, or exactly_once=True where running twice does harm"
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


def _check(limit: int, transport: str | None, functions: str) -> None:
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit= must be a whole number, not {type(limit).__name__}")
    if limit < 1:
        raise ValueError(f"limit= must be at least 1, not {limit}")
    if transport not in (None, "fast", "aiobotocore"):
        raise ValueError(f"transport= must be 'fast' or 'aiobotocore', not {transport!r}")
    if functions not in ("names", "by_value"):
        raise ValueError(f"functions= must be 'names' or 'by_value', not {functions!r}")


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


def _main_name() -> str | None:
    """Under which name workers import the user's script."""
    import sys

    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        name: str = spec.name
        return name.removesuffix(".__main__") if name.endswith(".__main__") else name
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else None
