"""Content encodings, each decompressed in steps: a bomb is never held whole."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, Protocol

ZSTD_WINDOW_LOG = 23
"""A zstd decoder's window is of 8 MB at most, which is all that a server may ask for (RFC 9659)."""


class Decoder(Protocol):
    """Decompresses one stream, as ``bz2.BZ2Decompressor`` does it.

    :ivar needs_input: there is no more output without input; otherwise it is called again, with none
    :ivar eof: the stream is over
    :ivar unused_data: what came after its end
    """

    @property
    def needs_input(self) -> bool: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, most: int, /) -> bytes:
        """Give about so many bytes at most."""
        ...


class Encoding(NamedTuple):
    """How a body of one Content-Encoding is read.

    :ivar decoder: makes a decoder for a stream with this first byte
    :ivar broken: what it raises
    :ivar follows: first bytes of another stream of the same body; whatever else follows is ignored, as browsers do
    """

    decoder: Callable[[int], Decoder]
    broken: type[Exception]
    follows: bytes


class _Inflate:
    def __init__(self, window: int) -> None:
        self._inflate = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, most: int, /) -> bytes:
        made = self._inflate.decompress(self._inflate.unconsumed_tail + data, most)
        self.needs_input = not self._inflate.unconsumed_tail and len(made) < most
        return made


class _Brotli:
    unused_data = b""

    def __init__(self, decompressor: Any) -> None:
        self._brotli = decompressor
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._brotli.is_finished())

    def decompress(self, data: bytes, most: int, /) -> bytes:
        made = bytes(self._brotli.process(data, output_buffer_limit=most))
        self.needs_input = self._brotli.can_accept_more_data() and len(made) < most
        return made


def _gzip(_first: int) -> Decoder:
    return _Inflate(16 + zlib.MAX_WBITS)


def _deflate(first: int) -> Decoder:
    return _Inflate(zlib.MAX_WBITS if first & 0xF == 8 else -zlib.MAX_WBITS)  # RFC 9110, 8.4.1.2


@cache
def encodings() -> dict[str, Encoding]:
    """The encodings that can be read here: gzip and deflate, and brotli and zstd where they are installed."""
    gzip = Encoding(_gzip, zlib.error, b"\x1f")
    found = {"gzip": gzip, "deflate": Encoding(_deflate, zlib.error, b"")}
    if brotli := _brotli():
        found["br"] = brotli
    if zstd := _zstd():
        found["zstd"] = zstd
    return found | {"x-gzip": gzip}


def accepted() -> str:
    """What is asked for (Accept-Encoding)."""
    return ", ".join(name for name in encodings() if not name.startswith("x-"))


def _brotli() -> Encoding | None:
    try:
        import brotli
    except ImportError:
        return None
    if not hasattr(brotli.Decompressor, "can_accept_more_data"):
        return None  # before 1.2 its output had no bound
    # Its window is of 16 MB at most, the format's own bound (RFC 7932); the library takes no other one.
    return Encoding(lambda _first: _Brotli(brotli.Decompressor()), brotli.error, b"")


def _zstd() -> Encoding | None:
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError:
        return None
    options: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
    follows = b"\x28" + bytes(range(0x50, 0x60))  # a frame, or one to be skipped
    return Encoding(lambda _first: zstd.ZstdDecompressor(options=options), zstd.ZstdError, follows)
