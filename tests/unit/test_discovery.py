"""Where connectors come from, and what is said when one cannot be had."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hub.bootstrap import find_connectors
from hub.connector import ConnectorKind
from hub.discovery import UnknownConnector
from hub.errors import ProjectError
from hub.kit.scaffold import files_of

PYTHON = """
import msgspec
from hub.connector import ConnectorKind

class Settings(msgspec.Struct, frozen=True):
    path: str

CONNECTOR = ConnectorKind(Settings, lambda settings, limits: None, side_effects=True)
"""


def project(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def problem(directory: Path, name: str) -> str:
    with pytest.raises(ProjectError) as raised:
        find_connectors(directory)(name)
    return str(raised.value)


def test_the_hubs_own_are_there() -> None:
    """Of both forms, and modules that are no connectors are not among them."""

    found = find_connectors(None).found()

    assert {"http", "file", "hubspot", "salesforce", "mailchimp", "brevo", "mautic"} <= found.keys()
    assert not {"transport", "signature", "declarative", "redaction"} & found.keys()
    assert {one.origin for one in found.values()} == {"hub"}


def test_a_project_brings_its_own(tmp_path: Path) -> None:
    """A YAML definition and a module."""

    files = {"connectors/mine.py": PYTHON, "connectors/_inner.py": "1 / 0", **files_of("yaml", "acme")}
    connectors = find_connectors(project(tmp_path, files))

    assert connectors("mine").side_effects
    assert connectors("acme").settings.__struct_fields__ == ("url", "token")
    assert connectors.found()["mine"].origin == "project"
    assert "_inner" not in connectors.found()


def test_an_installed_package_brings_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an entry point of the group hub.connectors: the kind itself, or its module."""

    module = tmp_path / "package_with_a_connector.py"
    module.write_text(PYTHON)
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("one", "package_with_a_connector", "hub.connectors"),
        EntryPoint("two", "package_with_a_connector:CONNECTOR", "hub.connectors"),
        EntryPoint("three", "package_with_a_connector:msgspec", "hub.connectors"),
    ]
    monkeypatch.setattr("hub.discovery.entry_points", lambda group: [p for p in points if p.group == group])
    connectors = find_connectors(None)

    assert isinstance(connectors("one"), ConnectorKind)
    assert connectors("one") is connectors("two")
    with pytest.raises(ProjectError, match="It has no CONNECTOR"):
        connectors("three")
    del sys.modules["package_with_a_connector"]


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownConnector, match="Did you mean 'hubspot'"):
        find_connectors(None)("hubsot")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("mine.py", "import nowhere_to_be_found\n", "connectors/mine.py:1: It cannot be loaded: ModuleNotFoundError"),
        ("mine.py", "a = 1\nb = (\n", "connectors/mine.py:2: This is not Python"),
        ("mine.py", "x = 1\n", "connectors/mine.py: It has no CONNECTOR"),
        ("mine.yml", "", "connectors/mine.yml: Files of a project end in .yaml"),
        ("http.py", PYTHON, "connectors/http.py: The connector 'http' is already given by connectors/http.py (hub)"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, file: str, text: str, message: str) -> None:
    """With its line where there is one."""

    assert problem(project(tmp_path, {f"connectors/{file}": text}), "mine").startswith(message)
