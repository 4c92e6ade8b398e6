"""What pages say about themselves for machines: JSON-LD, and microdata (WHATWG HTML, "Microdata")."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

from lxml import etree  # pyright: ignore[reportAttributeAccessIssue]  # a module in C, without types

STRING = etree.XPath("string()", smart_strings=False)
SOURCES = dict.fromkeys(("audio", "embed", "iframe", "img", "source", "track", "video"), "src")
ADDRESSES = SOURCES | dict.fromkeys(("a", "area", "link"), "href") | {"object": "data"}
"""Elements whose value is the address in this attribute."""
VALUES = {"data": "value", "meta": "content", "meter": "value"}


def json_ld(root: Any) -> list[dict[str, Any]]:
    """The objects of all JSON-LD scripts, those of arrays and of ``@graph`` one by one.

    Search engines are lenient, and so are pages. What is no JSON is repaired as far as it can be: comments, trailing
    commas, an HTML comment or CDATA around, several objects in a row, escaped and unescaped quotes, a missing end. What
    is nothing even then is left out.
    """
    found: list[dict[str, Any]] = []
    for script in root.iter("script"):
        kind = (script.get("type") or "").partition(";")[0].strip().lower()
        if kind == "application/ld+json":
            found += _objects(_value(script.text or ""))
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        pass
    import json_repair

    if '"' not in text:
        text = html.unescape(text)  # &quot;
    try:
        return json_repair.loads(text, skip_json_loads=True)
    except (ValueError, RecursionError):
        return None


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, list):
        for one in value:
            yield from _objects(one)
    elif isinstance(value, dict):
        graph = value.get("@graph")
        if isinstance(graph, list):
            yield from _objects(graph)
        else:
            yield value


def microdata(root: Any, base: str) -> list[dict[str, Any]]:
    """The items at the top: for each a ``type`` (a list), an ``id``, and ``properties`` (a list of values by name).

    It is the standard's JSON form, but that spaces are collapsed, and that ``content`` counts on every element, which
    schema.org's examples rely on. A value is a text, an absolute address or an item.
    """
    reader = _Microdata(root, base)
    return [reader.item(one, ()) for one in root.iter() if _is_item(one) and one.get("itemprop") is None]


def _is_item(element: Any) -> bool:
    return element.get("itemscope") is not None


class _Microdata:
    def __init__(self, root: Any, base: str) -> None:
        self._base = base
        self._place: dict[Any, int] = {element: number for number, element in enumerate(root.iter())}
        self._named: dict[str, Any] = {}
        for element in self._place:
            if name := element.get("id"):
                self._named.setdefault(name, element)

    def item(self, element: Any, inside: tuple[Any, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        if types := (element.get("itemtype") or "").split():
            made["type"] = types
        if address := element.get("itemid"):
            made["id"] = self._absolute(address)
        properties: dict[str, list[Any]] = {}
        inside = (*inside, element)
        for one in self._properties(element):
            value = self._value(one, inside)
            for name in dict.fromkeys(one.get("itemprop").split()):
                properties.setdefault(name, []).append(value)
        return made | {"properties": properties}

    def _properties(self, item: Any) -> list[Any]:
        """The elements with this item's properties, in the order of the page."""
        references = [self._named.get(name) for name in (item.get("itemref") or "").split()]
        waiting = [*item, *(one for one in references if one is not None)]
        seen = {item}
        found: list[Any] = []
        while waiting:
            element = waiting.pop()
            if element in seen:
                continue
            seen.add(element)
            if not _is_item(element):
                waiting.extend(element)
            if (element.get("itemprop") or "").split():
                found.append(element)
        return sorted(found, key=self._place.__getitem__)

    def _value(self, element: Any, inside: tuple[Any, ...]) -> Any:
        if _is_item(element):
            return (
                "ERROR" if element in inside else self.item(element, inside)
            )  # the standard's word for a circle
        tag = element.tag
        if tag in ADDRESSES:
            return self._absolute(element.get(ADDRESSES[tag]) or "")
        stated = element.get(VALUES.get(tag, "datetime" if tag == "time" else "content"))
        if tag in VALUES:
            return stated or ""
        return text_of(element) if stated is None else stated

    def _absolute(self, address: str) -> str:
        try:
            return urljoin(self._base, address.strip()) if address else ""
        except ValueError:
            return address


def text_of(element: Any) -> str:
    """The text in an element, its spaces collapsed."""
    return " ".join(str(STRING(element)).split())
