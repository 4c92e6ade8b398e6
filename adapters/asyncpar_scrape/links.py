"""Links as they stand in pages, to canonical addresses: most of them without taking an address apart.

The cheap way is for what is plainly canonical, and gives what ``addresses.canonical`` gives for the joined address; all
else goes that way itself.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urljoin, urlsplit

from asyncpar_scrape.addresses import HALF, MOST_CHARACTERS, canonical, host_of, number_of

_PATH = r"(?:[A-Za-z0-9_~.,!()*'+=@/-]|%[89A-F][0-9A-F])*+"
_QUERY = r"[A-Za-z0-9_.~-]+=[A-Za-z0-9_.~-]*(?:&[A-Za-z0-9_.~-]+=[A-Za-z0-9_.~-]*)*"
LINK = re.compile(
    rf"(?P<site>https?://[A-Za-z0-9.:-]+(?=/))?(?P<up>(?:\.\./)*+)(?P<path>{_PATH})(?:\?(?P<query>{_QUERY}))?"
)
PLAIN = re.compile(rf"/{_PATH}")
ROOTED = re.compile(r"(?:/[A-Za-z0-9_~,!()*'+=@-][A-Za-z0-9_~.,!()*'+=@-]*)+/?")
"""Most links: a path from the site's root, in which there is nothing to change."""
ODD = re.compile(r"//|(?:^|/)\.")
"""What joining changes: empty parts and dots. Hidden files go the long way, too."""


@lru_cache(1024)
def address(url: str) -> str:
    """What ``addresses.canonical`` gives, the cheap way where it goes. The latest are kept: a request asks several times.

    :raises ValueError: it is not an absolute address of http or https, or too long for one
    """
    if len(url) > MOST_CHARACTERS:
        raise ValueError(f"{url[:80]}… has over {MOST_CHARACTERS:,} characters, more than servers take")
    plain = NOWHERE.plain(url)
    if not plain and HALF.search(url):
        raise ValueError(f"{url!a} has half a character, which cannot be sent")
    return plain or canonical(url)


def address_of(url: str) -> tuple[int, str]:
    """The number of an address, which it has in common with all that mean the same, and the address as it is asked.

    Asked is what was written, without a fragment, of the host in its canonical form: servers may care about the order of a
    query.

    :raises ValueError: it is not an absolute address of http or https, or too long for one
    """
    known = address(url)
    if url != known:
        parts = urlsplit(url)
        url = f"{host_of(known)}{parts.path or '/'}{f'?{parts.query}' if parts.query else ''}"
    return number_of(known), str(url)


class Base:
    """Where links are seen from.

    :arg url: an absolute address
    :ivar address: its canonical form; ``""`` if it is no address of http or https
    :ivar site: its scheme, host and port, canonical; or ``""``
    """

    def __init__(self, url: str) -> None:
        self.address, self.site, self._folders = "", "", [""]
        # a host that is none may show at the second look only
        self.address = self.plain(url) or _canonical(_canonical(url))
        self.site = "/".join(self.address.split("/", 3)[:3])
        path = self.address[len(self.site) :].partition("?")[0]
        if PLAIN.fullmatch(path) and not ODD.search(path):
            self._folders = _folders(self.site, path)

    def join(self, target: str) -> str:
        """The canonical address of a link; ``""`` if that is none of http or https, or too long for one."""
        if len(target) > MOST_CHARACTERS:
            return ""
        if self.site and ROOTED.fullmatch(target):
            return self.site + target
        target = target.strip()
        whole = target.partition("#")[0]
        return (self.plain(whole) if whole else self.address) or self._long(target)

    def plain(self, address: str) -> str:
        """The cheap way; ``""`` where it does not go."""
        found = LINK.fullmatch(address)
        if found is None:
            return ""
        site, up, path, query = found.groups()
        if ODD.search(path) or not (path or up):
            return ""
        if path.startswith("/"):
            before = "" if up else _site(site) if site else self.site
        else:
            before = "" if site else self._folders[min(len(up) // 3, len(self._folders) - 1)]
        if not before:
            return ""
        return before + path + ("?" + _in_order(query) if query else "")

    def _long(self, target: str) -> str:
        try:
            return canonical(urljoin(self.address, target))
        except ValueError:
            return ""


def _folders(site: str, path: str) -> list[str]:
    """The folder that an address is in, and those above it."""
    parts = path.split("/")[1:-1]
    return [site + "/" + "".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]


def _in_order(query: str) -> str:
    """The query with its pairs in order, by name and then by value."""
    if "&" not in query:
        return query
    return "&".join(sorted(query.split("&"), key=lambda pair: pair.split("=")))


@lru_cache(1024)
def _site(site: str) -> str:
    """The canonical form of a link's scheme, host and port; ``""`` if it has none."""
    return _canonical(_canonical(site + "/"))[:-1]


def _canonical(url: str) -> str:
    try:
        return canonical(url)
    except ValueError:
        return ""


NOWHERE = Base("")
"""Where only absolute addresses are seen from."""
