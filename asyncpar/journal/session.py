"""One map's use of a journal, on its event loop: lookups, what is to be kept, and how much of that waits."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncpar.errors import JournalError, SerializationError
from asyncpar.journal.identity import identify
from asyncpar.journal.writer import BATCH_ROWS, Key, Looked, Writer
from asyncpar.process.encoding import dump_yielding, heavy

if TYPE_CHECKING:
    from asyncpar.journal.journal import Journal

log = logging.getLogger("asyncpar")

BACKLOG_ROWS = 2 * BATCH_ROWS
"""When so many results wait to be written, no call is started: what a crash can cost stays small on a slow disk, too."""
BACKLOG_BYTES = 64 << 20
MOST_BYTES = 1_000_000_000 - 8192
"""What SQLite takes in one row."""


class Session:
    """See the module. ``drained`` is called when less waits to be written, ``failed`` when the journal can go on no more."""

    def __init__(
        self, journal: Journal, function: Callable[..., Any], key: Callable[..., Any] | None, star: bool
    ) -> None:
        self.journal, self.function, self.key, self.star = journal, function, key, star
        self.loop = asyncio.get_running_loop()
        self.writer: Writer = journal._acquire()
        self.failure: JournalError | None = None
        self.drained: Callable[[], None] = _nothing
        self.failed: Callable[[], None] = _nothing
        self.damaged = 0
        self._number = 0
        self._salt = b""
        self._rows: list[tuple[Key, bytes]] = []
        self._backlog_rows = self._backlog_bytes = 0
        self._closed: asyncio.Future[None] | None = None
        self._told = False

    async def open(self) -> None:
        """Open the file, unless another map has it open, and find the function in it.

        :raises JournalError: it is in use elsewhere, no journal, damaged, or has results of another version
        """
        opened: asyncio.Future[None] = self.loop.create_future()
        self.writer.put(partial(self._know, opened))
        self.writer.on_exit.append(self._ship)
        try:
            await opened
        except BaseException as error:  # cancelled, too
            self.drop()
            if isinstance(error, JournalError) and self._closed is not None:
                await self._closed  # nothing of the attempt is left
            raise

    def _know(self, opened: asyncio.Future[None]) -> None:
        """In the thread."""
        error: BaseException | None = self.writer.failure
        if error is None:
            try:
                identity = identify(self.function, self.journal.version, self.key)
                self._salt, self._number = identity.salt, self.writer.know(identity)
                self.writer.on_failure.append(self._post_failure)
            except JournalError as raised:
                error = raised
            except BaseException as raised:
                self._post(
                    _answer, opened, JournalError(f"the journal {self.journal.path} cannot be used: {raised}")
                )
                raise
        self._post(_answer, opened, error)

    def _post(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            pass

    def _post_failure(self, error: JournalError) -> None:
        self._post(self._fail, error)

    def _fail(self, error: JournalError) -> None:
        self.failure = self.failure or error
        self.failed()

    # -- looking up

    def look_up(self, items: list[Any], answer: Callable[[Looked], None], *, by_key: bool) -> None:
        """Answer with what is kept for these items, or for these keys of theirs."""
        self._ship()

        def work() -> None:
            looked = self.writer.look_up(self._salt, items, star=self.star, by_key=by_key)
            self._post(answer, looked)

        self.writer.put(work)

    # -- keeping

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that no more should be started."""
        return self._backlog_rows >= BACKLOG_ROWS or self._backlog_bytes >= BACKLOG_BYTES

    def keep(self, key: Key, value: Any) -> None:
        """Keep a result, as it is now.

        :raises SerializationError: it cannot be pickled
        """
        made = self._pickled(value, pickle.dumps)
        if not self._rows:
            self.loop.call_soon(self._ship)
        self._rows.append((key, made))
        self._waiting(1, len(made))

    def keep_slowly(
        self, pairs: Sequence[tuple[Key, Any]], done: Callable[[dict[int, BaseException]], None]
    ) -> None:
        """Keep large results: pickled in the thread, for they must not change before ``done`` is called.

        ``done`` gets the errors of those that cannot be pickled.
        """
        self._ship()

        def work() -> None:
            rows: list[tuple[Key, bytes]] = []
            errors: dict[int, BaseException] = {}
            for index, (key, value) in enumerate(pairs):
                try:
                    rows.append((key, self._pickled(value, dump_yielding)))
                except SerializationError as error:
                    errors[index] = error
            self._post(self._waiting, len(rows), sum(len(value) for _, value in rows))
            self._post(done, errors)
            self.writer.keep(self._number, rows, self._committed)

        self.writer.put(work)

    @staticmethod
    def is_large(value: Any) -> bool:
        """Whether pickling this would hold up the loop."""
        return heavy(value)

    def _pickled(self, value: Any, dump: Callable[..., bytes]) -> bytes:
        try:
            made = dump(value, 5)
        except Exception as error:  # whatever the pickling code of a class raises
            raise self._cannot(f"{type(error).__name__}: {error}") from error
        if len(made) > MOST_BYTES:
            raise self._cannot(f"its pickle has {len(made):,} bytes, and SQLite takes {MOST_BYTES:,}")
        return made

    def _cannot(self, why: str) -> SerializationError:
        from asyncpar.chunks import name_of

        return SerializationError(
            f"a result of {name_of(self.function)} cannot be kept in the journal: {why}; return plain data instead"
        )

    def _ship(self) -> None:
        """Give the thread what came in this turn of the loop."""
        if self._rows:
            rows, self._rows = self._rows, []
            self.writer.put(partial(self.writer.keep, self._number, rows, self._committed))

    def _waiting(self, rows: int, nbytes: int) -> None:
        self._backlog_rows += rows
        self._backlog_bytes += nbytes

    def _committed(self, rows: int, nbytes: int) -> None:
        """In the thread."""
        self._post(self._drained, rows, nbytes)

    def _drained(self, rows: int, nbytes: int) -> None:
        self._waiting(-rows, -nbytes)
        self.drained()

    # -- the end

    @property
    def durable(self) -> bool:
        """Whether everything that was kept is committed."""
        return not self._backlog_rows

    def flush(self) -> None:
        """Commit now; ``drained`` is called when that is done."""
        self._ship()
        self.writer.put(self.writer.commit)

    def _forget(self) -> None:
        """In the thread."""
        if self._post_failure in self.writer.on_failure:
            self.writer.on_failure.remove(self._post_failure)

    def drop(self) -> None:
        """End without waiting: what was kept is committed all the same, soon."""
        if self._closed is None:
            self._closed = self.loop.create_future()
            self._ship()
            if self._ship in self.writer.on_exit:
                self.writer.on_exit.remove(self._ship)
            self.writer.put(self.writer.commit)
            self.writer.put(self._forget)
            self.journal._release(self.writer, partial(self._post, _answer, self._closed, None))

    async def aclose(self) -> None:
        """End, once everything is committed. Cancelling this does not undo it: the thread goes on to its end.

        :raises JournalError: it could not be written
        """
        self.drop()
        assert self._closed is not None
        await asyncio.shield(self._closed)
        if self.damaged:
            damaged, self.damaged = self.damaged, 0
            log.warning(
                "%d results in the journal %s were damaged, or of classes that are gone: they were computed again",
                damaged, self.journal.path,
            )  # fmt: skip
        if self.failure is not None and not self._told:
            self._told = True
            raise self.failure


def _nothing() -> None:
    """Nobody wants to know."""


def _answer(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
