"""Pages: their charset, links, and what they say for machines."""

from __future__ import annotations

import pickle
from urllib.parse import urljoin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncpar_scrape import Fetcher, Page
from asyncpar_scrape.addresses import canonical
from asyncpar_scrape.charsets import charset_of, codec
from asyncpar_scrape.links import Base, address
from tests.adapters.scrape_faults import Faults
from tests.adapters.scrape_server import answer

AT = "http://a.test/docs/index.html"
HTML = "text/html"


def page(html, content_type="text/html; charset=utf-8", url=AT):
    body = html if isinstance(html, bytes) else html.encode()
    return Page(AT, url, 200, {"content-type": content_type} if content_type else {}, body)


# Charsets

RUSSIAN = "<title>Съешь ещё этих мягких французских булок</title>"
WORDS = {
    "gb18030": "<title>中文网页 𠀀</title>",
    "gbk": "<title>中文网页</title>",
    "gb2312": "<title>中文网页</title>",
    "big5": "<title>繁體中文</title>",
    "shift_jis": "<title>日本語のページ</title>",
    "euc-jp": "<title>日本語のページ</title>",
    "iso-2022-jp": "<title>日本語のページ</title>",
    "euc-kr": "<title>한국어 문서</title>",
    "windows-1251": RUSSIAN,
    "koi8-r": RUSSIAN,
    "iso-8859-5": RUSSIAN,
    "utf-8": RUSSIAN,
}


