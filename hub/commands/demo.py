"""`hub demo`: the whole system on this machine, with the example legacy application."""

import sys
from pathlib import Path

import click


@click.command(short_help="The whole system on this machine, with an example application.")
@click.option("--once", is_flag=True, help="End when every change is delivered; the default without a terminal.")
@click.option(
    "--also",
    type=click.Path(file_okay=False, path_type=Path),
    help="A directory with destinations and subscriptions of yours, for the demo's hub to have beside its own.",
)
def demo(once: bool, also: Path | None) -> None:
    """The whole system on this machine: a Postgres, a legacy application, the hub and a receiver.

    It works in ./var/demo, which is emptied first. Exit code 1 when a change was not delivered or a document differs
    from SQL.

    \b
    Example: hub demo --once
    Example: hub demo --also partner
    """
    from examples.conference.demo import run

    run(once or not sys.stdout.isatty(), also)


COMMANDS = (demo,)
