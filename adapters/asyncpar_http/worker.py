"""The far side: Lambda's worker, asked over HTTP. What a cloud's framework calls wraps ``Endpoint.answer``.

Its settings lie beside the function, in ``asyncpar.json``: those of ``asyncpar_lambda.worker``, ``ASYNCPAR_TIMEOUT`` in
seconds and ``ASYNCPAR_MAX_BYTES``. They hold a public key and nothing secret.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asyncpar.chunks import name_of
from asyncpar.errors import CallTimeoutError
from asyncpar_lambda import calls
from asyncpar_lambda.envelope import VERSION, Answer, Head, seal_answer, seal_refused
from asyncpar_lambda.errors import CodecError, RefusedError
from asyncpar_lambda.worker import Outcome, Worker

SETTINGS = "asyncpar.json"


class HTTPWorker(Worker):
    """A worker whose answers have to fit into a reply."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        super().__init__(settings)
        self.max_bytes = int(settings["ASYNCPAR_MAX_BYTES"])
        self.most = self.max_bytes * 3 // 8 - 4096  # of a result: two of these fit, as base64
        self.used = 0

    def run_calls(
        self, head: Head, ready: list[calls.Prepared], remaining: Callable[[], float]
    ) -> tuple[list[Outcome], list[float], int]:
        """As many as time allows, and as have room in the answer."""
        self.used = 0
        return super().run_calls(head, ready, lambda: remaining() if self.used <= self.most else 0.0)

    def call(self, call: calls.Prepared, timeout: float | None, remaining: Callable[[], float]) -> Outcome:
        """Run one call; its outcome, encoded."""
        begun = time.perf_counter()
        outcome = super().call(call, timeout, remaining)
        if timeout is not None and not self.alarm.armed and time.perf_counter() - begun > timeout:
            # In a thread that no signal reaches nothing could stop it: it is late, but it does not pass for timely.
            outcome = (
                False,
                CallTimeoutError(f"{name_of(call[0])} ran longer than timeout={timeout:g} seconds"),
            )
        ok, blob = calls.dump_outcome(*outcome, self.names)
        if len(blob) > self.most:
            error = CodecError(
                f"the result is {len(blob):,} bytes and a reply takes {self.most:,}: return less, or put it into an "
                "object store and return its address"
            )
            ok, blob = calls.dump_outcome(False, error, self.names)
        self.used += len(blob)
        return ok, calls.Encoded(blob)

    def reply(self, head: Head, answer: Answer) -> dict[str, Any]:
        """As the body of a reply."""
        return seal_answer(calls.dump_answer(answer, self.names))


class Endpoint:
    """One process of a function. Requests take turns in it: calls of a user are not made for threads.

    :param folder: where the settings lie
    """

    def __init__(self, folder: Path) -> None:
        self.settings: dict[str, str] = json.loads((folder / SETTINGS).read_text())
        self.timeout = float(self.settings["ASYNCPAR_TIMEOUT"])
        self.max_bytes = int(self.settings["ASYNCPAR_MAX_BYTES"])
        self._turn = threading.Lock()
        self._worker: HTTPWorker | None = None  # made at the first request, when servers have forked

    def answer(self, method: str, size: int | None, read: Callable[[], bytes]) -> bytes:
        """The body of the reply, JSON, to a request; its status is always 200.

        :param size: of the request's body, as its header says
        :param read: gets that body
        """
        end = time.monotonic() + self.timeout
        if method == "GET":
            return json.dumps(self.about()).encode()
        if size is None or size > self.max_bytes:
            said = "no length" if size is None else f"{size:,} bytes"
            refused = RefusedError("too large", f"{said}, at most {self.max_bytes:,} are taken")
            return json.dumps(seal_refused(refused)).encode()
        try:
            event = json.loads(read())
        except (ValueError, RecursionError):
            event = None  # which is no request of asyncpar's either
        with self._turn:
            if self._worker is None:
                self._worker = HTTPWorker(self.settings)
            answer = self._worker.handle(event, lambda: end - time.monotonic())
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
        return json.dumps(answer).encode()

    def about(self) -> dict[str, Any]:
        """What a pool has to know. Nothing of it is secret."""
        settings = self.settings
        return {
            "asyncpar": VERSION,
            "job": settings["ASYNCPAR_JOB"],
            "code": settings["ASYNCPAR_CODE"],
            "functions": settings["ASYNCPAR_FUNCTIONS"],
            "timeout": self.timeout,
        }
