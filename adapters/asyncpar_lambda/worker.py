"""The far side: a Lambda handler that checks a request, runs its calls, and answers with their outcomes.

``asyncpar_lambda.worker.handler`` is what the function is deployed with. It imports almost nothing before a request
needs it. Its settings are environment variables of the function: ``ASYNCPAR_JOB``, ``ASYNCPAR_CODE``,
``ASYNCPAR_PUBLIC_KEY`` (hex), ``ASYNCPAR_ALLOW`` (separated by commas) and ``ASYNCPAR_FUNCTIONS`` (``names`` or
``by_value``).
"""

from __future__ import annotations

import binascii
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from asyncpar.chunks import is_async, name_of
from asyncpar.errors import CallTimeoutError, foreign
from asyncpar_lambda import calls, codec
from asyncpar_lambda.envelope import (
    MAX_INLINE,
    SKEW,
    Answer,
    Blob,
    Head,
    Rules,
    check_blob,
    check_body,
    open_request,
    seal_answer,
    seal_refused,
    seal_spilled,
)
from asyncpar_lambda.errors import CodecError, MissingError, RefusedError, StoreError
from asyncpar_lambda.naming import Allowed

MARGIN = 0.4
"""Seconds before Lambda's deadline at which a call is stopped, to be able to answer with what is done."""
CACHED_BYTES = 512 << 20
"""Constants that a warm environment keeps, as they were sent; the ones named last."""

Outcome = tuple[bool, Any]


class Overrun(BaseException):
    """The running call is out of time. Clean up and let it through."""


