"""`hub store`: the hub's own store, brought up to date and kept small."""

import dataclasses

import click
from sqlalchemy.exc import DBAPIError

from hub.commands.context import ProjectOption, echo_json, json_option, pass_project
from hub.errors import OutsideError
from hub.project import Project
from hub.store.database import Store, now
from hub.store.migrate import revisions, upgrade
from hub.store.retention import prune


@click.group()
def store() -> None:
    """The hub's own store."""


@store.command("upgrade", short_help="Bring the store to this hub's version.")
@json_option
@pass_project
def upgrade_store(option: ProjectOption, as_json: bool) -> None:
    """Bring the store to this hub's version, all or nothing. Stop `hub run` first.

    \b
    Example: hub store upgrade
    """
    opened = _existing(option.project)
    try:
        before = upgrade(opened)
    except DBAPIError as error:
        raise OutsideError(f"The store cannot be upgraded: {error.orig}.", "Check `store:` in hub.yaml.") from error
    finally:
        opened.close()
    after = revisions()[-1]
    if as_json:
        echo_json({"before": before, "after": after})
    else:
        click.echo(f"The store is of version {after}" + (" already." if before == after else f", it was {before}."))


def _existing(project: Project) -> Store:
    opened = Store(project.store)
    if opened.is_sqlite and not opened.path.exists():
        raise OutsideError(f"There is no store at {opened.path}.", "`hub run` makes it.")
    return opened


@store.command("prune", short_help="Remove what retention no longer covers.")
@click.option("--dry-run", is_flag=True, help="Count and stop.")
@json_option
@pass_project
def prune_store(option: ProjectOption, dry_run: bool, as_json: bool) -> None:
    """Remove versions and attempts that `retention:` in hub.yaml no longer covers; `hub run` does so once a day.

    An entity's newest version stays, and so does one that a delivery still needs.

    \b
    Example: hub store prune --dry-run
    """
    found = prune(option.store, option.project.retention, now(), dry_run=dry_run)
    if as_json:
        echo_json(dataclasses.asdict(found) | {"dry_run": dry_run})
        return
    what = "to be removed" if dry_run else "removed"
    click.echo(
        f"{found.versions} versions, {found.attempts} attempts, {found.superseded} superseded deliveries {what}."
    )


COMMANDS = (store,)
