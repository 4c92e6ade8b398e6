"""The body of an answer, decompressed within a bound: a bomb ends where it passes it."""

from __future__ import annotations

import zlib

ENCODINGS = "gzip, deflate"
"""What is asked for (Accept-Encoding). Both are in the standard library, with a bound on the output."""
GZIP = b"\x1f\x8b"


class BodyTooLargeError(Exception):
    """The body is larger than it may be."""


class BadBodyError(Exception):
    """The body cannot be decompressed; the message says why."""


class Body:
    """Takes a body piece by piece.

    :arg encoding: the answer's Content-Encoding
    :arg most: bytes that it may have, as it comes and decompressed
    :raises BadBodyError: the encoding is another than was asked for
    """

    def __init__(self, encoding: str, most: int) -> None:
        self._most = most
        self._came = 0
        self._made = bytearray()
        self._encoding = encoding.strip().lower()
        self._inflate: zlib._Decompress | None = None
        if self._encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise BadBodyError(f"its Content-Encoding is {encoding!r}, which was not asked for")

    def add(self, piece: bytes) -> None:
        """Take a piece.

        :raises BodyTooLargeError: it is more than may come, or makes more than may be made
        :raises BadBodyError: it is not of this encoding
        """
        self._came += len(piece)
        if self._encoding in ("", "identity"):
            self._made += piece
        else:
            self._decompress(piece)
        if self._came > self._most:
            raise BodyTooLargeError

    def _decompress(self, piece: bytes) -> None:
        while piece:
            inflate = self._inflate or self._begin(piece)
            self._inflate = inflate
            if inflate.eof:  # gzip may have several members; what else follows is ignored, as browsers do
                if self._encoding == "deflate" or not piece.startswith(GZIP[:1]):
                    return
                self._inflate = None
                continue
            try:
                self._made += inflate.decompress(piece, self._most + 1 - len(self._made))
            except zlib.error as error:
                raise BadBodyError(f"its {self._encoding} is broken: {error}") from error
            if len(self._made) > self._most:
                raise BodyTooLargeError
            piece = inflate.unused_data if inflate.eof else inflate.unconsumed_tail

    def _begin(self, piece: bytes) -> zlib._Decompress:
        if self._encoding != "deflate":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        return zlib.decompressobj(
            zlib.MAX_WBITS if piece[0] & 0xF == 8 else -zlib.MAX_WBITS
        )  # RFC 9110, 8.4.1.2

    def begun(self, most: int) -> bytes:
        """What was made so far, at most so many bytes."""
        return bytes(self._made[:most])

    def end(self) -> bytes:
        """The whole body.

        :raises BadBodyError: the compressed data ends early
        """
        if self._inflate is not None and not self._inflate.eof:
            raise BadBodyError(f"its {self._encoding} ends early")
        return bytes(self._made)
