"""``StreamPool``: calls on the streams of one or several devices."""

from __future__ import annotations

import time
import weakref
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

from asyncpar.chunks import Chunk
from asyncpar.errors import BrokenPoolError, fresh
from asyncpar.pool import Pool
from asyncpar.sharing import unwrap
from asyncpar.statistics import PoolStatistics
from asyncpar_streams.batching import BatchQueue
from asyncpar_streams.budget import Budget
from asyncpar_streams.device import Device
from asyncpar_streams.needs import Needs, parse_bytes
from asyncpar_streams.site import Site, run
from asyncpar_streams.slot import Slot, Work
from asyncpar_streams.transfer import Result, mapped


@dataclass(frozen=True, slots=True)
class StreamStatistics(PoolStatistics):
    """A pool on streams at one moment.

    :ivar memory: bytes of its budgets that calls hold
    :ivar memory_retries: calls that ran a second time, alone, since the device's memory had not sufficed
    :ivar batches: runs of several calls as one
    """

    memory: int
    memory_retries: int
    batches: int


class StreamPool(Pool):
    """Runs calls on the streams of devices. See the pools of the libraries, whose constructors take the same.

    A call runs in a thread that owns a stream: the thread copies NumPy arrays among the arguments to the device, calls
    the function, copies arrays among its results back, and waits until the device has done it all. Each of these only
    submits work, so that copies of one call and the computing of another, on another stream, overlap. Arrays in
    lists, tuples and dictionaries count as arguments and results, too. Arguments and results stay alive until the device
    is done.

    **Results.** ``"auto"``: if a NumPy array was among the arguments, arrays among the results become NumPy arrays;
    otherwise they stay on the device. ``"device"``, ``"host"``: always.

    **Cancelling** a call, or its timeout, frees the caller at once. What was submitted to a device cannot be called back:
    the stream, and the memory that the call holds, stay held until the device is done, and closing the pool waits for
    that. Calls that have not started are dropped.

    **Memory.** With ``memory=``, each call holds bytes of that budget while it runs, and waits until they are free. How
    many: what ``declare`` said of its function, else what earlier calls had allocated at most. The first call of a
    function of which nothing is known holds the whole budget. One that needs more than the budget runs when no other holds
    any. Results that stay on the device are the caller's, and no longer part of the budget. If the device's memory does
    not suffice all the same, the pool waits for the calls that run, has the library give cached memory back, and runs
    the call once more, alone: so its function may be called twice. If that fails, ``MemoryLimitError`` says how much was
    asked for, free and held.

    **Faults.** After some errors (an illegal address, on CUDA) a device runs nothing more in its process. Calls in flight
    end with the device's error, others and all later ones with ``BrokenPoolError``.

    :param device: number of the device; a string of digits is taken, too, as in ``open_pool("opencl:1")``. Default: 0
    :param devices: several devices, in place of ``device``. A call goes where the first array among its arguments lies,
        else where fewest calls are.
    :param streams: streams of each device, and so calls that run there at a time. Default: 4, one for each of copying
        in, computing and copying out, and one so that none idles
    :param memory: budget of device memory for each device, in bytes or as ``"8 GiB"``. Default: no limit
    :param result: where results go, see above
    :param batch: calls of one function with arrays of the same shapes and types are stacked (a new first axis), run
        once, and their results split, at most this many together; arguments that are not arrays must be equal.
        The function must take and return arrays with that axis. Default: no batches
    :param batch_wait: seconds that a call waits for others of its kind, at most
    :param isolate: the device lives in worker processes, one for each stream, with a context of the device each. After a
        fault a worker is replaced, and the pool goes on. What it costs: functions, arguments and results are pickled
        (arrays travel through shared memory), results always come to the host, each worker takes the device's memory for
        a context (some 100 MiB and more on CUDA) and the library's time to start, and no memory is kept cached between
        calls. A cancelled call is interrupted, or its worker killed.
    :raises BrokenPoolError: from opening: no such device; the message says what to install
    """

    chunk_seconds = 0.0
    default_limit = 64

    def __init__(
        self,
        device: int | str | None = None,
        *,
        devices: Sequence[int] | None = None,
        streams: int = 4,
        memory: int | str | None = None,
        result: Result = "auto",
        batch: int | None = None,
        batch_wait: float = 0.002,
        isolate: bool = False,
    ) -> None:
        self.numbers = _numbers(device, devices)
        _check_positive("streams", streams)
        if batch is not None:
            _check_positive("batch", batch)
        if result not in get_args(Result):
            raise ValueError(f"result= must be 'auto', 'device' or 'host', not {result!r}")
        if isolate and result == "device":
            raise ValueError(
                "result='device' goes without isolate=True: arrays of a device stay in their process"
            )
        if isinstance(batch_wait, bool) or not isinstance(batch_wait, (int, float)) or not batch_wait >= 0:
            raise ValueError(f"batch_wait= must be a number of seconds of at least 0, not {batch_wait!r}")
        super().__init__(streams * len(self.numbers))
        self.result: Result = result
        self.streams, self.batch, self.batch_wait = streams, batch, batch_wait
        self.memory = None if memory is None else parse_bytes(memory, "memory")
        self.isolate = isolate
        self.needs = Needs()
        self.sites: list[Site] = []
        self.owner: StreamPool | None = None  # the pool whose devices these are, for an actor's
        self._solos: weakref.WeakSet[StreamPool] = weakref.WeakSet()
        self._works: dict[Chunk, Work] = {}
        self._broken: BrokenPoolError | None = None
        self._memory_retries = self._batches = 0
        if batch is not None:
            self.chunksize, self.knows_what_runs = batch, False
            self._queue = BatchQueue(self)

    # -- what a library supplies

    @classmethod
    @abstractmethod
    def make_device(cls, number: int) -> Device:
        """A device, not opened. A class method, since workers of an isolated pool call it, too."""

    # -- memory

    def declare(self, function: Callable[..., Any], memory: int | str | Callable[..., int]) -> None:
        """Say how much device memory a call of this function takes, in place of learning it.

        :param memory: bytes, or ``"300 MiB"``, or a function of the call's arguments that returns bytes
        """
        self.needs.declare(function, memory)

    def _need(self, chunk: Chunk) -> int | None:
        """Bytes that a chunk holds while it runs; ``None``: not known."""
        if self.memory is None:
            return 0
        total = 0
        for index in range(len(chunk.items)):
            function, args, kwargs = self._known_call(chunk, index)
            need = self.needs.of(function, args, kwargs)
            if need is None:
                return None
            total += need
        return total

    def _learn(self, work: Work) -> None:
        for index, peak in work.peaks:
            self.needs.learn(*self._known_call(work.chunk, index), peak)

    def _known_call(self, chunk: Chunk, index: int) -> tuple[Any, Any, Any]:
        args, kwargs = unwrap(*chunk.call(index)[1:])
        return (chunk.items[index].function if chunk.singles else chunk.function), args, kwargs

    def statistics(self) -> StreamStatistics:
        """Counts at this moment, as a frozen object."""
        base = super().statistics()
        return StreamStatistics(
            base.workers,
            base.running,
            base.queued,
            base.completed,
            base.lost,
            sum(site.budget.used for site in self.sites),
            self._memory_retries,
            self._batches,
        )

    # -- opening and closing

    async def _open(self) -> None:
        if self.owner is not None:
            site = min(self.owner.sites, key=lambda site: site.load)
            self.sites.append(Site(self, site.device, site.budget, owner=False))
        else:
            for number in self.numbers:
                self.sites.append(Site(self, self.make_device(number), Budget(self.memory), owner=True))
        for site in self.sites:
            await site.open(self.streams)
        self.workers = sum(len(site.slots) for site in self.sites)

    def make_slot(self, site: Site, number: int, *, first: bool) -> Any:
        """A place for one chunk: in a thread, or in a worker process."""
        if self.isolate:
            from asyncpar_streams.isolated import IsolatedSlot

            return IsolatedSlot(site)
        return Slot(site, number, first=first)

    async def _close(self) -> None:
        if isinstance(self._queue, BatchQueue):
            self._queue.close()
        for work in list(self._works.values()):
            if (
                not work.begun and work.slot is not None
            ):  # in the line of a budget that may be another pool's, too
                run(work.site.budget.withdraw(work.request))
        for site in self.sites:
            await site.close()

    def _solo(self) -> Self:
        """A pool with one stream, on the device where fewest calls are; for an actor or a stream."""
        solo = type(self)(self.numbers[0], streams=1, result=self.result, isolate=self.isolate)
        solo.owner = self.owner or self
        solo.needs = self.needs
        self._solos.add(solo)
        return solo

    # -- places

    def _place(self) -> Any:
        sites = sorted(self.sites, key=lambda site: site.load)
        return next((slot for site in sites if (slot := site.idle()) is not None), None)

    def _send(self, place: Any, chunk: Chunk) -> None:
        site, slot = place.site, place
        home = self._home(chunk) if len(self.sites) > 1 else None
        if home is not None and home is not site:
            site, slot = home, home.idle()
            place.load -= 1
            chunk.place = site.desk if slot is None else slot
            chunk.place.load += 1
        work = self._works[chunk] = Work(site, chunk, self._need(chunk))
        site.send(work, slot)

    def _home(self, chunk: Chunk) -> Site | None:
        """The device that the first array among a chunk's arguments lies on, if it is one of ours."""
        homes: list[int] = []

        def look(value: Any) -> None:
            home = self.sites[0].device.home(value)
            if home is not None:
                homes.append(home)

        mapped(list(chunk.call(0)[1:]), look)
        return next((site for site in self.sites if homes and site.device.number == homes[0]), None)

    def answered(self, work: Work) -> None:
        """On the loop: a slot has done what it could of a chunk."""
        chunk, site = work.chunk, work.site
        self._batches += work.batches
        work.batches = 0
        if work.todo and self._state == "open" and not chunk.finished:
            self._memory_retries += len(work.todo)
            run(site.budget.again(work.request))
            return
        del self._works[chunk]
        self.vacate(chunk)
        self._learn(work)
        chunk.function.measured(work.seconds, len(chunk.items))
        if not chunk.finished:
            chunk.deliver(work.values, work.errors or None)
        run(site.budget.leave(work.request))
        del (
            work.request.start
        )  # which leads back to the work: its arrays must not wait for the garbage collector
        if work.fault is not None:
            self.fail(work.fault, site.device)
        site.advance()
        if self._state == "open":
            self.pump()

    def fail(self, error: BaseException, device: Device) -> None:
        """The device runs nothing more: end what is in flight with its error, and everything else."""
        if self._broken is not None:
            return
        self._broken = BrokenPoolError(
            f"{device.name} has failed, and runs nothing more in this process ({type(error).__name__}: {error}): "
            "restart the process, or open the pool with isolate=True, which replaces the process of a device"
        )
        self._broken.__cause__ = error
        if self._state == "open":
            self._state = "broken"
        for chunk in list(self._running):
            if not chunk.finished:
                work = self._works.get(chunk)
                outcome = error if work is not None and work.begun else fresh(self._broken)
                left = len(chunk.items) - chunk.done
                chunk.deliver([None] * left, dict.fromkeys(range(left), outcome))
        self._fail_waiting(self._broken)
        for other in [*self._solos, *([self.owner] if self.owner else [])]:
            other.fail(error, device)

    def _check_open(self) -> None:
        if self._broken is not None:
            raise fresh(self._broken)
        super()._check_open()

    def _interrupt(self, chunk: Chunk, first: int, last: int) -> bool:
        """Only a process can be stopped; and only if nobody wants what else runs there."""
        work = self._works.get(chunk)
        stops = chunk.stops or {}
        if not self.isolate or work is None or not work.begun:
            return False
        if any(index not in stops for index in range(chunk.done, len(chunk.items))):
            return False
        work.slot.stop()
        return True

    def _progress(self, chunk: Chunk) -> tuple[int, float] | None:
        work = self._works.get(chunk)
        current = work.slot.current if work is not None and work.slot is not None else None
        return None if current is None else (current[0], time.monotonic() - current[1])


def _numbers(device: int | str | None, devices: Sequence[int] | None) -> tuple[int, ...]:
    if devices is not None:
        if device is not None:
            raise ValueError("device= and devices= are two ways to say the same: give one of them")
        numbers = tuple(devices)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"devices= takes numbers of devices, each once, not {devices!r}")
    elif isinstance(device, str):
        if not device.isdecimal():
            raise ValueError(f"the device is named by its number, from 0, not {device!r}")
        numbers = (int(device),)
    else:
        numbers = (0 if device is None else device,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"a device is named by its number, from 0, not {number!r}")
    return numbers


def _check_positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= must be a whole number, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}= must be at least 1, not {value}")
