"""GCFPool on Google's own functions-framework: what it has beside the contract of every pool."""

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

pytest.importorskip("functions_framework", reason="needs the extra 'gcf-local'")

import asyncpar
from asyncpar.errors import (
    AsyncparError,
    BrokenPoolError,
    CallTimeoutError,
    NestedPoolError,
    UnsupportedError,
    WorkerLostError,
)
from asyncpar_gcf import GCFPool, package
from asyncpar_http.transport import HTTPTransport
from asyncpar_lambda import CodecError, RefusedError
from asyncpar_lambda.envelope import Head, Signer, new_key, open_answer
from asyncpar_lambda.package import PackageError
from tests.adapters.http_front import Front, reply
from tests.waiting import until

FUNCTIONS = Path(__file__).with_name("http_jobs.py")


def load(path):
    """Import the file under the name that it has in the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


f = load(FUNCTIONS)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio", {"use_uvloop": True}  # one loop will do: each test starts the framework


def local(**options):
    return GCFPool.local([FUNCTIONS], **{"limit": 2, **options})


def read(path):
    return Path(path).read_text() if Path(path).exists() else ""


# Results


async def test_calls_and_maps_run_in_the_framework():
    async with local(limit=4) as pool:
        assert await pool.run(f.square, 7) == 49
        assert await pool.map(f.square, range(500)) == [x * x for x in range(500)]
        assert await pool.map(f.square, range(100)).reduce(f.add) == sum(x * x for x in range(100))
        assert await pool.run(f.nap_async, 0.001) == 0.001
        assert os.getpid() not in await pool.map(f.pid, [0.05] * 8, chunksize=1)
        state = pool.statistics()
    assert state.completed >= 610
    assert state.invocations < 200  # short calls travel together
    assert 1 <= state.cold <= state.environments <= 4
    assert state.concurrency.in_flight == 0


async def test_large_arguments_and_results_travel_inline_up_to_what_google_takes():
    async with local() as pool:
        assert await pool.run(f.size, b"x" * 15_000_000) == 15_000_000
        assert len(await pool.run(f.blow_up, 11_000_000)) == 11_000_000
        words = r"a request of 32,0\d\d,\d{3} bytes is too large: a function behind HTTP takes 30,000,000, and there is no "
        with pytest.raises(UnsupportedError, match=words + "object store here"):
            await pool.run(f.size, b"x" * 24_000_000)
        with pytest.raises(
            CodecError, match=r"the result is 12,000,0.. bytes and a reply takes 11,245,904: return less"
        ):
            await pool.run(f.blow_up, 12_000_000)


async def test_results_that_do_not_fit_into_one_reply_come_in_several():
    async with local() as pool:
        got = await pool.map(f.blow_up, [4_000_000] * 8, chunksize=8)
        assert [len(data) for data in got] == [4_000_000] * 8
        assert pool.statistics().invocations > 1


async def test_arguments_that_do_not_fit_into_one_request_travel_alone():
    async with local() as pool:
        assert await pool.map(f.size, [b"x" * 8_000_000] * 4, chunksize=4) == [8_000_000] * 4


async def test_shared_constants_travel_with_their_requests_and_are_decoded_once():
    constant = asyncpar.share(list(range(5_000)))
    async with local() as pool:
        assert await pool.map(f.pick, itertools.repeat(constant, 50), range(50)) == list(range(50))
        huge = asyncpar.share(b"x" * 24_000_000)
        with pytest.raises(UnsupportedError, match=r"1 shared constants included, is too large"):
            await pool.run(f.size, huge)


async def test_a_call_that_runs_too_long_is_stopped_and_the_next_runs():
    async with local() as pool:
        got = await pool.map(f.nap, [0.0, 30.0, 0.0], timeout=0.2, chunksize=3, return_exceptions=True)
    assert (got[0], got[2]) == (0.0, 0.0)
    assert isinstance(got[1], CallTimeoutError)


async def test_a_call_is_stopped_at_the_functions_own_timeout():
    async with local(timeout=1) as pool:
        with pytest.raises(
            CallTimeoutError, match=r"was stopped after 0\.\d s, at the timeout of the function: deploy with"
        ):
            await pool.run(f.nap, 300)
        # As often as a busy machine makes a second of it.
        assert await pool.map(f.square, [3], retries=20) == [9]


async def test_a_call_that_cannot_be_stopped_is_killed_by_the_framework_and_the_pool_heals():
    async with local(timeout=1) as pool:
        with pytest.raises(WorkerLostError, match=r"was lost while it ran http_jobs\.deaf"):
            await pool.run(f.deaf, 300)
        assert await pool.map(f.square, [3], retries=20) == [9]


def test_it_runs_on_asyncios_own_loop():
    async def main():
        async with local() as pool:
            return await pool.map(f.square, range(50), chunksize=5)

    assert asyncio.run(main()) == [x * x for x in range(50)]


async def test_functions_by_value():
    async with local(functions="by_value") as pool:
        offset = 3
        assert await pool.map(lambda x: x + offset, [1, 2]) == [4, 5]


async def test_an_error_of_the_users_has_its_type_and_the_traceback_there():
    async with local() as pool:
        with pytest.raises(ValueError, match="no 5") as caught:
            await pool.run(f.tell, 5)
    assert "http_jobs.py" in caught.value.__notes__[0]


# What is not let in


@pytest.mark.may_block  # it reads files
async def test_what_is_not_allowed_forged_expired_or_replayed_is_refused_and_nothing_runs(tmp_path):
    marks = str(tmp_path / "marks")
    async with local(allow=["http_jobs:square", "http_jobs:mark"], limit=1) as pool:
        assert await pool.run(f.square, 2) == 4
        with pytest.raises(RefusedError, match="http_jobs:add is not on the allow-list"):
            await pool.run(f.add, 1, 2)

        from asyncpar_lambda import calls
        from asyncpar_lambda.naming import Imported

        functions = calls.Functions(Imported())
        functions.add(f.mark)
        body = calls.dump_items(functions, [marks], star=False)

        async def send(key=pool._key, **fields):
            head = {
                "job": "local", "code": pool.deployment.code, "run": "r", "functions": ("http_jobs:mark",), "first": 0,
                "count": 1, "expires": time.time() + 60,
            }  # fmt: skip
            return await post(Signer(key).seal(Head(**{**head, **fields}), body))

        async def post(payload):
            answer = await pool._transport.invoke(payload)
            assert answer.status == 200
            return open_answer(answer.body)

        for problem, sent in {
            "forged": send(key=new_key()[0]),
            "expired": send(expires=time.time() - 60),
            "wrong job": send(job="other"),
            "wrong code": send(code="0" * 64),
            "too large": post(b" " * 30_000_001),
            "malformed": post(b"[" * 100_000),
        }.items():
            with pytest.raises(RefusedError) as caught:
                await sent
            assert caught.value.reason == problem
        assert read(marks) == ""
        assert isinstance(await send(nonce="the same"), bytes)
        with pytest.raises(RefusedError, match="has run in this environment before"):
            await send(nonce="the same")
        assert read(marks) == "x\n"


async def test_a_request_without_its_length_is_refused():
    async with local(limit=1) as pool:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(pool.url.rpartition(":")[2]))
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert b'"refused": "too large"' in answer


# Loss


@pytest.mark.may_block  # it reads files
async def test_a_killed_process_costs_its_request_and_the_pool_heals(tmp_path):
    async with local() as pool:
        await pool.run(f.square, 1)
        call = asyncio.ensure_future(pool.run(f.hold, str(tmp_path / "at"), 1))
        await until((tmp_path / "at").exists)
        os.kill(int(read(tmp_path / "at")), signal.SIGKILL)
        with pytest.raises(
            WorkerLostError, match=r"was lost while it ran http_jobs\.hold: .* ended the connection"
        ) as lost:
            await call
        assert str(lost.value).endswith("this call may have run. Repeat with retries=")
        assert await pool.map(f.square, range(20), chunksize=1) == [x * x for x in range(20)]
        assert pool.statistics().lost == 1


@pytest.mark.may_block  # it reads files
async def test_retries_repeat_what_was_lost(tmp_path):
    async with local() as pool:
        results = asyncio.ensure_future(collect(pool.map(f.hold, [str(tmp_path / "at")], [5], retries=3)))
        await until((tmp_path / "at").exists)
        first = int(read(tmp_path / "at"))
        os.kill(first, signal.SIGKILL)
        await until(lambda: read(tmp_path / "at") not in ("", str(first)))
        (tmp_path / "at").unlink()
        assert await results == [5]


async def collect(results):
    return await results


@pytest.mark.may_block  # it reads files
async def test_when_the_framework_is_gone_calls_fail_and_say_so(tmp_path):
    async with local(patience=0.5) as pool:
        await pool.run(f.square, 1)
        call = asyncio.ensure_future(pool.run(f.hold, str(tmp_path / "at"), 1))
        await until((tmp_path / "at").exists)
        os.killpg(pool.server.pid, signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="ended the connection"):
            await call
        await refused(pool.url)
        with pytest.raises(
            BrokenPoolError,
            match=r"the function cannot be reached, or .* the last of them: no connection to 127",
        ):
            await pool.run(f.square, 2)


async def refused(url):
    """Wait until nobody listens there."""
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.close()
            await asyncio.sleep(0.01)


# What stands in front


async def test_what_is_turned_away_is_sent_again_and_lowers_what_is_in_flight():
    async with local(limit=2) as pool:
        turned = [
            reply(429),
            reply(503, "retry-after: 0.2"),
            reply(429, "Retry-After: 0.1"),
            None,
            reply(429),
        ]
        async with (
            Front(pool.url, turned) as front,
            GCFPool(front.url, limit=8, key=pool._key, token="") as other,
        ):
            assert await other.map(f.square, range(60), chunksize=2) == [x * x for x in range(60)]
            state = other.statistics()
    assert state.concurrency.throttled == {"429": 3, "503": 1}
    assert state.concurrency.ceiling is not None
    assert state.lost == 0


async def test_it_waits_as_long_as_it_is_told_to():
    for wish in (1, 1000):
        async with (
            local(limit=1) as pool,
            Front(pool.url, [reply(503, f"retry-after: {wish}")]) as front,
            GCFPool(front.url, key=pool._key) as other,
        ):
            call = asyncio.ensure_future(other.run(f.square, 3))
            if wish == 1:
                assert await call == 9
                told, again = front.times[-2:]
                assert again - told > 0.9  # it was not before its time
            else:
                await until(lambda: other.statistics().concurrency.throttled)
                assert other.statistics().concurrency.paused > 5
    with pytest.raises(asyncpar.PoolClosedError):
        await call


async def test_what_may_have_run_is_lost_unless_the_caller_says_retries():
    async with local(limit=1) as pool:
        for action, words in {
            "drop": "ended the connection",
            reply(503): "it answered 503",
            reply(500, body=b"no available instance"): "it answered 500: no available instance",
        }.items():
            async with Front(pool.url, [action]) as front, GCFPool(front.url, key=pool._key) as other:
                with pytest.raises(WorkerLostError, match=words):
                    await other.run(f.square, 3)
            async with Front(pool.url, [action]) as front, GCFPool(front.url, key=pool._key) as other:
                assert await other.map(f.square, [3], retries=1) == [9]


async def test_what_will_never_work_says_what_to_do():
    async with local(limit=1) as pool:
        for action, words in {
            reply(403, body=b"Forbidden"): r"cannot run: it answered 403: Forbidden; .*roles/run\.invoker",
            reply(404): "it answered 404; deploy the function, or look at its address",
            reply(413): "it answered 413",
            reply(302, "location: https://a"): "it answered 302; open the pool with the address https://a",
        }.items():
            async with Front(pool.url, [action]) as front, GCFPool(front.url, key=pool._key) as other:
                with pytest.raises(BrokenPoolError, match=words):
                    await other.run(f.square, 3)


async def test_the_token_is_sent_with_each_request():
    async with local(limit=1) as pool, Front(pool.url) as front:
        asked = []

        async def token():
            asked.append(1)
            return f"token {len(asked)}"

        for given, sent in {token: "token 1", "fixed": "fixed", (lambda: "made"): "made", "": None}.items():
            front.seen.clear()
            async with GCFPool(front.url, key=pool._key, token=given) as other:
                assert await other.map(f.square, [1, 2], chunksize=1) == [1, 4]
            assert len(front.seen) == 3  # settings, and two calls
            for head in front.seen:
                assert (f"authorization: Bearer {sent}\r\n" in head) if sent else "authorization" not in head
    assert asked == [1]


async def test_over_tls_it_trusts_what_the_system_trusts(tmp_path, monkeypatch):
    import ssl

    from tests.adapters.test_lambda_transport import certificate

    pem = await asyncio.to_thread(certificate, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    await asyncio.to_thread(context.load_cert_chain, pem)
    async with local(limit=1) as pool, Front(pool.url, context=context) as front:
        assert front.url.startswith("https:")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        async with GCFPool(front.url, key=pool._key, token="t") as other:
            assert await other.map(f.square, range(20), chunksize=5) == [x * x for x in range(20)]


# Opening


async def test_a_pool_opens_only_on_what_was_deployed():
    async with local(limit=1) as pool:
        async with Front(pool.url) as front:
            front.server.close()
            with pytest.raises(AsyncparError, match="no connection to"):
                async with GCFPool(front.url, key=pool._key):
                    pass
        with pytest.raises(UnsupportedError, match="takes no functions by value: deploy it with"):
            async with GCFPool(pool.url, key=pool._key, functions="by_value"):
                pass
        with pytest.raises(AsyncparError, match=r"there is no key in .*gcf/local\.key"):
            async with GCFPool(pool.url):
                pass
    for body, words in {
        b"<html>": "is no function of asyncpar's, it says b'<html>': deploy what package",
        json.dumps(about(asyncpar=9)).encode(): "speaks version 9, this is 1: package and deploy again",
        json.dumps(about(job="../../x")).encode(): "which is no name of a deployment",
        json.dumps(about(timeout=3600)).encode(): "made for calls of 3600 s, more than 600: make its calls",
    }.items():
        async with Saying(reply(200, body=body)) as url:
            with pytest.raises(AsyncparError, match=words):
                async with GCFPool(url, key=bytes(32)):
                    pass
    async with Saying(reply(401)) as url:
        with pytest.raises(AsyncparError, match=r"does not say what it is: it answered 401; give its caller"):
            async with GCFPool(url, key=bytes(32)):
                pass
    async with (
        Saying(reply(429), reply(200, body=json.dumps(about()).encode())) as url,
        GCFPool(url, key=bytes(32)) as pool,
    ):
        assert pool.deployment.job == "a"  # it was busy for a moment


def about(**fields):
    return {"asyncpar": 1, "job": "a", "code": "c", "functions": "names", "timeout": 10, **fields}


@contextlib.asynccontextmanager
async def Saying(*replies):
    """A server that says this, one after the other."""
    left = list(replies)

    async def serve(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(left.pop(0))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def test_options_that_make_no_sense_are_told():
    for url, words in {
        "": r"GCFPool\('https://…'\) or open_pool\('gcf:https://…'\)",
        "my-function": "the address of a function is a URL such as https://host/name, not 'my-function'",
        "http://example.com/f": "must be https: results and keys would travel for everybody to read",
    }.items():
        with pytest.raises(ValueError, match=words):
            GCFPool(url)
    with pytest.raises(ValueError, match="limit= must be at least 1, not 0"):
        GCFPool("https://host/f", limit=0)
    pool = asyncpar.open_pool("gcf:https://host/f", limit=3)
    assert (type(pool), pool.url, pool.workers) == (GCFPool, "https://host/f", 3)


async def test_what_other_pools_of_functions_have_is_refused():
    async with local(limit=1) as pool:
        with pytest.raises(TypeError, match="exactly_once"):
            pool.map(f.square, [1], exactly_once=True)
        with pytest.raises(UnsupportedError, match="has no actors"):
            async with pool.actor(dict):
                pass


async def test_a_key_in_the_address_is_in_no_message():
    async with Saying(reply(401)) as url:
        with pytest.raises(AsyncparError) as caught:
            async with GCFPool(f"{url}/f?code=secret", key=bytes(32)):
                pass
    assert f"{url}/f does not say" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_framework_it_says_what_to_install():
    program = (
        "import sys, asyncio; sys.modules['functions_framework'] = None\n"
        "from asyncpar_gcf import GCFPool\n"
        f"asyncio.run(GCFPool.local([{str(FUNCTIONS)!r}]).__aenter__())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "GCFPool.local needs functions-framework: pip install 'asyncpar[gcf-local]'" in done.stderr


@pytest.mark.parametrize("missing", ["cryptography", "msgpack"])
def test_what_is_not_installed_is_named(missing):
    program = f"import sys; sys.modules['{missing}'] = None; from asyncpar_gcf import GCFPool"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"GCFPool needs {missing}: pip install 'asyncpar[gcf]'" in done.stderr


def test_public_names_are_there_and_documented():
    import asyncpar_gcf

    for name in asyncpar_gcf.__all__:
        assert getattr(asyncpar_gcf, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'Pool'"):
        _ = asyncpar_gcf.Pool


# The package


@pytest.mark.may_block  # it reads files
async def test_what_is_packaged_runs_under_the_framework_as_gcloud_starts_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = await asyncio.to_thread(
        package, [FUNCTIONS], tmp_path / "build", name="jobs", timeout=30, requirements=["six"]
    )
    assert {"main.py", "requirements.txt", "asyncpar.json", "http_jobs.py", "asyncpar_gcf"} <= {
        path.name for path in made.path.iterdir()
    }
    assert read(made.path / "requirements.txt").split()[0::4] == ["functions-framework>=3.5", "six"]
    assert (tmp_path / "config/asyncpar/gcf/jobs.key").stat().st_mode & 0o777 == 0o600
    assert read(tmp_path / "config/asyncpar/gcf/jobs.key") not in read(made.path / "asyncpar.json")
    from asyncpar_gcf.local import LocalFramework

    server = LocalFramework(1, 30)
    server._folder = made.path
    try:
        url = await server.start()
        async with GCFPool(url) as pool:
            assert await pool.run(f.square, 3) == 9
            assert (pool.deployment.job, pool.deployment.timeout, pool.deployment.code) == (
                "jobs",
                30,
                made.code,
            )
    finally:
        await server.aclose()


def test_packaging_again_keeps_the_key_and_says_what_does_not_work(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = package([FUNCTIONS], tmp_path / "build", name="jobs")
    settings = read(first.path / "asyncpar.json")
    (first.path / "stale.py").write_text("")
    again = package([FUNCTIONS], tmp_path / "build", name="jobs")
    assert (again.code, read(again.path / "asyncpar.json")) == (first.code, settings)
    assert not (first.path / "stale.py").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious").write_text("")
    with pytest.raises(PackageError, match="mine holds something else: name a folder that is empty"):
        package([FUNCTIONS], tmp_path / "mine", name="jobs")
    with pytest.raises(PackageError, match=r"there is no .*nothing\.py"):
        package([tmp_path / "nothing.py"], tmp_path / "build", name="jobs")
    (tmp_path / "main.py").write_text("")
    with pytest.raises(
        PackageError, match=r"main\.py is what the worker is started by: give yours another name"
    ):
        package([tmp_path / "main.py"], tmp_path / "build", name="jobs")
    with pytest.raises(ValueError, match="name= must be letters, digits and hyphens, not 'a b'"):
        package([FUNCTIONS], tmp_path / "build", name="a b")
    with pytest.raises(ValueError, match="timeout= must be at most 600 seconds here, not 3600"):
        package([FUNCTIONS], tmp_path / "build", name="jobs", timeout=3600)


# The framework on this machine


PROGRAM = """
import asyncio, sys
from asyncpar_gcf import GCFPool

