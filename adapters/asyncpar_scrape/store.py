"""The store on the event loop's side, and its thread, the only one that touches the file while a crawl runs.

Outcomes are written together: a transaction holds what came within ``BATCH_SECONDS``. Who settles a page is told when
it is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from math import inf
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeAlias

from asyncpar.errors import JournalError
from asyncpar.journal.locking import Lock, is_held
from asyncpar.shielding import shielded
from asyncpar_scrape.addresses import Addresses
from asyncpar_scrape.database import Counts, StoreError, connect, count, retry_errors
from asyncpar_scrape.frontier import Entry, Frontier, Outcome

SENT_SECONDS = 0.01
"""How long an outcome waits on the loop at most, to be sent to the thread with others; not where pages are waited for."""
BATCH_SECONDS = 0.03
"""How long an outcome waits for others in the thread at most."""
BATCH_PAGES = 500

Taken: TypeAlias = "asyncio.Future[list[Entry]]"
Settled: TypeAlias = "asyncio.Future[None]"


class _Take(NamedTuple):
    most: int
    taken: Taken


class _Settle(NamedTuple):
    outcome: Outcome
    settled: Settled


class _PutBack(NamedTuple):
    entry: Entry
    due: float


Request: TypeAlias = "_Take | list[_Settle] | _PutBack"


class Store:
    """A crawl's frontier and items. One task takes; any may settle.

    :arg path: a SQLite file, made if it is not there; ``None``: a temporary one
    :arg resume: go on with the crawl that the file holds
    :arg retry: let the pages that failed wait again
    :arg limits: of the ``Frontier``: ``per_host``, ``max_pages``, ``max_per_pattern``
    """

    def __init__(
        self, path: str | Path | None, *, resume: bool = False, retry: bool = False, **limits: Any
    ) -> None:
        self.path = Path(path) if path is not None else None
        self.counts = Counts()
        self._limits = limits
        self._resume, self._retry = resume, retry
        self._queue: SimpleQueue[Request | None] = SimpleQueue()
        self._taking = False
        self._settling: list[_Settle] = []
        self._thread = threading.Thread(target=self._run, name="asyncpar: store of a crawl", daemon=True)
        self._failure: StoreError | None = None
        self._taker: _Take | None = None
        self._outcomes: list[Outcome] = []
        self._tell: list[Settled] = []

    # -- on the loop

    async def open(self, start: Addresses) -> None:
        """Open the file and add the start addresses.

        :raises StoreError: it holds a crawl and this is not to go on with it; it is in use; it is no store
        """
        self._loop = asyncio.get_running_loop()
        self._start = start
        opened: asyncio.Future[None] = self._loop.create_future()
        self._opened = opened
        self._thread.start()
        try:
            await asyncio.shield(opened)
        except BaseException:  # cancelled, too: the thread must end
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Write what was settled, and close the file."""
        self._send()
        self._queue.put(None)
        await shielded(self._ended())

    async def _ended(self) -> None:
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def take(self, most: int) -> Taken:
        """Pages to visit, when there are some: one that is out may have links that add some; no pages: the crawl is over.

        The future has a ``StoreError`` where the file cannot be used any more.
        """
        taken: Taken = self._loop.create_future()
        taken.add_done_callback(self._has_taken)
        self._send()
        self._queue.put(_Take(most, taken))
        self._taking = True
        return taken

    def _has_taken(self, taken: Taken) -> None:
        self._taking = False
        if not taken.cancelled():
            taken.exception()  # it may be that nobody looks any more: who settles is told, too

    def put_back(self, entry: Entry, due: float) -> None:
        """A page that was taken waits again, and with it its host until a time of ``time.monotonic()``."""
        self._queue.put(_PutBack(entry, due))

    async def settle(self, outcome: Outcome) -> None:
        """Keep what became of a page; returns when it is on disk.

        :raises StoreError: it could not be written
        """
        settled: Settled = self._loop.create_future()
        self._settling.append(_Settle(outcome, settled))
        if self._taking or len(self._settling) >= BATCH_PAGES:
            self._send()
        elif len(self._settling) == 1:
            self._loop.call_later(SENT_SECONDS, self._send)
        await settled

    def _send(self) -> None:
        """Hand what was settled to the thread."""
        if self._settling:
            self._queue.put(self._settling)
            self._settling = []

    # -- in the thread

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            try:
                self._open_file(stack)
            except Exception as error:
                self._answer(self._opened, _problem(self.path, error))
                return
            self._answer(self._opened, None)
            self._serve()
            with contextlib.suppress(sqlite3.Error):  # one plain file is left, where nobody reads it now
                self._connection.execute("PRAGMA busy_timeout = 0").close()
                self._connection.execute("PRAGMA journal_mode = DELETE").close()

    def _open_file(self, stack: contextlib.ExitStack) -> None:
        path = self.path
        if path is not None:
            stack.callback(_lock(path).release)
        self._connection = connect(path or "", write=True)
        stack.callback(self._connection.close)
        kept = sum(count(self._connection))
        if kept and not self._resume:
            raise StoreError(
                f"{path} holds a crawl already: to go on with it pass resume=True (--resume), else give another path"
            )
        self._connection.execute("BEGIN IMMEDIATE")
        if self._retry:
            retry_errors(self._connection)
        self._frontier = Frontier(self._connection, **self._limits)
        self._frontier.add((self._start, 0))
        self._connection.execute("COMMIT")
        self.counts = self._frontier.counts

    def _serve(self) -> None:
        """Answer requests until there is ``None``."""
        ending = False
        while not ending:
            try:
                request = self._queue.get(timeout=self._patience())
                deadline = time.monotonic() + BATCH_SECONDS
                while request is not None:
                    self._note(request)
                    if self._queue.empty():
                        self._write()
                    if len(self._tell) >= BATCH_PAGES or (not self._tell and self._queue.empty()):
                        break
                    request = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                else:
                    ending = True
            except Empty:
                pass
            self._commit()

    def _patience(self) -> float | None:
        """Seconds until somebody who waits for pages may get some of a host that comes back."""
        due = self._frontier.due()
        return None if self._taker is None or due == inf else max(0.0, due - time.monotonic())

    def _note(self, request: Request) -> None:
        if isinstance(request, _Take):
            self._taker = request
        elif isinstance(request, list):
            self._outcomes += [one.outcome for one in request]
            self._tell += [one.settled for one in request]
        else:
            self._frontier.put_back(request.entry, request.due)

    def _write(self) -> None:
        """Hand outcomes to SQLite, as yet uncommitted, and pages to whoever waits for some."""
        try:
            self._write_outcomes()
            self._hand_out()
        except Exception as error:
            self._fail(error)

    def _write_outcomes(self) -> None:
        if self._failure is not None:
            raise self._failure
        outcomes, self._outcomes = self._outcomes, []
        if outcomes:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._frontier.settle(outcomes)
            self.counts = self._frontier.counts

    def _hand_out(self) -> None:
        if self._taker is None:
            return
        most, taken = self._taker
        entries = self._frontier.take(most, time.monotonic())
        if entries or self._frontier.exhausted():
            self._taker = None
            self._answer(taken, None, entries)

    def _commit(self) -> None:
        self._write()
        try:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")
        except Exception as error:
            self._fail(error)
        tell, self._tell = self._tell, []
        if tell:
            self._call(_settle, tell, self._failure)

    def _fail(self, error: Exception) -> None:
        """The file cannot be used any more: what was not committed is gone, and everyone is told."""
        if self._failure is None:
            self._failure = _problem(self.path, error)
        self._outcomes.clear()
        with contextlib.suppress(Exception):
            self._connection.rollback()
        if self._taker is not None:
            self._answer(self._taker.taken, self._failure)
            self._taker = None

    def _answer(
        self, future: asyncio.Future[None] | Taken, error: StoreError | None, value: object = None
    ) -> None:
        self._call(_end, future, error, value)

    def _call(self, function: object, *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits
            self._loop.call_soon_threadsafe(function, *args)  # type: ignore[arg-type]


def _end(future: asyncio.Future[object], error: StoreError | None, value: object) -> None:
    if not future.done():
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)


def _settle(tell: list[Settled], error: StoreError | None) -> None:
    for future in tell:
        _end(future, error, None)  # type: ignore[arg-type]


def _lock(path: Path) -> Lock:
    try:
        return Lock(path)
    except JournalError as error:
        pid = is_held(path)
        if pid is None:
            raise StoreError(f"the store {path} cannot be used: {error.__cause__ or error}") from error
        raise StoreError(
            f"the store {path} is in use by process {pid}: wait until that has ended, or give another path"
        ) from error


def _problem(path: Path | None, error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    made = StoreError(f"the store {path or '(temporary)'} cannot be used any more: {error}")
    made.__cause__ = error
    return made
