"""The far side of an isolated slot: a device with one stream, in a worker process. Runs there."""

from __future__ import annotations

import atexit
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from asyncpar_streams.slot import Arguments, Runner, out_of_memory
from asyncpar_streams.transfer import Result

if TYPE_CHECKING:
    from asyncpar_streams.pool import StreamPool

_runners: dict[int, Runner] = {}


@dataclass(slots=True)
class Reply:
    """What came of a run.

    :ivar hungry: the device's memory did not suffice, and a second attempt has not been made
    :ivar fault: ``error`` is one after which this process is of no more use
    """

    values: list[Any] = field(default_factory=list)
    peak: int | None = None
    error: BaseException | None = None
    hungry: bool = False
    fault: bool = False


def portable(error: Exception) -> Exception:
    """The error, or one with its type's name and text if it cannot be pickled, as those of PyOpenCL cannot."""
    try:
        pickle.dumps(error)
    except Exception:  # its __reduce__ may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    return error


def prepare(kind: type[StreamPool], number: int, result: Result) -> Runner:
    """This process's stream, made when it is first asked for."""
    if number not in _runners:
        device = kind.make_device(number)
        device.open()
        _runners[number] = runner = Runner(device, device.stream(), result)
        atexit.register(runner.close)
    return _runners[number]


def check(kind: type[StreamPool], number: int, result: Result) -> None:
    """Make the stream; raises what stands against it."""
    prepare(kind, number, result)


def run(
    where: tuple[type[StreamPool], int, Result],
    function: Callable[..., Any],
    calls: Sequence[Arguments],
    label: str,
    alone: bool,
) -> Reply:
    """Run one call, or several as one. What the function raises is raised."""
    runner = prepare(*where)
    device = runner.device
    try:
        return Reply(runner.run(function, calls, label), runner.peak)
    except Exception as error:
        if device.out_of_memory(error):
            error.__traceback__ = None
            return Reply(error=out_of_memory(error, device, label) if alone else None, hungry=not alone)
        if device.fault(error):
            return Reply(error=portable(error), fault=True)
        raise portable(error) from error.__cause__
    finally:
        device.trim()  # what this process keeps no other can use
