"""A fetched page. It is made on the loop, and read in workers: what costs time is done at first use."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from functools import cached_property
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from asyncpar_scrape.charsets import charset_of
from asyncpar_scrape.links import Base
from asyncpar_scrape.parsing import CanonicalLink, Link

if TYPE_CHECKING:
    from parsel import Selector, SelectorList

    from asyncpar_scrape.selecting import Tree

JSON = ("application/json", "application/ld+json")
XML = ("application/xml", "text/xml")
XHTML = "application/xhtml+xml"


class Page:
    """What an address gave.

    Its body travels to a worker out of band: large ones arrive as a view of shared memory, without a copy.

    :ivar url: the address that was asked for
    :ivar final_url: the address that answered, after redirects
    :ivar status: the status, 200 to 299
    :ivar headers: the headers by name in lower case; of a repeated one all values, by commas
    :ivar body: the body, decompressed: ``bytes`` where it was fetched, ``bytes`` or a ``memoryview`` in a worker
    """

    def __init__(
        self,
        url: str,
        final_url: str,
        status: int,
        headers: Mapping[str, str],
        body: bytes | memoryview | PickleBuffer,
    ) -> None:
        self.url, self.final_url, self.status = url, final_url, status
        self.headers = headers
        self.body: bytes | memoryview = memoryview(body) if isinstance(body, PickleBuffer) else body

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        body = PickleBuffer(self.body) if protocol >= 5 else bytes(self.body)
        return Page, (self.url, self.final_url, self.status, self.headers, body)

    def __repr__(self) -> str:
        return f"<Page {self.final_url} {self.status}, {len(self.body):,} bytes>"

    @cached_property
    def encoding(self) -> str:
        """Python's name of the body's charset: by its byte order mark, the header, its meta element; else UTF-8 where it
        is that, and windows-1252 where it is not. May be set, before the text is first used.
        """
        return charset_of(self.body, self.headers.get("content-type", ""))

    @cached_property
    def text(self) -> str:
        """The body as text; what is not valid becomes U+FFFD."""
        if self.encoding == "gb18030":
            from w3lib.encoding import to_unicode

            return to_unicode(bytes(self.body), "gb18030")  # GBK's euro sign, which Python's codec has not
        return str(self.body, self.encoding, "replace").removeprefix("\ufeff")

    @cached_property
    def selector(self) -> Selector:
        """The page as lxml reads it, as a selector of parsel's, for what ``css`` and ``xpath`` do not have.

        XML and JSON are read as such where the header says so; JSON has ``selector.jmespath``.
        """
        from parsel import Selector

        return Selector(self.text, type=self._type, base_url=self.final_url)

    @property
    def nbytes(self) -> int:
        """Of its body; what asks it wants to know how long pickling takes."""
        return len(self.body)

    @property
    def _type(self) -> str | None:
        kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind in JSON or kind.endswith("+json"):
            return "json"
        if kind in XML or (kind.endswith("+xml") and kind != XHTML):
            return "xml"
        return "html" if kind else None

    @property
    def _root(self) -> Any:
        """The document's element; of JSON one with nothing in it."""
        from parsel import Selector

        root = self.selector.root
        return root if hasattr(root, "iter") else Selector("", type="html").root

    @cached_property
    def _tree(self) -> Tree | None:
        """The page as browsers read it, if it is HTML."""
        from asyncpar_scrape.selecting import Tree

        if (self._type or self.selector.type) != "html":
            return None
        if self.encoding == "utf-8":
            return Tree(self.body[len(BOM_UTF8) :] if self.body[: len(BOM_UTF8)] == BOM_UTF8 else self.body)
        return Tree(self.text.encode())

    def css(self, query: str) -> SelectorList[Selector]:
        """What a CSS selector finds; ``::text`` and ``::attr(name)`` select texts and attributes.

        HTML is read as browsers read it, by Lexbor, which is the quickest. The selectors are parsel's; one that Lexbor does not
        answer as parsel does (as ``:contains``), and XPath from an element that was found, take the tree to lxml first. What is in
        a ``<template>`` is not found, and nothing that is found can be dropped.

        :raises ValueError: the selector is not valid
        """
        from cssselect.parser import SelectorError

        try:
            return (self._tree or self.selector).css(query)
        except SelectorError as error:
            raise ValueError(f"{query!r} is not a CSS selector: {error}") from error

    def xpath(self, query: str) -> SelectorList[Selector]:
        """What an XPath expression finds, in the page as lxml reads it.

        :raises ValueError: the expression is not valid
        """
        return self.selector.xpath(query)

    def follow_links(self, *, same_site: bool = True) -> Iterator[Link]:
        """The addresses of its links, absolute and canonical, each once; those that are not HTTP, or of over 8,192
        characters, are left out.

        :arg same_site: only those of the same host and port. Default, since a crawl of all hosts has no end
        """
        base, site = self._base, Base(self.final_url).site + "/"
        targets = dict.fromkeys(target.partition("#")[0] for target in self._targets("a", "area"))
        for url in dict.fromkeys(map(base.join, targets)):
            if url and (not same_site or url.startswith(site)):
                yield CanonicalLink(url)

    @cached_property
    def _base(self) -> Base:
        """Where relative addresses are seen from."""
        target = next(iter(self._targets("base")), None)
        return Base(self.final_url if target is None else _joined(self.final_url, target))

    def _targets(self, *names: str) -> list[str]:
        """Where elements of these names lead, as it is written there."""
        if self._tree is not None:
            return self._tree.targets(*names)
        found = (one.get("href") for one in self._root.iter(*names))
        return [target for target in found if target is not None]

    def json_ld(self) -> list[dict[str, Any]]:
        """The objects of its JSON-LD scripts, those of arrays and of ``@graph`` one by one.

        Comments, trailing commas, an HTML comment around and the like are repaired; a script that is no JSON even then
        is left out.
        """
        from asyncpar_scrape.structured import json_ld

        return json_ld(self._root)

    def microdata(self) -> list[dict[str, Any]]:
        """Its microdata: for each item ``type`` (a list), ``id`` and ``properties`` (a list of values by name).

        A value is a text, an absolute address or an item.
        """
        from asyncpar_scrape.structured import microdata

        return microdata(self._root, self._base.address or self.final_url)

    def tables(self, css: str = "table") -> list[list[list[str]]]:
        """The tables that a CSS selector finds: each a list of rows, of equally many texts. A cell that spans several
        rows or columns stands in each of them.

        :raises ValueError: the selector is not valid; spans make over a million cells of a small table
        """
        from asyncpar_scrape.tables import rows_of

        return [rows_of(table.root) for table in self.selector.css(css)]


def _joined(base: str, target: str) -> str:
    """The address of a ``base`` element, or the page's own where that is none."""
    try:
        return urljoin(base, target.strip())
    except ValueError:
        return base
