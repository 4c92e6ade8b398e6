"""CSS on pages: Lexbor answers what parsel would, and what it cannot answer goes to lxml."""

from __future__ import annotations

import platform
import re
import subprocess
import sys

import cssselect
import parsel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar.errors import UnsupportedError
from asyncpar_scrape import Page
from asyncpar_scrape.queries import ANY_CASE, MARK, plan
from asyncpar_scrape.selecting import Tree
from tests.programs import environment


def page(html):
    return Page("http://a.test/", "http://a.test/", 200, {"content-type": "text/html"}, html.encode())


# Against parsel, on pages that Lexbor and lxml read alike

TEXTS = st.sampled_from(["", "t", "a &amp; b", "\n  ", "é", "&nbsp;x", "<!-- c -->"])
CLASSES = ["item", "x", "Item", "a-b", "md:w-1/2"]
ATTRIBUTES = st.tuples(
    st.one_of(st.just(""), st.lists(st.sampled_from(CLASSES), unique=True).map(lambda c: f' class="{" ".join(c)}"')),
    st.sampled_from(["", "", "", ' id="a"', ' id="A"']),
    st.sampled_from(["", "", ' data-k="v"', ' data-k="V"', ' data-k="v w"', ' data-k="en-us"', ' title="t"']),
).map("".join)  # fmt: skip


def element(names, inside):
    return st.tuples(st.sampled_from(names), ATTRIBUTES, inside).map(
        lambda e: f"<{e[0]}{e[1]}>{e[2]}</{e[0]}>"
    )


def several(*strategies):
    return st.lists(st.one_of(*strategies), max_size=3).map("".join)


INLINE = st.recursive(TEXTS, lambda inner: element(["span", "b", "em"], several(inner)), max_leaves=4)
ROWS = several(element(["tr"], several(element(["td"], INLINE))))
BLOCKS = st.recursive(
    st.one_of(
        element(["p", "h3"], several(INLINE, TEXTS)),
        element(["ul"], several(element(["li"], INLINE))),
        element(["table"], element(["tbody"], ROWS)),
    ),
    lambda inner: element(["div", "section"], several(TEXTS, inner, inner)),
    max_leaves=8,
)
PAGES = several(BLOCKS).map(
    lambda body: f"<!doctype html><html><head><title>t</title></head><body>{body}</body></html>"
)
CONDITIONS = st.sampled_from(
    [
        ".item", ".x", ".Item", ".a-b", r".md\:w-1\/2", "#a", "#A", "[data-k]", "[data-k=v]", "[data-k='V']", "[data-k~=w]", "[data-k|=en]",
        "[data-k^=v]", "[data-k$=w]", "[data-k*=n-]", "[title]", "[class=item]", ":first-child", ":last-child", ":only-child",
        ":nth-child(2n+1)", ":nth-child(2)", ":nth-last-child(odd)", ":nth-child(-n+2)", ":not(.x)", ":not(div)",
        ":contains('t')", ":empty", ":not(.x .item)",
    ]
)  # fmt: skip
OF_TYPE = st.sampled_from(["", "", ":first-of-type", ":last-of-type", ":only-of-type", ":nth-of-type(2)"])
COMPOUNDS = st.one_of(
    st.tuples(st.sampled_from(["div", "span", "p", "li", "td", "DIV"]), OF_TYPE, several(CONDITIONS)).map("".join),
    st.tuples(st.sampled_from(["", "*"]), CONDITIONS, several(CONDITIONS)).map("".join),
)  # fmt: skip
SELECTORS = st.lists(st.tuples(st.sampled_from([" ", " ", ">", " > ", "+", "~"]), COMPOUNDS), max_size=2).flatmap(
    lambda rest: COMPOUNDS.map(lambda first: first + "".join(sign + one for sign, one in rest))
)  # fmt: skip
ENDS = st.sampled_from(["", "", "::text", "::attr(class)", "::attr(data-k)", " ::text", " ::attr(title)"])


def ending(selectors):
    return ENDS.flatmap(lambda end: selectors.map(lambda ones: ", ".join(one + end for one in ones)))


QUERIES = ending(st.lists(SELECTORS, min_size=1, max_size=2))


def seen(found):
    """What can be compared of results: texts, and elements by their tag, their attributes and all text in them."""
    return [
        one.get() if isinstance(one.root, str) else (one.root.tag, dict(one.attrib), one.xpath(".//text()").getall())
        for one in found
    ]  # fmt: skip


