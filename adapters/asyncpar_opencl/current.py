"""For functions that run on an ``OpenCLPool``: the queue of their call, events that it waits for, kernels."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncpar_opencl.device import OpenCLStream

E = TypeVar("E")
here = threading.local()
"""``here.stream`` is the stream of the slot whose thread this is."""


def current_stream() -> OpenCLStream:
    """The stream of this thread.

    :raises RuntimeError: this is no slot's thread
    """
    stream: OpenCLStream | None = getattr(here, "stream", None)
    if stream is None:
        raise RuntimeError(
            "there is no current queue: call this inside a function that runs on an OpenCLPool"
        )
    return stream


def current_queue() -> Any:
    """The ``pyopencl.CommandQueue`` of the call that runs in this thread.

    It is out of order: a command that needs another's result names its event in ``wait_for=``. The arrays that a
    function is given, and what NumPy-like operations make of them, do so by themselves (``array.events``).

    :raises RuntimeError: this is not called inside a call on an ``OpenCLPool``
    """
    return current_stream().queue


def keep(event: E) -> E:
    """Have the call wait for this event of a command, fail if the command does, and hold the event until then.

    The pool knows the events of arrays that the function was given or returns, and those that it returns. Any other
    event (of a kernel that writes to a plain ``Buffer``, of a copy that does not block) goes through here: a marker on
    the queue does not tell on every driver that a command before it failed, and to drop the event of a copy that has not
    ended blocks the whole program until it has. Returns the event.
    """
    current_stream().events.append(event)
    return event


def kernel(source: str, name: str, options: str = "") -> Any:
    """A ``pyopencl.Kernel`` of this thread's own, since kernels must not be called from two threads at a time.

    The program is built at its first use on a device, in the calling slot, and kept as long as the pool is open.

    :param source: OpenCL C
    :param options: for the compiler
    :raises pyopencl.RuntimeError: the source does not compile; the message has the compiler's log
    """
    return current_stream().kernel(source, name, options)
