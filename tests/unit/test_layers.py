"""The layer law, read from the syntax trees: who may import whom."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPOSITION_ROOT = "hub/bootstrap.py"

# What the way in and the way out may know of the middle: its nouns and its ports.
NOUNS_AND_PORTS = {
    "cdc": {"hub.catalogue", "hub.changes", "hub.errors"},
    # The nouns and ports, and the sandbox of templates, which declarative connectors share with bodies.
    "connectors": {
        "hub.connector",
        "hub.delivery",
        "hub.documents",
        "hub.errors",
        "hub.project",
        "hub.subscriptions.templates",
    },
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "shared"}


def _modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module's full name, wherever the import stands; relative ones are not used here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _imported(path: Path) -> set[str]:
    return set(_imports(ast.parse(path.read_text("utf-8"))))


def _is_in(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", _modules("hub"), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_hub_knows_neither_the_way_in_nor_the_way_out(path: Path) -> None:
    """Only the composition root imports `cdc` and `connectors`; only `hub demo` the example."""
    if path.relative_to(ROOT).as_posix() == COMPOSITION_ROOT:
        return

    outside = {"cdc", "connectors"} | (
        set() if path.name == "demo.py" else {"examples", "stack", "tests", "benchmarks"}
    )
    assert [name for name in _imported(path) if _is_in(name, outside)] == []


def test_the_composition_root_joins_them() -> None:
    """It knows both, so the exception above is needed."""
    imported = _imported(ROOT / COMPOSITION_ROOT)

    assert all(any(_is_in(name, {package}) for name in imported) for package in ("cdc", "connectors"))


@pytest.mark.parametrize(
    "path", [*_modules("cdc"), *_modules("connectors")], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_in_and_out_know_nouns_and_ports_alone(path: Path) -> None:
    """And neither knows the other."""
    package = path.relative_to(ROOT).parts[0]
    others = {"cdc", "connectors", "migrations", "examples", "stack", "tests", "benchmarks"} - {package}
    imported = {name for name in _imported(path) if name != "hub"}

    assert [name for name in imported if _is_in(name, others)] == []
    assert [name for name in imported if _is_in(name, {"hub"}) and not _is_in(name, NOUNS_AND_PORTS[package])] == []


def test_no_module_is_named_for_nothing() -> None:
    """A name says what is in it."""
    packages = ("hub", "cdc", "connectors", "migrations", "examples", "stack", "benchmarks", "tests")
    assert [path for package in packages for path in _modules(package) if path.stem in VAGUE] == []


def test_the_law_can_be_broken() -> None:
    """Imports inside functions and by `from` are seen too."""
    source = "def f():\n    from cdc import engine\n    import connectors.http as out\n"
    found = set(_imports(ast.parse(source)))

    assert {"cdc", "cdc.engine", "connectors.http"} <= found
