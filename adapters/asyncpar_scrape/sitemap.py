"""Sitemaps (sitemaps.org): what a site says that it has. Runs in workers."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncpar_scrape.addresses import Addresses
from asyncpar_scrape.links import address_of

if TYPE_CHECKING:
    from asyncpar_scrape.page import Page

MOST_BYTES = 52_428_800
"""The protocol's bound on a sitemap, uncompressed."""
MOST_ADDRESSES = 50_000
"""The protocol's bound on what one lists."""


class Sitemap(NamedTuple):
    """What a sitemap lists: pages, and more sitemaps."""

    pages: Addresses
    sitemaps: Addresses


def read_sitemap(page: Page) -> Sitemap:
    """Read a sitemap or an index of sitemaps, in XML, in gzipped XML or as plain text; wrong addresses are left out.

    :raises ValueError: it is none, or larger than the protocol allows
    """
    body = bytes(page.body)
    if body.startswith(b"\x1f\x8b"):
        body = _unzipped(body)
    if not body.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return Sitemap(_addresses(body.decode("utf-8", "replace").split()), {})
    return _read_xml(body)


def _unzipped(body: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as stream:
            plain = stream.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"the sitemap's gzip is broken: {error}") from error
    if len(plain) > MOST_BYTES:
        raise ValueError(f"the sitemap is over {MOST_BYTES:,} bytes, which the protocol forbids")
    return plain


def _read_xml(body: bytes) -> Sitemap:
    from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]  # a module in C, without types

    found: dict[str, list[str]] = {"url": [], "sitemap": []}
    # Entities are not resolved and the network is not used: these are strangers' files. One that is broken is read up to there.
    events = etree.iterparse(
        io.BytesIO(body),
        events=("start", "end"),
        resolve_entities=False,
        no_network=True,
        recover=True,
        huge_tree=False,
    )
    root = ""
    try:
        for event, element in events:
            name = _name_of(element)
            if not root:
                root = name
                if root not in ("urlset", "sitemapindex"):
                    break
            if event == "end" and name in found:
                found[name] += [child.text or "" for child in element if _name_of(child) == "loc"]
                element.clear()
                if sum(map(len, found.values())) >= MOST_ADDRESSES:
                    break
    except etree.XMLSyntaxError as error:
        raise ValueError(f"this is not a sitemap: {error}") from error
    if root not in ("urlset", "sitemapindex"):
        raise ValueError(
            f"this is not a sitemap: it begins with <{root}>, not with <urlset> or <sitemapindex>"
        )
    return Sitemap(_addresses(found["url"]), _addresses(found["sitemap"]))


def _name_of(element: Any) -> str:
    """The name of an element without its namespace; a comment has none."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _addresses(texts: list[str]) -> Addresses:
    found: Addresses = {}
    for text in texts[:MOST_ADDRESSES]:
        try:
            found.setdefault(*address_of(text.strip()))
        except ValueError:
            continue
    return found
