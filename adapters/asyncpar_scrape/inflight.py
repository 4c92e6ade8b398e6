"""Bytes of bodies that are held at once, over all requests: who would hold too many waits, and its sender with it."""

from __future__ import annotations

import asyncio
from typing import Self


class Share:
    """What one request holds while its body is read; see ``BytesInFlight.share``. Leaving its block gives it all back."""

    __slots__ = ("_all", "_waiting", "held")

    def __init__(self, all_of_them: BytesInFlight) -> None:
        self._all = all_of_them
        self._waiting: tuple[int, asyncio.Future[None]] | None = None
        self.held = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def add_nowait(self, n: int) -> bool:
        """Hold ``n`` more bytes, if there is room and nobody waits for it."""
        return self._all._add(self, n)

    async def add(self, n: int) -> None:
        """Hold ``n`` more bytes; waits for room. Cancelling gives up the wait, and holds nothing more.

        Returns without giving way to other tasks when there is room at once.
        """
        if not self.add_nowait(n):
            await self._all._wait(self, n)

    def waits(self) -> bool:
        """Whether it waits for room."""
        return self._waiting is not None

    def clear(self) -> None:
        """Give back all of it. The request is not among those that read any more, until it holds something again."""
        self._all._leave(self)


class BytesInFlight:
    """A bound on bytes.

    ``held`` never exceeds ``most`` by more than one body: the request that has read for the longest is let through when
    all that is held is of bodies not read to their end, which would wait for each other without it.

    :arg most: bytes; at least 1
    :ivar held: bytes that are held now
    :raises ValueError: ``most`` is below 1
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"bytes_in_flight must be at least 1, not {most}")
        self.most = most
        self.held = 0
        self._kept = 0
        self._shares: dict[Share, None] = {}  # the oldest first
        self._waiters = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return self._waiters

    def share(self) -> Share:
        """What a request holds, until the end of its ``with`` block."""
        return Share(self)

    def keep(self, n: int) -> None:
        """Count ``n`` bytes that nobody has to wait for, as of a body that was read and is used.

        Each needs a ``drop``, which must not depend on what other requests still read. Called before the loop has run
        on after the share's block, it takes over what the share held.
        """
        self._kept += n
        self.held += n

    def drop(self, n: int) -> None:
        """These bytes are kept no longer.

        :raises RuntimeError: fewer are kept
        """
        if n > self._kept:
            raise RuntimeError(f"drop({n}) with {self._kept} bytes kept: drop once what was kept once")
        self._kept -= n
        self.held -= n
        self._deal()

    def _fits(self, share: Share, n: int) -> bool:
        """Whether it may hold more. While bytes are kept, room will come without the exception for the oldest."""
        return self.held + n <= self.most or (not self._kept and share is next(iter(self._shares)))

    def _add(self, share: Share, n: int) -> bool:
        self._shares.setdefault(share)
        oldest = share is next(iter(self._shares))
        if (self._waiters and not oldest) or not self._fits(share, n):
            return False
        share.held += n
        self.held += n
        return True

    def _leave(self, share: Share) -> None:
        if share in self._shares:
            del self._shares[share]
            self.held -= share.held
            share.held = 0
            # Not at once: who has the body may keep it, as soon as this returns.
            asyncio.get_running_loop().call_soon(self._deal)

    async def _wait(self, share: Share, n: int) -> None:
        granted = asyncio.get_running_loop().create_future()
        share._waiting = (n, granted)
        self._waiters += 1
        try:
            await granted
        except BaseException:  # cancelled: at once with the grant, too
            if not share.waits():
                share.held -= n
                self.held -= n
            else:
                share._waiting = None
                self._waiters -= 1
            self._deal()
            raise

    def _deal(self) -> None:
        """Let those continue for whom there is room now, the oldest first."""
        if not self._waiters:
            return
        for share in self._shares:
            if share._waiting is None:
                continue
            n, granted = share._waiting
            if not self._fits(share, n):
                return
            share._waiting = None
            self._waiters -= 1
            share.held += n
            self.held += n
            if not granted.done():  # else it was cancelled, and its task is about to learn it
                granted.set_result(None)
