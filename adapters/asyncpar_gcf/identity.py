"""Identity tokens: what Google's front end wants to see of who calls a function that is not public."""

from __future__ import annotations

import asyncio
import binascii
import inspect
import json
import time
from collections.abc import Awaitable, Callable

from asyncpar.errors import AsyncparError

EARLY = 300.0
"""Seconds before its end at which a token is renewed."""
UNKNOWN = 600.0
"""Seconds for which a token is used that does not say when it ends."""

Source = Callable[[], str | Awaitable[str]]


class Tokens:
    """Keeps a token until it is about to end.

    :param source: makes one; called in a thread unless it is a coroutine function
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._token = ""
        self._until = 0.0
        self._turn = asyncio.Lock()

    async def get(self) -> str:
        """A token that is good now."""
        async with self._turn:
            if time.time() >= self._until:
                self._token = await self._make()
                self._until = ends(self._token) - EARLY
            return self._token

    async def _make(self) -> str:
        if inspect.iscoroutinefunction(self._source):
            made = await self._source()
        else:
            made = await asyncio.to_thread(self._source)
        return str(made)


def ends(token: str) -> float:
    """When it ends, in Unix time, as the token itself says."""
    try:
        middle = token.split(".")[1]
        said = json.loads(binascii.a2b_base64(middle.replace("-", "+").replace("_", "/") + "=="))
        return float(said["exp"])
    except (ValueError, TypeError, KeyError, IndexError):
        return time.time() + UNKNOWN + EARLY


def google_token(audience: str) -> str:
    """A token from Application Default Credentials: a service account's key, or the metadata server. Blocking.

    :raises AsyncparError: google-auth is not installed, or finds no such credentials
    """
    try:
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request
        from google.oauth2.id_token import fetch_id_token
    except ImportError:
        raise AsyncparError(
            "to call a function that is not public, install google-auth with pip install 'asyncpar[gcf]', or pass "
            "token=; for one that is public pass token=''"
        ) from None
    try:
        token = fetch_id_token(Request(), audience)  # type: ignore[no-untyped-call]
    except GoogleAuthError as error:
        raise AsyncparError(
            f"there is no identity token to be had for {audience}: {error}. Set GOOGLE_APPLICATION_CREDENTIALS to a "
            "service account's key, or pass token=; for a function that is public pass token=''"
        ) from error
    return str(token)
