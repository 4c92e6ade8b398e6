"""Tables as rows of texts (WHATWG HTML, "forming a table")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncpar_scrape.structured import text_of

MOST_CELLS = 1_000_000
"""Of one table. Spans let a small page ask for any number."""
MOST_COLUMNS = 1000
"""That one cell spans: browsers' bound."""


def rows_of(table: Any) -> list[list[str]]:
    """The rows of a table element. A cell that spans several rows or columns stands in each of them.

    :raises ValueError: its spans make more than ``MOST_CELLS``
    """
    rows: list[list[str]] = []
    cells = 0
    for group in _groups(table):
        hanging: dict[
            int, tuple[int, str]
        ] = {}  # by column: a cell from above, and the rows that it has left
        for number, row in enumerate(group):
            made = _row(row, hanging, len(group) - number)
            cells += len(made)
            if cells > MOST_CELLS:
                raise ValueError(
                    f"a table has over {MOST_CELLS:,} cells by its spans: take its rows with css('tr')"
                )
            rows.append(made)
    width = max(map(len, rows), default=0)
    return [row + [""] * (width - len(row)) for row in rows]


def _groups(table: Any) -> Iterator[list[Any]]:
    """The rows of each part, in the order of the page; those between parts are parts of their own."""
    loose: list[Any] = []
    for child in table:
        if child.tag == "tr":
            loose.append(child)
        elif child.tag in ("thead", "tbody", "tfoot"):
            yield loose
            loose = []
            yield [row for row in child if row.tag == "tr"]
    yield loose


def _row(row: Any, hanging: dict[int, tuple[int, str]], left: int) -> list[str]:
    made: list[str] = []
    for cell in row:
        if cell.tag not in ("td", "th"):
            continue
        _hang(made, hanging)
        text = text_of(cell)
        down = _span(cell, "rowspan", left) or left
        for _ in range(_span(cell, "colspan", MOST_COLUMNS) or 1):
            if down > 1:
                hanging[len(made)] = (down, text)
            made.append(text)
        if len(made) > MOST_CELLS:
            break
    for column in sorted(hanging):
        if column >= len(made):
            made += [""] * (column - len(made)) + [hanging[column][1]]
    for column, (rows, text) in list(hanging.items()):
        if rows > 1:
            hanging[column] = (rows - 1, text)
        else:
            del hanging[column]
    return made


def _hang(made: list[str], hanging: dict[int, tuple[int, str]]) -> None:
    """Put in the cells from above that come next."""
    while len(made) in hanging:
        made.append(hanging[len(made)][1])


def _span(cell: Any, name: str, most: int) -> int:
    text = (cell.get(name) or "1").strip()
    return min(int(text[:6]), most) if text.isascii() and text.isdigit() else 1
