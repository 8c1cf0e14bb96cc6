"""`hub store`: the hub's own store, brought up to date, moved and kept small."""

import dataclasses

import click
from sqlalchemy.exc import DBAPIError

from hub.commands.context import ProjectOption, echo_json, json_option, pass_project
from hub.errors import InputError, OutsideError
from hub.project import Project
from hub.project.addresses import resolve_store, store_url_fault
from hub.store.copying import copy_store, run_again
from hub.store.database import MissingStore, Store, now
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
        raise MissingStore(opened.place)
    return opened


@store.command("copy", short_help="Move the store to another database.")
@click.argument("target_url", required=False)
@click.option("--undo", is_flag=True, help="Give up a copy that has never run: this store may be run again.")
@json_option
@pass_project
def copy(option: ProjectOption, target_url: str | None, undo: bool, as_json: bool) -> None:
    """Copy everything to the empty store at TARGET_URL, all or nothing; this store then refuses to run.

    Stop the hub first. Positions, versions and delivery ids go on as they are: set `store:` in hub.yaml to TARGET_URL
    and start the hub again.

    \b
    Example: hub store copy "$HUB_STORE"
    Example: hub store copy --undo
    """
    if undo:
        _run_again(option.project, target_url, as_json)
        return
    if target_url is None:
        raise InputError("The store to copy to is missing.", "Name it: hub store copy postgresql://hub@db/hub.")
    if fault := store_url_fault(target_url):
        raise InputError(f"The store to copy to {fault[0]}", fault[1])
    source, target = option.store, Store(resolve_store(target_url, option.project.directory))
    counts: dict[str, int] = {}

    def copied(table: str, rows: int) -> None:
        counts[table] = rows
        if not as_json:
            click.echo(f"{table}: {rows} {'row' if rows == 1 else 'rows'}")

    try:
        copy_store(source, target, copied)
    except DBAPIError as error:
        said = str(error.orig).strip().splitlines()[0]
        raise OutsideError(f"The store cannot be copied: {said}.", "Check TARGET_URL, and that it runs.") from error
    finally:
        target.close()
    if as_json:
        echo_json({"from": source.place, "to": target.place, "rows": counts})
        return
    click.echo(f"Copied {source.place} to {target.place}.")
    click.echo("Now set `store:` in hub.yaml to it, and start the hub. The old store is kept, and refuses to run.")


def _run_again(project: Project, target_url: str | None, as_json: bool) -> None:
    if target_url is not None:
        raise InputError("--undo is about the store in hub.yaml alone.", "Leave TARGET_URL out.")
    opened = _existing(project)
    copy = run_again(opened)
    if as_json:
        echo_json({"store": opened.place, "given_up": copy})
    elif copy is None:
        click.echo(f"The store {opened.place} had not moved.")
    else:
        click.echo(f"The store {opened.place} may run again. Drop its copy in {copy}, which must not run any more.")


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
