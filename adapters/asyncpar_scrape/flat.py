"""A flat list of addresses: what `asyncpar scrape --urls` makes of each page. Runs in workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncpar_scrape.page import Page


def record(page: Page) -> dict[str, Any]:
    """A page as an item: where it was asked, where it answered, how, and its text."""
    return {
        "url": page.url,
        "final_url": page.final_url,
        "status": page.status,
        "content_type": page.headers.get("content-type", ""),
        "title": (page.css("title::text").get() or "").strip(),
        "text": page.text,
    }