@given(PAGES, QUERIES, QUERIES)
def test_as_parsel(html, query, inner):
    """All kinds of queries, of the page and of what one found."""
    ours, theirs = Tree(html.encode()).css("body " + query), parsel.Selector(html).css("body " + query)
    assert seen(ours) == seen(theirs)
    for one, other in zip(ours, theirs, strict=True):
        if not isinstance(other.root, str):
            assert seen(one.css(inner)) == seen(other.css(inner))


@given(PAGES)
def test_xpath_from_what_css_found(html):
    """An element's twin in lxml's tree has the same place in it."""
    ours, theirs = Tree(html.encode()).css("body *"), parsel.Selector(html).css("body *")
    assert MARK not in (page(html).css("html").get() or "")
    for one, other in zip(ours, theirs, strict=True):
        for query in (
            "string()",
            "name()",
            "ancestor::*/@class",
            "following-sibling::*[1]/@id",
            "count(//*)",
        ):
            assert one.xpath(query).getall() == other.xpath(query).getall()
        assert one.attrib == dict(other.attrib)


@given(st.text(alphabet="<>/ abtrdipul=\"'!-&;\0x", max_size=60))
def test_any_page(html):
    """Whatever it is made of, each element that is found has what was found, and a twin."""
    found = page(html).css("*")
    assert found[0].root.tag == "html"
    for one in found:
        assert one.get().startswith("<")
        assert isinstance(one.root.tag, str)


# What Lexbor is asked


@pytest.mark.parametrize(
    ("query", "whole", "within"),
    [
        ("h3::text", "h3", "h3"),
        (".a.b", ".a.b", ".a.b"),
        ("a::attr(href)", "a", "a"),
        ("ul > li", "ul > li", f"ul[{MARK}] > li, [{MARK}] ul > li"),
        ("h2 + p", "h2 + p", ""),
        ("td ::text", "td *, td", f"td[{MARK}] *, [{MARK}] td *, td[{MARK}], [{MARK}] td"),
        ("li:nth-child(odd)", "li:nth-child(2n+1)", "li:nth-child(2n+1)"),
        (
            "ul li:nth-child(2)",
            "ul li:nth-child(0n+2)",
            f"ul[{MARK}] li:nth-child(0n+2), [{MARK}] ul li:nth-child(0n+2)",
        ),
        ("a[href^='/x']", 'a[href^="/x"]', 'a[href^="/x"]'),
        ("[DATA_X=y]", '[DATA_X="y"]', '[DATA_X="y"]'),
    ],
)
def test_what_lexbor_answers(query, whole, within):
    """Most of what pages are asked."""
    assert plan(query)[:2] == (whole, within)


@pytest.mark.parametrize(
    "query",
    [
        "p:contains('x')", "a[type=submit]", "a[REL=x]", "a[href!=x]", "a[href='']", "[data-x='a\"b']", "svg|a", ".\\31 a", "p:lang(en)",
        "h1::text, h2", "p:has(> a)", "p:not(a b)", "::attr(a|b)", "p::before",
    ],
)  # fmt: skip
def test_what_lxml_answers(query):
    """What Lexbor does not know, or takes otherwise, as values of which the case does not matter in HTML."""
    assert plan(query) is None


def test_what_lxml_answers_is_found():
    """Such queries find what parsel finds."""
    made = page("<form><input type=TEXT><input type=text disabled><p>ab</p><p>b</p></form>")
    assert made.css("input[type=text]::attr(disabled)").getall() == [""]
    assert made.css("p:contains('a')::text").getall() == ["ab"]
    assert made.css("form").css("p:contains('a')::text").get() == "ab"
    assert made.css("form").css("input + p::text").get() == "ab"


@pytest.mark.parametrize("query", ["p[", "", "p::nonsense", "::attr()", ":nth-child(x)", ">"])
def test_what_is_no_selector(query):
    """Is told, with cssselect's reason."""
    made = page("<p>a")
    with pytest.raises(ValueError, match=rf"^{re.escape(repr(query))} is not a CSS selector: .+"):
        made.css(query)
    with pytest.raises(cssselect.SelectorError):  # as parsel has it
        made.css("p").css(query)


@pytest.mark.parametrize(
    "name", [*sorted(ANY_CASE), "data-x", "for", "value", "title", "alt", "itemprop", "style", "x_y"]
)
def test_the_case_of_values(name):
    """Lexbor takes those values as the same in any case that go to lxml, and no others."""
    found = Tree(f'<p {name}="AbC">'.encode()).parser.css(f'[{name}="abc"]')
    assert bool(found) == (plan(f"[{name}=abc]") is None)
    assert page(f'<p {name}="AbC">').css(f"[{name}=abc]").get() is None
    assert page(f'<p {name}="AbC">').css(f"[{name}=AbC]::attr({name})").get() == "AbC"


