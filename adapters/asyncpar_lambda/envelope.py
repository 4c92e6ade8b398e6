"""What travels between client and worker, signed. No I/O.

A request has a *head* (JSON: who may run what, until when, and where large parts lie) and a *body* (the calls, by
``codec``). One Ed25519 signature covers both. The worker checks it, then what the head claims, and only then decodes
the body: whatever is refused was never decoded, and nothing of it ran.

On the wire, because Lambda's runtime reads events as JSON:
``{"asyncpar": 1, "head": "<json>", "body": "<base64>", "sig": "<base64>"}``, where ``body`` is empty if the head says
under which URL the calls lie, with their SHA-256. The answer is ``{"asyncpar": 1, "body": "<base64>"}``,
``{"asyncpar": 1, "spilled": {"size": ..., "sha256": ...}}`` or ``{"asyncpar": 1, "refused": ..., "message": ...}``.
"""

from __future__ import annotations

import binascii
import json
import os
import struct
import time
from collections.abc import Container
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from asyncpar_lambda.errors import CodecError, RefusedError

VERSION = 1
MAX_INLINE = 5_500_000
"""Bytes of JSON from which a request or an answer goes through the object store; Lambda's own limit is 6 MiB."""
MAX_BODY = 256 << 20
"""The largest body that is fetched or decoded, in bytes."""
SKEW = 30.0
"""Seconds by which the clocks of client and worker may differ."""


# -- keys