class Worker:
    """One execution environment.

    :param settings: environment variables of the function
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.rules = Rules(
            public_key=bytes.fromhex(settings.get("ASYNCPAR_PUBLIC_KEY", "")),
            job=settings.get("ASYNCPAR_JOB", ""),
            code=settings.get("ASYNCPAR_CODE", ""),
        )
        self.names = Allowed([p for p in settings.get("ASYNCPAR_ALLOW", "").split(",") if p])
        self.by_value = settings.get("ASYNCPAR_FUNCTIONS") == "by_value"
        self.environment = os.urandom(6).hex()
        self.cold = True
        self.delivery = ""
        self.seen: set[str] = set()
        self.expiring: deque[tuple[float, str]] = deque()
        self.constants: dict[str, tuple[int, Any]] = {}
        self.loop: Any = None
        self.alarm = _Alarm()

    def handle(
        self, event: Any, remaining: Callable[[], float], delivery: str | None = None
    ) -> dict[str, Any]:
        """The answer to one request, whatever it is; never raises on account of it.

        :param event: what the runtime decoded
        :param remaining: seconds until this environment is stopped
        :param delivery: the platform's id of this delivery, if its client learns that too
        """
        begun = time.perf_counter()
        cold, self.cold = self.cold, False
        self.delivery = delivery or os.urandom(16).hex()
        try:
            head, body = self.accept(event)
            outcomes, seconds, again = self.run(head, body, remaining)
        except RefusedError as error:
            return seal_refused(error)
        except MissingError as error:
            return seal_refused(RefusedError("missing", str(error)))
        except StoreError as error:  # of what has to be there before the first call
            return seal_refused(RefusedError("unavailable", str(error)))
        answer = Answer(
            outcomes=tuple(outcomes),
            seconds=tuple(seconds),
            environment=self.environment,
            cold=cold,
            memory=_memory(),
            total=time.perf_counter() - begun,
            again=again,
        )
        return self.reply(head, answer)

    def accept(self, event: Any) -> tuple[Head, bytes]:
        """Check everything that can be checked before anything is decoded."""
        head, body = open_request(event, self.rules, self.seen)
        for name in head.functions:
            if name != calls.BY_VALUE:
                self.names.check(name)
            elif not self.by_value:
                raise RefusedError(
                    "not allowed", "functions by value are not allowed here: deploy with functions='by_value'"
                )
        if not head.slots:  # with them it may be asked twice, and answers what it answered
            self.note(head)
        if head.body is not None:
            body = _fetch(head.body, head.owner)
            check_body(head, body)
        return head, body

    def note(self, head: Head) -> None:
        """Remember the nonce for as long as the request could be sent again."""
        gone = time.time() - SKEW
        while self.expiring and self.expiring[0][0] < gone:
            self.seen.discard(self.expiring.popleft()[1])
        self.seen.add(head.nonce)
        self.expiring.append((head.expires, head.nonce))

    # -- running

    def run(
        self, head: Head, body: bytes, remaining: Callable[[], float]
    ) -> tuple[list[Outcome], list[float], int]:
        """Outcomes and seconds of the calls that were run, in order; the others were not started."""
        try:
            ready = calls.load_calls(head, body, self.names, self.constant_of(head), self.unpickler())
        except CodecError as error:
            return [(False, error)] * head.count, [0.0] * head.count, 0
        with self.alarm:
            return self.run_calls(head, ready, remaining)

    def run_calls(
        self, head: Head, ready: list[calls.Prepared], remaining: Callable[[], float]
    ) -> tuple[list[Outcome], list[float], int]:
        """As many as time, and with ``exactly_once`` the object store, allows.

        :raises StoreError: it does not allow the first
        """
        outcomes: list[Outcome] = []
        seconds: list[float] = []
        again = 0
        longest = 0.0
        begun = time.perf_counter()
        for index, call in enumerate(ready):
            started = time.perf_counter()
            out_of_budget = head.budget is not None and started - begun > head.budget
            if index and (out_of_budget or remaining() < MARGIN + 1.5 * longest + 0.1):
                break
            if head.slots:
                try:
                    outcome = self.run_once(head, index, call, remaining)
                except StoreError:
                    if not index:
                        raise
                    break
                if outcome is None:
                    break
                value, found = outcome
                again += found
            else:
                value = self.call(call, head.timeout, remaining)
            outcomes.append(value)
            seconds.append(time.perf_counter() - started)
            longest = max(longest, seconds[-1])
        return outcomes, seconds, again

    def run_once(
        self, head: Head, index: int, call: calls.Prepared, remaining: Callable[[], float]
    ) -> tuple[Outcome, bool] | None:
        """The outcome of a call of which other workers may know, and whether one of them ran it.

        :raises StoreError: it was not run
        """
        from asyncpar_lambda.once import run_once

        def run() -> bytes:
            return codec.dumps(calls.dump_outcome(*self.call(call, head.timeout, remaining), self.names))

        found = run_once(head, head.slots[index], self.delivery, remaining, run)
        if found is None:
            return None
        ok, blob = codec.loads(found[0])
        return (ok, calls.Encoded(blob)), found[1]

    def call(self, call: calls.Prepared, timeout: float | None, remaining: Callable[[], float]) -> Outcome:
        """Run one call and stop it when its time is up."""
        function, args, kwargs = call
        left = remaining() - MARGIN
        allowed = left if timeout is None else min(timeout, left)
        try:
            if is_async(function):
                return True, self.await_in_loop(function, args, kwargs, allowed)
            self.alarm.set(allowed)
            try:
                return True, function(*args, **kwargs)
            finally:
                self.alarm.cancel()
        except Overrun:
            what = name_of(function)
            if timeout is not None and timeout <= left:
                return False, CallTimeoutError(f"{what} ran longer than timeout={timeout:g} seconds")
            return False, CallTimeoutError(
                f"{what} was stopped after {max(allowed, 0):.1f} s, at the timeout of the function: deploy "
                "with a longer timeout=, or make the calls shorter"
            )
        except BaseException as error:
            return False, self.described(error)

    def await_in_loop(
        self, function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], seconds: float
    ) -> Any:
        """Run a coroutine function on the environment's own loop."""
        import asyncio

        if self.loop is None:
            self.loop = asyncio.new_event_loop()

        async def timed() -> Any:
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    return await function(*args, **kwargs)
            except TimeoutError:
                if limit.expired():
                    raise Overrun from None
                raise

        return self.loop.run_until_complete(timed())

    def described(self, error: BaseException) -> BaseException:
        """The exception, with the traceback of this side in a note."""
        import traceback

        if not isinstance(error, Exception):
            error = foreign(error)
        frames = error.__traceback__
        outside = frames.tb_next if frames is not None and frames.tb_next is not None else frames
        text = "".join(traceback.format_exception(type(error), error, outside))
        error.add_note(f"\nTraceback in environment {self.environment}:\n{text.rstrip()}")
        error.__traceback__ = None
        return error

    def close(self) -> None:
        """End the loop, if a coroutine function made one."""
        if self.loop is not None:
            self.loop.close()

    # -- constants, and values by pickle

    def constant_of(self, head: Head) -> Callable[[str], Any]:
        """How this request's calls find the constants that they name."""
        blobs = {blob.id: blob for blob in head.constants}

        def find(name: str) -> Any:
            blob = blobs.get(name)
            if blob is None:
                raise CodecError(f"the constant {name!r} did not come with the request")
            return self.constant(blob, head.owner)

        return find

    def constant(self, blob: Blob, owner: str) -> Any:
        """The object, fetched when it is first named here."""
        kept = self.constants.pop(blob.sha256, None)
        if kept is None:
            data = _fetch(blob, owner)
            check_blob(blob, data)
            kept = blob.size, codec.loads(data, self.names, unpickle=self.unpickler())
        self.constants[blob.sha256] = kept
        while sum(size for size, _ in self.constants.values()) > CACHED_BYTES and len(self.constants) > 1:
            del self.constants[next(iter(self.constants))]
        return kept[1]

    def unpickler(self) -> Callable[[bytes], Any] | None:
        """Only where the deployment says so."""
        if not self.by_value:
            return None
        import pickle

        return pickle.loads

    # -- answering

    def reply(self, head: Head, answer: Answer) -> dict[str, Any]:
        """As Lambda's answer, or through the object store if that is too small for it."""
        data = calls.dump_answer(answer, self.names)
        if len(data) * 4 // 3 + 100 <= MAX_INLINE:
            return seal_answer(data)
        try:
            _spill(head, data)
        except StoreError as error:
            failed = CodecError(f"the results are {len(data):,} bytes, too many for Lambda's answer; {error}")
            outcomes = tuple((False, failed) for _ in answer.outcomes)
            return seal_answer(calls.dump_answer(replace(answer, outcomes=outcomes), self.names))
        return seal_spilled(data)