# What is found


def test_what_is_found():
    """Is what parsel finds: a list of selectors, with all that these can do."""
    made = page("<div class='a b' id=x hidden>1 <b>two</b> 3</div><script>{\"k\": [4]}</script>")
    [div] = made.css("div")
    assert isinstance(div, parsel.Selector)
    assert isinstance(made.css("div"), parsel.SelectorList)
    assert div.get() == '<div class="a b" id="x" hidden="">1 <b>two</b> 3</div>'
    assert div.attrib == {"class": "a b", "id": "x", "hidden": ""}
    assert made.css("div").attrib["id"] == "x"
    assert made.css("div::text").getall() == ["1 ", " 3"]
    assert made.css("div ::text").re(r"\w+") == ["1", "two", "3"]
    assert made.css("div ::text").re_first(r"\d", default="-") == "1"
    assert made.css("script::text").jmespath("k[0]").get() == 4
    assert made.css("p").get() is None
    assert made.css("p::text").get(default="none") == "none"
    assert div.xpath("b/text()").get() == "two"
    assert repr(div).startswith("<Found query='div' data='<div class")


def test_a_namespace_for_one_element():
    """What is registered holds for its element, as in parsel."""
    made = page("<p>1</p><p>2</p>")
    one, other = made.css("p")
    one.register_namespace("f", "http://exslt.org/functions")
    assert one.xpath("self::p/text()").get() == "1"
    assert "f" not in other.namespaces


def test_nothing_is_dropped():
    """What one tree has no more the other would still have; parsel's own can be dropped."""
    made = page("<div>a<script>b</script>c</div>")
    for found in (
        made.css("script"), made.css("script::text"), made.css("script:contains('b')"), made.css("div").xpath("script"),
    ):  # fmt: skip
        with pytest.raises(UnsupportedError, match=r"^what page\.css\(\) finds cannot be dropped; parsel's own can, which "
                           r"page\.selector\.css\(\) finds, and page\.selector shows the page without it$"):  # fmt: skip
            found.drop()
    made.selector.css("script").drop()
    assert made.selector.css("div ::text").getall() == ["ac"]


def test_attributes_of_drawings():
    """Only SVG has names with capitals."""
    made = page("<svg viewBox='0 0 1 1' HREF=x><a xlink:href=y>")
    for name in ("viewBox", "viewbox"):
        assert made.css(f"svg::attr({name})").getall() == ["0 0 1 1"]
    assert made.css("svg::attr(href)").getall() == ["x"]
    assert made.css("svg::attr(width)").getall() == []


def test_a_template():
    """Is no part of the page, as in browsers; a page's marks are not ours."""
    made = page(f"<template><p {MARK}=1>x</p></template><p asyncpar-mark=z>y")
    assert made.css("p::text").getall() == ["y"]
    assert made.css("p").xpath("string()").getall() == ["y"]
    assert made.css("p").attrib == {"asyncpar-mark": "z"}
    assert made.xpath("count(//p)").get() == "2.0"


def test_as_browsers_read_it():
    """CSS sees the elements that browsers add; XPath, from the page, what is written."""
    made = page("<table><tr><td>1")
    assert made.css("table > tbody > tr > td::text").get() == "1"
    assert made.xpath("//table/tr/td/text()").get() == "1"


@pytest.mark.parametrize("doctype", ["", "<!doctype html>", '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML//EN">'])
def test_case_counts(doctype):
    """Classes and ids differ with their case, whatever the page's doctype says."""
    made = page(f"{doctype}<p class=Item id=A>1")
    assert (len(made.css(".Item")), len(made.css(".item")), len(made.css("#A")), len(made.css("#a"))) == (
        1,
        0,
        1,
        0,
    )


# What it costs

FAULTS = """
import resource, sys
if sys.argv[1] == "as a worker":
    import asyncpar_scrape.workers
from asyncpar_scrape.selecting import Tree
text = b"<p class=x>some text</p>\\n" * 2000
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        Tree(text)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc's heap")
def test_memory_stays_with_a_worker():
    """A page's tree is made in the memory of the last one: the kernel has to hand out next to none."""

    def counted(how):
        command = [sys.executable, "-c", FAULTS, how]
        return int(
            subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout
        )

    assert counted("as a worker") < 500 < counted("by itself")
