"""Traps: addresses of one pattern without end, such as a calendar's days or one page under ever new session numbers.

A pattern is an address without what varies: parts with a digit and the values of a query. One in which a part of the path
comes back a third time (``/a/b/a/b/a/b``) stands for all that are made of the same parts.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from urllib.parse import urlsplit

from asyncpar_scrape.addresses import number_of

CELLS = 1 << 20
"""Counters, of 4 bytes each. Patterns that share one are counted together, which matters little: at 10^7 addresses, all
of different patterns, a counter stands at 10."""
PART = re.compile(r"(?<==)[^&;/]+|[^\W_]+")
"""A value, or a word. What has no digit is taken as well, and kept: looking for a digit first would take the square of its
length."""
DIGIT = re.compile(r"\d")
REPEATS = 3


def pattern_of(url: str) -> str:
    """The pattern of an absolute address."""
    parts = urlsplit(url)
    path = Counter(part for part in parts.path.split("/") if part)
    if max(path.values(), default=0) >= REPEATS:
        return f"{parts.scheme}://{parts.netloc}/({'|'.join(sorted(path))})..."
    query = f"?{PART.sub(_varying, parts.query)}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{PART.sub(_varying, parts.path)}{query}"


def _varying(found: re.Match[str]) -> str:
    is_value = found.start() > 0 and found.string[found.start() - 1] == "="
    return "*" if is_value or DIGIT.search(found[0]) else found[0]


class Traps:
    """Counts addresses by pattern, in 4 MB.

    :arg most: addresses of one pattern; ``None``: as many as come
    """

    def __init__(self, most: int | None) -> None:
        self._most = (1 << 32) - 2 if most is None else most
        self._cells = array("I", bytes(4 * CELLS)) if most is not None else None

    def full(self, url: str) -> str | None:
        """The pattern, if it has had as many as it may; else the address is counted."""
        if self._cells is None:
            return None
        pattern = pattern_of(url)
        cell = number_of(pattern) % CELLS
        if self._cells[cell] >= self._most:
            return pattern
        self._cells[cell] += 1
        return None
