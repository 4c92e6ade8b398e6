"""The local Lambda does what AWS does, as AWS's own clients see it; and it leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import aiobotocore.session
import psutil
import pytest
from aiobotocore.config import AioConfig
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError

from asyncpar.errors import BrokenPoolError
from asyncpar_lambda.local import Faults, LocalLambda
from asyncpar_lambda.local.functions import Ramp
from asyncpar_lambda.package import Package, _zip
from tests.waiting import LONG, until

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.may_block,  # botocore reads its data files when a client is made
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # as aiobotocore does
]


@pytest.fixture(scope="module")
def anyio_backend():
    """One loop: the server has a process, and a loop, of its own."""
    return "asyncio"


@pytest.fixture(scope="module")
def package():
    """A zip with the handlers of these tests, and nothing else."""
    contents = {
        f"{name}.py": (HERE / f"{name}.py").read_bytes() for name in ("lambda_handlers", "lambda_broken")
    }
    return Package(_zip(contents), "c0de", 1, ())


@contextlib.asynccontextmanager
async def client(cloud, service="lambda", **options):
    """An ordinary AWS client of it."""
    config = AioConfig(
        retries={"total_max_attempts": 1}, max_pool_connections=100, read_timeout=100, **options
    )
    async with aiobotocore.session.get_session().create_client(
        service,
        region_name=cloud.region,
        endpoint_url=cloud.endpoint_url,
        aws_access_key_id="anything",
        aws_secret_access_key="anything",
        config=config,
    ) as made:
        yield made


@contextlib.asynccontextmanager
async def deployed(package, handler, timeout=100, reserved=None, **options):
    """A local Lambda with one function "f", and a way to invoke it."""
    async with LocalLambda(**options) as cloud, client(cloud) as aws:
        if "." not in handler:
            handler = f"lambda_handlers.{handler}"
        await cloud.deploy(
            "f",
            package,
            handler=handler,
            timeout=timeout,
            memory=256,
            variables={"MINE": "1"},
            reserved=reserved,
        )

        async def invoke(event=None, **more):
            payload = more.pop("payload", json.dumps(event).encode())
            reply = await aws.invoke(FunctionName=more.pop("name", "f"), Payload=payload, **more)
            body = await reply["Payload"].read()
            return reply, json.loads(body) if body else None

        invoke.cloud, invoke.aws = cloud, aws
        yield invoke


# One invocation


@pytest.mark.parametrize("event", [{"a": [1, "ü\n", None]}, None, 0, False, "", 'a"b', []])
async def test_an_event_arrives_and_its_answer_too(package, event):
    async with deployed(package, "echo") as invoke:
        reply, value = await invoke(event)
    assert value == event
    assert (reply["StatusCode"], reply["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in reply
    assert reply["ResponseMetadata"]["RequestId"]


async def test_the_environment_is_as_lambda_makes_it(package):
    custom = base64.b64encode(json.dumps({"custom": {"a": 1}}).encode()).decode()
    async with deployed(package, "about") as invoke:
        reply, found = await invoke({}, ClientContext=custom)
    assert found["cwd"].endswith("/task")
    assert found["here"] == ["lambda_broken.py", "lambda_handlers.py"]
    environ = found["environ"]
    assert environ["MINE"] == "1"
    assert not {"HOME", "USER", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST", "ASYNCPAR_WORKER"} & set(environ)
    assert environ["AWS_LAMBDA_FUNCTION_NAME"] == found["name"] == "f"
    assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "256"
    assert found["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:f"
    assert found["request"] == reply["ResponseMetadata"]["RequestId"]
    assert 50_000 < found["left"] <= 100_000
    assert found["custom"] == {"a": 1}
    assert not any("site-packages" in path for path in found["path"])


async def test_only_the_zip_the_runtime_client_and_the_standard_library_can_be_imported(package):
    async with deployed(package, "importable") as invoke:
        found = {
            name: (await invoke(name))[1] for name in ("json", "awslambdaric", "pytest", "anyio", "asyncpar")
        }
    assert found == {"json": True, "awslambdaric": True, "pytest": False, "anyio": False, "asyncpar": False}


async def test_an_error_has_its_true_type_and_stack(package):
    async with deployed(package, "fail") as invoke:
        reply, error = await invoke("x", LogType="Tail")
        again, _ = await invoke("x")
    assert reply["FunctionError"] == again["FunctionError"] == "Unhandled"
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no x")
    assert "lambda_handlers.py" in error["stackTrace"][-1]
    log = base64.b64decode(reply["LogResult"]).decode()
    assert "about to fail" in log
    assert "[ERROR] ValueError: no x" in log


async def test_what_a_function_prints_is_in_the_tail_and_its_report_too(package):
    async with deployed(package, "speak") as invoke:
        first, _ = await invoke("hello", LogType="Tail")
        second, _ = await invoke("x" * 9000, LogType="Tail")
    log = base64.b64decode(first["LogResult"]).decode()
    assert re.fullmatch(
        r"START RequestId: \S+ Version: \$LATEST\nhello\nand an error\nEND RequestId: \S+\n"
        r"REPORT RequestId: \S+\tDuration: [\d.]+ ms\tBilled Duration: \d+ ms\tMemory Size: 256 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: [\d.]+ ms\n",
        log,
    )
    log = base64.b64decode(second["LogResult"])
    assert len(log) == 4096
    assert b"Init Duration" not in log


async def test_a_process_that_exits_is_an_exit_error_and_is_replaced(package):
    async with deployed(package, "leave") as invoke:
        for _ in range(2):
            reply, error = await invoke()
            assert reply["FunctionError"] == "Unhandled"
            assert error["errorType"] == "Runtime.ExitError"
            assert error["errorMessage"].endswith("Error: Runtime exited with error: exit status 3")
        assert (await invoke.cloud.statistics())["environments_started"] == 2


@pytest.mark.parametrize(
    ("handler", "kind", "words"),
    [
        ("nowhere.echo", "Runtime.ImportModuleError", "Unable to import module 'nowhere'"),
        ("lambda_handlers.nothing", "Runtime.HandlerNotFound", "nothing"),
        ("lambda_broken.echo", "RuntimeError", "broken from the start"),
    ],
)
async def test_a_handler_that_cannot_be_imported(package, handler, kind, words):
    async with deployed(package, handler) as invoke:
        for _ in range(2):
            reply, error = await invoke()
            assert reply["FunctionError"] == "Unhandled"
            assert error["errorType"] == kind
            assert words in error["errorMessage"]


async def test_a_function_that_runs_too_long_is_killed(package):
    async with deployed(package, "sleep", timeout=1.0) as invoke:
        reply, error = await invoke(60)
        assert reply["FunctionError"] == "Unhandled"
        assert error["errorType"] == "Sandbox.Timedout"
        assert error["errorMessage"].endswith("Task timed out after 1.00 seconds")
        _, pid = await invoke(0)  # in another environment
        statistics = await invoke.cloud.statistics()
        assert statistics["pids"] == [pid]


async def test_bytes_arrive_as_they_are(package):
    async with deployed(package, "raw") as invoke:
        reply = await invoke.aws.invoke(FunctionName="f")
        assert await reply["Payload"].read() == b"\x00not json"


# Kinds and limits


async def test_a_dry_run_runs_nothing(package, tmp_path):
    async with deployed(package, "mark") as invoke:
        reply, _ = await invoke({"path": str(tmp_path / "ran")}, InvocationType="DryRun")
    assert reply["StatusCode"] == 204
    assert not (tmp_path / "ran").exists()


async def lines(path, count):
    """Wait until a file has so many lines."""
    await until(lambda: path.exists() and path.read_text().count("\n") >= count)


async def test_an_event_is_taken_and_runs_later(package, tmp_path):
    path = tmp_path / "ran"
    async with deployed(package, "mark") as invoke:
        reply, value = await invoke({"path": str(path)}, InvocationType="Event")
        assert (reply["StatusCode"], value) == (202, None)
        await lines(path, 1)


async def test_an_event_that_fails_is_tried_three_times(package, tmp_path):
    path = tmp_path / "ran"
    async with deployed(package, "mark", event_seconds=0.01) as invoke:
        await invoke({"path": str(path), "fail": True}, InvocationType="Event")
        await lines(path, 3)
        await asyncio.sleep(0.3)
    assert path.read_text() == "x\n" * 3


async def code_of(call):
    """The code and details of the error that AWS answers with."""
    with pytest.raises(ClientError) as caught:
        await call
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response


async def test_what_is_too_large_is_refused(package):
    async with deployed(package, "echo") as invoke:
        code, status, _ = await code_of(invoke("x" * 6_400_000))
        assert (code, status) == ("RequestTooLargeException", 413)
        code, status, response = await code_of(invoke("x" * 1_100_000, InvocationType="Event"))
        assert (code, status) == ("RequestTooLargeException", 413)
        assert "too large for the Event invocation type (limit 1048576 bytes)" in response["Error"]["Message"]
        _, value = await invoke("x" * 5_900_000)
        assert len(value) == 5_900_000


async def test_a_result_that_is_too_large_is_an_error(package):
    async with deployed(package, "large") as invoke:
        _, value = await invoke(6_200_000)
        assert len(value) == 6_200_000
        reply, error = await invoke(6_400_000)
        assert reply["FunctionError"] == "Unhandled"
        assert error["errorType"] == "Function.ResponseSizeTooLarge"
        _, value = await invoke(3)
        assert value == "xxx"


async def test_what_is_no_json_or_no_function(package):
    async with deployed(package, "echo") as invoke:
        assert (await code_of(invoke(payload=b"{bad")))[:2] == ("InvalidRequestContentException", 400)
        assert (await code_of(invoke(name="g")))[:2] == ("ResourceNotFoundException", 404)
        assert (await code_of(invoke(Qualifier="live")))[:2] == ("ResourceNotFoundException", 404)


async def all_at_once(invoke, path, count, refused):
    """How so many invocations end, of which so many are to be refused: the others end when these have."""
    calls = [asyncio.ensure_future(invoke(str(path))) for _ in range(count)]
    await until(lambda: sum(call.done() for call in calls) == refused)
    await lines(path.with_name(f"{path.name}.begun"), count - refused)
    path.touch()
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_reserved_concurrency(package, tmp_path):
    async with deployed(package, "hold", reserved=2) as invoke:
        found = await all_at_once(invoke, tmp_path / "go", 5, refused=3)
    refused = [one.response for one in found if isinstance(one, ClientError)]
    assert len(refused) == 3
    assert {one["Reason"] for one in refused} == {"ReservedFunctionConcurrentInvocationLimitExceeded"}
    assert {one["Error"]["Code"] for one in refused} == {"TooManyRequestsException"}
    assert {one["ResponseMetadata"]["HTTPStatusCode"] for one in refused} == {429}


async def test_the_accounts_concurrency_and_the_ramp(package, tmp_path):
    async with deployed(package, "hold", concurrency=2) as invoke:
        found = await all_at_once(invoke, tmp_path / "go", 4, refused=2)
    refused = [one.response for one in found if isinstance(one, ClientError)]
    assert [one["Reason"] for one in refused] == ["ConcurrentInvocationLimitExceeded"] * 2
    async with deployed(package, "hold", ramp=2) as invoke:
        found = await all_at_once(invoke, tmp_path / "on", 4, refused=2)
    refused = [one.response for one in found if isinstance(one, ClientError)]
    assert [one["retryAfterSeconds"] for one in refused] == ["5"] * 2


def test_the_ramp_adds_environments_as_time_passes():
    now = [0.0]
    ramp = Ramp(1000, 10.0, clock=lambda: now[0])
    assert sum(ramp.take() == 0 for _ in range(1500)) == 1000
    assert 0 < ramp.take() <= 0.01
    now[0] = 2.5
    assert sum(ramp.take() == 0 for _ in range(1500)) == 250
    now[0] = 100.0
    assert sum(ramp.take() == 0 for _ in range(1500)) == 1000


async def test_one_environment_for_each_invocation_at_a_time_used_again_when_warm(package, tmp_path):
    async with deployed(package, "hold") as invoke:
        pids = [pid for _, pid in await all_at_once(invoke, tmp_path / "go", 4, refused=0)]
        assert len(set(pids)) == 4
        again = [(await invoke(str(tmp_path / "go")))[1] for _ in range(4)]
        assert len(set(again)) == 1
        assert set(again) < set(pids)


# Faults


async def outcomes(invoke, count, **more):
    """How invocations, eight at a time, end: the value, or a word."""

    async def one(number):
        try:
            reply, value = await invoke(number, **more)
        except ClientError as error:
            return error.response["Error"]["Code"]
        except (ConnectionClosedError, HTTPClientError):
            return "lost"
        return value["errorType"] if "FunctionError" in reply else value

    found = []
    for first in range(0, count, 8):
        found += await asyncio.gather(*[one(number) for number in range(first, first + 8)])
    return found


@pytest.mark.parametrize(
    ("fault", "word"),
    [("throttles", "TooManyRequestsException"), ("errors", "ServiceException"), ("lost", "lost")],
)
async def test_faults_are_injected_as_often_as_asked(package, fault, word):
    async with deployed(package, "echo", faults=Faults(**{fault: 0.25}, seed=3)) as invoke:
        found = await outcomes(invoke, 160)
        statistics = await invoke.cloud.statistics()
        await invoke.cloud.set_faults(Faults())
        assert await outcomes(invoke, 8) == list(range(8))
    wrong = [value for number, value in enumerate(found) if value != number]
    assert set(wrong) == {word}
    assert len(wrong) == statistics["faults"][fault]
    assert 12 <= len(wrong) <= 70  # five standard deviations


async def test_environments_that_are_killed(package):
    async with deployed(package, "sleep", faults=Faults(kills=1.0)) as invoke:
        assert set(await outcomes(lambda _, **__: invoke(2), 8)) == {"Runtime.ExitError"}
        assert set(await outcomes(lambda _, **__: invoke(0), 8)) == {
            "Runtime.ExitError"
        }  # when it would answer


async def test_lost_connections_are_lost_before_or_after_the_run(package, tmp_path):
    path = tmp_path / "ran"
    async with deployed(package, "mark", faults=Faults(lost=1.0, seed=1)) as invoke:
        assert await outcomes(lambda _, **__: invoke({"path": str(path)}), 16) == ["lost"] * 16
        statistics = await invoke.cloud.statistics()
    assert path.read_text().count("x") == statistics["invocations"]
    assert 2 <= statistics["invocations"] <= 14


async def test_duplicates_run_twice_and_answer_once(package, tmp_path):
    path = tmp_path / "ran"
    async with deployed(package, "mark", faults=Faults(duplicates=1.0)) as invoke:
        for count in (2, 4):
            assert (await invoke({"path": str(path)}))[1] is None
            await lines(path, count)


async def test_cold_starts_and_latency_take_their_time(package):
    async with deployed(package, "echo", faults=Faults(cold_start=1.0, latency=0.1)) as invoke:
        begun = time.monotonic()
        await invoke()
        assert time.monotonic() - begun >= 1.1
        begun = time.monotonic()
        await invoke()
        assert time.monotonic() - begun >= 0.1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lost": 2}, "lost is a chance between 0 and 1, not 2"),
        ({"latency": -1}, "latency is in seconds, not -1"),
    ],
)
def test_faults_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Faults(**settings)
    with pytest.raises(ValueError, match="there is no fault 'typo'"):
        Faults.of({"typo": 1})


# Where it listens, and what it leaves


def listening(pid):
    """Addresses at which a process and its children listen."""
    whole = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return {c.laddr.ip for p in whole for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


async def test_it_listens_on_the_loopback_interface_only(package):
    async with deployed(package, "echo") as invoke:
        await invoke()
        assert listening(invoke.cloud._process.pid) == {"127.0.0.1"}


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://example.org"}, {"Sec-Fetch-Site": "cross-site"}, {"Host": "rebound.example.org"}, {"Host": "rebound.example.org:80"}],
)  # fmt: skip
async def test_web_pages_may_not_use_it(headers):
    async with LocalLambda() as cloud:
        request = urllib.request.Request(f"{cloud.endpoint_url}/2015-03-31/functions", b"{}", headers)
        with pytest.raises(urllib.error.HTTPError, match="403") as caught:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=LONG)
        with caught.value as answer:
            assert b"web pages may not use the local Lambda" in answer.read()


def folders(temporary):
    return [name for name in os.listdir(temporary) if name.startswith("asyncpar")]


def runs(pid):
    """Whether there is such a process; one that only waits to be reaped is none."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_nothing_is_left_behind(package, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with deployed(package, "child") as invoke:
        _, grandchild = await invoke()
        assert psutil.pid_exists(grandchild)
        running = asyncio.ensure_future(invoke())
        pids = (await invoke.cloud.statistics())["pids"]
        port = invoke.cloud.port
        assert folders(tmp_path)
        await running
    assert not folders(tmp_path)
    await until(lambda: not any(map(runs, (*pids, grandchild))))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


