"""The oracle shares no code with what it judges."""

from pathlib import Path

from tests.oracle import independence

ORACLE = Path(independence.__file__).parent


def test_the_oracle_imports_nothing_of_the_hub() -> None:
    """No module of it imports hub, cdc or connectors, nor anything by name."""
    files = sorted(ORACLE.glob("**/*.py"))
    imports = {file.name: set(independence.imported(file)) for file in files}

    assert len(files) > 8
    assert not {name: found for name, found in imports.items() if found & independence.FORBIDDEN}


def test_an_import_inside_a_function_is_seen(tmp_path: Path) -> None:
    """Also one that only runs when it is called, and one by name."""
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from hub.changes import Commit\n    importlib.import_module('hub')\n")

    assert {"hub", independence.BY_NAME} == set(independence.imported(file))
