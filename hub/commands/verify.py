"""`hub verify`: documents against the live database."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import msgspec

from hub.commands.context import ProjectOption, known, pass_project
from hub.documents import encode
from hub.entities import Entity
from hub.errors import FaultError, InputError, OutsideError
from hub.locks import owner
from hub.operate.catching_up import Stream, wait_for
from hub.operate.verify import MOST, Difference, Verifier, ask_repair
from hub.store.database import now

SHOWN = 20  # differences that are printed, of each entity
_DERIVED = "its documents come from receivers' answers, so there is no table to hold them against"


@dataclass(frozen=True, slots=True)
class Checked:
    entity: str
    stream: Stream
    verifier: Verifier
    compared: int
    differences: list[Difference]


@click.command(short_help="Documents against the live database.")
@click.argument("entity", required=False)
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Only so many documents of each entity.")
@click.option("--repair", is_flag=True, help="Make the differing documents anew from the hub's row images.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object an entity.")
@pass_project
def verify(option: ProjectOption, entity: str | None, sample: int | None, repair: bool, as_json: bool) -> None:
    """Compare documents with what SQL returns: values that differ, rows without document, documents without row.

    This reads the entities' tables in the source, which the hub does at no other time but for a snapshot. Parts
    under `refresh: false` are not compared. Exit code 1 when there is a difference.

    \b
    Example: hub verify order --sample 1000
    """
    failed = []
    for checked in _check(option, entity, sample, quiet=as_json):
        _show(checked, as_json)
        if checked.differences:
            failed.append(checked)
    if not failed:
        return
    if repair:
        _repair(option, failed)
        return
    names = ", ".join(checked.entity for checked in failed)
    raise FaultError(f"Documents of {names} differ from the source.", "Keep this output; --repair makes them anew.")


def _check(option: ProjectOption, entity: str | None, sample: int | None, *, quiet: bool) -> Iterator[Checked]:
    from hub.bootstrap import connect_source, stored_entities, value_expression, value_session

    project, store = option.project, option.store
    if entity is not None:
        known(entity, project.entities, "entity")
        if project.entities[entity].derived:
            raise InputError(f"{entity} is derived: {_DERIVED}.", "Verify the entities with a table.")
    derived = sorted(config.name for config in project.entities.values() if config.derived)
    if derived and entity is None and not quiet:
        for name in derived:
            click.echo(f"{name}: left out, for {_DERIVED}", err=True)
    compiled = stored_entities(project, store)
    if entity is not None and entity not in compiled:
        raise OutsideError(f"There is no document of {entity} yet.", "`hub run` makes them.")
    for one in [compiled[entity]] if entity else compiled.values():
        if not quiet:
            click.echo(f"{one.name}: reading {', '.join(sorted(one.tables()))} in the source {one.source} …", err=True)
        stream = _stream(option, one)
        connect = partial(connect_source, project.sources[one.source])
        verifier = Verifier(store, one, connect, value_session(), value_expression, partial(wait_for, store, stream))
        yield Checked(one.name, stream, verifier, *_run(verifier, sample))


def _run(verifier: Verifier, sample: int | None) -> tuple[int, list[Difference]]:
    found = verifier.run(sample)
    return verifier.compared, found


def _stream(option: ProjectOption, entity: Entity) -> Stream:
    from hub.bootstrap import build_outside, unread
    from hub.project.streams import stream_of

    name = stream_of(option.project, option.project.entities[entity.name])
    return Stream(
        name=name,
        mark=build_outside(option.project, name).mark,
        runs=lambda: owner(option.store, f"capture {name}") is not None,
        unread=partial(unread, option.project, option.store, name),
    )


def _show(checked: Checked, as_json: bool) -> None:
    if as_json:
        click.echo(encode(_as_json(checked)))
        return
    found = checked.differences
    click.echo(f"{checked.entity}: {checked.compared} documents compared, {_counted(found)}")
    for one in found[:SHOWN]:
        click.echo(f"  {one.key}: {one.kind}")
        for path in one.paths:
            click.echo(f"    {path}")
    if len(found) > SHOWN:
        click.echo(f"  … and {len(found) - SHOWN} more; --json gives them all, with both documents.")


def _counted(found: list[Difference]) -> str:
    if not found:
        return "no difference."
    return f"{'at least ' if len(found) >= MOST else ''}{len(found)} differ:"


def _as_json(checked: Checked) -> dict[str, Any]:
    return {
        "entity": checked.entity,
        "compared": checked.compared,
        "differences": [
            {"key": one.key, "kind": one.kind, "paths": one.paths, "stored": _raw(one.stored)}
            for one in checked.differences
        ],
    }


def _raw(body: bytes | None) -> msgspec.Raw | None:
    return None if body is None else msgspec.Raw(body)


def _repair(option: ProjectOption, failed: list[Checked]) -> None:
    for checked in failed:
        keys = [one.key for one in checked.differences]
        ask_repair(option.store, checked.stream.name, checked.entity, keys, now())
        click.echo(f"{checked.entity}: {len(keys)} documents are to be made anew.", err=True)
        if not checked.stream.runs():
            raise FaultError("The hub does not run, so nothing is mended yet.", "Start `hub run`, then verify again.")
        left = checked.verifier.again(keys)
        if left:
            raise FaultError(
                f"{checked.entity}: {len(left)} documents still differ, so the hub's copy of their rows is wrong: "
                f"{', '.join(one.key for one in left[:SHOWN])}.",
                "`hub source resnapshot` reads the rows again and sends the differences.",
            )
        click.echo(f"{checked.entity}: all of them are as the source says.", err=True)


COMMANDS = (verify,)
