"""AzurePool, and its function as an HTTP trigger of the real ``azure.functions``.

Azure's own host is not to be had here: its tools come from Azure's servers, not from a registry. ``azure_host.py`` stands
in for it, and hands real ``HttpRequest`` objects to the real ``FunctionApp``. What only the host does (its scaling, its
load balancer, its logs) is not tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("azure.functions", reason="needs azure-functions")
pytest.register_assert_rewrite("asyncpar.testing.contract")

import asyncpar  # noqa: E402 - after the rewrite is registered
from asyncpar.errors import (  # noqa: E402
    AsyncparError,
    BrokenPoolError,
    CallTimeoutError,
    UnsupportedError,
    WorkerLostError,
)
from asyncpar.testing import PoolContract  # noqa: E402
from asyncpar_azure import AzurePool, package  # noqa: E402
from asyncpar_azure.folder import KIND  # noqa: E402
from asyncpar_http.folder import make_folder  # noqa: E402
from asyncpar_lambda import RefusedError  # noqa: E402
from asyncpar_lambda.envelope import Head, Signer, new_key, open_answer  # noqa: E402
from tests.adapters.http_front import Front, reply  # noqa: E402
from tests.waiting import until  # noqa: E402

FUNCTIONS = Path(__file__).with_name("http_jobs.py")
HOST = Path(__file__).with_name("azure_host.py")
BUILTINS = ("pow", "complex", "str", "str.split")
ALLOW = ["asyncpar.testing.functions:*", "http_jobs:*", *(f"builtins:{name}" for name in BUILTINS)]


def load(path):
    """Import the file under the name that it has in the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


f = load(FUNCTIONS)


@contextlib.contextmanager
def hosted(folder, processes=4):
    """The function's address, while a stand-in for Azure's host runs it."""
    pythonpath = ":".join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, str(HOST), str(folder), str(processes), "the key"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": pythonpath}, cwd=folder,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/api/asyncpar"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # one loop will do


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """The arguments of a pool on a function that runs."""
    folder, key = tmp_path_factory.mktemp("azure") / "build", new_key()[0]
    paths = [Path(asyncpar.__file__).parent, FUNCTIONS]
    make_folder(
        KIND, paths, folder, name="jobs", allow=ALLOW, timeout=60, requirements=(), functions="names", key=key
    )
    with hosted(folder) as url:
        yield {"url": url, "function_key": "the key", "key": key, "limit": 4}


class TestAzurePool(PoolContract):
    stops = stateful = False
    abandons = False  # a call that is no coroutine function runs in a thread there, and nothing stops it

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def options(cls, deployed):
        cls.deployed = deployed

    def make_pool(self):
        return AzurePool(**{**self.deployed, "limit": 2})


async def test_calls_run_in_the_function_and_constants_travel_along(deployed):
    constant = asyncpar.share(list(range(5_000)))
    async with AzurePool(**deployed) as pool:
        assert await pool.map(f.square, range(200)) == [x * x for x in range(200)]
        assert os.getpid() not in await pool.map(f.pid, [0.02] * 8, chunksize=1)
        assert await pool.map(f.pick, itertools.repeat(constant, 20), range(20)) == list(range(20))
        assert await pool.run(f.size, b"x" * 40_000_000) == 40_000_000
        with pytest.raises(
            UnsupportedError, match="a function behind HTTP takes 90,000,000, and there is no object store"
        ):
            await pool.run(f.size, b"x" * 70_000_000)


async def test_a_call_that_cannot_be_stopped_is_no_success_when_it_is_late(deployed):
    async with AzurePool(**deployed) as pool:
        for nap in (f.nap, f.nap_async):
            got = await pool.map(nap, [0.0, 0.4, 0.0], timeout=0.2, chunksize=3, return_exceptions=True)
            assert (got[0], got[2]) == (0.0, 0.0)
            assert isinstance(got[1], CallTimeoutError)
            assert f"{nap.__name__} ran longer than timeout=0.2 seconds" in str(got[1])
        with pytest.raises(
            CallTimeoutError
        ):  # a coroutine function is stopped: this test takes no 300 seconds
            await pool.map(f.nap_async, [300.0], timeout=0.2)


async def test_the_function_key_is_asked_for(deployed):
    for given in ({"function_key": ""}, {"function_key": "another"}):
        with pytest.raises(
            AsyncparError, match=r"it answered 401; pass function_key=, a key of the function or its app"
        ):
            async with AzurePool(**{**deployed, **given}):
                pass
    async with Front(deployed["url"]) as front, AzurePool(**{**deployed, "url": front.url}) as pool:
        assert await pool.run(f.square, 3) == 9
        assert len(front.seen) == 2
        assert all("x-functions-key: the key\r\n" in head for head in front.seen)


