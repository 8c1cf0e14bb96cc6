"""The oracle must not share code with what it judges."""

import ast
from collections.abc import Iterator
from pathlib import Path

BY_NAME = "(an import by name)"
FORBIDDEN = {"hub", "cdc", "connectors", "examples", "benchmarks", BY_NAME}


def imported(file: Path) -> Iterator[str]:
    """The top-level packages that a Python file imports, also inside functions; of `tests` the one below it."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0] if not node.level else "."
        elif isinstance(node, ast.Call) and _called(node.func) in ("import_module", "__import__"):
            yield BY_NAME


def _called(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))
