"""``AzurePool``: calls as requests to one function on Azure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from asyncpar_azure.folder import LONGEST, MAX_BYTES
from asyncpar_http.pool import HTTPPool


class AzurePool(HTTPPool):
    """Runs calls as requests to an HTTP-triggered function that was deployed to Azure Functions.

    Calls travel together until a request takes about 1.5 s. How many are in flight follows what Azure takes, up to
    ``limit``: a 429, or a 503 that says when to come back, lowers it, and what was turned away is sent again.

    **What is lost.** When a connection breaks, an instance dies or Azure answers 5xx, the calls of the request may have
    run: they fail with ``WorkerLostError``. ``retries=`` of ``map`` repeats them, ``chunksize=1`` makes a loss cost one
    call.

    **Cancelling** stops what was not sent at once, and frees the caller. A request that was sent runs on, and its place
    stays held until it ends. ``timeout=`` travels along and stops coroutine functions. Others run in a thread there, which
    nothing can stop: they fail with ``CallTimeoutError`` when they return.

    A request and a reply are at most 90 MB, as base64, and a single result half of that; Azure takes 100 MB. A request
    ends within 220 s: after 230 Azure's load balancer gives up on it. Both:
    https://learn.microsoft.com/azure/azure-functions/functions-bindings-http-webhook-trigger#limits

    :param url: where the function answers: ``https://APP.azurewebsites.net/api/asyncpar``
    :param limit: the most requests at the same time
    :param function_key: of the function or of the app, sent as ``x-functions-key``
    :param key: the private key that signs requests, or the file that holds it; default: where ``package`` left it
    :param functions: ``"names"`` or ``"by_value"``
    :param patience: seconds for which the function may be out of reach, with pauses that grow to 10 s, before calls fail
    """

    place = "azure"
    service = "the function"
    max_bytes = MAX_BYTES
    longest = LONGEST
    advice = "pass function_key=, a key of the function or its app"

    def __init__(
        self,
        url: str = "",
        *,
        limit: int = 100,
        function_key: str = "",
        key: bytes | str | Path | None = None,
        functions: Literal["names", "by_value"] = "names",
        patience: float = 120.0,
    ) -> None:
        super().__init__(url, limit=limit, key=key, functions=functions, patience=patience)
        self._function_key = function_key

    async def _headers(self) -> Mapping[str, str]:
        return {"x-functions-key": self._function_key} if self._function_key else {}
