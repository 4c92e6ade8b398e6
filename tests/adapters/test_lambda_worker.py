"""The worker: checks before it decodes, runs what is allowed, stops in time, and answers whatever happens."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from functools import partial
from hashlib import sha256

import pytest

from asyncpar.errors import CallTimeoutError
from asyncpar.testing import functions as f
from asyncpar_lambda import calls, codec, envelope, worker
from asyncpar_lambda.errors import CodecError, RefusedError
from asyncpar_lambda.naming import Allowed, Imported

PRIVATE, PUBLIC = envelope.new_key()
SIGNER = envelope.Signer(PRIVATE)
NAMES = Imported()
ALLOW = "asyncpar.testing.functions:*,builtins:pow,builtins:str.split"


workers: list[worker.Worker] = []


@pytest.fixture(autouse=True)
def closed():
    """The loops of the workers that a test made are closed."""
    yield
    while workers:
        workers.pop().close()


def made(**settings):
    """A worker, as its function's variables make it."""
    workers.append(_made(settings))
    return workers[-1]


def _made(settings):
    return worker.Worker(
        {
            "ASYNCPAR_JOB": "job",
            "ASYNCPAR_CODE": "c0de",
            "ASYNCPAR_PUBLIC_KEY": PUBLIC.hex(),
            "ASYNCPAR_ALLOW": ALLOW,
            **settings,
        }
    )


def event(function, items, *, pickle=None, star=False, **changes):
    functions = calls.Functions(NAMES, pickle)
    functions.add(function)
    return sealed(calls.dump_items(functions, items, star), functions.listed, len(items), **changes)


def sealed(content, listed, count, **changes):
    head = envelope.Head(
        job="job",
        code="c0de",
        run="r",
        functions=tuple(listed),
        first=0,
        count=count,
        expires=time.time() + 60,
    )
    return json.loads(SIGNER.seal(dataclasses.replace(head, **changes), content))


def ask(at, request, seconds=30.0):
    """The answer, as the client gets it."""
    end = time.monotonic() + seconds
    answer = at.handle(request, lambda: end - time.monotonic())
    return calls.load_answer(envelope.open_answer(json.dumps(answer).encode()), NAMES)


def values(answer):
    return [value for _, value in answer.outcomes]


# What it runs


def test_the_calls_of_a_map():
    answer = ask(made(), event(f.square, [1, 2, 3]))
    assert answer.outcomes == ((True, 1), (True, 4), (True, 9))
    assert (len(answer.seconds), answer.cold, answer.again) == (3, True, 0)
    assert answer.memory > 1 << 20
    assert answer.total >= sum(answer.seconds)


def test_partials_methods_argument_tuples_and_coroutines():
    assert values(ask(made(), event(partial(f.add, 1), [2, 3]))) == [3, 4]
    assert values(ask(made(), event("a-b".split, ["-"]))) == [["a", "b"]]
    assert values(ask(made(), event(f.add, [(1, 2), (3, 4)], star=True))) == [3, 7]
    assert values(ask(made(), event(f.square_async, [3, 4]))) == [9, 16]


def test_single_calls_have_functions_of_their_own():
    functions = calls.Functions(NAMES)
    square, power = functions.add(f.square), functions.add(partial(pow, mod=5))
    body = calls.dump_singles(
        functions, [(square, [3], {}), (power, [2, 10], {}), (power, [2, 10], {"mod": 7})]
    )
    assert values(ask(made(), sealed(body, functions.listed, 3))) == [9, 4, 2]


def test_an_environment_is_cold_once():
    at = made()
    first, second = (ask(at, event(f.square, [1])) for _ in range(2))
    assert (first.cold, second.cold) == (True, False)
    assert first.environment == second.environment


def test_errors_are_the_callers_own():
    answer = ask(made(), event(f.fail_because, ["k"]))
    [(ok, error)] = answer.outcomes
    assert not ok
    assert (type(error), error.code, error.reason) == (f.ContractError, 7, "it was missing")
    assert isinstance(error.__cause__, KeyError)
    assert f"Traceback in environment {answer.environment}:" in error.__notes__[0]
    assert "in fail_because" in error.__notes__[0]
    assert "worker.py" not in error.__notes__[0]


def test_what_would_end_the_worker_is_an_error_of_its_call():
    answer = ask(made(), event(f.call_it, [f.leave_program, f.stop_iteration]))
    assert [type(v) for v in values(answer)] == [RuntimeError, StopIteration]
    assert "raised SystemExit: 3" in str(values(answer)[0])


def test_a_result_that_is_no_plain_data_fails_alone():
    answer = ask(made(ASYNCPAR_ALLOW=f"{ALLOW},builtins:iter"), event(iter, [[1], [2]]))
    assert [ok for ok, _ in answer.outcomes] == [False, False]
    assert "the result cannot be sent back" in str(values(answer)[0])


