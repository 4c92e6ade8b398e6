"""Why an address gave no page, one tree.

FetchError
├── StatusError        an answer of 400 and above, after the retries
├── RobotsError        robots.txt forbids it, or could not be read
├── AddressError       the address is none of HTTP, or its host is private
├── HostDownError      the host failed too often in a row
├── RedirectError      a loop of redirects, or too many
├── TooLargeError      the body is over max_bytes, as it came or decompressed, or the headers over max_headers
├── ContentTypeError   the answer is of a type that was not asked for
├── FetchTimeoutError  the answer took longer than timeout or stall
└── TransportError     the connection or its protocol failed, after the retries
    ├── CertificateError   TLS could not be verified or agreed on; not retried
    └── UnknownHostError   there is no such host; not retried
"""

from __future__ import annotations

from asyncpar.errors import AsyncparError, said
from asyncpar_scrape.addresses import HALF

MOST_TEXT = 2000
"""Characters of an error that are kept."""


class FetchError(AsyncparError):
    """An address gave no page; the message says why and names the address.

    :ivar transient: whether it may go better at another time: an overloaded host, a broken connection, a time-out
    """

    transient = False


class StatusError(FetchError):
    """The answer's status was 400 or above.

    :ivar status: the status
    """

    def __init__(self, message: str, status: int = 0, transient: bool = False) -> None:
        super().__init__(message, status, transient)
        self.status, self.transient = status, transient

    def __str__(self) -> str:
        return str(self.args[0])


class RobotsError(FetchError):
    """The site's robots.txt forbids this address, or could not be read, which forbids all (RFC 9309)."""


class AddressError(FetchError):
    """The address is not http or https, or its host is this machine or in a private network."""


class HostDownError(FetchError):
    """The host has failed ``max_failures`` times in a row, or more, and was not asked. Now and then it is tried."""


class RedirectError(FetchError):
    """Redirects go in a circle, or there are too many."""


class TooLargeError(FetchError):
    """The body is larger than ``max_bytes``, as it came or decompressed, or the headers than ``max_headers``."""


class ContentTypeError(FetchError):
    """The answer is of a type that was not asked for; its body was not read."""


class FetchTimeoutError(FetchError, TimeoutError):
    """The answer took longer than ``timeout``, or nothing came for ``stall`` seconds."""

    transient = True


class TransportError(FetchError):
    """The connection could not be made, could not be verified (TLS), or broke, or what came was not HTTP."""

    transient = True


class CertificateError(TransportError):
    """The host's certificate could not be verified, or there was no TLS in common. It is not tried again."""

    transient = False


class UnknownHostError(TransportError):
    """The name of the host leads nowhere. It is not tried again, unlike a name that could not be looked up."""

    transient = False


def text_of(error: BaseException) -> str:
    """An error as a store keeps it: by its kind, on which no text of its own can do harm."""
    text = said(error)
    text = HALF.sub("\ufffd", f"{type(error).__name__}: {text}" if text else type(error).__name__)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
