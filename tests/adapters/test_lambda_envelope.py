"""What a worker refuses: everything that its own client did not sign for it, for now, and only once."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar_lambda import envelope
from asyncpar_lambda.envelope import Blob, Head, Rules, Signer, Slot
from asyncpar_lambda.errors import CodecError, RefusedError

PRIVATE, PUBLIC = envelope.new_key()
RULES = Rules(PUBLIC, "job", "c0de")
SIGNER = Signer(PRIVATE)


def head(**changes):
    made = Head(
        job="job", code="c0de", run="r1", functions=("m:f",), first=0, count=1, expires=time.time() + 60
    )
    return dataclasses.replace(made, **changes)


def sealed(body=b"body", **changes):
    return json.loads(SIGNER.seal(head(**changes), body))


def refused(event, rules=RULES, **options):
    with pytest.raises(RefusedError) as caught:
        envelope.open_request(event, rules, **options)
    assert str(caught.value).startswith(f"{caught.value.reason}: ")
    return caught.value.reason, str(caught.value)


blobs = st.builds(Blob, url=st.text(), size=st.integers(0, 1000), sha256=st.text(), id=st.text())
heads = st.builds(
    Head,
    job=st.just("job"),
    code=st.just("c0de"),
    run=st.text(),
    functions=st.lists(st.text()).map(tuple),
    first=st.integers(),
    count=st.integers(),
    expires=st.just(4e9),
    budget=st.none() | st.floats(allow_nan=False),
    timeout=st.none() | st.floats(allow_nan=False),
    body=st.none() | blobs,
    constants=st.lists(blobs, max_size=3).map(tuple),
    answer_url=st.text(),
    slots=st.lists(st.builds(Slot, get=st.text(), put=st.text()), max_size=3).map(tuple),
    lost=st.lists(st.text(), max_size=2).map(tuple),
)


@given(heads, st.binary())
def test_a_request_arrives_as_it_was_sealed(made, body):
    got, content = envelope.open_request(json.loads(SIGNER.seal(made, body)), RULES)
    assert got == made
    assert content == (b"" if made.body is not None else body)


@given(st.data())
def test_a_request_that_was_changed_anywhere_is_refused(data):
    request = bytearray(SIGNER.seal(head(nonce="n", expires=4e9), b"some body"))
    place = data.draw(st.integers(0, len(request) - 1))
    request[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != request[place]))
    try:
        event = json.loads(request)
    except ValueError:
        return  # the runtime refuses it
    assert refused(event)[0] in ("forged", "malformed")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["asyncpar", "head", "body", "sig"]) | st.text(), inner)
    ),
)


@pytest.mark.parametrize("part", ["body", "sig"])
def test_there_is_one_way_to_write_a_request(part):
    event = sealed(b"1234")
    last = event[part].rstrip("=")[-1]
    event[part] = event[part].replace(last + "=", chr(ord(last) + 1) + "=")
    assert refused(event) == (
        "malformed",
        "malformed: the request is no base64: its last letter has bits that mean nothing",
    )


@given(anything)
def test_any_event_is_refused(event):
    refused(event)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({}, "this is no request of asyncpar"),
        ([], "this is no request of asyncpar"),
        ({"asyncpar": 2}, "the request has version 2, this worker speaks 1: deploy again"),
        ({"asyncpar": 1}, "lacks its head, body or signature"),
        ({"asyncpar": 1, "head": "{}", "body": "?", "sig": ""}, "no base64"),
        ({"asyncpar": 1, "head": {}, "body": "", "sig": ""}, "lacks its head"),
    ],
)
def test_what_is_no_request(event, words):
    reason, message = refused(event)
    assert reason == "malformed"
    assert words in message


def test_another_key_is_forged():
    other, _ = envelope.new_key()
    event = json.loads(Signer(other).seal(head(), b"body"))
    assert refused(event) == (
        "forged",
        "forged: the signature does not belong to the key that was deployed; deploy again if the key is new",
    )


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_signature_belongs_to_one_head_and_one_body(part):
    event = sealed()
    event[part] = sealed(b"other", count=2)[part]
    assert refused(event)[0] == "forged"


def test_head_and_body_are_kept_apart():
    """What is moved from the end of the one to the start of the other changes the signed bytes."""
    event = sealed(b'"}')
    moved = {**event, "head": event["head"] + '"}', "body": ""}
    assert refused(moved)[0] == "forged"


def test_an_expired_request():
    event = sealed(expires=1000.0)
    reason, message = refused(event, now=1000.0 + envelope.SKEW + 1)
    assert reason == "expired"
    assert "was good until 31 s ago" in message
    assert envelope.open_request(event, RULES, now=1000.0 + envelope.SKEW - 1)


def test_a_request_for_another_job_or_another_package():
    assert refused(sealed(job="other")) == (
        "wrong job",
        "wrong job: this is 'job', the request is for 'other'",
    )
    reason, message = refused(sealed(code="old"))
    assert reason == "wrong code"
    assert "was made for the package old, deployed is c0de: deploy, or open the pool again" in message


def test_a_replayed_request():
    assert refused(sealed(nonce="n1"), seen={"n1"})[0] == "replayed"


def test_every_request_has_a_nonce_of_its_own():
    assert head().nonce != head().nonce


def test_a_head_that_this_version_cannot_read():
    text = json.dumps({"job": "job"})
    signed = {
        "asyncpar": 1,
        "head": text,
        "body": "",
        "sig": base64.b64encode(SIGNER._key.sign(envelope._signed(text, b""))).decode(),
    }
    reason, message = refused(signed)
    assert reason == "malformed"
    assert "client and worker differ" in message


def test_an_object_that_is_too_large_is_not_fetched():
    large = Blob(url="", size=envelope.MAX_BODY + 1, sha256="")
    assert refused(sealed(body=b""[:0], constants=(large,)))[0] == "too large"


def test_a_fetched_object_must_be_the_one_that_was_signed():
    blob = Blob(url="", size=4, sha256=sha256(b"body").hexdigest())
    envelope.check_blob(blob, b"body")
    for other in (b"bodY", b"body2", b""):
        with pytest.raises(
            RefusedError, match=r"forged: an object in the store .* is not what the client put there"
        ):
            envelope.check_body(head(body=blob), other)


# Answers


def test_an_answer_arrives():
    assert envelope.open_answer(json.dumps(envelope.seal_answer(b"abc")).encode()) == b"abc"
    spilled = envelope.open_answer(json.dumps(envelope.seal_spilled(b"abc")).encode())
    assert spilled == envelope.Spilled(3, sha256(b"abc").hexdigest())


def test_a_refusal_is_raised_as_itself():
    answer = json.dumps(envelope.seal_refused(RefusedError("expired", "too late"))).encode()
    with pytest.raises(RefusedError, match=r"^expired: too late$") as caught:
        envelope.open_answer(answer)
    assert caught.value.reason == "expired"


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b'{"asyncpar":2}', b'{"asyncpar":1}', b'{"asyncpar":1,"body":"?"}', b'{"asyncpar":1,"body":3}',
     b'{"asyncpar":1,"spilled":{}}', b'{"asyncpar":1,"spilled":3}', b"\xff"],
)  # fmt: skip
def test_what_is_no_answer(data):
    with pytest.raises(CodecError):
        envelope.open_answer(data)


def test_an_answer_that_is_too_large_is_not_fetched():
    with pytest.raises(CodecError, match=r"an answer of 1,000 bytes is not fetched: at most 100 are"):
        envelope.open_answer(json.dumps(envelope.seal_spilled(b"x" * 1000)).encode(), max_bytes=100)


@given(st.binary())
def test_any_bytes_are_an_answer_or_refused(data):
    try:
        envelope.open_answer(data)
    except (CodecError, RefusedError):
        pass
