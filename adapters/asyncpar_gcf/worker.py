"""The far side: the worker as a function of Google's functions-framework.

A synchronous function, not ASGI: with ``THREADS=1`` the framework calls it in its process's main thread, one request at a
time, where a call can be stopped by a signal and a coroutine function gets a loop of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import functions_framework

from asyncpar_http.worker import Endpoint

if TYPE_CHECKING:
    from flask import Request


def make_function(main: str) -> Callable[..., Any]:
    """The function that the framework calls; ``main`` is the file beside which its settings lie."""
    endpoint = Endpoint(Path(main).parent)

    def asyncpar(request: Request) -> tuple[bytes, int, dict[str, str]]:
        body = endpoint.answer(request.method, request.content_length, request.get_data)
        return body, 200, {"content-type": "application/json"}

    made: Callable[..., Any] = functions_framework.http(asyncpar)
    return made