async def test_closing_does_not_wait_for_what_runs(package):
    async with deployed(package, "sleep", timeout=60) as invoke:
        running = asyncio.ensure_future(invoke(50))
        await asyncio.sleep(0.5)
        server = invoke.cloud._process
        await invoke.cloud.aclose()
        assert server.returncode == 0  # it ended by itself, and had not to be killed
        with pytest.raises((HTTPClientError, ConnectionClosedError)):
            await running


PROGRAM = """
import asyncio, sys
from asyncpar_lambda.local import LocalLambda
from asyncpar_lambda.package import Package
async def main():
    async with LocalLambda() as cloud:
        await cloud.deploy("f", Package(open(sys.argv[1], "rb").read(), "", 0, ()), handler="lambda_handlers.sleep", timeout=60)
        running = asyncio.ensure_future(cloud.request("POST", "/2015-03-31/functions/f/invocations", 50))
        while not (await cloud.statistics())["pids"]:
            await asyncio.sleep(0.01)
        print(cloud._process.pid, *(await cloud.statistics())["pids"], flush=True)
        await running
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_when_the_program_is_killed(package, tmp_path, number):
    (tmp_path / "f.zip").write_bytes(package.data)
    environ = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(p for p in sys.path if p)}
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "f.zip")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environ,
    )
    with program:
        pids = [int(pid) for pid in program.stdout.readline().split()]
        assert len(pids) == 2
        program.send_signal(number)
    give_up = time.monotonic() + LONG
    while any(map(runs, pids)) or folders(tmp_path):
        assert time.monotonic() < give_up, (pids, folders(tmp_path))
        time.sleep(0.02)


async def test_environments_end_with_the_server_that_is_killed(package, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    async with deployed(package, "sleep", timeout=60) as invoke:
        running = asyncio.ensure_future(invoke(50))
        while not (pids := (await invoke.cloud.statistics())["pids"]):
            await asyncio.sleep(0.02)
        invoke.cloud._process.kill()
        with pytest.raises((HTTPClientError, ConnectionClosedError)):
            await running
        await until(lambda: not any(map(runs, pids)))
    assert not folders(tmp_path)


async def test_a_port_that_is_taken_is_said():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(BrokenPoolError, match="the local Lambda did not start; its standard error says why"),
    ):
        async with LocalLambda(port=taken.getsockname()[1]):
            pass


# The object store


async def test_objects_conditions_and_lists(package):
    async with LocalLambda() as cloud, client(cloud, "s3", s3={"addressing_style": "path"}) as s3:
        await s3.create_bucket(Bucket="b")
        first = await s3.put_object(Bucket="b", Key="p/1", Body=b"one", IfNoneMatch="*")
        code, status, _ = await code_of(s3.put_object(Bucket="b", Key="p/1", Body=b"two", IfNoneMatch="*"))
        assert (code, status) == ("PreconditionFailed", 412)
        assert (await code_of(s3.put_object(Bucket="b", Key="p/1", Body=b"two", IfMatch='"0"')))[1] == 412
        await s3.put_object(Bucket="b", Key="p/1", Body=b"two", IfMatch=first["ETag"])
        got = await s3.get_object(Bucket="b", Key="p/1")
        assert await got["Body"].read() == b"two"
        got = await s3.get_object(Bucket="b", Key="p/1", Range="bytes=1-1")
        assert await got["Body"].read() == b"w"
        await s3.put_object(Bucket="b", Key="q/ü &", Body=b"")
        listed = await s3.list_objects_v2(Bucket="b", MaxKeys=1)
        rest = await s3.list_objects_v2(Bucket="b", ContinuationToken=listed["NextContinuationToken"])
        assert [one["Key"] for one in listed["Contents"] + rest["Contents"]] == ["p/1", "q/ü &"]
        assert (await s3.head_object(Bucket="b", Key="p/1"))["ContentLength"] == 3
        assert (await code_of(s3.get_object(Bucket="b", Key="none")))[0] == "NoSuchKey"
        assert (await code_of(s3.delete_bucket(Bucket="b")))[0] == "BucketNotEmpty"
        await s3.delete_objects(Bucket="b", Delete={"Objects": [{"Key": "p/1"}, {"Key": "q/ü &"}]})
        await s3.delete_bucket(Bucket="b")
        assert (await s3.list_buckets())["Buckets"] == []


async def test_presigned_urls():
    async with (
        LocalLambda() as cloud,
        client(cloud, "s3", s3={"addressing_style": "path"}, signature_version="s3v4") as s3,
    ):
        await s3.create_bucket(Bucket="b")
        where = {"Bucket": "b", "Key": "a/b c"}
        put, get, old = [
            await s3.generate_presigned_url(method, Params=where, ExpiresIn=seconds)
            for method, seconds in (("put_object", 60), ("get_object", 60), ("get_object", 1))
        ]

        def fetch(url, data=None, headers=None):
            request = urllib.request.Request(url, data, headers or {}, method="PUT" if data else "GET")
            try:
                with urllib.request.urlopen(request, timeout=LONG) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        once = {"If-None-Match": "*"}
        assert [(await asyncio.to_thread(fetch, put, b"data", once))[0] for _ in range(2)] == [200, 412]
        assert await asyncio.to_thread(fetch, get) == (200, b"data")
        await asyncio.sleep(1.2)
        status, body = await asyncio.to_thread(fetch, old)
        assert status == 403
        assert b"Request has expired" in body


async def test_web_pages_may_not_be_an_environment_either(package):
    async with deployed(package, "about") as invoke:
        api = (await invoke())[1]["environ"]["AWS_LAMBDA_RUNTIME_API"]
        request = urllib.request.Request(
            f"http://{api}/2018-06-01/runtime/invocation/next", headers={"Origin": "https://example.org"}
        )
        with pytest.raises(urllib.error.HTTPError, match="403") as caught:
            await asyncio.to_thread(urllib.request.urlopen, request, timeout=LONG)
        caught.value.close()
        assert (await invoke())[1]["name"] == "f"  # and the environment goes on
