"""The charset of a body, as browsers find it: WHATWG HTML, "determining the character encoding", and its Encoding Standard.

What to do with nothing declared is left to browsers, which guess by the user's language. Here it is UTF-8 where the
body is that, and windows-1252 where it is not. A declaration further in, for which browsers read the page once more,
counts where it is not UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

PRESCAN = 1024
"""Bytes in which a declaration is looked for."""
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xfe\xff", "utf-16-be"), (b"\xff\xfe", "utf-16-le"))
UTF16_XML = ((b"<\0?\0x\0", "utf-16-le"), (b"\0<\0?\0x", "utf-16-be"))
IN_HEADER = re.compile(r"""[;,]\s*charset\s*=\s*["']?([^\s;,"']+)""", re.IGNORECASE)
IN_CONTENT = re.compile(rb"""charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;"'][^\s;]*))""", re.IGNORECASE)
IN_XML = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*(["'])([^"'\0-\x20]+)\1""")
TAG = re.compile(
    rb"<!(?=--).*?(?<=--)>|<(?P<meta>meta)(?=[\s/])|<(?P<tag>/?[a-z][^\s>]*)|<[!/?][^>]*>",
    re.IGNORECASE | re.DOTALL,
)
LATE = re.compile(rb"<meta[\s/][^>]{0,500}?charset", re.IGNORECASE)
ATTRIBUTE = re.compile(rb"""[\s/]*(?P<name>[^\s/>][^\s/>=]*)(?:\s*=\s*("[^"]*"|'[^']*'|[^\s>"'][^\s>]*)?)?""")


def charset_of(body: bytes | memoryview, content_type: str = "") -> str:
    """The name of Python's codec for a body: by its byte order mark, the header, the meta element, the XML declaration.

    A label that browsers do not know counts as none.
    """
    head = bytes(body[:PRESCAN])
    for mark, name in BOMS:
        if head.startswith(mark):
            return name
    return _in_header(content_type) or declared(head) or _undeclared(body)


def _in_header(content_type: str) -> str | None:
    found = IN_HEADER.search(content_type)
    return codec(found[1]) if found else None


def _undeclared(body: bytes | memoryview) -> str:
    try:
        str(body, "utf-8")
        return "utf-8"
    except UnicodeDecodeError:
        late = LATE.search(body)
        return (late and declared(bytes(body[late.start() : late.start() + PRESCAN]))) or "cp1252"


def codec(label: str) -> str | None:
    """Python's codec for a label, such as ``gb2312`` or ``x-sjis``; ``None`` for one that browsers do not know."""
    import webencodings

    found = webencodings.lookup(label)
    if found is None or found.name == "replacement":  # browsers show nothing of those
        return None
    if found.name == "x-user-defined":  # as a page's declaration
        return "cp1252"
    if found.name == "gbk":  # its decoder is gb18030's
        return "gb18030"
    return str(found.codec_info.name)


def declared(head: bytes) -> str | None:
    """The codec that the beginning of a body declares, if any ("prescan a byte stream")."""
    for mark, name in UTF16_XML:
        if head.startswith(mark):
            return name
    for attributes in _metas(head):
        found = _of_meta(attributes)
        if found:
            return found
    in_xml = IN_XML.match(head)
    return _in_ascii(in_xml[2]) if in_xml else None


def _metas(head: bytes) -> Iterator[dict[bytes, bytes]]:
    """The attributes of each meta element, whole ones only."""
    at = 0 if b"charset" in head.lower() else len(head)
    while found := TAG.search(head, at):
        at = found.end()
        if found["meta"] or found["tag"]:
            attributes, at = _attributes(head, at)
            if found["meta"] and at < len(head):
                yield attributes


def _attributes(head: bytes, at: int) -> tuple[dict[bytes, bytes], int]:
    """The attributes of a tag from here on, the first of a name only; and where the tag ends."""
    attributes: dict[bytes, bytes] = {}
    while found := ATTRIBUTE.match(head, at):
        at = found.end()
        value = found[2] or b""
        attributes.setdefault(found["name"].lower(), value[1:-1] if value[:1] in (b'"', b"'") else value)
    end = head.find(b">", at)
    return attributes, len(head) if end < 0 else end


def _of_meta(attributes: dict[bytes, bytes]) -> str | None:
    if b"charset" in attributes:
        return _in_ascii(attributes[b"charset"])
    content = IN_CONTENT.search(attributes.get(b"content", b""))
    if content and attributes.get(b"http-equiv", b"").lower() == b"content-type":
        return _in_ascii(content[1] or content[2] or content[3] or b"")
    return None


def _in_ascii(label: bytes) -> str | None:
    """The codec for a label that was read as ASCII: it is not UTF-16."""
    found = codec(label.decode("latin-1"))
    return "utf-8" if found in ("utf-16-le", "utf-16-be") else found
