"""Our signatures are botocore's, byte for byte."""

from __future__ import annotations

import datetime as dt
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("botocore", reason="needs the extra 'lambda'")

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as TheirCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncpar_lambda.sigv4 import Credentials, Signer, stamp

NOW = 1_764_000_000.0
MOMENT = dt.datetime.fromtimestamp(NOW, dt.UTC)
TOKENS = st.none() | st.text("abcXYZ0189+/=", min_size=1, max_size=40)
NAMES = st.text("abcABC019-_", min_size=1, max_size=12)


def their(auth, credentials, request):
    """Have botocore sign at our moment."""
    with mock.patch("botocore.auth.get_current_datetime", return_value=MOMENT.replace(tzinfo=None)):
        auth.add_auth(request)
    return request


def both(access, secret, token):
    return Credentials(access, secret, token), TheirCredentials(access, secret, token)


@settings(max_examples=60, deadline=None)
@given(name=NAMES, alias=NAMES, payload=st.binary(max_size=200), token=TOKENS, port=st.none() | st.just(4566))
def test_an_invocation_is_signed_as_botocore_signs_it(name, alias, payload, token, port):
    ours, theirs = both("AKID", "a/secret+key", token)
    host = "lambda.eu-central-1.amazonaws.com" + (f":{port}" if port else "")
    path = f"/2015-03-31/functions/{name}%3A{alias}/invocations"
    extra = {"x-amz-log-type": "Tail", "x-amz-invocation-type": "RequestResponse"}
    request = AWSRequest("POST", f"https://{host}{path}", data=payload, headers=dict(extra))
    their(SigV4Auth(theirs, "lambda", "eu-central-1"), theirs, request)

    headers = Signer("lambda", "eu-central-1").headers(
        ours, "POST", host, path, payload, extra=extra, now=NOW
    )

    assert headers["authorization"] == request.headers["Authorization"]
    assert headers["x-amz-date"] == request.headers["X-Amz-Date"]
    assert headers.get("x-amz-security-token") == request.headers.get("X-Amz-Security-Token")


@settings(max_examples=40, deadline=None)
@given(key=st.lists(NAMES, min_size=1, max_size=3), payload=st.binary(max_size=50), token=TOKENS)
def test_a_request_to_s3_is_signed_as_botocore_signs_it(key, payload, token):
    ours, theirs = both("AKID", "secret", token)
    host, path = "bucket.s3.us-east-1.amazonaws.com", "/" + "/".join(key)
    request = AWSRequest("PUT", f"https://{host}{path}", data=payload)
    their(S3SigV4Auth(theirs, "s3", "us-east-1"), theirs, request)

    headers = Signer("s3", "us-east-1").headers(ours, "PUT", host, path, payload, now=NOW)

    assert headers["authorization"] == request.headers["Authorization"]
    assert headers["x-amz-content-sha256"] == request.headers["X-Amz-Content-SHA256"]


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT"]),
    key=NAMES,
    token=TOKENS,
    seconds=st.integers(1, 604_800),
    once=st.booleans(),
)
def test_a_presigned_url_is_botocores(method, key, token, seconds, once):
    ours, theirs = both("AKID", "secret", token)
    origin, extra = "https://bucket.s3.us-east-1.amazonaws.com", {"if-none-match": "*"} if once else {}
    request = AWSRequest(method, f"{origin}/jobs/{key}", headers=dict(extra))
    their(S3SigV4QueryAuth(theirs, "s3", "us-east-1", expires=seconds), theirs, request)

    url = Signer("s3", "us-east-1").presign(
        ours, method, origin, f"/jobs/{key}", seconds=seconds, extra=extra, now=NOW
    )

    assert parse_qs(urlsplit(url).query) == parse_qs(urlsplit(request.url).query)
    assert url.partition("?")[0] == request.url.partition("?")[0]


def test_the_key_follows_the_day_and_the_secret():
    signer = Signer("lambda", "us-east-1")
    fresh = Signer("lambda", "us-east-1")
    for secret, now in (("one", NOW), ("two", NOW), ("two", NOW + 86_400), ("one", NOW)):
        credentials = Credentials("AKID", secret)
        args = (credentials, "POST", "h", "/p", b"x")
        fresh._key = ("", "", b"")
        assert signer.headers(*args, now=now) == fresh.headers(*args, now=now)


def test_a_url_that_would_last_too_long_is_refused():
    with pytest.raises(ValueError, match="1 to 604800 seconds, not 604801"):
        Signer("s3", "us-east-1").presign(Credentials("a", "b"), "GET", "https://h", "/k", seconds=604_801)


def test_a_secret_is_not_shown():
    assert "secret" not in repr(Credentials("AKID", "secret", "token"))
    assert stamp(NOW) == "20251124T160000Z"
