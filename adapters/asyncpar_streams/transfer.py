"""The arrays of one call, on their way to a device and back. Runs in a slot's thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from asyncpar_streams.device import Device, Stream, is_host

Result = Literal["auto", "device", "host"]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value with each leaf of its lists, tuples and dictionaries changed."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([mapped(inner, change) for inner in value])
    if kind is dict:
        return {key: mapped(inner, change) for key, inner in value.items()}
    return change(value)


class Arrived:
    """Stands among results for an array that is being copied to the host."""

    def __init__(self, take: Callable[[], Any]) -> None:
        self.take = take


class Transfer:
    """What one call sends and fetches.

    :ivar kept: arrays that must live until the device is done
    """

    def __init__(self, device: Device, stream: Stream, result: Result) -> None:
        self.result: Result = result
        self.device, self.stream = device, stream
        self.kept: list[Any] = []
        self.sent_any = False

    def send(self, values: Any) -> Any:
        """Arguments, with their arrays on the device."""
        return mapped(values, self._send)

    def _send(self, value: Any) -> Any:
        if is_host(value):
            if not self.stream.uploadable(value):
                return value
            self.sent_any = True
            return self._keep(value, self.stream.upload(value))
        if self.device.home(value) is not None:
            return self._keep(value, self.stream.adopt(value))
        return value

    def _keep(self, value: Any, there: Any) -> Any:
        self.kept += (value, there)
        return there

    def fetch(self, value: Any) -> Any:
        """A result, with its arrays on their way to the host where they are to go there."""
        if self.result == "device" or (self.result == "auto" and not self.sent_any):
            return value
        return mapped(value, self._fetch)

    def _fetch(self, value: Any) -> Any:
        return value if self.device.home(value) is None else Arrived(self.stream.download(value))


def taken(value: Any) -> Any:
    """A fetched result, once the device is done."""
    return mapped(value, lambda inner: inner.take() if type(inner) is Arrived else inner)
