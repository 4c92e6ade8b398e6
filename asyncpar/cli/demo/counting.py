"""What the demo's workers do. They import this, so it imports little."""

from __future__ import annotations

import ast
import threading
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

# On CPython 3.11, ast.parse in one thread disturbs ast.parse in another, which then raises SystemError
# (https://github.com/python/cpython/issues/106905). The GIL would let only one of them run anyway.
_parsing = threading.Lock()


class Counts(NamedTuple):
    """What is in some Python files; `imports` counts the files' import statements by top-level package."""

    files: int
    lines: int
    functions: int
    classes: int
    imports: Counter[str]


def count(source: bytes) -> Counts:
    """Count what is in one file.

    Raises:
        SyntaxError: It is no Python file.
    """
    with _parsing:
        tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    return Counts(
        files=1,
        lines=len(source.splitlines()),
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        imports=Counter(name for node in nodes for name in _imported(node)),
    )


def merge(left: Counts, right: Counts) -> Counts:
    """Add two counts; associative, so that neighbours can be added in any grouping."""
    return Counts(
        left.files + right.files,
        left.lines + right.lines,
        left.functions + right.functions,
        left.classes + right.classes,
        left.imports + right.imports,
    )


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (name.name.partition(".")[0] for name in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module.partition(".")[0]
