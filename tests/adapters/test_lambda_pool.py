"""LambdaPool on the local Lambda: what it has beside the contract of every pool."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib.util
import itertools
import json
import os
import re
import signal
from collections import Counter
from pathlib import Path

import anyio
import pytest

pytest.importorskip("awslambdaric", reason="needs the extra 'lambda-local'")

import asyncpar
from asyncpar.errors import AsyncparError, BrokenPoolError, UnsupportedError, WorkerLostError
from asyncpar_lambda import CostError, Credentials, LambdaPool, RefusedError, envelope
from asyncpar_lambda.deployment import read_deployment
from asyncpar_lambda.errors import CodecError
from asyncpar_lambda.local.http import HttpServer
from asyncpar_lambda.transport import TransportError
from asyncpar_lambda.transport.identity import FixedIdentity

FUNCTIONS = Path(__file__).with_name("lambda_jobs.py")


def load(path):
    """Import the file under the name that it has in the package."""
    import sys

    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


f = load(FUNCTIONS)


def lines(path):
    return Path(path).read_text().split()


async def stored(pool):
    """The keys of all objects in its store."""
    _, body = await pool.server.request("GET", "/asyncpar?list-type=2")
    return re.findall("<Key>(.*?)</Key>", body.decode())


both = pytest.mark.parametrize("transport", ["fast", "aiobotocore"])


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # one loop will do: each test starts a Lambda


def local(**options):
    return LambdaPool.local([FUNCTIONS], **{"limit": 4, **options})


# Results


@both
async def test_calls_and_maps_run_in_lambda(transport):
    async with local(transport=transport) as pool:
        assert await pool.run(f.square, 7) == 49
        assert await pool.map(f.square, range(500)) == [x * x for x in range(500)]
        assert await pool.map(f.square, range(100)).reduce(f.add) == sum(x * x for x in range(100))
        state = pool.statistics()
    assert state.completed >= 601
    assert state.invocations < 200  # short calls travel together
    assert 0 < state.cold <= state.invocations
    assert state.dollars > 0
    assert state.memory > 1 << 20
    assert state.concurrency.in_flight == 0


async def test_large_arguments_results_and_constants_go_through_the_store():
    constant = asyncpar.share(list(range(50_000)))
    async with local(limit=2) as pool:
        assert await pool.run(f.size, b"x" * 7_000_000) == 7_000_000
        assert len(await pool.run(f.blow_up, 7_000_000)) == 7_000_000
        assert await pool.map(f.pick, itertools.repeat(constant, 50), range(50)) == list(range(50))
        puts = {key.split("/")[3] for key in await stored(pool)}
    assert puts == {"requests", "answers", "constants"}


async def test_functions_by_value():
    async with local(functions="by_value", limit=2) as pool:
        offset = 3
        assert await pool.map(lambda x: x + offset, [1, 2]) == [4, 5]


async def test_a_function_that_is_not_allowed_is_refused_and_named():
    async with local(allow=["lambda_jobs:add"], limit=2) as pool:
        assert await pool.run(f.add, 1, 2) == 3
        with pytest.raises(RefusedError, match=r"lambda_jobs:square is not on the allow-list"):
            await pool.run(f.square, 1)


async def test_one_bad_argument_fails_only_its_own_call():
    async with local(limit=2) as pool:
        items = [1, 2, object(), 4]
        got = await pool.map(f.square, items, chunksize=4, return_exceptions=True)
    assert (got[0], got[1], got[3]) == (1, 4, 16)
    assert isinstance(got[2], CodecError)


async def test_a_failed_call_has_the_log_of_its_invocation():
    async with local(limit=2) as pool:
        with pytest.raises(ValueError, match="no 5") as caught:
            await pool.run(f.tell, 5)
    assert "The log of its invocation ends with:\nlooking at 5" in caught.value.__notes__


async def test_it_is_a_pool_for_asyncpar_map_and_for_pipelines():
    async def numbers():
        for n in range(30):
            await asyncio.sleep(0)
            yield n

    async with local(limit=2) as pool:
        squares = asyncpar.map(f.square, numbers(), on=pool, limit=10)
        assert await pool.map(f.add, squares, itertools.repeat(1)) == [x * x + 1 for x in range(30)]


def test_public_names_are_there_and_documented():
    import asyncpar_lambda

    for name in asyncpar_lambda.__all__:
        assert getattr(asyncpar_lambda, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'Pool'"):
        _ = asyncpar_lambda.Pool


# Loss


async def test_an_environment_that_dies_costs_its_invocation_and_nothing_else():
    async with local(limit=2) as pool:
        got = await pool.map(f.die, range(4), chunksize=1, return_exceptions=True)
        assert (got[0], got[2]) == (0, 2)
        assert await pool.run(f.square, 2) == 4
        assert pool.statistics().lost == 2
    assert isinstance(got[1], WorkerLostError)
    assert "was lost while it ran lambda_jobs.die: Runtime.ExitError" in str(got[1])
    assert "this call may have run. Repeat with retries=, or exactly_once=True" in str(got[1])
    assert "about to run 1" in got[1].__notes__[0]


async def test_retries_repeat_what_was_lost(tmp_path):
    async with local(limit=2, lost=0.3, seed=5) as pool:
        got = await pool.map(f.square, range(40), chunksize=1, retries=10)
    assert got == [x * x for x in range(40)]


async def test_exactly_once_survives_lost_answers_and_duplicates(tmp_path):
    path = str(tmp_path / "ran")
    async with local(limit=4, lost=0.2, duplicates=0.2, errors=0.1, throttles=0.1, seed=3) as pool:
        got = await pool.map(functools.partial(f.mark, path), range(60), chunksize=3, exactly_once=True)
        repeated = pool.statistics().repeated
    assert got == [x * x for x in range(60)]
    assert Counter(await asyncio.to_thread(lines, path)) == {str(x): 1 for x in range(60)}
    assert repeated > 0


async def until(found, what=None):
    """Wait until ``await found()`` is something, and return it."""
    while not (value := await found()):
        await asyncio.sleep(0.02)
    return value


class Twice:
    """A network that delivers the first request twice, and brings the answer of the second delivery only.

    The environment of that one is killed while it waits for the other.
    """

    def __init__(self, pool, path):
        self.pool, self.path, self.transport = pool, anyio.Path(path), pool._transport
        self.requests = 0
        self.other = None

    async def invoke(self, payload, *, tail=False):
        self.requests += 1
        if self.requests == 2:  # the pool repeats it: it has to wait for the delivery that still runs
            repeated = asyncio.create_task(self.transport.invoke(payload, tail=tail))
            await until(self.three_are_there)
            await anyio.Path(f"{self.path}-go").touch()
            return await repeated
        if self.requests > 2:
            return await self.transport.invoke(payload, tail=tail)
        self.other = asyncio.create_task(self.transport.invoke(payload))
        await until(self.path.exists)
        running = int((await self.path.read_text()).split()[0].partition(":")[2])
        second = asyncio.create_task(self.transport.invoke(payload, tail=tail))

        async def waiting():
            found = await self.pool.server.statistics()
            return found["invocations"] == 2 and set(found["pids"]) - {running}

        os.kill((await until(waiting)).pop(), signal.SIGKILL)
        return await second

    async def three_are_there(self):
        return (await self.pool.server.statistics())["invocations"] == 3

    async def aclose(self):
        await self.transport.aclose()


async def test_the_death_of_one_delivery_says_nothing_of_another(tmp_path):
    """The claim of a delivery that still runs stands, though a delivery of the very same request has died."""
    path = str(tmp_path / "ran")
    async with local(limit=2, timeout=100) as pool:
        network = pool._transport = Twice(pool, path)
        assert await pool.map(functools.partial(f.begin_and_end, path), [7], exactly_once=True) == [7]
        assert pool.statistics().repeated >= 1
        await network.other
    begun, ended = await asyncio.to_thread(lines, path)
    assert begun.replace("begin", "end") == ended


async def test_retries_run_again_what_failed_exactly_once(tmp_path):
    """An outcome that is an error is kept too; to retry is another call."""
    path = str(tmp_path / "ran")
    again = {"retries": 1, "retry_on": ValueError}
    async with local(limit=2) as pool:
        ran = functools.partial(f.fail_at_first, path)
        assert await pool.map(ran, [7], exactly_once=True, **again) == [7]
    assert await asyncio.to_thread(lines, path) == ["ran", "ran"]


async def test_a_constant_that_the_store_has_lost_is_put_there_again():
    """A lifecycle rule removes objects; an environment that does not have it yet finds nothing."""
    constant = asyncpar.share(list(range(1000)))
    async with local(limit=1) as pool:
        assert await pool.run(f.pick, constant, 3) == 3
        [key] = [key for key in await stored(pool) if "/constants/" in key]
        await pool.server.request("DELETE", f"/asyncpar/{key}")
        with pytest.raises(WorkerLostError):
            await pool.run(f.die, 1)
        assert await pool.run(f.pick, constant, 4) == 4
        assert key in await stored(pool)


async def test_many_calls_exactly_once_fit_into_requests():
    """What a request says of its calls counts too: with temporary credentials, 2 URLs of 2.5 kB for each."""
    token = "t" * 2000
    async with local(limit=2) as pool:
        pool._batches.store._identity = FixedIdentity(Credentials("local", "local", token))
        got = await pool.map(f.size, ["x" * 15_000] * 256, chunksize=256, exactly_once=True)
        assert got == [15_000] * 256
        puts = {key.split("/")[3] for key in await stored(pool)}
        assert puts == {"requests", "outcomes"}  # either would fit alone: the body lies in the store
        assert await pool.map(f.size, ["x"] * 3_000, chunksize=3_000, exactly_once=True) == [1] * 3_000


async def test_calls_that_name_too_many_constants_together_travel_in_smaller_chunks(monkeypatch):
    monkeypatch.setattr(envelope, "MAX_INLINE", 20_000)  # a URL has 600 bytes
    constants = [asyncpar.share(n) for n in range(60)]
    async with local(limit=2) as pool:
        assert await pool.map(f.echo, constants, chunksize=60) == list(range(60))
        with pytest.raises(CodecError, match=r"is too large: share\(\) fewer constants in one call"):
            await pool.run(f.echo, constants)


async def test_a_straggler_is_sent_again_and_the_first_answer_counts(tmp_path):
    """All has come while the straggler still waits to be told to go on."""
    async with local(limit=4) as pool:
        slow = functools.partial(f.slow_once, str(tmp_path / "slow"))
        got = await pool.map(slow, range(60), chunksize=1, hedge=0.95)
        assert pool.statistics().hedged >= 1
        await anyio.Path(tmp_path / "slow-go").touch()
    assert got == list(range(60))


# Throttles


async def test_it_stays_under_reserved_concurrency_and_ends_all_calls():
    async with local(limit=8, reserved=2) as pool:
        assert pool.workers == 2
        assert await pool.map(f.nap, [0.01] * 40, chunksize=1) == [0.01] * 40


async def test_it_finds_the_accounts_limit(tmp_path):
    async with local(limit=8, concurrency=3) as pool:
        hold = functools.partial(f.hold, str(tmp_path / "go"))
        calls = asyncio.ensure_future(asyncpar.gather(pool.map(hold, range(100), chunksize=1)))

        async def found():
            state = pool.statistics().concurrency
            return state if state.window <= 4 and state.in_flight == 3 else None

        state = await until(found)
        await anyio.Path(tmp_path / "go").touch()
        assert await calls == [list(range(100))]
    assert state.throttled["ConcurrentInvocationLimitExceeded"] > 0


# Money


async def test_a_plan_runs_nothing():
    async with local() as pool:
        made = await pool.plan(f.nap, [1.0] * 1000)
        assert (made.calls, made.assumed, pool.statistics().invocations) == (1000, True, 0)
        assert (await pool.plan(f.nap, range(10), seconds=0.5)).call_seconds == 0.5
        await pool.run(f.nap, 0.01)
        measured = await pool.plan(f.nap, range(10))
        assert not measured.assumed
        assert 0.01 <= measured.call_seconds < 50
        with pytest.raises(TypeError, match="pass a list or a range"):
            await pool.plan(f.nap, (x for x in range(3)))


async def test_max_cost_ends_a_map_with_what_is_done(monkeypatch):
    monkeypatch.setattr(
        "asyncpar_lambda.aws.billed_seconds", lambda log, measured: 0.05
    )  # however slow it was
    async with local() as pool:
        with pytest.raises(CostError, match=r"max_cost=\$0\.00 is reached: [\d,]+ calls ran") as caught:
            await pool.map(f.nap, [0.05] * 1000, chunksize=1, max_cost=2e-5)
        error = caught.value
        assert 0 < error.done < 1000
        assert error.results == [0.05] * error.done
        assert error.left == 1000 - error.done
        assert [len(list(rest)) for rest in error.rest] == [error.left]
        assert 1e-5 < error.spent < 4e-5
        assert pool.statistics().dollars >= error.spent
        assert await pool.map(f.square, [1, 2], max_cost=1.0) == [1, 4]


# What is told at the call


async def test_arguments_that_make_no_sense_are_told():
    async with local(limit=1) as pool:
        for keywords, message in [
            ({"max_cost": 0}, "max_cost= must be more than 0 dollars, not 0"),
            ({"hedge": 1.5}, r"hedge= is a quantile from 0\.5 to below 1"),
            ({"hedge": 0.9, "exactly_once": True}, "hedge= and exactly_once= exclude each other"),
        ]:
            with pytest.raises(ValueError, match=message):
                pool.map(f.square, [1], **keywords)
        with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
            pool.map(f.square, [1], size=3)
        with pytest.raises(UnsupportedError, match=r"LambdaPool has no actors|LocalPool has no actors"):
            async with pool.actor(dict):
                pass


def test_options_that_make_no_sense_are_told():
    with pytest.raises(ValueError, match=r"open_pool\('lambda:my-job'\); without any, LambdaPool.local"):
        LambdaPool()
    with pytest.raises(ValueError, match="limit= must be at least 1, not 0"):
        LambdaPool("job", limit=0)
    with pytest.raises(TypeError, match="limit= must be a whole number, not str"):
        LambdaPool("job", limit="many")
    with pytest.raises(ValueError, match="transport= must be 'fast' or 'aiobotocore', not 'slow'"):
        LambdaPool("job", transport="slow")
    with pytest.raises(ValueError, match="functions= must be 'names' or 'by_value'"):
        LambdaPool("job", functions="all")
    with pytest.raises(ValueError, match=r"'jobs': name what may be called, as \"module:function\""):
        local(allow=["jobs"])
    with pytest.raises(ValueError, match="patience= must be at least 0 seconds, not -1"):
        LambdaPool("job", patience=-1)


async def test_calls_that_may_take_longer_than_ten_minutes_are_refused():
    with pytest.raises(UnsupportedError, match=r"timeout of 900 s, more than 600.*AWS Batch or Fargate"):
        async with local(timeout=900):
            pass


async def test_a_deployed_function_is_used_by_name_and_what_is_wrong_is_told(tmp_path):
    async with local(limit=2) as pool:
        from asyncpar_lambda.keys import save_key

        options = {
            "alias": None, "region": "us-east-1", "endpoint_url": pool.endpoint_url,
            "credentials": Credentials("local", "local"),
        }  # fmt: skip
        await asyncio.to_thread(save_key, tmp_path / "a.key", pool._key)
        async with LambdaPool(pool.function_name, key=tmp_path / "a.key", **options) as other:
            assert await other.run(f.square, 3) == 9
        await asyncio.to_thread(save_key, tmp_path / "b.key", bytes(32))
        async with LambdaPool(pool.function_name, key=tmp_path / "b.key", **options) as other:
            with pytest.raises(RefusedError, match="forged: the signature does not belong"):
                await other.run(f.square, 3)
        with pytest.raises(AsyncparError, match="there is no function nobody in us-east-1: deploy it with"):
            async with LambdaPool("nobody", key=bytes(32), **options):
                pass
        with pytest.raises(UnsupportedError, match="takes no functions by value: deploy it with"):
            async with LambdaPool(pool.function_name, key=bytes(32), functions="by_value", **options):
                pass
        with pytest.raises(AsyncparError, match=r"there is no key in .*none\.key"):
            async with LambdaPool(pool.function_name, key=tmp_path / "none.key", **options):
                pass


async def test_a_package_that_cannot_start_is_told(tmp_path):
    async with local(limit=1) as pool:
        package = await asyncio.to_thread(_empty_package)
        await pool.server.deploy(pool.function_name, package)
        with pytest.raises(BrokenPoolError, match=r"cannot run: Runtime\.ImportModuleError"):
            await pool.run(f.square, 2)


def _empty_package():
    import io
    import zipfile

    from asyncpar_lambda.package import Package

    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("nothing.py", "")
    return Package(data.getvalue(), "0", 0, ())


async def test_a_lambda_that_is_gone_fails_calls_when_patience_is_over():
    async with local(limit=1, patience=0.5) as pool:
        await pool.run(f.square, 2)
        await pool.server.aclose()
        message = (
            r"Lambda cannot be reached, or does not start asyncpar-\w+: [\d,]+ attempts in \d+\.\d s, the last of them: "
            r".*\. Nothing ran in these; patience= says how long to try"
        )
        with pytest.raises((BrokenPoolError, WorkerLostError)) as caught:
            await pool.run(f.square, 2)
        if isinstance(
            caught.value, WorkerLostError
        ):  # the connection that was kept broke with the request on it
            with pytest.raises(BrokenPoolError) as caught:
                await pool.run(f.square, 2)
        assert re.match(message, str(caught.value))
        assert pool.statistics().unreachable > 1


async def test_a_lambda_that_comes_back_in_time_is_waited_for():
    """More failures in a row than any number would allow, but not for long enough."""
    async with local(limit=1, patience=100) as pool:
        reply, failures, pauses = pool._transport.invoke, itertools.count(), []

        def draw(least, most):
            """Of each pause the very least, for the test's sake: their sum is a matter of luck."""
            pauses.append(most)
            return least + most / 1000

        pool.control._uniform = draw

        async def invoke(payload, *, tail=False):
            if next(failures) < 12:
                raise TransportError("no route to host", sent=False)
            return await reply(payload, tail=tail)

        pool._transport.invoke = invoke
        assert await pool.run(f.square, 2) == 4
        assert pool.statistics().unreachable == 12
    assert pauses == pytest.approx([min(10, 0.025 * 2**n) for n in range(1, 13)])


