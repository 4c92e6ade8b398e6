"""Every Python block of the README and of docs/ is a whole program that runs as it stands.

A `text` block right after it is what the program prints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import ROOT, output_of

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
ENGINES = ROOT / "docs" / "engines.md"
"""Its programs need Dask or Ray: tests/integration runs them, each in its environment."""
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def engine_programs(engine: str) -> Iterator[Any]:
    """The blocks of the engines' page that use this one."""
    return (block for block in programs([ENGINES]) if f"asyncpar_{engine}" in block.values[0])


def programs(pages: list[Path]) -> Iterator[Any]:
    """Each block and the output it promises, named by page and line."""
    for page in pages:
        text = page.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield pytest.param(block[1], block[2], id=f"{page.name}:{line}")


@pytest.mark.parametrize(("program", "printed"), [*programs([page for page in PAGES if page != ENGINES])])
def test_the_program_runs(program, printed, tmp_path):
    """It ends well and prints what the page says."""
    script = tmp_path / "program.py"
    script.write_text(program)
    output = output_of(script, folder=tmp_path)
    assert printed is None or output == printed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """A link to a file of the project leads to one."""
    broken = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert broken == []
