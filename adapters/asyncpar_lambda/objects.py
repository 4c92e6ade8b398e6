"""The worker's side of the object store: GET and PUT of presigned URLs. Blocking, and imported at first use."""

from __future__ import annotations

import http.client
import time
from urllib.parse import urlsplit

from asyncpar_lambda.errors import MissingError, StoreError

TRIES = 4
TIMEOUT = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")

_connections: dict[str, http.client.HTTPConnection] = {}


OWNER = "x-amz-expected-bucket-owner"
MISSING = (403, 404)
"""What S3 answers where there is no object: 403 to those who may not list the bucket, and for a URL that has expired."""


def get(url: str, most: int, owner: str = "") -> tuple[bytes, str]:
    """The content, at most so many bytes, and its ETag.

    :param owner: account that the bucket must belong to; the URL is signed for it
    :raises MissingError: it is not there, or may not be read
    :raises StoreError: it is larger, or the store does not answer
    """
    status, data, etag = _request("GET", url, None, {OWNER: owner} if owner else {}, most)
    if status in MISSING:
        raise MissingError(f"the object store answered {status} to a GET: {data[:200]!r}")
    if status != 200:
        raise StoreError(f"the object store answered {status} to a GET: {data[:200]!r}")
    return data, etag


def put(url: str, data: bytes, headers: dict[str, str] | None = None, owner: str = "") -> tuple[int, str]:
    """The status, 200 or that of a condition which does not hold (409, 412), and the ETag.

    :param headers: conditions
    :param owner: account that the bucket must belong to; the URL is signed for it
    :raises StoreError: the store does not take it
    """
    signed = {OWNER: owner} if owner else {}
    status, answer, etag = _request("PUT", url, data, {**signed, **(headers or {})}, 1 << 20)
    if status != 200 and not (headers and status in (409, 412)):
        raise StoreError(f"the object store answered {status} to a PUT: {answer[:200]!r}")
    return status, etag


def _request(
    method: str, url: str, data: bytes | None, headers: dict[str, str], most: int
) -> tuple[int, bytes, str]:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise StoreError(f"a URL of the object store must be https: {parts.scheme}://{parts.hostname}")
    path = f"{parts.path}?{parts.query}" if parts.query else parts.path
    for left in reversed(range(TRIES)):
        connection = _connection(parts.scheme, parts.netloc)
        try:
            connection.request(method, path, data, headers)
            response = connection.getresponse()
            content = response.read(most + 1 if response.status == 200 else 1 << 16)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            if not left:
                raise StoreError(f"the object store at {parts.netloc} does not answer: {error!r}") from error
        else:
            if response.status == 200 and len(content) > most:
                connection.close()
                raise StoreError(f"an object has more than the {most:,} bytes that were announced")
            if not response.isclosed():
                connection.close()  # more is coming that nobody reads
            if response.status < 500 or not left:
                return response.status, content, response.headers.get("ETag", "")
        time.sleep(0.05 * 2 ** (TRIES - left))
    raise AssertionError


def _connection(scheme: str, netloc: str) -> http.client.HTTPConnection:
    """Kept between requests; it opens itself again after it was closed."""
    place = f"{scheme}://{netloc}"
    if place not in _connections:
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        _connections[place] = kind(netloc, timeout=TIMEOUT)
    return _connections[place]
