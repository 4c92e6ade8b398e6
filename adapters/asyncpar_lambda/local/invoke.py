"""Lambda's Invoke: what AWS answers, and the faults that are injected on the way."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from asyncpar_lambda.local.environment import Invocation, Outcome
from asyncpar_lambda.local.faults import Dice
from asyncpar_lambda.local.functions import Edition, Lambda, ThrottledError
from asyncpar_lambda.local.http import Request

LIMITS = {"RequestResponse": 6 * 1024 * 1024, "Event": 1024 * 1024, "DryRun": 6 * 1024 * 1024}
"""The largest payload of each kind, in bytes."""
EVENT_ATTEMPTS = 3
MAX_TAIL = 4096
LATEST_KILL = 0.5
"""Seconds into an invocation at which its environment is killed at the latest, where that is asked for."""
REASONS = (
    "ConcurrentInvocationLimitExceeded",
    "CallerRateLimitExceeded",
    "FunctionInvocationRateLimitExceeded",
)


def fail(request: Request, status: int, kind: str, message: str, **more: Any) -> None:
    """An error of AWS's REST APIs."""
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": kind, "x-amzn-RequestId": str(uuid4())}
    if "retryAfterSeconds" in more:
        headers["Retry-After"] = str(more.pop("retryAfterSeconds"))
    side = "User" if status < 500 else "Service"
    body = {"Type": side, "message": message, "Message": message, **more}
    request.answer(status, json.dumps(body).encode(), headers)


class Invoker:
    """Takes Invoke requests.

    :param event_seconds: between the attempts of an asynchronous invocation that fails; AWS waits minutes
    """

    def __init__(self, account: Lambda, dice: Dice, event_seconds: float) -> None:
        self.account, self.dice, self.event_seconds = account, dice, event_seconds
        self.counts = {"invocations": 0, "throttled": 0, "function_errors": 0}

    def invoke(self, request: Request, name: str) -> None:
        """One Invoke, of whatever type."""
        function = self.account.find(name)
        qualifier = request.query.get("Qualifier", "") or qualifier_of(name)
        edition = function.edition(qualifier) if function is not None else None
        if edition is None:
            fail(request, 404, "ResourceNotFoundException", f"Function not found: {name} {qualifier}".strip())
            return
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if not _well_formed(request, kind):
            return
        if kind == "DryRun":
            request.answer(204)
        elif kind == "Event":
            request.answer(202, b"", {"x-amzn-RequestId": str(uuid4())})
            self.run_event(edition, request.body, EVENT_ATTEMPTS)
        else:
            self.invoke_now(request, edition)

    def invoke_now(self, request: Request, edition: Edition) -> None:
        """A synchronous invocation, and what may go wrong with it."""
        dice = self.dice
        if dice.roll("throttles"):
            self.throttle(request, ThrottledError(dice.either(*REASONS)))
            return
        if dice.roll("errors"):
            fail(request, 500, "ServiceException", "An internal error occurred (injected)")
            return
        lost = dice.roll("lost")
        before = lost and dice.either(True, False)
        if before:
            request.hang_up()
            return
        try:
            edition.function.admit(edition)
        except ThrottledError as error:
            self.throttle(request, error)
            return
        self.start(request, edition, hang_up=lost)

    def start(self, request: Request, edition: Edition, *, hang_up: bool) -> None:
        """Run it, and answer when it has ended."""
        tail = request.headers.get("x-amz-log-type") == "Tail"
        context = request.headers.get("x-amz-client-context", "")
        loop = asyncio.get_running_loop()

        def done(invocation: Invocation, outcome: Outcome) -> None:
            self.counts["function_errors"] += outcome.error
            if hang_up:
                request.hang_up()
            elif self.dice.faults.latency:
                loop.call_later(self.dice.faults.latency, answer, request, invocation, outcome, tail)
            else:
                answer(request, invocation, outcome, tail)

        self.run(edition, request.body, done, base64.b64decode(context).decode() if context else "")
        if self.dice.roll("duplicates"):
            try:
                edition.function.admit(edition)
            except ThrottledError:
                return
            self.run(edition, request.body, lambda *_: None)

    def run(
        self,
        edition: Edition,
        payload: bytes,
        done: Callable[[Invocation, Outcome], None],
        context: str = "",
    ) -> None:
        """Start an invocation that was admitted; perhaps its environment dies."""
        self.counts["invocations"] += 1
        invocation = Invocation(payload or b"{}", done, context)
        invocation.doomed = self.dice.roll("kills")
        edition.run(invocation)
        if invocation.doomed:
            delay = self.dice.random.uniform(0, LATEST_KILL)
            asyncio.get_running_loop().call_later(delay, strike, edition, invocation)

    def run_event(self, edition: Edition, payload: bytes, attempts: int) -> None:
        """An asynchronous invocation: tried again when it fails, or is throttled."""

        def again() -> None:
            delay = self.event_seconds * 2 ** (EVENT_ATTEMPTS - attempts)
            asyncio.get_running_loop().call_later(delay, self.run_event, edition, payload, attempts - 1)

        def done(_: Invocation, outcome: Outcome) -> None:
            if outcome.error and attempts > 1:
                again()

        try:
            edition.function.admit(edition)
        except ThrottledError:  # it stays in Lambda's queue, which is patient for hours
            asyncio.get_running_loop().call_later(0.05, self.run_event, edition, payload, attempts)
            return
        self.run(edition, payload, done)

    def throttle(self, request: Request, error: ThrottledError) -> None:
        """A 429 with its Reason."""
        self.counts["throttled"] += 1
        more = {"retryAfterSeconds": max(1, round(error.retry_after))} if error.retry_after else {}
        fail(request, 429, "TooManyRequestsException", "Rate Exceeded.", Reason=error.reason, **more)


def answer(request: Request, invocation: Invocation, outcome: Outcome, tail: bool) -> None:
    """The response of a synchronous invocation."""
    assert outcome.environment is not None
    headers = {
        "Content-Type": outcome.content_type,
        "x-amzn-RequestId": invocation.id,
        "X-Amz-Executed-Version": outcome.environment.settings.version,
        "X-Amzn-Trace-Id": f"Root=1-00000000-{invocation.id.replace('-', '')[:24]};Sampled=0",
    }
    if outcome.error:
        headers["X-Amz-Function-Error"] = "Unhandled"
    if tail:
        headers["X-Amz-Log-Result"] = base64.b64encode(outcome.report[-MAX_TAIL:]).decode()
    request.answer(200, outcome.body, headers)


def strike(edition: Edition, invocation: Invocation) -> None:
    """Kill the environment that runs this, if one does by now."""
    for environment in edition.environments:
        if environment.current is invocation:
            environment.kill("fault")


def qualifier_of(name: str) -> str:
    """Of ``name:qualifier``, or of such an ARN."""
    return name.rsplit(":", 1)[-1] if name.count(":") in (1, 7) else ""


def _well_formed(request: Request, kind: str) -> bool:
    """Refuse what AWS refuses before anything runs."""
    size = len(request.body)
    if kind not in LIMITS:
        fail(request, 400, "InvalidParameterValueException", f"unknown invocation type {kind!r}")
    elif size > LIMITS[kind]:
        message = (
            f"{size} byte payload is too large for the {kind} invocation type (limit {LIMITS[kind]} bytes)"
        )
        fail(request, 413, "RequestTooLargeException", message)
    elif not _is_json(request.body):
        fail(request, 400, "InvalidRequestContentException", "Could not parse request body into json")
    else:
        return True
    return False


def _is_json(data: bytes) -> bool:
    if not data:
        return True
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
