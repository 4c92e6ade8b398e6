"""Micro-batches: calls of one function that wait a moment for each other, are stacked, run once, and split."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from asyncpar.chunks import Chunk
from asyncpar.pool import Call, CallQueue
from asyncpar_streams.device import Device, Stream, is_host
from asyncpar_streams.transfer import mapped

if TYPE_CHECKING:
    from asyncpar_streams.pool import StreamPool

LOOKAHEAD = 4
"""Calls that are looked through for such as go together, in batches: what a turn of the loop may cost."""
Arguments = tuple[Sequence[Any], dict[str, Any]]


def signature(device: Device, args: Sequence[Any], kwargs: dict[str, Any]) -> Hashable | None:
    """Equal for calls that may be stacked; ``None`` for a call that goes alone."""
    parts = [_kind(device, value) for value in (*args, *kwargs.values())]
    if not any(type(part) is tuple and part[0] in ("host", "device") for part in parts):
        return None
    whole = (len(args), tuple(kwargs), tuple(parts))
    try:
        hash(whole)
    except TypeError:
        return None
    return whole


def _kind(device: Device, value: Any) -> Any:
    if is_host(value):
        return "host", value.shape, value.dtype.str
    home = device.home(value)
    if home is not None:
        return "device", home, tuple(value.shape), str(value.dtype)
    return type(value), value


def stacked(device: Device, stream: Stream, calls: Sequence[Arguments]) -> Arguments:
    """The arguments of one call in place of these, which have equal signatures."""
    args = [_stack(device, stream, [each[0][i] for each in calls]) for i in range(len(calls[0][0]))]
    kwargs = {name: _stack(device, stream, [each[1][name] for each in calls]) for name in calls[0][1]}
    return args, kwargs


def _stack(device: Device, stream: Stream, values: list[Any]) -> Any:
    if is_host(values[0]):
        return np.stack(values)
    if device.home(values[0]) is not None:
        return stream.stack([stream.adopt(value) for value in values])
    return values[0]


def split(device: Device, value: Any, n: int, label: str) -> list[Any]:
    """The result of a batch, as one for each of its calls.

    :raises TypeError: something in it does not have the batch's axis
    """
    return [mapped(value, partial(_part, device, i, n, label)) for i in range(n)]


def _part(device: Device, index: int, n: int, label: str, value: Any) -> Any:
    if value is None:
        return None
    shape = value.shape if is_host(value) or device.home(value) is not None else ()
    if not shape or shape[0] != n:
        what = f"an array of shape {tuple(shape)}" if shape else type(value).__name__
        raise TypeError(
            f"with batch=, {label} must return arrays whose first axis has one entry for each call, here {n}, "
            f"not {what}: write it for stacked arguments, or open the pool without batch="
        )
    return value[index]


class BatchQueue(CallQueue):
    """The calls made one by one: each waits until a batch of its kind is full, or its time is over."""

    def __init__(self, pool: StreamPool) -> None:
        super().__init__(pool)
        assert pool.batch is not None
        self.size, self.seconds = pool.batch, pool.batch_wait
        self._devices = pool
        self._due: dict[Call, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: Call) -> None:
        self._due[call] = self.pool.loop.time() + self.seconds
        super().add(call)

    def take(self, busy: bool) -> Chunk | None:
        """The next batch; ``None`` while the first call in line may still wait."""
        calls = self.calls
        while calls and calls[0].done():
            self._due.pop(calls.popleft(), None)
        if not calls:
            return None
        alike = self._alike()
        left = self._due[calls[0]] - self.pool.loop.time()
        if len(alike) < self.size and left > 0:
            self._come_back(left)
            return None
        together = set(alike)
        seen = [calls.popleft() for _ in range(min(len(calls), LOOKAHEAD * self.size))]
        calls.extendleft(reversed([call for call in seen if call not in together]))
        chunk = Chunk(self, alike, alike[0].function, singles=True)
        for index, call in enumerate(alike):
            self._due.pop(call, None)
            call.chunk, call.index = chunk, index
        return chunk

    def _alike(self) -> list[Call]:
        """The first call, and those that go with it."""
        first = self.calls[0]
        kind = self._signature(first)
        if kind is None:
            return [first]
        others = islice(self.calls, 1, LOOKAHEAD * self.size)
        alike = (
            call
            for call in others
            if call.function is first.function and not call.done() and self._signature(call) == kind
        )
        return [first, *islice(alike, self.size - 1)]

    def _signature(self, call: Call) -> Hashable | None:
        return signature(self._devices.sites[0].device, call.args, call.kwargs)

    def _come_back(self, seconds: float) -> None:
        if self._timer is None or self._timer.cancelled():
            self._timer = self.pool.loop.call_later(seconds, self._again)

    def _again(self) -> None:
        self._timer = None
        self.pool.offer(self)

    def close(self) -> None:
        """The pool is closed: no timer may be left."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