@pytest.mark.may_block  # it reads files
async def test_forged_expired_and_replayed_requests_run_nothing(tmp_path):
    key, other = new_key()[0], new_key()[0]
    marks = tmp_path / "marks"
    await asyncio.to_thread(
        make_folder, KIND, [FUNCTIONS], tmp_path / "build", name="jobs", allow=None, timeout=60, requirements=(),
        functions="names", key=key,
    )  # fmt: skip
    with hosted(tmp_path / "build", 1) as url:
        async with AzurePool(url, function_key="the key", key=key) as pool:
            from asyncpar_lambda import calls
            from asyncpar_lambda.naming import Imported

            functions = calls.Functions(Imported())
            functions.add(f.mark)
            body = calls.dump_items(functions, [str(marks)], star=False)

            async def send(key, **fields):
                head = {
                    "job": "jobs", "code": pool.deployment.code, "run": "r", "functions": ("http_jobs:mark",),
                    "first": 0, "count": 1, "expires": time.time() + 60,
                }  # fmt: skip
                payload = Signer(key).seal(Head(**{**head, **fields}), body)
                return open_answer((await pool._transport.invoke(payload)).body)

            for problem, sent in {
                "forged": send(other),
                "expired": send(key, expires=time.time() - 60),
                "wrong code": send(key, code="0" * 64),
            }.items():
                with pytest.raises(RefusedError) as caught:
                    await sent
                assert caught.value.reason == problem
            assert not marks.exists()
            await send(key, nonce="the same")
            with pytest.raises(RefusedError, match="has run in this environment before"):
                await send(key, nonce="the same")
            too_large = await pool._transport.invoke(b" " * 90_000_001)
            assert json.loads(too_large.body)["refused"] == "too large"
            assert marks.read_text() == "x\n"


@pytest.mark.may_block  # it reads files
async def test_a_killed_process_costs_its_request(tmp_path):
    key = new_key()[0]
    await asyncio.to_thread(
        make_folder, KIND, [FUNCTIONS], tmp_path / "build", name="jobs", allow=None, timeout=60, requirements=(),
        functions="names", key=key,
    )  # fmt: skip
    with hosted(tmp_path / "build", 2) as url:
        async with AzurePool(url, function_key="the key", key=key, limit=2) as pool:
            call = asyncio.ensure_future(pool.run(f.hold, str(tmp_path / "at"), 1))
            await until((tmp_path / "at").exists)
            os.kill(int((tmp_path / "at").read_text()), signal.SIGKILL)
            with pytest.raises(WorkerLostError, match=r"was lost while it ran http_jobs\.hold"):
                await call
            assert await pool.map(f.square, range(10), chunksize=1) == [x * x for x in range(10)]


async def test_what_is_turned_away_is_sent_again(deployed):
    turned = [reply(429), reply(503, "retry-after: 0.1"), None, reply(429, body=b"Too Busy")]
    async with Front(deployed["url"], turned) as front, AzurePool(**{**deployed, "url": front.url}) as pool:
        assert await pool.map(f.square, range(40), chunksize=2) == [x * x for x in range(40)]
        assert pool.statistics().concurrency.throttled == {"429": 2, "503": 1}
    lost = reply(502)  # of the load balancer, after 230 seconds: the function runs on
    async with Front(deployed["url"], [lost]) as front, AzurePool(**{**deployed, "url": front.url}) as pool:
        with pytest.raises(WorkerLostError, match="it answered 502; this call may have run"):
            await pool.run(f.square, 3)
    async with (
        Front(deployed["url"], [reply(404)]) as front,
        AzurePool(**{**deployed, "url": front.url}) as pool,
    ):
        with pytest.raises(
            BrokenPoolError, match="it answered 404; deploy the function, or look at its address"
        ):
            await pool.run(f.square, 3)


def test_options_that_make_no_sense_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"AzurePool\('https://…'\) or open_pool\('azure:https://…'\)"):
        AzurePool()
    with pytest.raises(ValueError, match="timeout= must be at most 220 seconds here, not 600"):
        package([FUNCTIONS], tmp_path / "build", name="jobs", timeout=600)
    pool = asyncpar.open_pool("azure:https://app.azurewebsites.net/api/asyncpar")
    assert (type(pool), pool.url) == (AzurePool, "https://app.azurewebsites.net/api/asyncpar")


def test_what_is_packaged_is_what_azure_looks_for(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = package([FUNCTIONS], tmp_path / "build", name="jobs", requirements=["six"])
    assert {"function_app.py", "host.json", "requirements.txt", "asyncpar.json", "asyncpar_azure"} <= {
        path.name for path in made.path.iterdir()
    }
    assert json.loads((made.path / "host.json").read_text())["version"] == "2.0"
    assert {"azure-functions", "six"} <= set((made.path / "requirements.txt").read_text().split())
    assert (tmp_path / "config/asyncpar/azure/jobs.key").exists()
    with hosted(made.path, 1) as url:

        async def main():
            async with AzurePool(url, function_key="the key") as pool:
                return await pool.run(f.square, 3)

        assert asyncio.run(main()) == 9


def test_public_names_are_there_and_documented():
    import asyncpar_azure

    for name in asyncpar_azure.__all__:
        assert getattr(asyncpar_azure, name).__doc__, name
    program = "import sys; sys.modules['msgpack'] = None; from asyncpar_azure import AzurePool"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "AzurePool needs msgpack: pip install 'asyncpar[azure]'" in done.stderr
