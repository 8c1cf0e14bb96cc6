"""The `hub` command: one module for each group of commands, and this list of them."""

import importlib
from collections.abc import Sequence

import click

from hub.commands.context import HubGroup, ProjectOption

# By module: its commands. A module is imported when one of them is called: all of them take a second.
MODULES = {
    "check": ("check", "init"),
    "connector": ("connector",),
    "deliveries": ("deliveries", "pause", "resume"),
    "demo": ("demo",),
    "documents": ("documents",),
    "explain": ("explain",),
    "replay": ("replay", "backfill"),
    "run": ("run",),
    "source": ("source", "doctor"),
    "status": ("status",),
    "store": ("store",),
    "trace": ("trace",),
    "verify": ("verify",),
}


class HubCommands(HubGroup):
    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(command for commands in MODULES.values() for command in commands)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        for module, commands in MODULES.items():
            if name in commands:
                found: Sequence[click.Command] = importlib.import_module(f"hub.commands.{module}").COMMANDS
                return next(command for command in found if command.name == name)
        return None


@click.group(cls=HubCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--project", "directory", type=click.Path(file_okay=False), default=".", help="The project directory.")
@click.version_option(package_name="hub-cdc", prog_name="hub")
@click.pass_context
def main(context: click.Context, directory: str) -> None:
    """Business systems that follow a database: changes become whole documents, documents are delivered."""
    context.obj = ProjectOption(directory)
