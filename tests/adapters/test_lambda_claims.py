"""A worker claims a call, runs it and keeps its outcome, whatever the object store answers."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

pytest.importorskip("msgpack", reason="needs the extra 'lambda'")

from asyncpar_lambda import envelope, objects, once
from asyncpar_lambda.local.http import HttpServer


def claim(delivery, until):
    return b"c" + json.dumps({"request": delivery, "token": "t", "until": until}).encode()


HEAD = envelope.Head(job="", code="", run="", functions=(), first=0, count=1, expires=0, lost=("dead",))


async def run_once(*replies, remaining=30.0):
    """What ``once.run_once`` makes of a store that answers so, how often the call ran, and what the store was asked."""
    left, seen, ran = iter(replies), [], []

    def handle(request):
        condition = request.headers.get("if-none-match") or request.headers.get("if-match")
        seen.append((request.method, condition, request.body[:1]))
        status, content = next(left)
        request.answer(status, content, {"ETag": f'"e{len(seen)}"'})

    server = HttpServer(handle)
    url = f"http://127.0.0.1:{await server.start()}/bucket/r"
    slot = envelope.Slot(get=url, put=url)

    def run():
        ran.append(1)
        return b"outcome"

    try:
        found = await asyncio.to_thread(once.run_once, HEAD, slot, "mine", lambda: remaining, run)
    finally:
        server.close()
        objects._connections.popitem()[1].close()
    assert next(left, None) is None
    return found, len(ran), seen


DONE = 200, b""
CROSSED = 409, b""
TAKEN = 412, b""


async def test_puts_that_cross_each_other_are_made_again():
    """S3 answers 409 to a conditional PUT while another one of the same key is under way."""
    found, ran, seen = await run_once(CROSSED, CROSSED, DONE, CROSSED, DONE)
    assert (found, ran) == ((b"outcome", False), 1)
    assert seen == [("PUT", "*", b"c")] * 3 + [("PUT", '"e3"', b"o")] * 2


@pytest.mark.parametrize(
    ("there", "counts"),
    [
        (b"otheirs", (b"theirs", True)),
        (claim("other", 4e9), None),  # while another runs it, there is none yet
        (b"ooutcome", (b"outcome", False)),  # our own: the answer to our PUT was lost, so it was made again
    ],
)
async def test_an_outcome_that_the_store_did_not_take_is_not_said_to_be_there(there, counts):
    found, ran, _ = await run_once(DONE, TAKEN, (200, there))
    assert (found, ran) == (counts, 1)


async def test_an_outcome_that_cannot_be_stored_in_time_still_goes_to_the_client():
    found, ran, seen = await run_once(DONE, (403, b"no"), remaining=0.5)
    assert (found, ran, len(seen)) == ((b"outcome", False), 1, 2)


async def test_a_claim_is_taken_over_from_a_delivery_that_ended():
    found, ran, seen = await run_once(TAKEN, (200, claim("dead", 4e9)), DONE, DONE)
    assert (found, ran) == ((b"outcome", False), 1)
    assert seen[2] == ("PUT", '"e2"', b"c")


async def test_a_claim_is_not_taken_over_from_another_delivery_of_the_same_request():
    found, ran, _ = await run_once(TAKEN, (200, claim("alive", 4e9)), remaining=0.5)
    assert (found, ran) == (None, 0)


def test_looks_at_a_claim_become_rarer_and_never_keep_step():
    one, other = (list(itertools.islice(once.pauses(), 12)) for _ in range(2))
    assert all(0.025 <= pause <= 0.05 for pause in (one[0], other[0]))
    assert all(1.0 <= pause <= 2.0 for pause in one[6:] + other[6:])
    assert one != other
