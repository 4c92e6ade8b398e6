"""``GCFPool``: calls as requests to one function on Google Cloud."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asyncpar_gcf.folder import LONGEST, MAX_BYTES
from asyncpar_gcf.identity import Source, Tokens, google_token
from asyncpar_http.pool import HTTPPool

if TYPE_CHECKING:
    from asyncpar_gcf.local import LocalPool


class GCFPool(HTTPPool):
    """Runs calls as requests to a function that was deployed to Google Cloud Run functions (2nd generation).

    Calls travel together until a request takes about 1.5 s. How many are in flight follows what Google takes, up to
    ``limit``: a 429, or a 503 that says when to come back, lowers it, and what was turned away is sent again.

    **What is lost.** When a connection breaks, an instance dies or Google answers 5xx, the calls of the request may have
    run: they fail with ``WorkerLostError``. ``retries=`` of ``map`` repeats them, ``chunksize=1`` makes a loss cost one
    call.

    **Cancelling** stops what was not sent at once, and frees the caller. A request that was sent runs on, and its place
    stays held until it ends. ``timeout=`` travels along, and the worker stops the call.

    A request and a reply are at most 30 MB (Google: 32 MB, https://cloud.google.com/functions/quotas), as base64, and a
    single result half of that. A function's timeout is at most 600 s.

    :param url: where the function answers: ``https://REGION-PROJECT.cloudfunctions.net/NAME``
    :param limit: the most requests at the same time: no more than the function has instances, 100 by default
    :param token: an identity token, or a function (a coroutine function too) that makes one, asked before it ends;
        default: google-auth's, from Application Default Credentials, for ``https``; ``""`` for a function that is public
    :param audience: that the default token is for; default: the URL
    :param key: the private key, or the file that holds it; default: where ``package`` left it
    :param functions: ``"names"`` or ``"by_value"``
    :param patience: seconds for which the function may be out of reach, with pauses that grow to 10 s, before calls fail
    """

    place = "gcf"
    service = "the function"
    max_bytes = MAX_BYTES
    longest = LONGEST
    advice = "give its caller the role Cloud Run Invoker (roles/run.invoker), or pass another token="

    def __init__(
        self,
        url: str = "",
        *,
        limit: int = 100,
        token: str | Source | None = None,
        audience: str | None = None,
        key: bytes | str | Path | None = None,
        functions: Literal["names", "by_value"] = "names",
        patience: float = 120.0,
    ) -> None:
        super().__init__(url, limit=limit, key=key, functions=functions, patience=patience)
        self._fixed = token if isinstance(token, str) else ""
        self._source = token if callable(token) else None
        if token is None and url.startswith("https:"):
            self._source = partial(google_token, audience or url.partition("?")[0])
        self._tokens: Tokens | None = None

    @classmethod
    def local(cls, paths: Iterable[str | Path], **options: Any) -> LocalPool:
        """A pool on Google's functions-framework on this machine, for as long as the pool is open: see ``LocalPool``.

        :param paths: files and folders whose functions it runs
        """
        from asyncpar_gcf.local import LocalPool

        return LocalPool(paths, **options)

    async def _open(self) -> None:
        if self._source is not None:
            self._tokens = Tokens(self._source)
        await super()._open()

    async def _headers(self) -> Mapping[str, str]:
        token = await self._tokens.get() if self._tokens is not None else self._fixed
        return {"authorization": f"Bearer {token}"} if token else {}