@pytest.mark.parametrize("label", WORDS)
@pytest.mark.parametrize("where", ["header", "meta", "pragma", "xml"])
def test_a_declared_charset(label, where):
    """In the header, in either form of the meta element, or in an XML declaration."""
    words = WORDS[label]
    meta = {
        "meta": f"<!doctype html><meta charset={label}>",
        "pragma": f'<META content="text/html; charset={label}" HTTP-EQUIV=Content-Type />',
        "xml": f'<?xml version="1.0" encoding="{label}"?><!doctype html>',
    }.get(where, "")
    made = page((meta + words).encode(label), f"text/html; charset={label}" if where == "header" else HTML)
    assert made.css("title").get() == words


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("iso-8859-1", "cp1252"),
        ("us-ascii", "cp1252"),
        (" Latin1 ", "cp1252"),
        ("gb2312", "gb18030"),
        ("x-gbk", "gb18030"),
        ("x-sjis", "cp932"),
        ("windows-949", "cp949"),
        ("x-x-big5", "big5hkscs"),
        ("x-mac-cyrillic", "mac-cyrillic"),
        ("x-cp1251", "cp1251"),
        ("tis-620", "cp874"),
        ("utf-7", None),
        ("hz-gb-2312", None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_labels_mean_what_they_mean_to_browsers(label, name):
    """Those of the Encoding Standard, and no others."""
    assert codec(label) == name


@pytest.mark.parametrize(
    ("body", "content_type", "name"),
    [
        (b"\xef\xbb\xbf<meta charset=koi8-r>", "text/html; charset=koi8-r", "utf-8"),
        (b"\xff\xfe<\0", "text/html; charset=utf-8", "utf-16-le"),
        (b"\xfe\xff\0<", HTML, "utf-16-be"),
        (b"<\0?\0x\0m\0l\0", HTML, "utf-16-le"),
        (b"<meta charset=koi8-r>", "text/html; charset=windows-1251", "cp1251"),
        (b"<meta charset=koi8-r>", "text/html; charset=nonsense", "koi8-r"),
        (b"<meta charset=koi8-r>", 'text/html;charset="nonsense"; x=y', "koi8-r"),
        (b"<title>", 'text/html;CHARSET="KOI8-R"; x=y', "koi8-r"),
        (b"<title>", "text/html, text/html; charset=koi8-r", "koi8-r"),
        (b"<meta charset=utf-16le>", HTML, "utf-8"),
        (b'<?xml version="1.0" encoding="utf-16"?>', HTML, "utf-8"),
        (b"<meta charset=x-user-defined>", HTML, "cp1252"),
        (b"<!-- <meta charset=koi8-r> --><p>", HTML, "utf-8"),
        (b"<!--><meta charset=koi8-r>", HTML, "koi8-r"),
        (b"<p title='<meta charset=koi8-r>'><meta charset=gbk>", HTML, "gb18030"),
        (b"<metal charset=koi8-r>", HTML, "utf-8"),
        (b"<meta content='text/html; charset=koi8-r'>", HTML, "utf-8"),
        (b"<meta charset=nonsense><meta charset=koi8-r>", HTML, "koi8-r"),
        (b"<meta charset=koi8-r", HTML, "utf-8"),
        (b"<meta charset=koi8-r charset=gbk>", HTML, "koi8-r"),
        (b" " * 1024 + b"<meta charset=koi8-r>\xc1", HTML, "koi8-r"),
        (b" " * 1024 + b"<meta charset=nonsense>\xc1", HTML, "cp1252"),
        (b"caf\xe9", HTML, "cp1252"),
        ("café".encode(), "", "utf-8"),
        (b"", "", "utf-8"),
    ],
)
def test_what_counts_first(body, content_type, name):
    """The byte order mark, the header, the meta element, the XML declaration; then what the bytes can be."""
    assert charset_of(body, content_type) == name
    assert charset_of(memoryview(body), content_type) == name


def test_a_wrong_charset():
    """What is not valid becomes U+FFFD, and nothing fails; whoever knows better says so."""
    body = RUSSIAN.encode("koi8-r")
    assert page(body).text == page(body).css("title").get()
    assert "\ufffd" in page(body).text
    known = page(body)
    known.encoding = "koi8-r"
    assert known.css("title").get() == RUSSIAN


def test_marks_and_euros():
    """A byte order mark is no text; byte 0x80 of GBK is a euro."""
    assert page("\ufeffa").text == page("\ufeffa").css("body::text").get() == "a"
    assert page("a".encode("utf-16"), HTML).text == "a"
    assert page(b"\x80 5", "text/html; charset=gbk").text == "€ 5"


async def test_a_charset_from_a_server():
    """The bytes come through as they were sent."""
    async with Faults() as site, Fetcher("t (t@example.org)", allow_private=True, robots=False) as fetch:
        site.answers["/ru"] = answer(RUSSIAN.encode("koi8-r"), "Content-Type: text/html; charset=KOI8-R\r\n")
        made = await fetch(site.url("/ru"))
    assert (made.encoding, made.css("title").get()) == ("koi8-r", RUSSIAN)


# What it is


@pytest.mark.parametrize(
    ("content_type", "body", "query", "found"),
    [
        (HTML, '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><p>a', "p::text", "a"),
        (
            "application/xhtml+xml",
            '<html xmlns="http://www.w3.org/1999/xhtml"><p>a</p></html>',
            "p::text",
            "a",
        ),
        ("application/xml; charset=utf-8", "<urlset><loc>a</loc></urlset>", "loc::text", "a"),
        ("application/rss+xml", "<rss><link>a</link></rss>", "link::text", "a"),
        ("", "<p>a", "p::text", "a"),
        (HTML, '{"a": "<p>a</p>"}', "p::text", "a"),
        (HTML, "", "p", None),
    ],
)
def test_the_type(content_type, body, query, found):
    """HTML, where the header does not say XML, whatever it begins with."""
    assert page(body, content_type).css(query).get() == found


@pytest.mark.parametrize("content_type", ["application/json", "application/hal+json; charset=utf-8"])
def test_json(content_type):
    """JSON has jmespath, and no links."""
    made = page('{"a": [1, 2]}', content_type)
    assert made.selector.jmespath("a[1]").get() == 2
    assert list(made.follow_links()) == made.json_ld() == made.microdata() == []


def test_css_and_xpath():
    """As parsel has them."""
    made = page("<title>t</title><div class='x y'>1<a href=b>2</a></div><div>3</div>")
    assert made.css("title::text").get() == "t"
    assert made.css(".y").xpath("string()").get() == "12"
    assert made.xpath("//div[has-class('x')]/a/@href").getall() == ["b"]
    with pytest.raises(ValueError, match=r"XPath error"):
        made.xpath("//[")


def test_it_travels():
    """A page arrives as it was; its body out of band."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(page("<title>x</title>"), protocol=5, buffer_callback=buffers.append)
    assert len(buffers) == 1
    assert pickle.loads(data, buffers=buffers).css("title::text").get() == "x"


# Links


def test_follow_links():
    """Absolute, canonical, each once, in the order of the page; others than HTTP and other sites are left out."""
    made = page(
        """<a href="b.html#x">1</a><a href=" ../b/?z=1&a=2 ">2</a><a href="/docs/b.html">3</a><a>4</a><a href="">5</a>
        <area href="//A.test:80/c"><a href="mailto:m@a.test">6</a><a href="javascript:void(0)">7</a>
        <a href="https://a.test/d">8</a><a href="http://other.test">9</a><a href="http://[">10</a><a href="#y">11</a>"""
    )
    here = ["http://a.test/docs/b.html", "http://a.test/b/?a=2&z=1", AT, "http://a.test/c"]
    assert list(made.follow_links()) == here
    assert list(made.follow_links(same_site=False)) == [*here, "https://a.test/d", "http://other.test/"]


def test_links_that_are_too_long():
    """Are left out, as those that are none: no server takes them."""
    long = "/" + "a" * 10_000
    made = page(
        f"<a href='{long}'><a href='?{long}'><a href='http://a.test{long}'><a href='b#{long}'><a href=b>"
    )
    assert list(made.follow_links()) == ["http://a.test/docs/b"]


@pytest.mark.parametrize(
    ("base", "link"),
    [
        ("/other/", "http://a.test/other/x"),
        ("http://b.test/y/", "http://b.test/y/x"),
        ("http://[", "http://a.test/docs/x"),
    ],
)
def test_a_base_element(base, link):
    """The first with an address says where links lead; the site is still the page's."""
    made = page(f'<base target=t><base href="{base}"><base href="/third/"><a href=x>')
    assert list(made.follow_links(same_site=False)) == [link]
    assert list(made.follow_links()) == ([link] if "a.test" in link else [])


# fmt: off
PIECES = [
    "a", "b.html", "..", ".", "%E4", "%e4", "%7E", "%2F", "é", "A-Z", ":", ";p", ".well-known", "?",
    "a=1", "b=2&a=1", "&", "=", "a-=1&a=2", "#f", "//", "/", "/", "/", "http://", "https://", "HTTP://",
    "h.test", "H.Test", ":80", ":443", ":8080", "u@", "mailto:", "+", "\\", "[::1]", "1.2.3.4", "a..b",
    "h.test.", ":99999", "xn--mnchen-3ya.de", "../", "../../", "./",
]
# fmt: on
ANY = st.lists(st.sampled_from([*PIECES, " ", "\t", "\n"]), max_size=7).map("".join)
USUAL = st.from_regex(
    r"\A(https?://(h|H)\.test(:80|:8080)?(/|\Z)|/|(\.\./){1,3})?([a-z~]{1,2}(\.html|/|%C3|=)?){0,3}(\?[a-c-]{1,2}=[a-c]?(&[a-c-]{1,2}=[a-c]?){0,2})?(#f)?\Z"
)
BASES = st.one_of(
    st.sampled_from([AT, "http://h.test", "https://H.test:443/a/b?c=d"]),
    st.tuples(st.sampled_from(["http://h.test/", "http://h.test:8080", "https://"]), ANY).map("".join),
)


def canonical_or_none(url):
    try:
        return canonical(url)
    except ValueError:
        return ""


@given(BASES, st.one_of(USUAL, ANY, st.text(max_size=8)))
def test_the_cheap_way_leads_to_the_same(base, target):
    """What joins quickly joins to what the standard library and w3lib make of it."""
    base = canonical_or_none(canonical_or_none(base))
    try:
        long = canonical_or_none(urljoin(base, target.strip()))
    except ValueError:
        long = ""
    assert Base(base).join(target) == long


@given(st.one_of(BASES, ANY, st.tuples(st.just("http://h.test:80/"), USUAL).map("".join)))
def test_an_address_by_itself(url):
    """The cheap way is the same here, too."""
    try:
        found = address(url)
    except ValueError:
        found = ""
    assert found == canonical_or_none(url)


@given(BASES)
def test_a_base_is_canonical(base):
    """Its address and its site are, or there is none."""
    made = Base(base)
    assert made.address == canonical_or_none(canonical_or_none(base))
    assert made.address.startswith(made.site + "/") or not made.address


# JSON-LD


def scripts(*texts):
    return page("".join(f'<script type="application/ld+json">{text}</script>' for text in texts))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"@type": "A"}', [{"@type": "A"}]),
        ('[{"a": 1}, [{"a": 2}], 3]', [{"a": 1}, {"a": 2}]),
        ('{"@context": "c", "@graph": [{"a": 1}, {"a": 2}]}', [{"a": 1}, {"a": 2}]),
        ('{"a": [1, 2,], }', [{"a": [1, 2]}]),
        ('/* x */ {"a": 1, // one\n "b": "http://c"}', [{"a": 1, "b": "http://c"}]),
        ('<!-- {"a": 1} -->', [{"a": 1}]),
        ('<!--\n{"a": "<!-- b -->",}\n-->', [{"a": "<!-- b -->"}]),
        ('//<![CDATA[\n{"a": 1}\n//]]>', [{"a": 1}]),
        ('{"a": 1}\n{"b": 2}', [{"a": 1}, {"b": 2}]),
        ('{"a": 1};', [{"a": 1}]),
        ('{"a": "line\nbreak"}', [{"a": "line\nbreak"}]),
        ('{"a": "line\nbreak",}', [{"a": "line\nbreak"}]),
        ("{&quot;a&quot;: 1}", [{"a": 1}]),
        ('\ufeff{"a": 1}', [{"a": 1}]),
        ('{"a": "he said "yes" twice"}', [{"a": 'he said "yes" twice'}]),
        ('{"a": 1, "b": "cut of', [{"a": 1, "b": "cut of"}]),
        ("no JSON at all", []),
        ("", []),
        ("[" * 5000, []),
        ("null", []),
    ],
)
def test_json_ld(text, found):
    """What is broken is repaired; what is nothing even then is left out, and takes nothing with it."""
    assert scripts(text).json_ld() == found
    assert scripts('{"x": 1}', text, '{"y": 2}').json_ld() == [{"x": 1}, *found, {"y": 2}]


