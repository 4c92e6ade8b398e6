"""The ranks of a job, as rank 0 sees them: one post, and a poller that looks at it while something is in flight."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import time
from typing import TYPE_CHECKING, Any

from mpi4py import MPI

from asyncpar_mpi import wire
from asyncpar_mpi.faults import failed, gone, tolerated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpar_mpi.place import RankPlace
    from asyncpar_mpi.pool import MPIPool

MOST = 64
"""Messages taken in a turn of the loop."""
CHECK = 20e-3
"""Seconds between two looks whether a rank has died."""
IDLE_CHECK = 50e-3
"""The same while nothing is in flight."""


class Fleet:
    """Making one is collective: the other ranks of ``comm`` serve meanwhile (``asyncpar_mpi.serve``)."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        if comm.rank != 0:
            raise RuntimeError(
                f"rank {comm.rank} cannot open an MPIPool: rank 0 does, and the others call asyncpar_mpi.serve()"
            )
        self.post = wire.Post(comm)
        gathered = self.post.comm.gather((os.getpid(), socket.gethostname()))
        assert gathered is not None
        self.ranks: list[tuple[int, str]] = gathered
        self.free = list(range(1, len(gathered)))
        self.places: dict[int, RankPlace] = {}
        self.active: set[RankPlace] = set()
        self.dead: set[int] = set()
        self.faults = tolerated()
        self.pools: set[MPIPool] = set()
        self.draining = False
        self.backoff = wire.Backoff()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.polling: asyncio.Handle | None = None
        self.asleep = False
        self.next_check = 0.0

    # -- ranks

    def take(self, most: int | None) -> list[int]:
        """Ranks that nobody uses, which are the caller's now."""
        taken = self.free if most is None else self.free[:most]
        self.free = self.free[len(taken) :]
        return taken

    def open(self, place: RankPlace, settings: dict[str, Any]) -> None:
        """Have the rank serve a pool."""
        self.places[place.slot] = place
        place.send(wire.OPEN, pickle.dumps(settings, 5))

    def released(self, place: RankPlace) -> None:
        """The rank has let go of its pool."""
        self.active.discard(place)
        del self.places[place.slot]
        self.free.append(place.slot)
        self.free.sort()

    # -- messages

    def send(self, place: RankPlace, tag: int, body: bytes) -> None:
        try:
            self.post.send(place.slot, tag, body)
        except MPI.Exception as error:
            self.failed(error)
        self.expect(place)

    def send_frames(self, place: RankPlace, frames: bytes, buffers: Iterable[wire.Buffer]) -> None:
        try:
            self.post.send_frames(place.slot, frames, buffers)
        except MPI.Exception as error:
            self.failed(error)
        self.expect(place)

    def expect(self, place: RankPlace) -> None:
        """Something is to come from there: look for it."""
        self.active.add(place)
        self.backoff.reset()
        loop = asyncio.get_running_loop()
        if self.polling is not None and self.loop is loop:
            if not self.asleep:
                return
            self.polling.cancel()
        self.loop, self.asleep = loop, False
        self.polling = loop.call_soon(self.poll)

    def poll(self) -> None:
        """Take in what has come, and come back."""
        came = False
        try:
            came = self.receive()
            came = self.post.progress() or came
            if self.faults and time.perf_counter() > self.next_check:
                self.check()
        except MPI.Exception as error:
            self.failed(error)
        finally:
            self.polling = None
            if self.active or self.post.sending:
                self.come_back(came)
            elif self.faults and self.pools:
                self.look_later()

    def come_back(self, came: bool) -> None:
        assert self.loop is not None
        if came:
            self.backoff.reset()
        delay = self.backoff.delay()
        self.asleep = delay > 0
        if self.asleep:
            self.polling = self.loop.call_later(delay, self.poll)
            return
        if not came and not any(pool.has_outcomes for pool in self.pools):
            os.sched_yield()  # on a shared core the ranks go first
        self.polling = self.loop.call_soon(self.poll)

    def look_later(self) -> None:
        """Nothing is in flight: look now and then whether a rank has died."""
        assert self.loop is not None
        self.asleep = True
        self.polling = self.loop.call_later(IDLE_CHECK, self.poll)

    def stop_polling(self) -> None:
        """Nobody waits for anything."""
        if self.polling is not None:
            self.polling.cancel()
            self.polling = None

    def receive(self) -> bool:
        """Take in what has come; true if it was something."""
        came = False
        for place in list(self.active):
            if place.incoming:
                came = place.advance() or came
        for _ in range(MOST):
            arrival = self.post.receive()
            if arrival is None:
                break
            came = True
            if arrival.source in self.places:
                self.places[arrival.source].arrived(arrival.tag, arrival.body)
        if came:
            self.active = {place for place in self.active if place.expects}
        return came

    # -- deaths

    def failed(self, error: MPI.Exception) -> None:
        """An MPI call went wrong: if not for a death, no pool can go on."""
        if self.faults and gone(error):
            self.check()
            return
        self.active.clear()
        self.post.sending.clear()
        for pool in list(self.pools):
            pool.fail(error)

    def check(self) -> None:
        """Settle what the ranks had that have died."""
        self.next_check = time.perf_counter() + CHECK
        for rank in failed(self.post.comm) - self.dead:
            self.dead.add(rank)
            failed(self.post.bulk)
            if rank in self.free:
                self.free.remove(rank)
            place = self.places.pop(rank, None)
            if place is not None:
                self.active.discard(place)
                place.died(0, 0)

    # -- the end

    def drain(self) -> None:
        """Hand out nothing more; may be called by a signal's handler."""
        self.draining = True
        for pool in list(self.pools):
            pool.loop.call_soon_threadsafe(pool.drain)

    def hurry(self) -> None:
        """Wait no longer for what was handed out; may be called by a signal's handler."""
        for pool in list(self.pools):
            pool.loop.call_soon_threadsafe(pool.hurry)

    def finish(self, seconds: float) -> list[int]:
        """Let the ranks go; those that do not come to an end within the time are returned. Blocks."""
        self.stop_polling()
        for place in self.places.values():
            place.link.abandon()
            if not place.closing:  # its pool was left open
                place.closing = True
                self.post.send(place.slot, wire.CLOSE)
        backoff, end = wire.Backoff(), time.monotonic() + seconds
        while self.places and time.monotonic() < end:
            self.receive()
            backoff.wait()
        for rank in self.free:
            try:
                self.post.send(rank, wire.FINISH)
            except MPI.Exception as error:
                self.failed(error)
        while self.post.sending and time.monotonic() < end:
            self.post.progress()
            backoff.wait()
        if not self.faults and not self.places:
            self.post.close()
        return sorted(self.places)
