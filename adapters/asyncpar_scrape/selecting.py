"""CSS selectors on a page, by Lexbor: sooner than by XPath (benchmarks/scraping_parsers.py), with results of parsel's kind.

Lexbor builds the tree that browsers build. What ``queries`` does not let it answer, and XPath from an element that it found, is
for the element's twin in a tree of lxml's, which is made from Lexbor's when it is first needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from parsel import Selector, SelectorList
from selectolax.lexbor import LexborHTMLParser, LexborNode

from asyncpar.errors import UnsupportedError
from asyncpar_scrape.queries import MARK, Plan, plan

NO_QUIRKS = b"<!DOCTYPE html>"
"""Before any page: a second one is ignored. With it classes and ids have the same case, or are not the same."""


class Tree:
    """A page of HTML, as browsers see it.

    :arg html: what the page is, in UTF-8; what is not valid becomes U+FFFD
    """

    def __init__(self, html: bytes | memoryview) -> None:
        self.parser = LexborHTMLParser(b"".join((NO_QUIRKS, html)))
        self._twins: dict[int, Any] | None = None

    def css(self, query: str) -> SelectorList[Selector]:
        """What a CSS selector finds, as ``parsel.Selector.css``."""
        known = plan(query)
        if known is None:
            whole: Any = Fixed(root=self.twin(self.parser.root), type="html")
            found: SelectorList[Selector] = whole.css(query)
            return found
        return self.results(known, query, self.parser.css(known.whole))

    def results(self, known: Plan, query: str, nodes: Iterable[LexborNode]) -> SelectorList[Selector]:
        """What a query is for, of the elements that match."""
        if known.several:
            nodes = {node.mem_id: node for node in nodes}.values()
        if known.kind == "text":
            return SelectorList([Text(text, query) for text in _texts(nodes)])
        if known.kind == "attr":
            values = (_value(node.attributes, known.attribute) for node in nodes)
            return SelectorList([Text(value, query) for value in values if value is not None])
        return SelectorList([Found(self, node, query) for node in nodes])

    def targets(self, *names: str) -> list[str]:
        """The href of each element of these names that has one."""
        query = ", ".join(f"{name}[href]" for name in names)
        return [node.attributes["href"] or "" for node in self.parser.css(query)]

    def twin(self, node: LexborNode | None) -> Any:
        """The same element in lxml's tree. (The doctype sees to it that there is a root, which the types do not say.)"""
        assert node is not None
        if self._twins is None:
            self._twins = self._make_twins()
        found = self._twins.get(node.mem_id)
        return self._alone(node) if found is None else found

    @staticmethod
    def _alone(node: LexborNode) -> Any:
        """An element that lxml does not have where it stands, without what is around it."""
        root = Selector(node.html or "", type="html").root
        return next(root.iter(node.tag), root)

    def _make_twins(self) -> dict[int, Any]:
        root = self.parser.root
        elements = [node for node in root.traverse() if node.is_element_node] if root is not None else []
        for node in elements:
            node.attrs[MARK] = str(node.mem_id)
        text = self.parser.html or ""
        for node in elements:
            del node.attrs[MARK]
        marked = Selector(text, type="html").root.iter("*")  # what is in a <template> has no mark
        return {int(one.attrib.pop(MARK)): one for one in marked if MARK in one.attrib}


def _value(attributes: dict[str, str | None], name: str) -> str | None:
    """The value of an attribute, ``""`` where it has none; that of viewBox, too, which only SVG writes so."""
    if name not in attributes:
        name = next((one for one in attributes if one.lower() == name), name)
    return attributes[name] or "" if name in attributes else None


def _texts(nodes: Iterable[LexborNode]) -> list[str]:
    """The texts right in these elements, in the order of the page."""
    nodes = list(nodes)
    texts: list[str] = []
    for node in nodes:
        child = node.first_child
        while child is not None:
            if child.is_text_node:
                texts.append(child.text_content or "")
            elif child.is_element_node and len(nodes) > 1:  # which may be another of them
                return _texts_inside(nodes)
            child = child.next
    return texts


def _texts_inside(nodes: list[LexborNode]) -> list[str]:
    left = dict.fromkeys(node.mem_id for node in nodes)
    wanted = frozenset(left)
    texts: list[str] = []
    for node in nodes:
        if node.mem_id not in left:  # it was inside another
            continue
        for one in node.traverse(include_text=True):
            if one.is_text_node:
                if one.parent is not None and one.parent.mem_id in wanted:
                    texts.append(one.text_content or "")
            else:
                left.pop(one.mem_id, None)
    return texts


class Fixed(Selector):
    """One that cannot be dropped: there are two trees, and what was taken from one would still be in the other."""

    __slots__ = ()

    def drop(self) -> None:
        raise UnsupportedError(
            "what page.css() finds cannot be dropped; parsel's own can, which page.selector.css() finds, and page.selector "
            "shows the page without it"
        )


class _Result(Fixed):
    """What a query found; it is made with less ado than parsel's own, which do what is not here."""

    __slots__ = ()
    type = "html"
    _text = None
    _huge_tree = True

    def css(self, query: str) -> Any:
        return self._plain().css(query)

    def xpath(self, query: str, namespaces: Any = None, **variables: Any) -> Any:
        return self._plain().xpath(query, namespaces, **variables)

    def jmespath(self, query: str, **options: Any) -> Any:
        return self._plain().jmespath(query, **options)

    def register_namespace(self, prefix: str, uri: str) -> None:
        self.namespaces = {**self.namespaces, prefix: uri}

    def _plain(self) -> Selector:
        return Fixed(root=self.root, type="html", namespaces=self.namespaces)


class Text(_Result):
    """A text, or an attribute's value."""

    __slots__ = ()

    def __init__(self, text: str, query: str) -> None:
        self.root, self._expr, self.namespaces = text, query, self._default_namespaces

    def get(self) -> Any:
        return self.root


class Found(_Result):
    """An element. Its ``root`` is the element in lxml's tree."""

    __slots__ = ("_node", "_tree")

    def __init__(self, tree: Tree, node: LexborNode, query: str) -> None:
        self._tree, self._node, self._expr, self.namespaces = tree, node, query, self._default_namespaces

    @property
    def root(self) -> Any:
        return self._tree.twin(self._node)

    def css(self, query: str) -> Any:
        known = plan(query)
        if known is None or not known.within:
            return super().css(query)
        node = self._node
        if MARK not in known.within:
            return self._tree.results(known, query, node.css(known.within))
        node.attrs[MARK] = ""
        try:
            return self._tree.results(known, query, node.css(known.within))
        finally:
            del node.attrs[MARK]

    def get(self) -> str:
        return self._node.html or ""

    @property
    def attrib(self) -> dict[str, str]:
        return {name: value or "" for name, value in self._node.attributes.items()}
