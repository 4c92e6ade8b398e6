"""What a reply of Lambda means for the calls that were sent: whether they ran, and what to do. No I/O."""

from __future__ import annotations

import binascii
import json
from dataclasses import dataclass
from typing import Any, Literal

from asyncpar_lambda.transport import Reply

NOT_STARTED = frozenset(
    (
        "EC2AccessDeniedException", "EC2ThrottledException", "EC2UnexpectedException", "EFSIOException",
        "EFSMountConnectivityException", "EFSMountFailureException", "EFSMountTimeoutException",
        "ENILimitReachedException", "ResourceConflictException", "ResourceNotReadyException", "SnapStartException",
        "SnapStartNotReadyException", "SnapStartTimeoutException", "SubnetIPAddressLimitReachedException",
    )
)  # fmt: skip
"""Errors of the service which mean that the function has not run, and may later."""
CREDENTIALS = frozenset(("ExpiredTokenException", "RequestExpired", "InvalidSignatureException"))
NEVER_WORKS = (
    "Runtime.ImportModuleError", "Runtime.HandlerNotFound", "Runtime.UserCodeSyntaxError",
    "Runtime.MalformedHandlerName", "Runtime.InvalidEntrypoint", "Runtime.InvalidWorkingDir",
)  # fmt: skip
"""The function cannot start at all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a reply means.

    :ivar kind: ``"answer"``: the worker answered; ``"throttled"``; ``"again"``: nothing ran, and may later;
        ``"refused"``: nothing ran, nor will it; ``"lost"``: calls may have run, and their outcomes are lost
    :ivar reason: for a message, or Lambda's reason of a throttle
    :ivar wish: seconds after which Lambda wants to be asked again
    :ivar ended: of what is lost: Lambda's id of this delivery, if it certainly runs no more
    :ivar log: the end of the invocation's log
    """

    kind: Literal["answer", "throttled", "again", "refused", "lost"]
    reason: str = ""
    wish: float | None = None
    ended: str = ""
    log: bytes = b""


def judge(reply: Reply) -> Verdict:
    """The meaning of a reply to a synchronous invocation."""
    if reply.status == 200:
        log = tail(reply)
        if "x-amz-function-error" in reply.headers:
            return _function_error(_json(reply.body), log, reply.headers.get("x-amzn-requestid", ""))
        return Verdict("answer", log=log)
    said = _json(reply.body)
    kind = reply.headers.get("x-amzn-errortype", "").partition(":")[0] or str(said.get("Type", ""))
    message = str(said.get("message") or said.get("Message") or "")
    if reply.status == 429:
        return Verdict("throttled", str(said.get("Reason") or kind), _seconds(reply, said))
    if kind in NOT_STARTED or kind in CREDENTIALS:
        return Verdict("again", f"{kind}: {message}")
    if reply.status >= 500:
        return Verdict("lost", f"Lambda failed with {reply.status} {kind}: {message}")
    return Verdict("refused", f"{reply.status} {kind}: {message}{_advice(reply.status, kind)}")


def tail(reply: Reply) -> bytes:
    """The end of the log, at most 4 KiB."""
    try:
        return binascii.a2b_base64(reply.headers.get("x-amz-log-result", ""))
    except binascii.Error:
        return b""


def printed(log: bytes) -> str:
    """What the function itself wrote into its log, without the service's lines."""
    lines = log.decode("utf-8", "replace").splitlines()
    own = ("START RequestId:", "END RequestId:", "REPORT RequestId:", "INIT_START ", "XRAY TraceId:")
    return "\n".join(line for line in lines if line.strip() and not line.startswith(own))


def _function_error(said: dict[str, Any], log: bytes, delivery: str) -> Verdict:
    kind, message = str(said.get("errorType", "")), str(said.get("errorMessage", ""))
    if kind in NEVER_WORKS:
        advice = "the package lacks something: deploy again with what is missing"
        return Verdict("refused", f"{kind}: {message}; {advice}", log=log)
    return Verdict("lost", f"{kind or 'its environment ended'}: {message}", ended=delivery, log=log)


def _advice(status: int, kind: str) -> str:
    if status == 404:
        return "; deploy it with 'asyncpar lambda deploy', or look at region= and the name"
    if status == 403 or "AccessDenied" in kind:
        return "; these credentials may not invoke it: see the policy that 'asyncpar lambda deploy' prints"
    return ""


def _seconds(reply: Reply, said: dict[str, Any]) -> float | None:
    wish = reply.headers.get("retry-after") or said.get("retryAfterSeconds")
    try:
        return None if wish is None else float(wish)
    except (TypeError, ValueError):
        return None


def _json(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