@pytest.mark.parametrize("reason", ["expired", "unavailable"])
async def test_a_request_that_a_worker_did_not_start_is_sent_again(reason, monkeypatch):
    """Whatever the map was asked for: nothing has run."""
    monkeypatch.setattr("asyncpar_lambda.sending.pause", lambda attempt: 0.001 * attempt)
    async with local(limit=1) as pool:
        real, made = pool._batches.signer.seal, itertools.count()

        def seal(head, body):
            if next(made) < 3 and reason == "expired":
                head = dataclasses.replace(head, expires=head.expires - 1000)
            elif next(made) < 6 and reason == "unavailable":
                blob = envelope.Blob(url="https://127.0.0.1:9/none", size=1, sha256="0" * 64)
                head = dataclasses.replace(head, body=blob)
            return real(head, body)

        monkeypatch.setattr(pool._batches.signer, "seal", seal)
        assert await pool.run(f.square, 3) == 9
        assert await pool.map(f.square, [1, 2]) == [1, 4]
        assert pool.statistics().invocations > 3


async def test_requests_that_never_start_are_given_up_when_patience_is_over(monkeypatch):
    async with local(limit=1, patience=0.3) as pool:
        monkeypatch.setattr("asyncpar_lambda.batch.START_SECONDS", -1000)
        match = r"expired: the request was good until .*; given up after \d+ attempts in .* s: patience= says how long"
        with pytest.raises(RefusedError, match=match):
            await pool.run(f.square, 3)


