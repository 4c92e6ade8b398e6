"""``StreamPool``: calls on the streams of one or several devices."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from asyncpar.chunks import Chunk
from asyncpar.pool import Pool
from asyncpar.statistics import PoolStatistics
from asyncpar_streams.device import Device
from asyncpar_streams.needs import Needs, parse_bytes

Result = Literal["auto", "device", "host"]


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
            raise ValueError("result='device' goes without isolate=True: arrays of a device stay in their process")
        if isinstance(batch_wait, bool) or not isinstance(batch_wait, (int, float)) or not batch_wait >= 0:
            raise ValueError(f"batch_wait= must be a number of seconds of at least 0, not {batch_wait!r}")
        super().__init__(streams * len(self.numbers))
        self.streams, self.result, self.batch, self.batch_wait = streams, result, batch, batch_wait
        self.memory = None if memory is None else parse_bytes(memory, "memory")
        self.isolate = isolate
        self.needs = Needs()

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

    async def _open(self) -> None:
        raise NotImplementedError

    async def _close(self) -> None:
        raise NotImplementedError

    def _place(self) -> Any:
        raise NotImplementedError

    def _send(self, place: Any, chunk: Chunk) -> None:
        raise NotImplementedError


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
