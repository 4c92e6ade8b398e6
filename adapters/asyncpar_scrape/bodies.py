"""The body of an answer, decompressed within a bound: a bomb ends where it passes it."""

from __future__ import annotations

from collections.abc import Iterator

from asyncpar_scrape.decoders import Decoder, encodings

STEP = 64 * 1024
"""Bytes that are decompressed at once; brotli may give twice as many."""


class BodyTooLargeError(Exception):
    """The body is larger than it may be."""


class BadBodyError(Exception):
    """The body cannot be decompressed; the message says why."""


class Body:
    """Takes a body piece by piece.

    >>> for part in body.parts(piece):
    ...     body.keep(part)

    :arg encoding: the answer's Content-Encoding
    :arg most: bytes that it may have, as it comes and decompressed
    :raises BadBodyError: the encoding is another than was asked for
    """

    def __init__(self, encoding: str, most: int) -> None:
        self._most = most
        self._came = 0
        self._made = bytearray()
        self._name = encoding.strip().lower()
        self.plain = self._name in ("", "identity")
        """It comes as it is."""
        self._decoder: Decoder | None = None
        if not self.plain and self._name not in encodings():
            raise BadBodyError(f"its Content-Encoding is {encoding!r}, which was not asked for")

    def parts(self, piece: bytes) -> Iterator[bytes]:
        """What a piece makes, decompressed no further than it is taken.

        :raises BodyTooLargeError: more came than may come
        :raises BadBodyError: it is not of this encoding
        """
        self._came += len(piece)
        if self.plain:
            yield piece
        else:
            yield from self._decompressed(piece)
        if self._came > self._most:
            raise BodyTooLargeError

    def keep(self, part: bytes) -> None:
        """Add what was made to the body.

        :raises BodyTooLargeError: it is more than may be made
        """
        self._made += part
        if len(self._made) > self._most:
            raise BodyTooLargeError

    def _decompressed(self, piece: bytes) -> Iterator[bytes]:
        encoding = encodings()[self._name]
        while piece:
            if self._decoder is None:
                self._decoder = encoding.decoder(piece[0])
            elif self._decoder.eof:
                if piece[0] not in encoding.follows:
                    return
                self._decoder = encoding.decoder(piece[0])
            decoder = self._decoder
            try:
                yield decoder.decompress(piece, STEP)
                while not decoder.eof and not decoder.needs_input:
                    yield decoder.decompress(b"", STEP)
            except encoding.broken as error:
                raise BadBodyError(f"its {self._name} is broken: {error}") from error
            piece = decoder.unused_data if decoder.eof else b""

    def begun(self, most: int) -> bytes:
        """What was made so far, at most so many bytes."""
        return bytes(self._made[:most])

    def end(self) -> bytes:
        """The whole body.

        :raises BadBodyError: the compressed data ends early
        """
        if self._decoder is not None and not self._decoder.eof:
            raise BadBodyError(f"its {self._name} ends early")
        return bytes(self._made)