def _spill(head: Head, data: bytes) -> None:
    if not head.answer_url:
        raise StoreError("the request names no place for them: open the pool with a bucket")
    from asyncpar_lambda import objects

    objects.put(head.answer_url, data, owner=head.owner)


def _fetch(blob: Blob, owner: str) -> bytes:
    if blob.url.startswith("data:"):  # it came with the request
        return binascii.a2b_base64(blob.url.partition(",")[2])
    from asyncpar_lambda import objects

    return objects.get(blob.url, blob.size, owner)[0]


def _memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class _Alarm:
    """Raises ``Overrun`` after so many seconds, where signals can be taken: in the main thread."""

    def __enter__(self) -> None:
        self.armed = threading.current_thread() is threading.main_thread()
        if self.armed:
            self.before = signal.signal(signal.SIGALRM, self.ring)

    def __exit__(self, *_: object) -> None:
        if self.armed:
            signal.signal(signal.SIGALRM, self.before)

    def set(self, seconds: float) -> None:
        if self.armed:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3))

    def cancel(self) -> None:
        if self.armed:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def ring(self, _signal: int, _frame: object) -> None:
        raise Overrun


_worker: Worker | None = None


def handler(event: Any, context: Any) -> dict[str, Any]:
    """What Lambda calls."""
    global _worker
    if _worker is None:
        _worker = Worker(os.environ)
    end = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    try:
        return _worker.handle(event, lambda: end - time.monotonic(), context.aws_request_id)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
