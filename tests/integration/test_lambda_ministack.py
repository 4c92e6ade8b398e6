"""The pool, the package and the worker on MiniStack: another's Lambda, object store and Runtime API.

A custom runtime is used, with a ``bootstrap`` that runs AWS's own runtime client: MiniStack's managed ones have none.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import aiobotocore.session
import pytest

from asyncpar.sharing import share
from asyncpar_lambda import LambdaPool
from asyncpar_lambda.envelope import new_key
from asyncpar_lambda.package import Target, build
from asyncpar_lambda.sigv4 import Credentials

pytestmark = [
    pytest.mark.may_block,  # botocore reads its data files when a client is made
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),  # as aiobotocore does
    pytest.mark.timeout(180),
]


@pytest.fixture(scope="module")
def anyio_backend():
    """One loop will do."""
    return "asyncio"


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The user's module, as the package and this program have it."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "ministack_functions.py").write_text(
        "def double(x): return 2 * x\n"
        "def size(x): return len(x)\n"
        "def text(n): return 'x' * n\n"
        "def fail(x): raise ValueError(f'no {x}')\n"
        "def pick(model, i): return model[i]\n"
        "async def later(x): return x + 1\n"
    )
    (folder / "bootstrap").write_text(
        f'#!/bin/sh\ncd "$LAMBDA_TASK_ROOT"\nexec {sys.executable} -S -m awslambdaric "$_HANDLER"\n'
    )
    sys.path.insert(0, str(folder))
    import ministack_functions

    yield ministack_functions
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
async def deployed(endpoint, functions):
    """The pool's options for a function that is deployed."""
    folder = Path(functions.__file__).parent
    package = await asyncio.to_thread(
        build, [functions.__file__, folder / "bootstrap"], Target.here(), ["awslambdaric"]
    )
    private, public = new_key()
    options = {
        "region_name": "us-east-1",
        "endpoint_url": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
    }
    session = aiobotocore.session.get_session()
    async with (
        session.create_client("lambda", **options) as aws,
        session.create_client("s3", **options) as s3,
    ):
        await s3.create_bucket(Bucket="asyncpar")
        await aws.create_function(
            FunctionName="job", Runtime="provided.al2023", Handler="asyncpar_lambda.worker.handler", Timeout=30,
            MemorySize=512, Role="arn:aws:iam::000000000000:role/r", Code={"ZipFile": package.data},
            Environment={"Variables": {
                "ASYNCPAR_JOB": "job", "ASYNCPAR_CODE": package.code, "ASYNCPAR_PUBLIC_KEY": public.hex(),
                "ASYNCPAR_ALLOW": "ministack_functions:*", "ASYNCPAR_BUCKET": "asyncpar",
            }},
        )  # fmt: skip
    return {
        "endpoint_url": endpoint,
        "alias": None,
        "region": "us-east-1",
        "key": private,
        "credentials": Credentials("test", "test"),
    }


@pytest.fixture(params=["fast", "aiobotocore"])
def pool(request, deployed):
    """A pool that was not opened."""
    return LambdaPool("job", limit=4, transport=request.param, **deployed)


async def test_a_map_and_single_calls(pool, functions):
    async with pool:
        assert await pool.map(functions.double, range(40), chunksize=10) == [2 * i for i in range(40)]
        assert await pool.run(functions.later, 3) == 4


async def test_an_error_is_the_callers_own(pool, functions):
    async with pool:
        with pytest.raises(ValueError, match="no 7") as caught:
            await pool.run(functions.fail, 7)
    assert "in fail" in "".join(caught.value.__notes__)


async def test_large_arguments_results_and_constants_go_through_its_object_store(pool, functions):
    async with pool:
        assert await pool.run(functions.size, b"x" * 7_000_000) == 7_000_000
        assert len(await pool.run(functions.text, 7_000_000)) == 7_000_000
        model = share(list(range(1000)))
        picked = await asyncio.gather(*[pool.run(functions.pick, model, i) for i in range(5)])
        assert picked == list(range(5))


async def test_exactly_once(pool, functions):
    async with pool:
        assert await pool.map(functions.double, range(6), chunksize=3, exactly_once=True) == [
            0,
            2,
            4,
            6,
            8,
            10,
        ]
