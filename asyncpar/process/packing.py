"""Calls and chunks as frames: what is pickled, what lies in shared memory, what a worker knows already."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import struct
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncpar import sharing
from asyncpar.chunks import Chunk, Function
from asyncpar.errors import SerializationError
from asyncpar.process import transit
from asyncpar.process.arena import Packer, pack
from asyncpar.process.encoding import by_value, explain, found_by_name, picklable_by_name
from asyncpar.process.layout import (
    CALLS,
    FORGET,
    FREE,
    FUNCTION,
    HEADER,
    KEYWORDS,
    MAP,
    NOTHING,
    PARCEL,
    PLAIN,
    SHARE,
    SLABS,
    STAR,
    TIMED,
)  # fmt: skip
from asyncpar.process.options import main_location

if TYPE_CHECKING:
    from asyncpar.pool import Call
    from asyncpar.process.nursery import Nursery
    from asyncpar.process.place import Place

    Dump = Callable[..., bytes]

SMALL = 16
"""Entries of a container that are looked at: pickling a larger one by itself costs less than the look."""
NO_CALL = NOTHING, 0, pickle.dumps((), 5)


class Packed(NamedTuple):
    """The items of a map's chunk, ready to be sent."""

    kind: int  # of the frame
    payload: bytes
    refs: list[int]  # slabs of the payload itself
    slabs: list[Sequence[int]]  # see ``Chunk.slabs``
    weight: int  # bytes in all
    shared: list[Any]
    errors: dict[int, SerializationError]  # items that cannot be sent


class Snapshot:
    """A function with state as it was when its map was made."""

    def __init__(self, function: Callable[..., Any], blob: bytes) -> None:
        self.func, self.blob = function, blob
        self.as_passed = getattr(function, "as_passed", function)  # by the user

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.func(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.blob,)


