"""What aiohttp raises, as the ``FetchError`` that says what to do."""

from __future__ import annotations

import socket
import ssl

import aiohttp

from asyncpar_scrape.addresses import PrivateAddressError
from asyncpar_scrape.failures import (
    AddressError,
    CertificateError,
    FetchError,
    TransportError,
    UnknownHostError,
)

TOO_MANY_HEADERS = ("Got more than", "Too many headers")
BROKEN = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""Errors of TLS that are broken connections."""
UNKNOWN_HOST = (socket.EAI_NONAME, socket.EAI_NODATA)
"""What a resolver says when it knows that there is no such host, and not that it could not find out."""


def reason(url: str, error: Exception) -> FetchError:
    """The error for an address that gave an error of aiohttp, or a ``ValueError``."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return _unconnected(url, error)
    if isinstance(error, aiohttp.InvalidURL) or not isinstance(error, (aiohttp.ClientError, OSError)):
        return AddressError(f"{url!r} cannot be asked: {error}")
    return TransportError(f"{url} failed: {type(error).__name__}: {error}")


def _unconnected(url: str, error: aiohttp.ClientConnectorError) -> FetchError:
    cause = error.os_error
    if isinstance(cause, PrivateAddressError):
        return AddressError(
            f"{url} is on this machine or in a private network, which allow_private=True allows: {cause}"
        )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return CertificateError(
            f"the certificate of {url} was refused: {cause.verify_message}; ssl= takes a context that trusts others"
        )
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, BROKEN):
        return CertificateError(
            f"{url} and this client have no TLS in common: {cause.reason or cause}; see ssl="
        )
    if isinstance(cause, socket.gaierror) and cause.errno in UNKNOWN_HOST:
        return UnknownHostError(f"the host of {url} is not known: {cause.strerror}; see resolver=")
    return TransportError(f"{url} failed: {type(error).__name__}: {error}")


def has_too_many_headers(error: Exception) -> bool:
    """Whether aiohttp's own bounds on headers were passed, which it tells by its words only."""
    return isinstance(error, aiohttp.ClientResponseError) and error.message.startswith(TOO_MANY_HEADERS)
