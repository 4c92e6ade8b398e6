"""The worker's side: runs the user's parser on a page, and sorts what it yields."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from asyncpar_scrape.addresses import HALF, Addresses, number_of
from asyncpar_scrape.links import address_of

ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Kept: ``json.dumps`` makes an encoder for each call with such arguments."""


class Link(str):
    """An address to visit, as a parser yields it among its items: absolute, of http or https. Its fragment is left out."""

    __slots__ = ()


class CanonicalLink(Link):
    """One that is canonical already."""

    __slots__ = ()


class Parsed(NamedTuple):
    """What a parser made of a page; ``texts`` are the items as JSON.

    :ivar items: where they are wanted; else those that are no JSON
    """

    items: list[Any]
    texts: list[str]
    links: Addresses


def parse_page(parse: Callable[[Any], Any], page: Any, wanted: bool) -> Parsed:
    """Run the parser. It may be a generator, or return a list, one item, or ``None``.

    :arg wanted: the items are to be returned themselves, too
    """
    found = parse(page)
    if found is None:
        found = ()
    elif isinstance(found, (dict, str)) or not isinstance(found, Iterable):
        found = (found,)
    items: list[Any] = []
    links: Addresses = {}
    for one in found:
        if isinstance(one, CanonicalLink):
            url = str(one)
            links.setdefault(number_of(url), url)
        elif isinstance(one, Link):
            links.setdefault(*_address_of(one))
        else:
            items.append(one)
    texts, odd = [], []
    for item in items:
        try:
            text = ENCODE(item)
        except (TypeError, ValueError):
            text = _odd_text(item)
            odd.append(item)  # it may be something that cannot be pickled, which is an error either way
        texts.append(text if text.isascii() else HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text))
    return Parsed(items if wanted else odd, texts, links)


def _address_of(link: Link) -> tuple[int, str]:
    try:
        return address_of(link)
    except ValueError as error:
        raise ValueError(
            f"a Link is an absolute address; join it with page.final_url first: {error}"
        ) from None


def _odd_text(item: Any) -> str:
    """What JSON has no form for, as text, as in a journal's export."""
    from asyncpar.journal.export import plain

    return ENCODE(plain(item))