class Packing:
    """Makes the frames for the workers of one nursery, those of actors and streams included."""

    def __init__(self, functions: str) -> None:
        self.by_value = functions == "by_value"
        self.dump: Dump = by_value() if self.by_value else pickle.dumps
        self.session = self.by_value and main_location() is None
        self.numbers = 0  # functions so far
        self.constants: dict[int, bytes] = {}
        self.freed: deque[tuple[int, int]] = deque()  # slot and offset of results that nobody reads any more

    def open(self, nursery: Nursery) -> None:
        self.nursery = nursery
        self.loop = asyncio.get_running_loop()

    # -- functions

    def dump_function(self, function: Callable[..., Any]) -> bytes:
        try:
            blob = self.dump(function) if self.by_value else pickle.dumps(function, 5)
        except Exception as error:  # __reduce__ may raise anything, here and below
            raise explain(function, error, self.by_value) from error
        else:
            if not self.by_value:
                picklable_by_name(function)
            return blob

    def named(self, function: Callable[..., Any]) -> bool:
        """Whether workers find this by its name, and so need it only once. What has state is sent with each call."""
        return found_by_name(function) and not (self.by_value and function.__module__ == "__main__")

    def carried(self, function: Callable[..., Any]) -> Any:
        """A function as the first argument of ``transit.carry``."""
        return self.dump_function(function) if self.by_value else function

    def number(self, function: Function) -> None:
        """Make a function known here: it travels once to each worker, and is a number from then on."""
        function.blob = self.dump_function(function.call)
        self.numbers += 1
        function.number = self.numbers

    def introduce(self, place: Place, function: Function) -> bytes:
        """The frame that makes a function known to a worker, the first time."""
        if function.number in place.functions:
            return b""
        place.functions.add(function.number)
        return HEADER.pack(len(function.blob), FUNCTION, 0, 0, function.number) + function.blob

    def forget(self, number: int) -> None:
        """No worker needs to remember this function any more."""
        if self.nursery.closing:
            return
        frame = HEADER.pack(8, FORGET, 0, 1, 0) + struct.pack("<Q", number)
        for place in list(self.nursery.places.values()):
            if number in place.functions:
                place.functions.discard(number)
                place.write(frame)

    def forget_with(self, function: Function) -> None:
        """Forget a function when nobody holds it here any more."""
        weakref.finalize(function, self._soon, self.forget, function.number).atexit = False

    # -- constants

    def _pack_constant(self, shared: Any) -> None:
        if shared.number in self.constants:
            return
        try:
            blob, refs = pack(self.nursery.arena, shared.value, self.dump)
        except Exception as error:
            raise explain(shared.value, error, self.by_value, "share()") from error
        if not refs:
            blob = pickle.dumps((blob, []), 5)
        weakref.finalize(shared, self._soon, self._drop_constant, shared.number).atexit = False
        self.constants[shared.number] = blob

    def _soon(self, forget: Callable[[int], None], number: int) -> None:
        """Nobody holds it any more; may be called by the garbage collector, in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and all is gone with it
            self.loop.call_soon_threadsafe(forget, number)

    def _drop_constant(self, number: int) -> None:
        if self.constants.pop(number, None) is None or self.nursery.closing:
            return
        frame = HEADER.pack(8, FORGET, 1, 1, 0) + struct.pack("<Q", number)
        for place in list(self.nursery.places.values()):
            if number in place.constants:
                place.constants.discard(number)
                place.write(frame)
        # the slabs stay: a worker may still read them; they go with the pool

    def _introduce_constants(self, place: Place, shared: Sequence[Any]) -> bytes:
        frames = b""
        for constant in shared:
            if constant.number not in place.constants:
                place.constants.add(constant.number)
                blob = self.constants[constant.number]
                frames += HEADER.pack(len(blob), SHARE, 0, 0, constant.number) + blob
        return frames

    # -- arguments

    def pack_call(self, call: Call, dump: Dump = pickle.dumps) -> None:
        """Pickle the arguments of one call, for which the caller waits: what cannot be pickled is an error there."""
        value = (call.args, call.kwargs) if call.kwargs else call.args
        shared: list[Any] = []
        sharing.packing.shared = shared
        try:
            call.payload, refs = self._pack(Packer(self.nursery.arena, dump), value, shared)
        except Exception as error:
            raise self._explain(call, error) from error
        finally:
            sharing.packing.shared = None
        call.lends = refs[::2]
        call.mark = (KEYWORDS if call.kwargs else 0) | (SLABS if refs else 0)
        call.args, call.shared = (), shared

    def _explain(self, call: Call, error: Exception) -> SerializationError:
        """Which of the arguments that the caller passed cannot be sent."""
        args, kwargs, through = call.args, call.kwargs, call.function.call
        if isinstance(through, transit.InContext):
            (_, args, kwargs), through = args, through.function
        if through is transit.carry:
            try:
                self.dump_function(args[0])
            except SerializationError as refused:
                return refused
            args = args[1:]
        value = (args, kwargs) if kwargs else args
        return explain(value, error, self.by_value, call.function.label, bool(kwargs))

    def pack_chunk(self, chunk: Chunk, dump: Dump = pickle.dumps) -> Packed:
        """The items of a map's chunk: in one pickle if they are plain, else each in its own, as if it travelled alone.

        What two items have in common would be one object there, and what one call does to it the next would see.
        """
        items = chunk.items
        packer = Packer(self.nursery.arena, dump)
        if plain(items):
            payload, refs = packer.pack(items)
            return Packed(MAP, payload, refs, [refs[::2]], len(payload) + sum(refs[1::2]), [], {})
        calls: list[bytes | tuple[int, int, bytes]] = []
        slabs: list[Sequence[int]] = [()] * len(items)
        errors: dict[int, SerializationError] = {}
        weight = 0
        constants: dict[Any, None] = {}
        shared: list[Any] = []
        sharing.packing.shared = shared
        try:
            for i, args in enumerate(items if chunk.star else zip(items)):
                try:
                    blob, refs = self._pack(packer, args, shared)
                except Exception as error:
                    errors[i] = explain(args, error, self.by_value, chunk.function.label)
                    calls.append(NO_CALL)
                    shared.clear()
                    continue
                if shared:
                    constants |= dict.fromkeys(shared)
                    shared.clear()
                if refs:
                    weight += sum(refs[1::2])
                    slabs[i] = refs[::2]
                    calls.append((chunk.function.number, SLABS, blob))
                else:
                    calls.append(blob)
            payload, refs = packer.pack(calls)
        except BaseException:  # only to give the buffers back; it goes on
            self.free(chain.from_iterable(slabs))
            raise
        finally:
            sharing.packing.shared = None
        weight += len(payload) + sum(refs[1::2])
        slabs[0] = [*slabs[0], *refs[::2]]  # all of the frame is read before the first call
        return Packed(CALLS, payload, refs, slabs, weight, list(constants), errors)

    def _pack(self, packer: Packer, value: Any, shared: list[Any]) -> tuple[bytes, list[int]]:
        """Pickle arguments, and the constants among them, which come to be in ``shared``."""
        try:
            if (
                self.session
            ):  # its classes have names that lead nowhere in a worker, and plain pickle would use
                packer = Packer(packer.arena, self.dump)
            blob, refs = packer.pack(value)
        except Exception:  # whatever plain pickle could not do, cloudpickle is to try
            if not self.by_value:
                raise
            shared.clear()
            blob, refs = pack(packer.arena, value, self.dump)
        try:
            for constant in shared:
                self._pack_constant(constant)
        except BaseException:  # only to give the buffers back; it goes on
            self.free(refs[::2])
            raise
        return blob, refs

    # -- frames

    def calls_frame(self, place: Place, chunk: Chunk) -> bytes:
        """The frame of calls that were made one by one, behind what their worker has to know first."""
        calls: list[tuple[int, int, Any]] = []
        frames = b""
        for call in chunk.items:
            function = call.function
            if function.number not in place.functions:
                frames += self.introduce(place, function)
            if call.shared:
                frames += self._introduce_constants(place, call.shared)
            calls.append((function.number, call.mark, call.payload))
        chunk.slabs = [call.lends for call in chunk.items]
        body = pickle.dumps(calls, 5)
        flags = TIMED if chunk.timeout else 0
        return frames + HEADER.pack(len(body), CALLS, flags, len(calls), 0) + body

    def map_frame(self, place: Place, chunk: Chunk, packed: Packed) -> bytes:
        """The frame of a map's chunk, behind what its worker has to know first."""
        chunk.slabs = packed.slabs
        for index, error in packed.errors.items():
            chunk.stop(index, error)
        chunk.source.window.grow(chunk.block, packed.weight)  # type: ignore[attr-defined]
        flags = (PARCEL if packed.refs else 0) | (STAR if chunk.star else 0) | (TIMED if chunk.timeout else 0)
        frames = self.introduce(place, chunk.function) + self._introduce_constants(place, packed.shared)
        header = HEADER.pack(len(packed.payload), packed.kind, flags, len(chunk.items), chunk.function.number)
        return frames + header + packed.payload

    # -- slabs

    def free(self, slabs: Iterable[int]) -> None:
        """Slabs of ours that no worker will read."""
        for at in slabs:
            self.nursery.arena.free(at)

    def give_back(self) -> None:
        """Tell workers which of their slabs nobody reads any more."""
        by_slot: dict[int, list[int]] = {}
        while self.freed:
            slot, at = self.freed.popleft()
            if self.nursery.region_live.get(slot, {}).pop(at, None) is not None:
                by_slot.setdefault(slot, []).append(at)
        for slot, offsets in by_slot.items():
            place = self.nursery.places.get(slot)
            if place is not None:
                place.write(
                    HEADER.pack(8 * len(offsets), FREE, 0, len(offsets), 0)
                    + struct.pack(f"<{len(offsets)}Q", *offsets)
                )


def plain(items: Sequence[Any]) -> bool:
    """Whether no two of these have anything in common that can be changed, by a look that C code takes.

    True for numbers, strings, and small containers of such that are all different objects.
    """
    kinds = set(map(type, items))
    if kinds <= PLAIN:
        return True
    kind = kinds.pop()
    if kinds or kind not in (tuple, list, dict) or sum(map(len, items)) > SMALL * len(items):
        return False
    inner = chain.from_iterable(items)
    if kind is dict:
        inner = chain(inner, chain.from_iterable(map(dict.values, items)))
    return PLAIN.issuperset(map(type, inner)) and (kind is tuple or len(set(map(id, items))) == len(items))
