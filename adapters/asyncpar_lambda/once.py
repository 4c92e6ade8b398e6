"""``exactly_once``, on the worker's side: each call has an object in the store that is first a claim, then the outcome.

To claim is a PUT that succeeds for one worker only (``If-None-Match: *``). Who comes later waits for the outcome and
answers with it. A claim is void when Lambda must have stopped the worker that made it: after that worker's deadline, or
when the client knows that it ended. Whoever then takes over does so conditionally too (``If-Match``).

A claim names the *delivery* it was made in, by Lambda's request id, and not the request: a request may be delivered
twice, and that one delivery has died says nothing of the other.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from asyncpar_lambda import objects
from asyncpar_lambda.envelope import MAX_BODY, SKEW, Head, Slot
from asyncpar_lambda.errors import StoreError

CLAIM, OUTCOME = b"c", b"o"
MOST_PAUSE = 2.0
"""Seconds; the longest pause before a claim is looked at again."""
WAIT_SECONDS = 15.0
"""How long another worker's outcome is waited for, which is paid for; then the client asks again later."""
LAST_SECONDS = 1.0
"""So long before the deadline nothing more is waited for."""

Remaining = Callable[[], float]


def run_once(
    head: Head, slot: Slot, delivery: str, remaining: Remaining, run: Callable[[], bytes]
) -> tuple[bytes, bool] | None:
    """The encoded outcome, and whether it was there already. ``None``: another worker runs this call.

    :param delivery: Lambda's id of the invocation that asks
    :param remaining: seconds until Lambda stops this worker
    :param run: makes the outcome
    :raises StoreError: the object store does not answer; the call was not run
    """
    token = os.urandom(8).hex()
    condition = {"If-None-Match": "*"}
    give_up = remaining() - WAIT_SECONDS
    for pause in pauses():
        claim = {"request": delivery, "token": token, "until": time.time() + remaining()}
        status, etag = objects.put(slot.put, CLAIM + json.dumps(claim).encode(), condition, head.owner)
        if status == 412:
            found, etag = objects.get(slot.get, MAX_BODY, head.owner)
            if found[:1] == OUTCOME:
                return found[1:], True
            standing = json.loads(found[1:])
            if standing["token"] == token:  # it is ours, and the answer to our PUT was lost
                status = 200
            else:
                condition = {"If-Match": etag} if void(head, standing) else {"If-None-Match": "*"}
        if status == 200:
            return keep(head, slot, etag, run(), remaining)
        if remaining() < max(LAST_SECONDS, give_up):  # a 409 too: somebody else's PUT is under way
            return None
        rest(pause, remaining)
    raise AssertionError


def keep(
    head: Head, slot: Slot, etag: str, outcome: bytes, remaining: Remaining
) -> tuple[bytes, bool] | None:
    """Put the outcome where the claim was, and return the one that counts. ``None``: the claim was taken over.

    :param etag: of the claim
    """
    give_up = remaining() - WAIT_SECONDS
    for pause in pauses():
        try:
            status, _ = objects.put(slot.put, OUTCOME + outcome, {"If-Match": etag}, head.owner)
            if status == 412:  # not our claim any more: the answer to our PUT was lost, or somebody took over
                found, _ = objects.get(slot.get, MAX_BODY, head.owner)
                return (found[1:], found[1:] != outcome) if found[:1] == OUTCOME else None
        except StoreError:
            status = 0
        if status == 200:
            return outcome, False
        if remaining() < max(LAST_SECONDS, give_up):
            return (
                outcome,
                False,
            )  # it did run, and the client gets what came out; the claim keeps others away
        rest(pause, remaining)
    raise AssertionError


def void(head: Head, claim: dict[str, Any]) -> bool:
    """Whether the worker that made this claim runs no more."""
    return claim["request"] in head.lost or claim["until"] + SKEW < time.time()


def rest(pause: float, remaining: Remaining) -> None:
    """Sleep, but not into the last second: Lambda would stop the worker in its sleep, and with it what it has done."""
    time.sleep(max(0.0, min(pause, remaining() - LAST_SECONDS + 0.01)))


def pauses() -> Iterator[float]:
    """Seconds to wait between looks: longer each time, and never the same for two workers."""
    for attempt in itertools.count():
        yield random.uniform(0.5, 1.0) * min(MOST_PAUSE, 0.05 * 2 ** min(attempt, 10))
