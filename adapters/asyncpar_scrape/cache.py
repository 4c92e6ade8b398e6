"""Answers that are kept by the rules of RFC 9111, for who develops a parser: hishel's rules and its file, in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from asyncpar.errors import PoolClosedError
from asyncpar_scrape.answers import Answer, date

if TYPE_CHECKING:
    from collections.abc import Callable

    from hishel import AnyState, CacheOptions, Entry, Response, SqliteStorage

T = TypeVar("T")

FILE = "pages.sqlite"
MOST_BYTES = 1 << 30
"""Of the file, by hishel's default; what was not used for longest goes first."""
DROPPED = ("content-encoding", "transfer-encoding", "content-length")
"""Headers of a body as it came; it is kept decompressed."""


class CacheError(OSError):
    """The cache cannot be used; the message says why and what to do."""


@dataclass(slots=True)
class Found:
    """What the cache has for an address.

    :ivar answer: one that is fresh; ``None``: the address has to be asked
    :ivar headers: with which to ask: those that let the server say that what is kept is still good
    """

    state: AnyState
    answer: Answer | None
    headers: dict[str, str]


class Cache:
    """A private cache in a folder, which one fetcher or several use.

    :arg headers: those of requests, for answers that vary by them
    :raises ImportError: the extra ``cache`` is not installed
    """

    def __init__(self, folder: str | Path, headers: dict[str, str]) -> None:
        if find_spec("hishel") is None:
            raise ImportError("cache= needs hishel: pip install 'asyncpar[cache]'")
        self._folder, self._headers = Path(folder), headers
        self._thread: ThreadPoolExecutor | None = None
        self._storage: SqliteStorage | None = None
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # those in use

    async def open(self) -> None:
        """Open the file, or make it.

        :raises CacheError: it cannot be used
        """
        self._thread = ThreadPoolExecutor(1, "asyncpar-cache")
        try:
            self._storage = await self._run(self._open)
        except (OSError, RuntimeError, sqlite3.Error) as error:
            await self.close()
            raise CacheError(
                f"the cache {self._folder / FILE} cannot be used: {error}; give another folder, or remove it"
            ) from error

    async def close(self) -> None:
        """Write what was begun."""
        thread, self._thread = self._thread, None
        if thread is not None:
            if self._storage is not None:
                thread.submit(self._storage.close)
            await asyncio.to_thread(thread.shutdown)

    def alone(self, url: str) -> asyncio.Lock:
        """For ``async with``: one at a time looks an address up, asks and settles. Who has waited finds what was kept."""
        lock = self._locks.get(url)
        if lock is None:
            lock = self._locks[url] = asyncio.Lock()
        return lock

    async def find(self, url: str) -> Found:
        """Look an address up."""
        return await self._run(self._find, url)

    async def settle(self, url: str, found: Found, answer: Answer) -> Answer:
        """Keep an answer, if it may be kept; where it says that what is kept is still good, that is returned, if it is there."""
        if answer.status not in (200, 304):
            return answer
        return await self._run(self._settle, url, found.state, answer)

    def _run(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        if self._thread is None:
            raise PoolClosedError(
                "this Fetcher is not open: use it inside 'async with Fetcher(...) as fetch:'"
            )
        return asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    # -- in the thread

    def _open(self) -> SqliteStorage:
        from hishel import SqliteStorage

        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / FILE
        with closing(
            sqlite3.connect(path)
        ) as connection:  # the storage would log what is wrong, and go on without
            connection.execute("SELECT count(*) FROM sqlite_schema")
            connection.execute("BEGIN IMMEDIATE")  # raises where it cannot be written
            connection.rollback()
        storage = SqliteStorage(database_path=path, max_size=MOST_BYTES)
        storage.get_entries("")
        if storage.connection is None:  # which it logged
            raise OSError(f"nothing can be written to {self._folder}")
        return storage

    def _find(self, url: str) -> Found:
        from hishel import FromCache, Headers, IdleClient, NeedRevalidation, Request

        assert self._storage is not None
        options: CacheOptions = {"shared": False}
        request = Request("GET", url, Headers(self._headers))
        kept = [entry for entry in self._storage.get_entries(url) if self._is_for_us(entry)]
        state = IdleClient(options=options).next(request, kept)
        if isinstance(state, FromCache):
            return Found(state, _answer(state.entry.response), {})
        asked = dict(state.request.headers) if isinstance(state, NeedRevalidation) else {}
        return Found(state, None, {name: asked[name] for name in asked.keys() - self._headers.keys()})

    def _settle(self, url: str, state: AnyState, answer: Answer) -> Answer:
        from hishel import FromCache, Headers, Request, Response, StoreAndUse

        assert self._storage is not None
        headers = {name: value for name, value in answer.headers.items() if name not in DROPPED}
        headers["date"] = _dated(headers)
        if answer.status == 200:
            self._forget(url)
        state = self._judged(state, Response(answer.status, Headers(headers), iter([answer.body])))
        if isinstance(state, StoreAndUse):
            request = Request("GET", url, Headers(self._headers))
            kept = self._storage.create_entry(request, state.response, url)
            for _ in kept.response.stream or ():  # type: ignore[union-attr]
                pass  # it is kept by being read
        elif isinstance(state, FromCache):
            try:
                return _answer(state.entry.response)
            except RuntimeError:  # another program has removed it since it was found
                return answer
        return answer

    def _judged(self, state: AnyState, response: Response) -> AnyState:
        """What the rules make of a response."""
        from hishel import CacheMiss, InvalidateEntries, NeedRevalidation, NeedToBeUpdated

        assert self._storage is not None
        while True:
            if isinstance(state, NeedRevalidation) or (
                isinstance(state, CacheMiss) and response.status_code != 304
            ):
                state = state.next(response)
            elif isinstance(state, NeedToBeUpdated):
                for entry in state.updating_entries:
                    self._storage.update_headers(entry.id, entry.response.headers)
                state = state.next()
            elif isinstance(state, InvalidateEntries):
                for number in state.entry_ids:
                    self._storage.remove_entry(number)
                state = state.next()
            else:
                return state

    def _is_for_us(self, entry: Entry) -> bool:
        """Whether an answer was to a request like ours, by its Vary: another one's must not be validated as ours."""
        names = [
            name.strip() for name in (entry.response.headers.get("vary") or "").split(",") if name.strip()
        ]
        ours = {name.lower(): value for name, value in self._headers.items()}
        return all(entry.request.headers.get(name) == ours.get(name.lower()) for name in names)

    def _forget(self, url: str) -> None:
        """Remove what a whole answer replaces: the rules leave one of them, and a bare 304 could then mean either.

        It may have come meanwhile, from another program.
        """
        assert self._storage is not None
        for entry in self._storage.get_entries(url):
            if self._is_for_us(entry):
                self._storage.remove_entry(entry.id)


def _dated(headers: dict[str, str]) -> str:
    """The Date by which an answer grows old: the rules count from there, and not by the Age that it had on its way."""
    now = datetime.now(UTC)
    then = date(headers.get("date", "")) or now  # without one it would never grow old
    age = headers.get("age", "")
    if age.isascii() and age.isdigit():
        then = min(then, now - timedelta(seconds=int(age[:9])))
    return format_datetime(then, usegmt=True)


def _answer(response: Any) -> Answer:
    return Answer(response.status_code, dict(response.headers), 0.0, b"".join(response.stream or ()))
