"""What can go wrong beside the user's own exceptions.

    asyncpar.AsyncparError
    ├── asyncpar.SerializationError
    │   └── CodecError     a value that is no plain data, or bytes that are no value
    ├── RefusedError       the worker did not run a request: forged, expired, replayed, not allowed, too large
    ├── StoreError         the object store does not do what it is asked
    │   └── MissingError   there is no such object (any more)
    └── RemoteError        the call raised an exception whose type does not exist here

The worker imports this too. ``cost.CostError`` and ``transport.TransportError`` are with what raises them.
"""

from __future__ import annotations

from typing import Any

from asyncpar.errors import AsyncparError, SerializationError

__all__ = ["CodecError", "MissingError", "RefusedError", "RemoteError", "StoreError"]


class CodecError(SerializationError):
    """A value cannot travel as plain data, or bytes do not hold a value that may be built here."""


class RefusedError(AsyncparError):
    """A worker refused a request before it decoded anything; nothing was run.

    :ivar reason: ``"malformed"``, ``"forged"``, ``"expired"``, ``"replayed"``, ``"wrong job"``, ``"wrong code"``,
        ``"not allowed"``, ``"too large"``, ``"unavailable"`` where the object store did not answer, or ``"missing"``
        where something that the request names was not in it
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.reason, self.message), self.__dict__


class StoreError(AsyncparError):
    """The object store refused, failed, or did not answer; the message says which."""


class MissingError(StoreError):
    """The object is not there, or may not be read; a lifecycle rule may have removed it."""


class RemoteError(AsyncparError):
    """The call raised an exception whose type cannot be found here; import its module to get the type itself.

    :ivar type_name: ``module:name`` of the original type
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name = type_name
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.type_name, self.message), self.__dict__
