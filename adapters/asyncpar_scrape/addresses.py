"""Addresses in one form each, and those that must not be connected to."""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

Addresses: TypeAlias = dict[int, str]
"""What is asked, by the number of its canonical form, by which it is known. One object, however many they are, for the
garbage collector, too."""

NAT64 = ip_network("64:ff9b::/96")
NOT_PUBLIC = [ip_network(text) for text in ("::/96", "64:ff9b:1::/48", "fec0::/10", "192.0.0.0/24")]
"""What ``is_global`` of older Pythons lets through: IPv4 in IPv6, a network's own NAT64, site-local, protocols."""
PORTS = {"http": 80, "https": 443}
HALF = re.compile("[\ud800-\udfff]")
"""Half of a character, which no file and no request can hold. JSON of a text that was cut off has some."""
MOST_CHARACTERS = 8192
"""Of an address; servers answer a longer one with 414 (RFC 9110 asks them for 8,000)."""


def canonical(url: str) -> str:
    """The address as it is compared: no fragment, the query in order, host in lower case, no default port.

    :raises ValueError: it is not an absolute address of http or https
    """
    parts = urlsplit(url)
    if parts.scheme not in PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is no absolute address of http or https")
    from w3lib.url import canonicalize_url  # 20 ms, which many crawls do without

    if parts.port == PORTS[parts.scheme]:
        parts = parts._replace(netloc=parts.netloc.rpartition(":")[0])
    parts = parts._replace(path=parts.path or "/", fragment="")
    return str(canonicalize_url(urlunsplit(parts)))


@lru_cache(16_384)
def number_of(text: str) -> int:
    """A hash of 64 bits, as SQLite's signed integer. The latest are kept: pages of a site link to much the same pages."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)


def host_of(url: str) -> str:
    """Scheme, host and port of a canonical address: what has one robots.txt and is asked politely as one."""
    return "/".join(url.split("/", 3)[:3])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet. One that carries an IPv4 address is judged by that."""
    found = ip_address(address.partition("%")[0])
    if isinstance(found, IPv6Address):
        found = _carried(found) or found
    return found.is_global and not found.is_multicast and not any(found in network for network in NOT_PUBLIC)


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class PrivateAddressError(OSError):
    """A connection to this machine or a private network was refused."""


def public_socket(info: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """A socket for a connection that is about to be made.

    :raises PrivateAddressError: the address is not of the public internet
    """
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise PrivateAddressError(
            "not an address of the public internet"
        )  # one text: several are joined otherwise
    return socket.socket(family, kind, protocol)
