"""``LambdaPool``: calls as invocations of a function that was deployed to AWS."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asyncpar.errors import UnsupportedError, WorkerLostError
from asyncpar.mapping import make_results
from asyncpar.pool import Pool
from asyncpar.results import Results
from asyncpar_lambda.batch import Batches, Job
from asyncpar_lambda.control import Concurrency
from asyncpar_lambda.cost import Budget, CostError, Meter, Plan, Prices, Tariff, billed_seconds, make_plan
from asyncpar_lambda.deployment import Deployment, read_deployment
from asyncpar_lambda.keys import key_path, load_key
from asyncpar_lambda.naming import Imported
from asyncpar_lambda.pool import FunctionPool, FunctionStatistics, main_name
from asyncpar_lambda.sigv4 import Credentials
from asyncpar_lambda.store import Store
from asyncpar_lambda.transport.fast import FastTransport

if TYPE_CHECKING:
    from asyncpar_lambda.local.pool import LocalPool

MARGIN = 10.0
"""Seconds that an answer may take beyond the function's timeout: cold start and network."""
LONGEST = 600.0
"""Seconds; a function whose timeout is longer is refused: see ``LambdaPool``."""


@dataclass(frozen=True, slots=True)
class LambdaStatistics(FunctionStatistics):
    """A pool at one moment.

    :ivar billed_seconds: as the log says
    :ivar dollars: what that comes to
    """

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


class LambdaPool(FunctionPool):
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

    service = "Lambda"
    remedy = "Repeat with retries=, or exactly_once=True where running twice does harm"

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
        if transport not in (None, "fast", "aiobotocore"):
            raise ValueError(f"transport= must be 'fast' or 'aiobotocore', not {transport!r}")
        super().__init__(function_name, limit=limit, functions=functions)
        self.endpoint_url = endpoint_url
        self.region = region
        self._alias, self._profile, self._credentials = alias, profile, credentials
        self._wanted, self._key = transport, key
        self._prices = prices or Prices()
        self._store: Store | None = None
        self._identity: Any = None

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
        self._batches = Batches(deployment, key, Imported(main_name()), self._store, self._pickle())

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
        super()._check_deployment(deployment)

    async def _close(self) -> None:
        await super()._close()
        if self._store is not None:
            await self._store.aclose()
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
            "rate": None,
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
        basic = Pool.statistics(self)
        return LambdaStatistics(
            basic.workers, basic.running, basic.queued, basic.completed, basic.lost, **self._own_statistics()
        )

    def _own_statistics(self) -> dict[str, Any]:
        money = {"billed_seconds": self.meter.seconds, "dollars": self.meter.dollars}
        return {**super()._own_statistics(), **money}

    def _bill(self, job: Job | None, log: bytes, measured: float) -> None:
        seconds = billed_seconds(log, measured)
        self.meter.add(seconds)
        if job is not None:
            job.meter.add(seconds)
