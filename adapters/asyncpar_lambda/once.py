"""``exactly_once``, on the worker's side: each call has an object in the store that is first a claim, then the outcome.

To claim is a PUT that succeeds for one worker only (``If-None-Match: *``). Who comes later waits for the outcome and
answers with it. A claim is void when Lambda must have stopped the worker that made it: after that worker's deadline, or
when the client knows that its request ended. Whoever then takes over does so conditionally too (``If-Match``).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from asyncpar_lambda import objects
from asyncpar_lambda.envelope import MAX_BODY, SKEW, Head, Slot

CLAIM, OUTCOME = b"c", b"o"
POLL = 0.05


def run_once(
    head: Head, slot: Slot, remaining: Callable[[], float], run: Callable[[], bytes]
) -> tuple[bytes, bool] | None:
    """The encoded outcome, and whether it was there already. ``None``: another worker runs this call.

    :param remaining: seconds until Lambda stops this worker
    :param run: makes the outcome
    :raises StoreError: the object store does not answer
    """
    token = os.urandom(8).hex()
    condition = {"If-None-Match": "*"}
    while True:
        claim = {"nonce": head.nonce, "token": token, "until": time.time() + remaining()}
        status, etag = objects.put(slot.put, CLAIM + json.dumps(claim).encode(), condition)
        if status == 409:  # somebody else's PUT is under way: ask again who has won
            time.sleep(POLL)
            continue
        if status != 200:
            found, etag = objects.get(slot.get, MAX_BODY)
            if found[:1] == OUTCOME:
                return found[1:], True
            standing = json.loads(found[1:])
            if standing["token"] != token:  # else it is ours, and the answer to our PUT was lost
                condition = {"If-Match": etag} if void(head, standing) else {"If-None-Match": "*"}
                if remaining() < 1.0:
                    return None
                time.sleep(POLL)
                continue
        outcome = run()
        objects.put(slot.put, OUTCOME + outcome, {"If-Match": etag})
        return outcome, False


def void(head: Head, claim: dict[str, Any]) -> bool:
    """Whether the worker that made this claim runs no more."""
    return claim["nonce"] in head.lost or claim["until"] + SKEW < time.time()
