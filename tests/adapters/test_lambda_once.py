"""Requests as a client sends them, through the package that is deployed, the object store and AWS's runtime client."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from asyncpar.sharing import share
from asyncpar_lambda import calls, codec, envelope
from asyncpar_lambda.errors import RefusedError
from asyncpar_lambda.local import Faults, LocalLambda
from asyncpar_lambda.local.client import build_here
from asyncpar_lambda.naming import Imported

HERE = Path(__file__).parent
PRIVATE, PUBLIC = envelope.new_key()
SIGNER = envelope.Signer(PRIVATE)
NAMES = Imported()


@pytest.fixture(scope="module")
def anyio_backend():
    """One loop: the server has a process, and a loop, of its own."""
    return "asyncio"


@pytest.fixture(scope="module")
def functions():
    """The user's module, as the package and this program have it."""
    sys.path.insert(0, str(HERE))
    import lambda_functions

    yield lambda_functions
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
async def package():
    return await build_here([HERE / "lambda_functions.py"])


class Client:
    """Sends requests; a new local Lambda for each."""

    def __init__(self, cloud, package):
        self.cloud, self.package = cloud, package

    async def send(self, function, items, **changes):
        """The answer to one request with these calls."""
        functions = calls.Functions(NAMES)
        functions.add(function)
        shared = changes.pop("shared", None)
        body = calls.dump_items(functions, items, False, shared)
        head = envelope.Head(
            job="job", code=self.package.code, run="r", functions=tuple(functions.listed), first=0, count=len(items),
            expires=time.time() + 60, answer_url=self.url("answer"),
        )  # fmt: skip
        if changes.pop("spill", False):
            changes["body"] = await self.blob("body", body)
        return await self.sealed(SIGNER.seal(dataclasses.replace(head, **changes), body))

    async def sealed(self, request):
        status, reply = await self.cloud.request(
            "POST", "/2015-03-31/functions/job/invocations", json.loads(request)
        )
        assert status == 200, reply
        found = envelope.open_answer(reply)
        if isinstance(found, envelope.Spilled):
            _, data = await self.cloud.request("GET", "/bucket/answer")
            assert (len(data), sha256(data).hexdigest()) == (found.size, found.sha256)
            found = data
        return calls.load_answer(found, NAMES)

    def url(self, key):
        return f"{self.cloud.endpoint_url}/bucket/{key}"

    def slot(self, key):
        return envelope.Slot(get=self.url(key), put=self.url(key))

    async def blob(self, key, data, **more):
        """Put something into the store."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.cloud.port)
        head = f"PUT /bucket/{key} HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        return envelope.Blob(url=self.url(key), size=len(data), sha256=sha256(data).hexdigest(), **more)


@pytest.fixture
async def client(package):
    async with LocalLambda() as cloud:
        await cloud.create_bucket("bucket")
        await cloud.deploy(
            "job",
            package,
            timeout=100,
            variables={
                "ASYNCPAR_JOB": "job",
                "ASYNCPAR_CODE": package.code,
                "ASYNCPAR_PUBLIC_KEY": PUBLIC.hex(),
                "ASYNCPAR_ALLOW": "lambda_functions:*,builtins:len",
            },
        )
        yield Client(cloud, package)


async def marks(path):
    return (await anyio.Path(path).read_text()).split() if await anyio.Path(path).exists() else []


# What is too large for a request or an answer


async def test_a_large_request_lies_in_the_store(client):
    answer = await client.send(len, [b"x" * 7_000_000, "ab"], spill=True)
    assert answer.outcomes == ((True, 7_000_000), (True, 2))


async def test_a_large_answer_comes_through_the_store(client, functions):
    answer = await client.send(functions.text, [6_000_000, 3])
    assert [len(value) for _, value in answer.outcomes] == [6_000_000, 3]


async def test_what_lies_in_the_store_must_be_what_was_signed(client, functions, tmp_path):
    path = str(tmp_path / "ran")
    good = await client.blob("body", b"what was signed")
    await client.blob("body", b"something else.")
    with pytest.raises(RefusedError, match="forged: an object in the store"):
        await client.send(functions.mark, [path], body=good)
    gone = dataclasses.replace(good, url=client.url("gone"))
    with pytest.raises(RefusedError, match="missing: the object store answered 404 to a GET"):
        await client.send(functions.mark, [path], body=gone)
    assert await marks(path) == []


async def test_a_constant_is_fetched_once_by_an_environment(client, functions):
    model = share({"weights": list(range(1000))})
    blob = await client.blob("constant", codec.dumps(model.value), id="c1")
    for _ in range(3):
        answer = await client.send(
            functions.weigh, [[model, 3], [model, 4]], shared=lambda _: "c1", constants=(blob,)
        )
        assert answer.outcomes == ((True, 3), (True, 4))
    assert (await client.cloud.statistics())["gets"] == 1


async def test_a_constant_that_did_not_come_along(client, functions):
    answer = await client.send(functions.weigh, [[share(1), 3]], shared=lambda _: "c1")
    assert "the constant 'c1' did not come with the request" in str(answer.outcomes[0][1])


# Exactly once


async def test_a_worker_that_is_asked_twice_answers_what_it_answered(client, functions, tmp_path):
    path = str(tmp_path / "ran")
    slots = tuple(client.slot(f"r/{i}") for i in range(3))
    first = await client.send(functions.mark, [path, path, 5], slots=slots)
    second = await client.send(functions.mark, [path, path, 5], slots=slots)
    assert [value for _, value in first.outcomes[:2]] == [1, 2]
    assert second.outcomes[:2] == first.outcomes[:2]
    assert [type(a.outcomes[2][1]) for a in (first, second)] == [TypeError, TypeError]
    assert (first.again, second.again) == (0, 3)
    assert await marks(path) == ["x", "x"]


async def test_two_workers_that_are_asked_at_once_run_it_once(client, functions, tmp_path):
    path = str(tmp_path / "ran")
    slots = (client.slot("r/0"),)
    sent = [
        asyncio.ensure_future(client.send(functions.mark_and_hold, [path], slots=slots)) for _ in range(4)
    ]
    while len((await client.cloud.statistics())["pids"]) < 4 or not await marks(path):
        await asyncio.sleep(0.02)
    await anyio.Path(f"{path}.go").touch()  # all four are there
    found = await asyncio.gather(*sent)
    assert [answer.outcomes for answer in found] == [((True, 1),)] * 4
    assert sorted(answer.again for answer in found) == [0, 1, 1, 1]
    assert len({answer.environment for answer in found}) == 4
    assert await marks(path) == ["x"]


async def test_duplicated_deliveries_run_once(client, functions, tmp_path):
    await client.cloud.set_faults(Faults(duplicates=1.0))
    for number in range(5):
        path = str(tmp_path / str(number))
        answer = await client.send(functions.mark_slowly, [path], slots=(client.slot(f"r/{number}"),))
        assert answer.outcomes == ((True, 1),)
        assert await marks(path) == ["x"]


def claim(delivery, until):
    return b"c" + json.dumps({"request": delivery, "token": "t", "until": until}).encode()


@pytest.mark.parametrize("how", ["known to be lost", "past its deadline"])
async def test_a_claim_of_a_worker_that_is_gone_is_taken_over(client, functions, tmp_path, how):
    known = how == "known to be lost"
    await client.blob("r/0", claim("dead", time.time() + (60 if known else -60)))
    path = str(tmp_path / "ran")
    lost = ("dead",) if known else ()
    found = await asyncio.gather(
        *[client.send(functions.mark, [path], slots=(client.slot("r/0"),), lost=lost) for _ in range(3)]
    )
    assert [answer.outcomes for answer in found] == [((True, 1),)] * 3
    assert await marks(path) == ["x"]


async def test_a_call_that_another_worker_runs_is_left_to_it(package, client, functions, tmp_path):
    variables = {
        "ASYNCPAR_JOB": "job", "ASYNCPAR_CODE": package.code, "ASYNCPAR_PUBLIC_KEY": PUBLIC.hex(), "ASYNCPAR_ALLOW": "lambda_functions:*",
    }  # fmt: skip
    await client.cloud.deploy("job", package, timeout=2, variables=variables)
    await client.blob("r/1", claim("runs", time.time() + 60))
    path = str(tmp_path / "ran")
    slots = tuple(client.slot(f"r/{i}") for i in range(3))
    answer = await client.send(functions.mark, [path] * 3, slots=slots)
    assert answer.outcomes == ((True, 1),)  # the others are to be sent again
    assert await marks(path) == ["x"]


async def test_a_store_that_fails_before_a_call_lets_it_not_run(client, functions, tmp_path):
    """The first call's claim fails: all is refused. Another's: those before it are answered, the rest is not run."""
    path = str(tmp_path / "ran")
    nowhere = f"{client.cloud.endpoint_url}/nowhere/a"
    slots = client.slot("r/0"), envelope.Slot(get=nowhere, put=nowhere)
    with pytest.raises(RefusedError, match="unavailable: the object store answered 404 to a PUT"):
        await client.send(functions.mark, [path], slots=slots[1:])
    assert await marks(path) == []
    answer = await client.send(functions.mark, [path, path], slots=slots)
    assert answer.outcomes == ((True, 1),)
    assert await marks(path) == ["x"]


# The same request again


async def test_a_replayed_request_is_refused(client, functions, tmp_path):
    path = str(tmp_path / "ran")
    functions_ = calls.Functions(NAMES)
    functions_.add(functions.mark)
    head = envelope.Head(
        job="job",
        code=client.package.code,
        run="r",
        functions=tuple(functions_.listed),
        first=0,
        count=1,
        expires=time.time() + 60,
    )
    request = SIGNER.seal(head, calls.dump_items(functions_, [path], False))
    assert (await client.sealed(request)).outcomes == ((True, 1),)
    with pytest.raises(RefusedError, match=r"replayed: the request .* has run in this environment before"):
        await client.sealed(request)
    assert await marks(path) == ["x"]