async def main():
    async with GCFPool.local([{path!r}], limit=1) as pool:
        print(pool.server.pid, pool.server._folder, flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.mark.may_block  # it reads files
async def test_the_framework_ends_with_a_program_that_was_killed(tmp_path):
    program = PROGRAM.format(path=str(FUNCTIONS))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
    )
    pid, folder = (await process.stdout.readline()).decode().split()
    assert Path(folder, "main.py").exists()
    process.kill()
    await process.wait()
    process._transport.close()
    await until(lambda: not Path(folder).exists())
    await until(lambda: not runs(pid))


def runs(pid):
    """Whether there is such a process; one that only waits to be reaped is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    except OSError:
        return False


async def test_opening_it_in_its_own_function_is_told(monkeypatch):
    monkeypatch.setenv("ASYNCPAR_GCF_LOCAL", "1")
    with pytest.raises(NestedPoolError, match="put the call under 'if __name__ == \"__main__\":'"):
        async with local():
            pass


@pytest.mark.may_block  # it reads files
async def test_a_function_that_cannot_be_imported_says_why(tmp_path):
    (tmp_path / "broken_job.py").write_text("raise RuntimeError('broken from the start')")
    (tmp_path / "fine.py").write_text("def f(x): return x\nf.__module__ = 'broken_job'\n")
    sys.modules["fine"] = fine = load(tmp_path / "fine.py")
    async with GCFPool.local([tmp_path / "broken_job.py"], limit=1) as pool:
        with pytest.raises(
            CodecError, match="broken_job cannot be imported in the worker: RuntimeError: broken"
        ):
            await pool.run(fine.f, 1)


async def test_the_transport_asks_for_no_log():
    async with local(limit=1) as pool, Front(pool.url) as front:
        transport = await HTTPTransport.open(front.url, pool._headers, seconds=50)
        try:
            assert json.loads((await transport.invoke(b"{}", tail=True)).body)["refused"] == "malformed"
        finally:
            await transport.aclose()
    assert "log" not in front.seen[0]