async def test_an_answer_that_the_store_has_lost_is_a_loss_that_can_be_repeated(tmp_path):
    path = str(tmp_path / "ran")
    async with local(limit=1) as pool:
        get, lost = pool._store.get, []

        async def forgetful(key):
            """A lifecycle rule, or somebody, is quicker."""
            if not lost:
                lost.append(key)
                [where] = [one for one in await stored(pool) if one.endswith(key)]
                await pool.server.request("DELETE", f"/asyncpar/{where}")
            return await get(key)

        pool._store.get = forgetful
        mark = functools.partial(f.mark_and_blow_up, path)
        got = await pool.map(mark, [6_000_000], exactly_once=True)
        assert len(got[0]) == 6_000_000
        lost.clear()
        with pytest.raises(
            WorkerLostError, match=r"was lost while .*: the object store answered GET answers/"
        ):
            await pool.run(mark, 6_000_000)
    assert await asyncio.to_thread(lines, path) == ["6000000"] * 2


async def test_opening_waits_while_lambda_has_no_time_to_say_what_is_deployed():
    statuses = iter([429, 503, 200, 429, 200])
    settings = {"Environment": {"Variables": {"ASYNCPAR_CODE": "c", "ASYNCPAR_KEEP_DAYS": "3"}}}
    settings["FunctionArn"] = "arn:aws:lambda:us-east-1:123456789012:function:job:live"

    def handle(request):
        request.answer(next(statuses), json.dumps(settings).encode())

    server = HttpServer(handle)
    endpoint = f"http://127.0.0.1:{await server.start()}"
    identity = FixedIdentity(Credentials("local", "local"))
    try:
        found = await read_deployment(endpoint, "us-east-1", identity, "job:live", 10)
    finally:
        server.close()
    assert (found.code, found.account, found.keep_days) == ("c", "123456789012", 3)
    assert next(statuses, None) is None


async def test_statistics_before_and_after_it_is_open():
    pool = local(limit=3)
    before = pool.statistics()
    assert (before.invocations, before.cold, before.environments, before.dollars) == (0, 0, 0, 0)
    assert (before.concurrency.limit, before.concurrency.in_flight) == (3, 0)
    async with pool:
        await pool.run(f.square, 2)
    assert pool.statistics().invocations == 1


async def test_a_function_that_may_not_run_at_all_is_told():
    with pytest.raises(
        UnsupportedError, match="has a reserved concurrency of 0, so Lambda runs nothing of it"
    ):
        async with local(reserved=0):
            pass
