"""What a GPU library supplies: a ``Device``, and a ``Stream`` for each slot.

The methods of a device are called from the slots' threads, several at a time where nothing else is said, and never from
the loop's thread: a driver may block any of them. A stream is made, used and closed in one slot's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Memory:
    """A device's memory at one moment; ``None`` for what the library cannot tell.

    :ivar free: bytes that the driver could still give
    :ivar held: bytes that this process holds, in use or cached by its memory pool
    :ivar total: bytes of the device
    """

    free: int | None
    held: int | None
    total: int | None = None


class Device(ABC):
    """One device, as a library reaches it.

    :ivar number: which, as the library counts them, from 0
    :ivar name: as messages name it: ``"CUDA device 0 (NVIDIA H100)"``; known once it is open
    :ivar most_streams: streams that work side by side; fewer than were asked for, where the library bears no more
    """

    most_streams: int = 1 << 10

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.name = f"device {number}"

    @abstractmethod
    def open(self) -> None:
        """Import the library, find the device, set ``name``. Called once, before any stream is made.

        :raises BrokenPoolError: there is no such device, or no library; the message says what to install
        """

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream, made current for the calling thread for good."""

    @abstractmethod
    def home(self, value: Any) -> int | None:
        """The number of the device that an array lies on; ``None`` for what is no array of this library.

        Asked on the loop's thread, where calls are placed: it must look at attributes, and not call the driver.
        """

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether this says that the device's memory did not suffice. Asked on any thread: no driver calls."""
        return isinstance(error, MemoryError)

    def asked(self, error: BaseException) -> int | None:
        """The bytes that were asked for, if an error of want of memory tells."""
        return None

    @abstractmethod
    def fault(self, error: BaseException) -> bool:
        """Whether after this error the device runs nothing more in this process (a sticky error).

        Asked for every exception of a call, in the slot's thread, behind ``out_of_memory``. If the library's error
        does not tell, try something small on the device.
        """

    @abstractmethod
    def trim(self) -> None:
        """Give the memory back that the library's pools (of the device, of pinned buffers) keep unused."""

    @abstractmethod
    def memory(self) -> Memory:
        """Free and held bytes, for messages and statistics."""

    def close(self) -> None:  # noqa: B027 (most keep nothing)
        """Every stream has been closed; give back what the device itself held. Must not raise."""


class Stream(ABC):
    """A slot's stream. For each call, in this order and in the slot's thread::

        begin()
        upload(array), adopt(array), stack(arrays)   for the arrays among the arguments
        the user's function, which finds this stream current
        download(array)                              for the results that go to the host
        synchronize(value)                           always, after errors too
        what download returned                       unless the call failed
        end()                                        always

    Nothing that a call touched is dropped before ``synchronize`` has returned: the pool holds the arguments, what
    ``upload``, ``adopt`` and ``stack`` returned, and the function's result. What else the device needs until then
    (pinned buffers, events) the stream holds itself, until ``end``.
    """

    def begin(self) -> None:  # noqa: B027 (where nothing is measured)
        """A call begins: its memory is measured from here."""

    def end(self) -> int | None:
        """The call is over: drop what was held for it, give pinned buffers back.

        Returns the most bytes that this thread had allocated at a time since ``begin``, uploads included; ``None``
        where the library cannot tell.
        """
        return None

    def uploadable(self, array: Array) -> bool:
        """Whether the library has this array's type; others reach the function as they are."""
        return array.dtype.kind in "biufc" and array.dtype.itemsize <= 16

    @abstractmethod
    def upload(self, array: Array) -> Any:
        """Begin to copy a host array to the device; the array there. Must not wait for the device.

        From pageable memory most drivers wait: copy into a pinned buffer of a bounded pool first, and give it back in
        ``end``. When all buffers are in use, copy from the pageable memory: a call that holds buffers must not wait
        for those of another.
        """

    @abstractmethod
    def adopt(self, array: Any) -> Any:
        """An array of this library that another stream may have made, or still be making, for use on this stream.

        The dependency is the device's (an event that this stream waits for), and nothing waits on the host. An array
        of another device is refused or copied, as the library does it.
        """

    @abstractmethod
    def stack(self, arrays: Sequence[Any]) -> Any:
        """Adopted arrays of one shape and type as one array with a new first axis, made on this stream."""

    @abstractmethod
    def download(self, array: Any) -> Callable[[], Array]:
        """Begin to copy an array to the host, without waiting; what is returned gives the host's array afterwards.

        That array is the caller's alone: no pinned buffer that will be used again.
        """

    @abstractmethod
    def synchronize(self, value: Any) -> None:
        """Wait, with the GIL free, until all that was submitted on this stream has ended; raise if any of it failed.

        With a blocking event (``block=True, disable_timing=True``), not by spinning nor with a callback of the driver.

        :param value: what the function returned, or ``None`` if it raised, for libraries whose results know what they
            wait for (OpenCL's events)
        :raises Exception: the device's own error
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for what still runs, give up the stream and make no stream current. Errors of the device are ignored."""


def is_host(value: Any) -> bool:
    """Whether a value is an array of the host, NumPy's own or of a subclass."""
    return isinstance(value, np.ndarray)