def test_by_value_where_the_deployment_allows_it():
    import cloudpickle

    offset = 5
    at = made(ASYNCPAR_FUNCTIONS="by_value")
    assert values(ask(at, event(lambda x: x + offset, [1, 2], pickle=cloudpickle.dumps))) == [6, 7]


# Time


def test_the_budget_ends_a_chunk_early():
    answer = ask(made(), event(f.nap, [0.02] * 50, budget=0.1))
    assert 1 <= len(answer.outcomes) < 50


def test_the_first_call_runs_on_any_budget():
    assert len(ask(made(), event(f.nap, [0.01] * 5, budget=0.0)).outcomes) == 1


def test_near_the_functions_timeout_it_answers_with_what_is_done(tmp_path):
    """In time that each call takes a tenth of a second of."""
    path = str(tmp_path / "marks")
    answer = made().handle(event(f.mark, [path] * 100), lambda: 1.5 - 0.1 * len(f.lines(path)))
    answer = calls.load_answer(envelope.open_answer(json.dumps(answer).encode()), NAMES)
    assert 5 <= len(answer.outcomes) < 15
    assert all(ok for ok, _ in answer.outcomes)


@pytest.mark.parametrize("function", [f.nap, "spin", "asleep"])
def test_a_call_that_runs_longer_than_its_timeout_is_stopped(function, tmp_path, monkeypatch):
    if isinstance(function, str):
        (tmp_path / "lambda_slow.py").write_text(
            "import asyncio\ndef spin(x):\n    while True: pass\nasync def asleep(x): await asyncio.sleep(60)\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        import lambda_slow

        function = getattr(lambda_slow, function)
    at = made(ASYNCPAR_ALLOW=f"{ALLOW},lambda_slow:*")
    [error, again] = values(ask(at, event(function, [30, 30], timeout=0.05)))
    assert isinstance(error, CallTimeoutError)
    assert isinstance(again, CallTimeoutError)
    assert "ran longer than timeout=0.05 seconds" in str(error)
    sys.modules.pop("lambda_slow", None)


def test_a_call_is_stopped_before_lambda_would_kill_it():
    answer = ask(made(), event(f.nap, [30]), seconds=1.0)
    [error] = values(answer)
    assert isinstance(error, CallTimeoutError)
    assert "at the timeout of the function: deploy with a longer timeout=" in str(error)


def test_a_timeout_of_the_users_own_is_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "lambda_own.py").write_text(
        "import asyncio\nasync def own(x):\n    raise TimeoutError('mine')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import lambda_own

    [error] = values(ask(made(ASYNCPAR_ALLOW="lambda_own:own"), event(lambda_own.own, [1], timeout=25)))
    assert (type(error), str(error)) == (TimeoutError, "mine")
    sys.modules.pop("lambda_own", None)


# What it refuses


@pytest.fixture
def marked(tmp_path):
    """A file that a call would write to, and a check that none did."""
    path = tmp_path / "ran"
    yield str(path)
    assert not path.exists(), "something was executed"


def refused(at, request):
    answer = at.handle(request, lambda: 30.0)
    with pytest.raises(RefusedError) as caught:
        envelope.open_answer(json.dumps(answer).encode())
    return caught.value.reason


def test_nothing_of_a_refused_request_is_run_or_decoded(marked, monkeypatch):
    """Forged, expired, for another job, for other code: the codec is never asked."""
    good = partial(event, f.mark, [marked])
    monkeypatch.setattr(codec, "loads", None)
    other = envelope.Signer(envelope.new_key()[0])
    request = good()
    forged = {
        **request,
        "sig": json.loads(
            other.seal(
                envelope.Head(job="job", code="c0de", run="r", functions=(), first=0, count=0, expires=4e9),
                b"",
            )
        )["sig"],
    }
    requests = [
        (forged, "forged"),
        ({**request, "body": request["body"][:-4] + "AAAA"}, "forged"),
        (good(expires=time.time() - 100), "expired"),
        (good(job="other"), "wrong job"),
        (good(code="old"), "wrong code"),
        ({**request, "asyncpar": 9}, "malformed"),
        ({**request, "head": None}, "malformed"),
        ("text", "malformed"),
        (good(constants=(envelope.Blob(url="", size=1 << 40, sha256=""),)), "too large"),
        (good(body=envelope.Blob(url="", size=1 << 40, sha256="")), "too large"),
    ]
    for request, reason in requests:
        assert refused(made(), request) == reason


def test_a_replayed_request_is_not_run_again(tmp_path):
    path = str(tmp_path / "ran")
    at, request = made(), event(f.mark, [path])
    assert values(ask(at, request)) == [1]
    assert refused(at, request) == "replayed"
    assert f.lines(path) == ["x"]


def test_nonces_are_forgotten_when_their_requests_have_expired(monkeypatch):
    at, now = made(), time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    for number in range(3):
        ask(at, event(f.square, [1], nonce=str(number), expires=now - envelope.SKEW + 0.05))
        now += 0.06
    assert len(at.seen) == 1


def test_a_function_that_is_not_on_the_list(marked):
    at = made(ASYNCPAR_ALLOW="builtins:pow")
    assert refused(at, event(f.mark, [marked])) == "not allowed"


def test_a_function_among_the_arguments_must_be_on_the_list_too(marked):
    at = made(ASYNCPAR_ALLOW="asyncpar.testing.functions:call_it")
    assert refused(at, event(f.call_it, [f.stop_iteration])) == "not allowed"
    functions = calls.Functions(NAMES)
    functions.add(partial(f.call_it, f.mark))
    assert (
        refused(at, sealed(calls.dump_items(functions, [marked], False), functions.listed, 1))
        == "not allowed"
    )


class Marks:
    """Writes the file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return f.mark, (self.path,)


def test_pickles_are_refused_unless_the_deployment_takes_them(marked):
    import pickle

    at = made()
    assert refused(at, event(f.square, [1], pickle=pickle.dumps)) == "not allowed"
    functions = calls.Functions(NAMES)
    functions.add(f.echo)
    body = codec.dumps(["map", functions.bound, [Marks(marked)]], pickle=pickle.dumps)
    [error] = values(ask(at, sealed(body, functions.listed, 1)))
    assert isinstance(error, CodecError)
    assert "pickled data were refused" in str(error)


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x90", codec.dumps(["map", [], []]), codec.dumps(["map", [[None, [], {}]], [1, 2, 3]]), codec.dumps(None),
     codec.dumps(["singles", [[None, [], {}]], [[7, [], {}]]]), codec.dumps(["map", [[None, 3, 4]], [1]]), codec.dumps(["map", [[None, [], {}]], 5])],
)  # fmt: skip
def test_a_signed_body_that_makes_no_sense_is_an_error_of_its_calls(body):
    [error] = values(ask(made(), sealed(body, ["asyncpar.testing.functions:square"], 1)))
    assert isinstance(error, CodecError)


def test_an_object_store_must_be_https():
    blob = envelope.Blob(
        url="http://169.254.169.254/latest/meta-data", size=10, sha256=sha256(b"x").hexdigest()
    )
    answer = made().handle(event(f.square, [1], body=blob), lambda: 30.0)
    with pytest.raises(RefusedError, match="unavailable: a URL of the object store must be https"):
        envelope.open_answer(json.dumps(answer).encode())


def test_results_too_large_for_an_answer_need_a_place():
    at = made(ASYNCPAR_ALLOW="builtins:bytes")
    [error] = values(ask(at, event(bytes, [6_000_000])))
    assert "the results are 6,000,0" in str(error)
    assert "open the pool with a bucket" in str(error)


# What it imports

HEAVY = {
    "anyio", "asyncio", "boto3", "botocore", "concurrent", "email", "http", "importlib.metadata", "multiprocessing", "numpy",
    "pathlib", "pickle", "ssl", "subprocess", "tempfile", "unittest", "urllib.request", "uvloop",
}  # fmt: skip
"""What takes more than a moment to import, or has no business there before a call needs it."""


def test_the_worker_imports_almost_nothing():
    program = "import sys, asyncpar_lambda.worker; print(*sys.modules)"
    path = ":".join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": path},
    )
    found = set(done.stdout.split())
    assert not {name for name in found if name in HEAVY or name.split(".")[0] in HEAVY}
    ours = {name for name in found if name.split(".")[0] in ("asyncpar", "asyncpar_lambda")}
    assert ours == {
        "asyncpar", "asyncpar.chunks", "asyncpar.errors", "asyncpar_lambda", "asyncpar_lambda.calls", "asyncpar_lambda.codec",
        "asyncpar_lambda.envelope", "asyncpar_lambda.errors", "asyncpar_lambda.exceptions", "asyncpar_lambda.naming", "asyncpar_lambda.worker",
    }  # fmt: skip


@pytest.mark.parametrize(
    "raised", ["KeyError('NO_SUCH_VARIABLE')", "ValueError('no')", "ImportError('gone')"]
)
def test_a_module_that_cannot_be_imported_is_the_calls_error(tmp_path, monkeypatch, raised):
    """Nothing has run, so it must not look like a worker that was lost."""
    (tmp_path / "lambda_raises.py").write_text(f"raise {raised}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CodecError, match="lambda_raises cannot be imported in the worker: ") as caught:
        Allowed(["lambda_raises:*"]).find("lambda_raises:f", "function")
    assert raised.partition("(")[0] in str(caught.value)
