"""The worker's side: runs the user's parser on a page, and sorts what it yields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from asyncpar_scrape.addresses import Address
from asyncpar_scrape.links import address_of

ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Kept: ``json.dumps`` makes an encoder for each call with such arguments."""


class Link(str):
    """An address to visit, as a parser yields it among its items: absolute, of http or https. Its fragment is left out."""

    __slots__ = ()


class Parsed(NamedTuple):
    """What a parser made of a page; ``texts`` are the items as JSON."""

    items: list[Any]
    texts: list[str]
    links: list[Address]


def parse_page(parse: Callable[[Any], Any], page: Any) -> Parsed:
    """Run the parser. It may be a generator, or return a list, one item, or ``None``."""
    found = parse(page)
    if found is None:
        found = ()
    elif isinstance(found, (dict, str)) or not isinstance(found, Iterable):
        found = (found,)
    items: list[Any] = []
    links: dict[int, str] = {}
    for one in found:
        if isinstance(one, Link):
            url, key = address_of(one)
            links.setdefault(key, url)
        else:
            items.append(one)
    return Parsed(items, [_text(item) for item in items], [(url, key) for key, url in links.items()])


def _text(item: Any) -> str:
    """As JSON; what JSON has no form for becomes text, as in a journal's export."""
    try:
        return ENCODE(item)
    except (TypeError, ValueError):
        from asyncpar.journal.export import plain

        return ENCODE(plain(item))
