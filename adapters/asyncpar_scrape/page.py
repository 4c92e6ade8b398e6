"""A fetched page. It is made on the loop, and read in workers: what costs time is done at first use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from asyncpar_scrape.addresses import canonical, host_of
from asyncpar_scrape.parsing import Link

if TYPE_CHECKING:
    from parsel import Selector, SelectorList

PRESCAN = 1024
"""Bytes in which a charset is looked for, as browsers do (WHATWG HTML, "prescan a byte stream")."""


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
        """The name of the body's charset: by its byte order mark, the header, its meta element; else UTF-8 where it is
        that, and windows-1252 where it is not.
        """
        from w3lib.encoding import html_body_declared_encoding, http_content_type_encoding, read_bom

        head = bytes(self.body[:PRESCAN])
        found = (
            read_bom(head)[0]
            or http_content_type_encoding(self.headers.get("content-type"))
            or html_body_declared_encoding(head)
        )
        if found:
            return found
        try:
            str(self.body, "utf-8")
        except UnicodeDecodeError:
            return "cp1252"
        return "utf-8"

    @cached_property
    def text(self) -> str:
        """The body as text; what is not valid becomes U+FFFD."""
        return str(self.body, self.encoding, "replace").removeprefix("\ufeff")

    @cached_property
    def selector(self) -> Selector:
        """The parsed page, as a selector of parsel's, for what ``css`` and ``xpath`` do not have."""
        from parsel import Selector

        return Selector(self.text, base_url=self.final_url)

    def css(self, query: str) -> SelectorList[Selector]:
        """What a CSS selector finds; ``::text`` and ``::attr(name)`` select texts and attributes.

        :raises ValueError: the selector is not valid
        """
        return self.selector.css(query)

    def xpath(self, query: str) -> SelectorList[Selector]:
        """What an XPath expression finds.

        :raises ValueError: the expression is not valid
        """
        return self.selector.xpath(query)

    def follow_links(self, *, same_site: bool = True) -> Iterator[Link]:
        """The addresses of its links, absolute and canonical, each once; those that are not HTTP are left out.

        :arg same_site: only those of the same host and port. Default, since a crawl of all hosts has no end
        """
        base = urljoin(self.final_url, self.css("base::attr(href)").get(""))
        seen: set[str] = set()
        for target in self.css("a::attr(href), area::attr(href)").getall():
            url = _joined(base, target)
            if url and url not in seen and (not same_site or host_of(url) == host_of(self.final_url)):
                seen.add(url)
                yield Link(url)


def _joined(base: str, target: str) -> str:
    """The canonical address of a link, or nothing."""
    try:
        return canonical(urljoin(base, target.strip()))
    except ValueError:
        return ""
