"""Politeness on the loop: requests wait here until their host, and then the program, has room for one more."""

from __future__ import annotations

import asyncio
import time
from math import inf

from asyncpar.limits import Limiter
from asyncpar_scrape.failures import FetchError, HostDownError
from asyncpar_scrape.hosts import Hosts


class _Line:
    """Those who want to ask one host: the first waits for the host, the others for the lock, in order."""

    __slots__ = ("changed", "coming", "lock", "queue", "users")

    def __init__(self) -> None:
        self.users = 0  # who come, wait or ask
        self.coming = 0
        self.queue = 0  # who wait
        self.lock = asyncio.Lock()
        self.changed = asyncio.Event()


class Turns:
    """Lets requests begin. Who waits for a host takes no place from other hosts.

    :arg hosts: says when a host may be asked
    :arg most: requests that run at once, of all hosts
    :arg patience: seconds that a host may ask to be left alone
    """

    def __init__(self, hosts: Hosts, most: int, patience: float) -> None:
        self.hosts = hosts
        self._patience = patience
        self._places = Limiter(most)
        self._lines: dict[str, _Line] = {}

    def come(self, host: str) -> None:
        """Who is about to ask a host, or asks it, says so, for others to ``expect`` when they would have their turn. Each needs
        a ``go``.
        """
        line = self._line(host)
        line.users += 1
        line.coming += 1

    def go(self, host: str) -> None:
        """Who has asked a host asks it no more."""
        line = self._lines[host]
        line.coming -= 1
        self._leave(host, line)

    def expect(self, host: str) -> float:
        """Seconds that one more request would wait for its host, by how it went so far; 0 if it would fail at once."""
        line, now = self._lines.get(host), time.monotonic()
        if self.hosts.is_down(host, now):
            return 0.0
        seconds = self.hosts.expect(host, line.coming if line else 0, now)
        return seconds if seconds <= self._patience else 0.0

    async def begin(self, host: str) -> None:
        """Wait until a request may begin, and count it; each needs an ``end``. Cancelling leaves the line.

        :raises FetchError: the host is to be left alone for longer than ``patience``
        """
        line = self._line(host)
        line.users += 1
        if not line.queue and self._start(host):
            return
        line.queue += 1
        try:
            async with line.lock:
                await self._wait(host, line)
        except BaseException:  # cancelled, too: others wait behind it
            self._leave(host, line)
            raise
        finally:
            line.queue -= 1

    def _start(self, host: str) -> bool:
        """Begin at once, if the host and the program have room for it."""
        now = time.monotonic()
        if self.hosts.wait(host, now) or not self._places.acquire_nowait():
            return False
        self.hosts.start(host, now)
        return True

    async def _wait(self, host: str, line: _Line) -> None:
        hosts = self.hosts
        while True:
            line.changed.clear()
            if hosts.is_down(host, time.monotonic()):
                raise HostDownError(
                    f"{host} is not asked: it has failed {hosts.max_failures} times in a row, or more; see max_failures="
                )
            seconds = hosts.wait(host, time.monotonic())
            if seconds == inf:
                await line.changed.wait()
            elif seconds > self._patience:
                raise FetchError(
                    f"{host} asked to be left alone for another {seconds:.0f} seconds; see max_retry_after="
                )
            elif seconds > 0:
                await asyncio.sleep(seconds)
            else:
                await self._places.acquire()
                now = time.monotonic()
                if not hosts.wait(host, now):  # it may have failed meanwhile
                    hosts.start(host, now)
                    return
                self._places.release()

    def end(self, host: str, *, failed: bool, seconds: float | None, retry_after: float = 0.0) -> None:
        """The request has ended: ``failed``, with an answer after ``seconds``, or without both if it was given up."""
        self._places.release()
        if failed or seconds is not None:
            self.hosts.finish(
                host, time.monotonic(), seconds=None if failed else seconds, retry_after=retry_after
            )
        else:
            self.hosts.release(host)
        line = self._lines[host]
        line.changed.set()
        self._leave(host, line)

    def slow_down(self, host: str, delay: float) -> None:
        """The host asks for this many seconds between two requests."""
        self.hosts.slow_down(host, delay, time.monotonic())

    def _line(self, host: str) -> _Line:
        line = self._lines.get(host)
        if line is None:
            line = self._lines[host] = _Line()
        return line

    def _leave(self, host: str, line: _Line) -> None:
        line.users -= 1
        if not line.users:
            del self._lines[host]