def new_key() -> tuple[bytes, bytes]:
    """A private key, which stays with the client, and its public key, which the worker gets; 32 bytes each."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    return key.private_bytes_raw(), key.public_key().public_bytes_raw()


def new_nonce() -> str:
    """Different for every request that is ever sent."""
    return os.urandom(16).hex()


# -- requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes in the object store.

    :ivar id: under which a call names it (constants only)
    :ivar url: a presigned GET
    :ivar size: in bytes
    :ivar sha256: of its content, in hex
    """

    url: str
    size: int
    sha256: str
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where the outcome of one call is kept, for ``exactly_once``: presigned URLs of one object."""

    get: str
    put: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What is signed about a request, and checked before its body is decoded.

    :ivar job: name of the deployment
    :ivar code: hash of the deployed package
    :ivar run: id of one map or pool; with ``first`` plus the position it is the key of a call
    :ivar functions: ``module:name`` of each function that is called; ``"by value"`` for one that the body holds
    :ivar first: index of the first call within the run
    :ivar count: how many calls the body holds
    :ivar expires: Unix time in seconds after which nobody may start the request
    :ivar nonce: different in every request; retries have one of their own
    :ivar budget: seconds for which the worker may start further calls
    :ivar timeout: seconds that each call may take, or ``None``
    :ivar body: where the body lies, if it is not in the request
    :ivar constants: the ``share()``d objects that the calls name
    :ivar answer_url: presigned PUT for an answer that is too large to be sent
    :ivar slots: ``exactly_once``: one for each call
    :ivar lost: ``exactly_once``: ids of earlier deliveries for these calls that are known to run no more
    :ivar owner: account that the object store's bucket must belong to; its URLs are signed for that
    """

    job: str
    code: str
    run: str
    functions: tuple[str, ...]
    first: int
    count: int
    expires: float
    nonce: str = field(default_factory=new_nonce)
    budget: float | None = None
    timeout: float | None = None
    body: Blob | None = None
    constants: tuple[Blob, ...] = ()
    answer_url: str = ""
    slots: tuple[Slot, ...] = ()
    lost: tuple[str, ...] = ()
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a worker accepts.

    :ivar public_key: 32 bytes
    :ivar job: name of the deployment
    :ivar code: hash of the deployed package
    """

    public_key: bytes
    job: str
    code: str


class Signer:
    """Signs requests with the client's private key."""

    def __init__(self, private_key: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        self._key = Ed25519PrivateKey.from_private_bytes(private_key)

    def seal(self, head: Head, body: bytes) -> bytes:
        """The request as Lambda's Invoke takes it. With ``head.body`` set, ``body`` is not sent, and may be empty."""
        text = _dump_head(head)
        inline = b"" if head.body is not None else body
        signature = self._key.sign(_signed(text, inline))
        return (
            f'{{"asyncpar":{VERSION},"head":{json.dumps(text)},"body":"{_base64(inline)}","sig":"{_base64(signature)}"}}'
        ).encode()


def open_request(
    event: Any, rules: Rules, seen: Container[str] = (), now: float | None = None
) -> tuple[Head, bytes]:
    """Check a request; its head and its body, still encoded (empty if it lies elsewhere).

    :param event: what the runtime decoded from JSON
    :param seen: nonces of requests that ran here before
    :param now: Unix time in seconds
    :raises RefusedError: it must not run; the reason says why
    """
    text, body, signature = _parts(event)
    _verify(rules.public_key, signature, _signed(text, body))
    head = _parse_head(text)
    now = time.time() if now is None else now
    if head.job != rules.job:
        raise RefusedError("wrong job", f"this is {rules.job!r}, the request is for {head.job!r}")
    if head.code != rules.code:
        raise RefusedError(
            "wrong code",
            f"the request was made for the package {head.code[:12]}, deployed is {rules.code[:12]}: deploy, or open "
            "the pool again",
        )
    if now > head.expires + SKEW:
        raise RefusedError(
            "expired",
            f"the request was good until {now - head.expires:.0f} s ago; it was delivered late, or replayed",
        )
    if head.nonce in seen:
        raise RefusedError("replayed", f"the request {head.nonce} has run in this environment before")
    return head, body


def check_body(head: Head, data: bytes) -> None:
    """Whether what was fetched is what the client signed.

    :raises RefusedError: it is not
    """
    assert head.body is not None
    check_blob(head.body, data)


def check_blob(blob: Blob, data: bytes) -> None:
    """Whether the content of an object is what the client signed.

    :raises RefusedError: it is not
    """
    if len(data) != blob.size or sha256(data).hexdigest() != blob.sha256:
        raise RefusedError(
            "forged", f"an object in the store ({len(data):,} bytes) is not what the client put there"
        )


def _parts(event: Any) -> tuple[str, bytes, bytes]:
    if not isinstance(event, dict) or event.get("asyncpar") != VERSION:
        version = event.get("asyncpar") if isinstance(event, dict) else None
        raise RefusedError(
            "malformed",
            "this is no request of asyncpar"
            if version is None
            else f"the request has version {version!r}, this worker speaks {VERSION}: deploy again",
        )
    text, body, signature = event.get("head"), event.get("body"), event.get("sig")
    if not (isinstance(text, str) and isinstance(body, str) and isinstance(signature, str)):
        raise RefusedError("malformed", "the request lacks its head, body or signature")
    if len(text) + len(body) > MAX_BODY:
        raise RefusedError("too large", f"{len(text) + len(body):,} bytes, at most {MAX_BODY:,} are taken")
    try:
        return text, _decoded(body), _decoded(signature)
    except ValueError as error:
        raise RefusedError("malformed", f"the request is no base64: {error}") from None


def _decoded(text: str) -> bytes:
    """What base64 stands for. There is one text for it: the bits of the last letter that mean nothing must be 0."""
    data = binascii.a2b_base64(text, strict_mode=True)
    if binascii.b2a_base64(data[-(len(data) % 3 or 3) :], newline=False) != text[-4:].encode():
        raise ValueError("its last letter has bits that mean nothing")
    return data


def _signed(text: str, body: bytes) -> bytes:
    """What the signature covers. The length keeps head and body apart, the hash keeps it short."""
    data = text.encode("utf-8", "surrogatepass")
    return b"asyncpar request 1\0" + struct.pack(">Q", len(data)) + data + sha256(body).digest()


def _verify(public_key: bytes, signature: bytes, signed: bytes) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, signed)
    except InvalidSignature:
        raise RefusedError(
            "forged",
            "the signature does not belong to the key that was deployed; deploy again if the key is new",
        ) from None


def _dump_head(head: Head) -> str:
    """As JSON; what is not set is left out."""
    content: dict[str, Any] = {
        "job": head.job,
        "code": head.code,
        "run": head.run,
        "functions": head.functions,
        "first": head.first,
        "count": head.count,
        "expires": head.expires,
        "nonce": head.nonce,
    }
    if head.budget is not None:
        content["budget"] = head.budget
    if head.timeout is not None:
        content["timeout"] = head.timeout
    if head.body is not None:
        content["body"] = _plain_blob(head.body)
    if head.constants:
        content["constants"] = [_plain_blob(blob) for blob in head.constants]
    if head.answer_url:
        content["answer_url"] = head.answer_url
    if head.slots:
        content["slots"] = [{"get": slot.get, "put": slot.put} for slot in head.slots]
    if head.lost:
        content["lost"] = head.lost
    if head.owner:
        content["owner"] = head.owner
    return json.dumps(content, separators=(",", ":"))


