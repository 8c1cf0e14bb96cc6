"""The `hub` command: one module for each group of commands, and this list of them."""

import importlib

import click

from hub.commands.context import HubGroup, ProjectOption

MODULES = (
    "check",
    "demo",
    "deliveries",
    "documents",
    "explain",
    "replay",
    "run",
    "source",
    "status",
    "store",
    "trace",
    "verify",
)


@click.group(cls=HubGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--project", "directory", type=click.Path(file_okay=False), default=".", help="The project directory.")
@click.version_option(package_name="hub-cdc", prog_name="hub")
@click.pass_context
def main(context: click.Context, directory: str) -> None:
    """Business systems that follow a database: changes become whole documents, documents are delivered."""
    context.obj = ProjectOption(directory)


def _register() -> None:
    for module in MODULES:
        try:
            commands = importlib.import_module(f"hub.commands.{module}").COMMANDS
        except ModuleNotFoundError as error:
            if error.name != f"hub.commands.{module}":
                raise
            continue
        for command in commands:
            main.add_command(command)


_register()
