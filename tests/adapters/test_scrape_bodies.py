"""Bodies, decompressed within bounds: whole, in pieces, cut off, broken, and bombs."""

from __future__ import annotations

import gzip
import os
import sys
import tracemalloc
import zlib

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar_scrape import decoders
from asyncpar_scrape.bodies import STEP, BadBodyError, Body, BodyTooLargeError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESS = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "raw": lambda data: zlib.compress(data, wbits=-15),
    "br": brotli.compress,
    "zstd": zstd.compress,
    "": bytes,
}
MOST = 300_000
encodings = pytest.mark.parametrize("encoding", COMPRESS)
compressed = pytest.mark.parametrize("encoding", [name for name in COMPRESS if name])


def named(encoding: str) -> str:
    return "deflate" if encoding == "raw" else encoding


def read(encoding: str, *pieces: bytes, most: int = MOST) -> bytes:
    """The body that pieces make."""
    body = Body(named(encoding), most)
    for piece in pieces:
        for part in body.parts(piece):
            body.keep(part)
    return body.end()


@encodings
@given(data=st.binary(max_size=3000), times=st.integers(1, 100), size=st.integers(1, 5000))
def test_a_body_in_pieces(encoding, data, times, size):
    """It is what was sent, wherever it was cut."""
    whole = data * times
    sent = COMPRESS[encoding](whole)
    pieces = [sent[start : start + size] for start in range(0, len(sent), size)]
    assert read(encoding, *pieces) == whole


@encodings
@pytest.mark.parametrize("over", [0, 1])
def test_the_bound(encoding, over):
    """So many bytes may come, and no more; what is compressed badly counts as it comes, too."""
    data = (os.urandom(500) * 500)[: 200_000 + over]
    if over:
        with pytest.raises(BodyTooLargeError):
            read(encoding, COMPRESS[encoding](data), most=200_000)
    else:
        assert read(encoding, COMPRESS[encoding](data), most=200_000) == data


@compressed
def test_a_bomb(encoding):
    """100 MB in one small piece: no more than the bound and a step is ever made or held."""
    bomb = COMPRESS[encoding](bytes(100_000_000))
    assert len(bomb) < MOST
    body, made = Body(named(encoding), MOST), 0
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLargeError):
            for part in body.parts(bomb):
                made += len(part)
                body.keep(part)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert made <= MOST + 2 * STEP
    assert peak < 3 * (MOST + 2 * STEP)


@compressed
def test_a_bomb_of_many_streams(encoding):
    """Streams one after another count together."""
    if decoders.encodings()[named(encoding)].follows:
        with pytest.raises(BodyTooLargeError):
            read(encoding, COMPRESS[encoding](bytes(100_000)) * 4)


@compressed
def test_what_is_cut_off(encoding):
    """A body that ends early is none, wherever it ends."""
    sent = COMPRESS[encoding](os.urandom(400) * 3)
    for end in (1, len(sent) // 2, len(sent) - 1):
        with pytest.raises(BadBodyError, match=rf"its {named(encoding)} ends early"):
            read(encoding, sent[:end])


@compressed
def test_garbage(encoding):
    """What is not of the encoding says so."""
    with pytest.raises(BadBodyError, match=rf"its {named(encoding)} is broken: "):
        read(encoding, b"\xff\xff this is nothing of the kind" * 9)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_several_streams(encoding):
    """They make one body, and so do those that are to be skipped; what else follows is ignored."""
    one, two = COMPRESS[encoding](b"one "), COMPRESS[encoding](b"two")
    assert read(encoding, one + two) == b"one two"
    assert read(encoding, one, two + b"\0\0\0") == b"one two"
    if encoding == "zstd":
        skipped = b"\x53\x2a\x4d\x18\x04\0\0\0abcd"
        assert read(encoding, skipped + one + skipped, two) == b"one two"


def test_a_window_that_is_too_large():
    """zstd and brotli that want more memory than a server may ask for, 8 and 16 MB, are refused."""
    compressor = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    sent = compressor.compress(b"abc" * 1000) + compressor.flush()
    with pytest.raises(BadBodyError, match=r"its zstd is broken: .*too much memory"):
        read("zstd", sent)
    empty, large = (
        b"\x81\x01",
        b"\x11\xde",
    )  # streams without data, the second by brotli's own extension, of 1 GB
    assert read("br", empty) == b""
    with pytest.raises(BadBodyError, match=r"its br is broken"):
        read("br", large)


@encodings
def test_nothing(encoding):
    """A body of no bytes is one, whatever its encoding."""
    assert read(encoding) == b""


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "exi"])
def test_another_encoding(encoding):
    """One that was not asked for is refused."""
    with pytest.raises(BadBodyError, match=r"which was not asked for"):
        Body(encoding, MOST)


@pytest.fixture
def without(monkeypatch):
    """Hide modules."""
    decoders.encodings.cache_clear()
    yield lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]
    monkeypatch.undo()
    decoders.encodings.cache_clear()


def test_what_is_asked_for(without):
    """Only what can be read is."""
    assert decoders.accepted() == "gzip, deflate, br, zstd"
    decoders.encodings.cache_clear()
    without("brotli", "compression.zstd", "backports.zstd", "backports")
    assert decoders.accepted() == "gzip, deflate"
    with pytest.raises(BadBodyError, match=r"not asked for"):
        Body("br", MOST)


def test_an_old_brotli(without, monkeypatch):
    """One without a bound on its output is not used."""
    monkeypatch.delattr(brotli.Decompressor, "can_accept_more_data")
    assert decoders.accepted() == "gzip, deflate, zstd"