def head_size(head: Head) -> int:
    """Bytes that it takes in a request, about: a URL that is still to be added, and quotes, are counted amply."""
    return len(_dump_head(head)) + 12 * (10 + len(head.slots) + len(head.constants)) + 4096


def _plain_blob(blob: Blob) -> dict[str, Any]:
    return {"url": blob.url, "size": blob.size, "sha256": blob.sha256, "id": blob.id}


def _parse_head(text: str) -> Head:
    """The head, which the client signed: its own version wrote it, so only its form is checked."""
    try:
        fields = json.loads(text)
        if "body" in fields:
            fields["body"] = Blob(**fields["body"])
        fields["functions"] = tuple(fields["functions"])
        fields["constants"] = tuple(Blob(**blob) for blob in fields.get("constants", ()))
        fields["slots"] = tuple(Slot(**slot) for slot in fields.get("slots", ()))
        fields["lost"] = tuple(fields.get("lost", ()))
        head = Head(**fields)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise RefusedError(
            "malformed", f"the head cannot be read ({error}): client and worker differ"
        ) from None
    largest = max((blob.size for blob in (*head.constants, *([head.body] if head.body else ()))), default=0)
    if largest > MAX_BODY:
        raise RefusedError("too large", f"an object of {largest:,} bytes, at most {MAX_BODY:,} are fetched")
    return head


# -- answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker sends back.

    :ivar outcomes: of the first calls, in order, each ``(True, value)`` or ``(False, exception)``; those that are
        missing were not started, and are to be sent again
    :ivar seconds: how long each of these calls took
    :ivar environment: id of the environment that ran them
    :ivar cold: whether it was the environment's first request
    :ivar memory: the most memory that the environment has used so far, in bytes
    :ivar total: seconds from reading the request to writing the answer
    :ivar again: of ``outcomes``, how many were found in the store and not run (``exactly_once``)
    """

    outcomes: tuple[tuple[bool, Any], ...]
    seconds: tuple[float, ...]
    environment: str
    cold: bool
    memory: int
    total: float
    again: int = 0


@dataclass(frozen=True, slots=True)
class Spilled:
    """The answer lies in the object store, under the ``answer_url`` of the request."""

    size: int
    sha256: str


def seal_answer(body: bytes) -> dict[str, Any]:
    """The answer whose encoded ``Answer`` is ``body``, as the handler returns it."""
    return {"asyncpar": VERSION, "body": _base64(body)}


def seal_spilled(body: bytes) -> dict[str, Any]:
    """The answer for a body that was put into the object store."""
    return {"asyncpar": VERSION, "spilled": {"size": len(body), "sha256": sha256(body).hexdigest()}}


def seal_refused(error: RefusedError) -> dict[str, Any]:
    """The answer to a request that did not run."""
    return {"asyncpar": VERSION, "refused": error.reason, "message": error.message}


def open_answer(data: bytes, max_bytes: int = MAX_BODY) -> bytes | Spilled:
    """The encoded ``Answer`` for ``load_answer``, or where it lies.

    :param data: the body of Lambda's response
    :raises RefusedError: the worker refused the request, and ran nothing
    :raises CodecError: this is no answer of asyncpar's worker
    """
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict) or answer.get("asyncpar") != VERSION:
        raise CodecError(
            f"the function's answer is none of asyncpar's worker: {data[:80]!r}; was it deployed with this version?"
        )
    if "refused" in answer:
        raise RefusedError(str(answer["refused"]), str(answer.get("message", "")))
    try:
        if "spilled" in answer:
            spilled = Spilled(int(answer["spilled"]["size"]), str(answer["spilled"]["sha256"]))
            if spilled.size > max_bytes:
                raise CodecError(
                    f"an answer of {spilled.size:,} bytes is not fetched: at most {max_bytes:,} are"
                )
            return spilled
        return binascii.a2b_base64(answer["body"], strict_mode=True)
    except (ValueError, TypeError, KeyError) as error:
        raise CodecError(f"the worker's answer is malformed: {type(error).__name__}: {error}") from None


def _base64(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).decode("ascii")
