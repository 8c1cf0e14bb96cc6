"""The pages of connectors and what they describe say the same."""

import dataclasses
import enum
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from connectors.declarative.definition import KEYS
from connectors.transport import Answer
from hub.bootstrap import find_connectors
from hub.connector import Case, ConnectorKind, Reply, System, Trial, read_settings
from hub.delivery import Forward, Message, Outcome, OutcomeKind
from hub.project import Destination
from hub.project.problems import Problems
from hub.project.yaml_source import plain, read_yaml

PAGES = Path(__file__).parents[2] / "docs/connectors"
NAMES = ("hubspot", "salesforce", "mailchimp", "brevo", "mautic")
OWN = ("destination", "connector", "limits")


def block(page: str, key: str) -> dict[str, object]:
    """The page's YAML block that begins with `key`."""
    text = (PAGES / f"{page}.md").read_text("utf-8")
    found = next(one for one in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if f"{key}:" in one)
    secrets = dict.fromkeys(re.findall(r"\$\{(\w+)\}", found), "value")
    problems = Problems()
    tree = read_yaml(found.encode(), page, {**os.environ, **secrets}, problems)
    assert tree is not None and not problems.found
    value = plain(tree)
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("name", NAMES)
def test_a_connectors_page_has_every_setting(name: str) -> None:
    """And no other."""
    text = (PAGES / f"{name}.md").read_text("utf-8")
    table = re.search(r"^\| key \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table
    cells = re.findall(r"^\| (`.*?) \|", table[0], re.MULTILINE)
    documented = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}

    assert documented == {field.name for field in msgspec.structs.fields(find_connectors(None)(name).settings)}


@pytest.mark.parametrize("name", NAMES)
def test_a_pages_destination_is_right(name: str) -> None:
    """Its settings are taken as they are shown."""
    shown = block(name, "destination")
    settings = {key: value for key, value in shown.items() if key not in OWN}

    assert read_settings(find_connectors(None)(name), Destination("crm", name, settings=settings))


@pytest.mark.parametrize("name", NAMES)
def test_a_pages_body_has_what_is_required(name: str) -> None:
    """By the connector's own `required:`, or its test's body."""
    body = block(name, "subscription")["body"]
    trial = find_connectors(None)(name).trial

    assert isinstance(body, dict) and trial
    assert next(iter(trial.body)) in body


@pytest.mark.parametrize(
    "noun", [Message, Outcome, OutcomeKind, Forward, Answer, ConnectorKind, Trial, Case, Reply, System]
)
def test_the_page_of_python_connectors_has_every_name(noun: Any) -> None:
    """Of what a connector is given and gives, each field and member, so that nobody has to read the hub."""
    text = (PAGES / "writing.md").read_text("utf-8")
    section = text.split("## A connector in Python", 1)[1].split("## Where they are found", 1)[0]
    shown = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", section, flags=re.MULTILINE | re.DOTALL))
    names = {name for code in shown for name in re.findall(r"\w+", code)}

    assert sorted(set(_names(noun)) - names) == []


def _names(noun: Any) -> list[str]:
    if issubclass(noun, enum.Enum):
        return list(noun.__members__)
    if issubclass(noun, msgspec.Struct):
        return list(noun.__struct_fields__)
    return [field.name for field in dataclasses.fields(noun)]


def test_the_page_of_the_form_has_every_key() -> None:
    """Each of a definition's, at every level."""
    text = (PAGES / "declarative.md").read_text("utf-8")
    keys = {key for level in KEYS.values() for key in level}

    assert sorted(key for key in keys if not re.search(rf"\b{key}\b", text)) == []