def test_json_ld_scripts():
    """In the head and the body, whatever the type's case and parameters; no other scripts."""
    made = page(
        """<head><script type='Application/LD+JSON; charset=utf-8'>{"a": 1}</script></head>
        <script>{"b": 1}</script><script type="application/json">{"c": 1}</script>
        <div><script id=x type="application/ld+json">{"d": "&amp;"}</script></div>"""
    )
    assert made.json_ld() == [{"a": 1}, {"d": "&amp;"}]


# Microdata


def test_microdata():
    """Items with types, addresses, nested items and the values of each kind of element."""
    made = page(
        """<div itemscope itemtype="https://schema.org/Product https://schema.org/Thing" itemid="/p/1">
        <h1 itemprop="name  title">A <b>thing</b>
        </h1><img itemprop=image src=" a.png "><a itemprop=url href="../b">b</a><meta itemprop=sku content=12>
        <time itemprop=date datetime=2026-01-01>today</time><time itemprop=year>2026</time><data itemprop=d value=3>x</data>
        <span itemprop=price content=9.99>about ten</span><link itemprop=in href=https://schema.org/InStock>
        <p itemprop=offer itemscope itemtype=O><i itemprop=price>1</i></p><i itemprop=price>2</i><i itemprop="">3</i></div>
        <div itemscope></div>"""
    )
    assert made.microdata() == [
        {
            "type": ["https://schema.org/Product", "https://schema.org/Thing"],
            "id": "http://a.test/p/1",
            "properties": {
                "name": ["A thing"],
                "title": ["A thing"],
                "image": ["http://a.test/docs/a.png"],
                "url": ["http://a.test/b"],
                "sku": ["12"],
                "date": ["2026-01-01"],
                "year": ["2026"],
                "d": ["3"],
                "price": ["9.99", "2"],
                "in": ["https://schema.org/InStock"],
                "offer": [{"type": ["O"], "properties": {"price": ["1"]}}],
            },
        },
        {"properties": {}},
    ]


