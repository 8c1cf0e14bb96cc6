"""docs/commands.md and the command say the same."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hub.commands import main

PAGE = (Path(__file__).parents[2] / "docs/commands.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^### `hub ([a-z ]+)`\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            below = command.get_command(click.Context(command), name)
            assert below is not None
            yield from _commands(below, (*path, name))
    elif not command.hidden:
        yield " ".join(path), command


COMMANDS = dict(_commands(main))


def _options(command: click.Command) -> set[str]:
    return {
        name
        for option in command.params
        if isinstance(option, click.Option) and not option.hidden
        for name in option.opts
        if name.startswith("--")
    }


def test_every_command_is_documented() -> None:
    """And every documented command exists."""
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_is_documented(name: str) -> None:
    """And every documented option exists; there is an example of the command."""
    table = "\n".join(line for line in SECTIONS.get(name, "").splitlines() if line.startswith("|"))

    documented = {flag for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for flag in _flags(cell)}
    assert documented == _options(COMMANDS[name])
    assert re.search(rf"^hub {name}( |$)", SECTIONS.get(name, ""), re.MULTILINE)


def _flags(cell: str) -> list[str]:
    return re.findall(r"`(--[a-z-]+)`", cell)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_its_help(name: str) -> None:
    """`--help` says what each is for."""
    command = COMMANDS[name]

    assert command.help
    assert [p.name for p in command.params if isinstance(p, click.Option) and not p.help] == []
