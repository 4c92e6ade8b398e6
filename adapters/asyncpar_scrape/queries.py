"""What Lexbor is asked for a CSS query of parsel's kind, and which queries are not for it.

parsel takes a query to XPath (by cssselect), with three differences to what browsers do, and so Lexbor: its ``::text`` and
``::attr(name)``; an element is searched with itself, and no part of the query matches what is around it; and the case of values
counts. What is not known to be answered alike is left to parsel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from secrets import token_hex
from typing import Any, NamedTuple

from cssselect.parser import (
    Attrib,
    Class,
    CombinedSelector,
    Element,
    Function,
    Hash,
    Negation,
    Pseudo,
    SelectorSyntaxError,
    parse,
    parse_series,
)

MARK = f"asyncpar-{token_hex(4)}"
"""An attribute that no page has."""
NAME = re.compile(r"-?[A-Za-z_][!-~]*")
SIGNS = re.compile(r"[^A-Za-z0-9_-]")
VALUE = re.compile(r"[^\"'\\\n\r\f\0]+")
ANY_CASE = {
    "accept", "accept-charset", "align", "alink", "axis", "bgcolor", "charset", "checked", "clear", "codetype",
    "color", "compact", "declare", "defer", "dir", "direction", "disabled", "enctype", "face", "frame", "hreflang",
    "http-equiv", "lang", "language", "link", "media", "method", "multiple", "nohref", "noresize", "noshade",
    "nowrap", "readonly", "rel", "rev", "rules", "scope", "scrolling", "selected", "shape", "target", "text", "type",
    "valign", "valuetype", "vlink",
}  # fmt: skip
"""Attributes whose values are the same in any case (HTML Standard, "Case-sensitivity of selectors")."""
PLACES = {"first-child", "last-child", "only-child", "first-of-type", "last-of-type", "only-of-type"}
COUNTED = {"nth-child", "nth-last-child", "nth-of-type", "nth-last-of-type"}


class Plan(NamedTuple):
    """How Lexbor answers a query.

    :ivar whole: the selector for a whole page
    :ivar within: for what an element holds, itself included: as in parsel, no part of it matches what is around that. Empty, if
        there is none
    :ivar kind: what is taken of elements: ``""``, ``"text"`` or ``"attr"``
    :ivar attribute: its name
    :ivar several: an element may be found twice
    """

    whole: str
    within: str
    kind: str
    attribute: str
    several: bool


@lru_cache(2048)
def plan(query: str) -> Plan | None:
    """How to ask Lexbor; nothing where it would not answer as parsel does, or is not known to."""
    try:
        selectors = parse(query)
        taken = {_taken(selector.pseudo_element) for selector in selectors}
        parts = [part for selector in selectors for part in _parts(selector)]
    except (SelectorSyntaxError, _OtherError):
        return None
    if len(taken) > 1:
        return None
    kind, attribute = taken.pop()
    if not any(rest for _, rest in parts):
        within = [first for first, _ in parts]
    elif any(sign in rest for _, rest in parts for sign in (" + ", " ~ ")):
        within = []  # they may lead out of the element
    else:
        within = [
            one for first, rest in parts for one in (f"{first}[{MARK}]{rest}", f"[{MARK}] {first}{rest}")
        ]
    whole = ", ".join(first + rest for first, rest in parts)
    return Plan(whole, ", ".join(within), kind, attribute, several=len(parts) > 1 or len(within) > 1)


class _OtherError(Exception):
    """The query has something that is not for Lexbor."""


def _taken(pseudo: Any) -> tuple[str, str]:
    if pseudo is None:
        return "", ""
    if pseudo == "text":
        return "text", ""
    arguments = getattr(pseudo, "arguments", [])
    if getattr(pseudo, "name", "") != "attr" or len(arguments) != 1 or not NAME.fullmatch(arguments[0].value):
        raise _OtherError
    return "attr", arguments[0].value.lower()


class _Part(NamedTuple):
    """A selector without commas: its first compound, and what follows that, its combinator included."""

    first: str
    rest: str


def _parts(selector: Any) -> Iterator[_Part]:
    """What to look for: ``td ::text`` means the texts of td, too."""
    tree = selector.parsed_tree
    yield _chain(tree)
    if selector.pseudo_element is not None and isinstance(tree, CombinedSelector) and tree.combinator == " ":
        last = tree.subselector
        if isinstance(last, Element) and last.element is None:
            yield _chain(tree.selector)


def _chain(tree: Any) -> _Part:
    if not isinstance(tree, CombinedSelector):
        return _Part(_compound(tree), "")
    first, rest = _chain(tree.selector)
    sign = f" {tree.combinator} " if tree.combinator != " " else " "
    return _Part(first, f"{rest}{sign}{_compound(tree.subselector)}")


def _compound(tree: Any) -> str:
    """An element's name and what else is asked of it; Lexbor answers ``.x`` sooner than ``*.x``."""
    return _conditions(tree) or "*"


def _conditions(tree: Any) -> str:
    if isinstance(tree, Element) and tree.namespace is None:
        return _name(tree.element) if tree.element else ""
    if isinstance(tree, Class):
        return f"{_conditions(tree.selector)}.{_name(tree.class_name)}"
    if isinstance(tree, Hash):
        return f"{_conditions(tree.selector)}#{_name(tree.id)}"
    if isinstance(tree, Attrib) and tree.namespace is None:
        return f"{_conditions(tree.selector)}[{_attribute(tree)}]"
    if isinstance(tree, Pseudo) and tree.ident in PLACES:
        return f"{_conditions(tree.selector)}:{tree.ident}"
    if isinstance(tree, Function) and tree.name in COUNTED:
        return f"{_conditions(tree.selector)}:{tree.name}({_series(tree)})"
    if isinstance(tree, Negation) and not isinstance(tree.subselector, CombinedSelector):
        return f"{_conditions(tree.selector)}:not({_compound(tree.subselector)})"
    raise _OtherError


def _series(tree: Function) -> str:
    try:
        step, first = parse_series(tree.arguments)
    except ValueError:
        raise _OtherError from None
    return f"{step}n{first:+}"


def _attribute(tree: Attrib) -> str:
    name = _name(tree.attrib)
    if tree.operator == "exists":
        return name
    value = tree.value.value if tree.value is not None else ""
    if tree.operator == "!=" or value is None or not VALUE.fullmatch(value) or name.lower() in ANY_CASE:
        raise _OtherError
    return f'{name}{tree.operator}"{value}"'


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise _OtherError
    return SIGNS.sub(r"\\\g<0>", text)
