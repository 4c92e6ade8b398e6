"""Buffers that users hand to MPI: what they hold, as bytes, and whether two of them go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

KINDS = {**dict.fromkeys("bhilqn", "i"), **dict.fromkeys("BHILQN", "u"), **dict.fromkeys("efdg", "f")}
"""Formats that differ in name only: two of a kind and a size hold the same."""


@dataclass(frozen=True, slots=True)
class Array:
    """A contiguous buffer in host memory.

    :ivar format: of one item, as in ``memoryview.format``; empty for one that has none, as dates
    """

    bytes: memoryview
    format: str
    itemsize: int
    datatype: MPI.Datatype | None

    @property
    def count(self) -> int:
        return len(self.bytes) // self.itemsize

    @property
    def items(self) -> str:
        """For messages."""
        return f"{self.count} items of {self.itemsize} bytes ({self.format or 'no format'})"


def array_of(spec: Any, what: str, *, writable: bool) -> Array:
    """What the user means by a buffer: an object that has one, or ``[object, MPI datatype]``.

    :raises TypeError: it is none, not contiguous, of a derived datatype, or must be writable and is not
    """
    datatype = None
    if isinstance(spec, list | tuple):
        if len(spec) != 2 or not isinstance(spec[1], MPI.Datatype):
            raise TypeError(f"{what} must be a buffer, or [buffer, MPI datatype], not {spec!r:.60}")
        spec, datatype = spec
        if not datatype.is_named:
            raise TypeError(
                f"{what}: {datatype.name or 'a derived datatype'} is not a basic datatype: pack it first"
            )
    try:
        of_mpi: Any = MPI.buffer.frombuffer(spec, readonly=not writable)
        view = memoryview(of_mpi)
    except (TypeError, BufferError, ValueError) as error:
        kind = "a writable, contiguous buffer" if writable else "a contiguous buffer"
        raise TypeError(
            f"{what} must be {kind} in host memory, as of numpy.ascontiguousarray(): {error}"
        ) from None
    if datatype is not None:
        return Array(view, datatype.typechar, datatype.size, datatype)
    try:
        inside = memoryview(spec)
    except (TypeError, ValueError):  # NumPy's dates are bytes to everybody else
        return Array(view, "", max(1, getattr(spec, "itemsize", 1)), None)
    return Array(view, inside.format, max(1, inside.itemsize), None)


def datatype_of(array: Array, what: str) -> MPI.Datatype:
    """The datatype that MPI calculates with.

    :raises TypeError: it has none for such items
    """
    if array.datatype is not None:
        return array.datatype
    try:
        return MPI.Datatype.fromcode(array.format)
    except (ValueError, KeyError):
        raise TypeError(
            f"{what}: MPI cannot calculate with items of format {array.format!r}: convert them first"
        ) from None


def check_alike(one: Array, one_name: str, other: Array, other_name: str) -> None:
    """Refuse two buffers between which items would be taken for what they are not.

    :raises TypeError: their items differ
    """
    if _kind(one) != _kind(other) and "B" not in (one.format, other.format):
        raise TypeError(
            f"{one_name} holds {one.items}, but {other_name} {other.items}: make them of one dtype"
        )


def _kind(array: Array) -> tuple[str, int]:
    letters = array.format.lstrip("@=<")
    return KINDS.get(letters, letters), array.itemsize


def check_size(array: Array, name: str, size: int, why: str) -> None:
    """Refuse a buffer of another size.

    :param size: in bytes
    :raises ValueError: it holds more or less
    """
    if len(array.bytes) != size:
        raise ValueError(
            f"{name} holds {array.items}, but {why}: make it {size} bytes, not {len(array.bytes)}"
        )