def test_microdata_by_reference():
    """The standard's example: properties that stand elsewhere."""
    made = page(
        """<div itemscope id=amanda itemref="a b none"></div><p id=a>Name: <span itemprop=name>Amanda</span></p>
        <div id=b itemprop=band itemscope itemref=c></div>
        <div id=c><p>Band: <span itemprop=name>Jazz Band</span></p><p>Size: <span itemprop=size>12</span> players</p></div>"""
    )
    band = {"properties": {"name": ["Jazz Band"], "size": ["12"]}}
    assert made.microdata() == [{"properties": {"name": ["Amanda"], "band": [band]}}]


def test_microdata_in_a_circle():
    """An item that contains itself has the standard's word there."""
    made = page(
        """<div itemscope itemref=b></div><div id=b itemprop=x itemscope itemref="c b"></div>
        <div id=c itemprop=y itemscope itemref=b></div>"""
    )
    inner = {"properties": {"y": [{"properties": {"x": ["ERROR"]}}]}}
    assert made.microdata() == [{"properties": {"x": [inner]}}]


# Tables


@pytest.mark.parametrize(
    ("html", "rows"),
    [
        ("<tr><th>a<th> b <i>c</i><tr><td>1<td>2", [["a", "b c"], ["1", "2"]]),
        ("<tr><td colspan=2>a<td>b<tr><td>1<td>2<td>3", [["a", "a", "b"], ["1", "2", "3"]]),
        ("<tr><td rowspan=2>a<td>b<tr><td>c", [["a", "b"], ["a", "c"]]),
        (
            "<tr><td rowspan=2 colspan=2>a<td>b<tr><td>c<tr><td>d",
            [["a", "a", "b"], ["a", "a", "c"], ["d", "", ""]],
        ),
        ("<tr><td>a<td>b<td rowspan=2>c<tr><td>d", [["a", "b", "c"], ["d", "", "c"]]),
        ("<thead><tr><td rowspan=9>a<tbody><tr><td>b", [["a"], ["b"]]),
        ("<tr><td rowspan=0>a<td>b<tr><td>c<tr><td>d", [["a", "b"], ["a", "c"], ["a", "d"]]),
        ("<tr><td colspan=x rowspan=-1>a<td colspan=0>b", [["a", "b"]]),
        ("<tr><td>a<table><tr><td>in</table>", [["ain"]]),
        ("<caption>c</caption>", []),
    ],
)
def test_tables(html, rows):
    """Rows of texts; a cell stands wherever it spans, and never beyond its part of the table."""
    assert page(f"<table>{html}</table>").tables()[0] == rows


def test_which_tables():
    """Those that a selector finds, inner ones by themselves."""
    made = page("<table class=x><tr><td>1<table><tr><td>2</table></table><p>")
    assert made.tables() == [[["12"]], [["2"]]]
    assert made.tables("table.x table") == [[["2"]]]
    assert made.tables("ol") == []


def test_a_table_that_is_a_bomb():
    """Spans of a small page that would fill the memory are refused."""
    bomb = "<table><tr>" + "<td colspan=1000>x" * 1500 + "</table>"
    with pytest.raises(
        ValueError, match=r"a table has over 1,000,000 cells by its spans: take its rows with css\('tr'\)"
    ):
        page(bomb).tables()
