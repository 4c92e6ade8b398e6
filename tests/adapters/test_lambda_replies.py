"""What Lambda's replies mean for the calls that were sent."""

from __future__ import annotations

import base64
import json

import pytest

pytest.importorskip("msgpack", reason="needs the extra 'lambda'")

from asyncpar_lambda.replies import judge, printed
from asyncpar_lambda.transport import Reply

LOG = (
    b"START RequestId: 1 Version: 7\nhello\n\nworld\nEND RequestId: 1\n"
    b"REPORT RequestId: 1\tDuration: 1.0 ms\tBilled Duration: 2 ms\n"
)


def refusal(status, kind, body=None, **headers):
    content = json.dumps({"message": "why", **(body or {})}).encode()
    return judge(Reply(status, {"x-amzn-errortype": kind, **headers}, content))


def failed(kind, message="it ended"):
    body = json.dumps({"errorType": kind, "errorMessage": message}).encode()
    log = base64.b64encode(LOG).decode()
    headers = {"x-amz-function-error": "Unhandled", "x-amz-log-result": log, "x-amzn-requestid": "id-1"}
    return judge(Reply(200, headers, body))


def test_an_answer_comes_with_its_log():
    verdict = judge(Reply(200, {"x-amz-log-result": base64.b64encode(LOG).decode()}, b"{}"))
    assert verdict.kind == "answer"
    assert printed(verdict.log) == "hello\nworld"


def test_a_throttle_has_lambdas_reason_and_wish():
    verdict = refusal(
        429, "TooManyRequestsException", {"Reason": "CallerRateLimitExceeded", "retryAfterSeconds": "2"}
    )
    assert (verdict.kind, verdict.reason, verdict.wish) == ("throttled", "CallerRateLimitExceeded", 2.0)
    verdict = refusal(429, "TooManyRequestsException", **{"retry-after": "7"})
    assert (verdict.reason, verdict.wish) == ("TooManyRequestsException", 7.0)
    assert refusal(429, "TooManyRequestsException", **{"retry-after": "soon"}).wish is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (502, "EC2ThrottledException"),
        (502, "ENILimitReachedException:http://internal.amazon.com/"),
        (409, "SnapStartNotReadyException"),
        (403, "ExpiredTokenException"),
    ],
)
def test_what_did_not_start_may_be_sent_again(status, kind):
    assert refusal(status, kind).kind == "again"


def test_a_failure_of_the_service_may_have_run():
    verdict = refusal(500, "ServiceException")
    assert (verdict.kind, verdict.ended) == ("lost", "")
    assert verdict.reason == "Lambda failed with 500 ServiceException: why"


@pytest.mark.parametrize("kind", ["Runtime.ExitError", "Sandbox.Timedout", "Runtime.OutOfMemory", ""])
def test_an_environment_that_ended_runs_no_more(kind):
    verdict = failed(kind)
    assert (verdict.kind, verdict.ended) == ("lost", "id-1")
    assert "it ended" in verdict.reason
    assert printed(verdict.log) == "hello\nworld"


def test_a_package_that_cannot_start_says_what_to_do():
    verdict = failed("Runtime.ImportModuleError", "No module named 'x'")
    assert verdict.kind == "refused"
    assert verdict.reason == (
        "Runtime.ImportModuleError: No module named 'x'; the package lacks something: deploy again with what is missing"
    )


def test_what_is_refused_says_what_to_do():
    assert refusal(404, "ResourceNotFoundException").reason == (
        "404 ResourceNotFoundException: why; deploy it with 'asyncpar lambda deploy', or look at region= and the name"
    )
    assert "these credentials may not invoke it" in refusal(403, "AccessDeniedException").reason
    assert refusal(413, "RequestTooLargeException").kind == "refused"


def test_nonsense_is_judged_by_its_status():
    assert judge(Reply(503, {}, b"<html>")).kind == "lost"
    assert judge(Reply(400, {}, b"[]")).kind == "refused"
    assert judge(Reply(200, {"x-amz-log-result": "?"}, b"")).log == b""
