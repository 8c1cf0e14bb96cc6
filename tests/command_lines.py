"""`hub` command lines as pages and containers have them, judged by click's own parser."""

import contextlib
from collections.abc import Sequence

import click

from hub.commands import main


def parse(words: Sequence[str]) -> None:
    """As click does with the words behind `hub`, without running them. UsageError when it is no command line."""
    command: click.Command = main
    if words[:1] == ["--project"]:
        words = words[2:]
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        if below is None:
            raise click.UsageError(f"No such command {words[0]!r}.")
        command, words = below, words[1:]
    if not isinstance(command, click.Group):
        with contextlib.suppress(click.exceptions.Exit):  # of --help
            command.make_context(command.name, list(words))
