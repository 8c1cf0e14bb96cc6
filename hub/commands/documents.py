"""`hub documents` and `hub trace`: the journal, read and erased."""

from collections.abc import Iterator
from itertools import islice
from typing import Any, Never

import click
import msgspec

from hub.changes import lsn_text
from hub.commands.context import ProjectOption, json_option, known, pass_project
from hub.commands.parameters import Moment, rfc3339
from hub.documents import Shape, Version, decode, encode
from hub.entities import key_text
from hub.errors import FaultError, InputError
from hub.store.journal import Journal
from hub.store.retention import Erasure, erase, plan_erasure
from hub.subscriptions.diff import Element, Order, Path, diff, path_text

entity_argument = click.argument("entity")
key_argument = click.argument("key")


@click.group()
def documents() -> None:
    """The journal: every kept version of every document."""


@documents.command("list", short_help="The documents that exist now.")
@click.argument("entity", required=False)
@click.option("--key", help="Only this one; a composite key as a JSON array.")
@click.option("--since", type=Moment(), help="Last changed then or later: 2024-01-02T03:04:05Z, or 15m ago.")
@click.option("--until", type=Moment(), help="Last changed before then.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@json_option
@pass_project
def list_documents(
    option: ProjectOption,
    entity: str | None,
    key: str | None,
    since: int | None,
    until: int | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """The documents that exist now, each in its newest version, by entity and key.

    \b
    Example: hub documents list order --since 15m --json
    """
    entities = [known_entity(option, entity)] if entity else sorted(option.project.entities)
    for version in islice(_current(Journal(option.store), entities, key, since, until), limit):
        click.echo(document_json(version) if as_json else one_line(version))


def _current(
    journal: Journal, entities: list[str], key: str | None, since: int | None, until: int | None
) -> Iterator[Version]:
    for entity in entities:
        stored_key = journal.key(entity, key) if key is not None else None
        yield from journal.current(entity, key=stored_key, since=since, until=until)


@documents.command(short_help="One document, as it is or was.")
@entity_argument
@key_argument
@click.option("--version", "number", type=click.IntRange(min=1), help="This version instead of the newest.")
@click.option("--at", "time", type=Moment(), help="As it was then: 2024-01-02T03:04:05Z, or 15m ago.")
@json_option
@pass_project
def show(option: ProjectOption, entity: str, key: str, number: int | None, time: int | None, as_json: bool) -> None:
    """One document: its newest version, or an earlier one.

    \b
    Example: hub documents show order 42 --at 2h
    """
    if number is not None and time is not None:
        raise InputError("--version and --at exclude each other.", "Give one of them.")
    journal = Journal(option.store)
    known_entity(option, entity)
    key = journal.key(entity, key)
    if time is not None:
        version = journal.at(entity, key, time) or _missing(
            journal, entity, key, f"no version as old as {rfc3339(time)}"
        )
    else:
        version = kept_version(journal, entity, key, number)
    if as_json:
        click.echo(document_json(version))
        return
    click.echo(one_line(version))
    click.echo(msgspec.json.format(version.body, indent=2) if version.body is not None else "deleted")


@documents.command(short_help="All kept versions of one document.")
@entity_argument
@key_argument
@json_option
@pass_project
def history(option: ProjectOption, entity: str, key: str, as_json: bool) -> None:
    """All kept versions of one document, oldest first, and what each of them changed.

    \b
    Example: hub documents history order 42
    """
    journal = Journal(option.store)
    known_entity(option, entity)
    key = journal.key(entity, key)
    kept_version(journal, entity, key, None)
    shape = None if as_json else shape_of(option, entity)
    before: Version | None = None
    for version in journal.history(entity, key):
        if shape is None:
            click.echo(document_json(version))
            continue
        click.echo(one_line(version))
        if before is not None and before.body is not None and version.body is not None:
            for path in diff(decode(before.body), decode(version.body), shape):
                click.echo(f"    {path_text(path)}")
        before = version


@documents.command("diff", short_help="What differs between two versions.")
@entity_argument
@key_argument
@click.argument("first", type=click.IntRange(min=1), metavar="VERSION")
@click.argument("second", type=click.IntRange(min=1), metavar="VERSION")
@json_option
@pass_project
def diff_versions(option: ProjectOption, entity: str, key: str, first: int, second: int, as_json: bool) -> None:
    """What differs between two versions of a document: each path, with what stood there before and after.

    \b
    Example: hub documents diff order 42 6 7
    """
    journal = Journal(option.store)
    known_entity(option, entity)
    key = journal.key(entity, key)
    before, after = (_tree(kept_version(journal, entity, key, number)) for number in (first, second))
    shape = shape_of(option, entity)
    changes = [
        {"path": path_text(path), "before": value_at(before, path, shape), "after": value_at(after, path, shape)}
        for path in diff(before, after, shape)
    ]
    if as_json:
        click.echo(encode({"entity": entity, "key": key, "from": first, "to": second, "changed": changes}))
        return
    for change in changes:
        click.echo(f"{change['path']}: {encode(change['before']).decode()} -> {encode(change['after']).decode()}")


def _tree(version: Version) -> Any:
    """A deleted document has no fields."""
    return decode(version.body) if version.body is not None else {}


def value_at(tree: Any, path: Path, shape: Shape) -> Any:
    """What stands at a path of `hub.subscriptions.diff`; None when nothing does. Of an order, the elements' keys."""
    value: Any = tree
    for segment in path:
        if isinstance(segment, Order):
            return [_element_key(shape, position, element) for position, element in enumerate(value or [])]
        if isinstance(segment, Element):
            keyed = {_element_key(shape, position, element): element for position, element in enumerate(value or [])}
            value = keyed.get(segment.key)
        else:
            value = value.get(segment) if isinstance(value, dict) else None
            shape = shape.embeds[segment].shape if segment in shape.embeds else shape
    return value


def _element_key(shape: Shape, position: int, element: Any) -> str:
    if not shape.key or not isinstance(element, dict):
        return str(position)
    return key_text([element.get(field) for field in shape.key])


def shape_of(option: ProjectOption, entity: str) -> Shape:
    """A derived entity, which has no table, has no fields that are known beforehand."""
    from hub.bootstrap import stored_entities

    compiled = stored_entities(option.project, option.store).get(entity)
    return compiled.shape if compiled else Shape({})


@documents.command("erase", short_help="Remove a person's document everywhere.")
@entity_argument
@key_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Also when a receiver has not accepted the delete yet.")
@json_option
@pass_project
def erase_document(option: ProjectOption, entity: str, key: str, yes: bool, force: bool, as_json: bool) -> None:
    """Remove a document once its row is gone: all its versions, its deliveries and what receivers answered.

    Its last number stays, without content, so that numbers never restart. Documents of other entities that embedded
    its rows keep their own history until retention removes it.

    \b
    Example: hub documents erase attendee 42 --yes
    """
    known_entity(option, entity)
    plan = plan_erasure(option.store, entity, Journal(option.store).key(entity, key))
    if plan.untold and not force:
        raise FaultError(
            f"The delete of {entity} {plan.key} has not been accepted for {', '.join(plan.untold)}: "
            "its receiver still has the document, and would never be told.",
            "See `hub deliveries list`; erase once it is delivered, or with --force.",
        )
    if not yes:
        click.echo(_erasure_text(plan), err=True)
        click.confirm("Erase?", abort=True, err=True)
    erase(option.store, plan)
    if as_json:
        click.echo(encode(plan))
    else:
        click.echo(_erasure_text(plan))


def _erasure_text(plan: Erasure) -> str:
    return (
        f"{plan.entity} {plan.key}: {plan.versions} versions, {plan.deliveries} deliveries, "
        f"{plan.attempts} attempts; number {plan.version} stays, without content"
    )


def known_entity(option: ProjectOption, entity: str) -> str:
    return known(entity, option.project.entities, "entity")


def kept_version(journal: Journal, entity: str, key: str, number: int | None) -> Version:
    """Raises InputError that says what there is instead."""
    found = journal.newest(entity, key) if number is None else journal.version(entity, key, number)
    return found or _missing(journal, entity, key, f"no version {number}" if number else "nothing")


def _missing(journal: Journal, entity: str, key: str, what: str) -> Never:
    kept = journal.kept(entity, key)
    if kept is None:
        raise InputError(f"There is no {entity} {key} in the journal.", "`hub documents list` shows what there is.")
    raise InputError(f"The journal has {what} of {entity} {key}.", f"It keeps versions {kept[0]} to {kept[1]}.")


def document_json(version: Version) -> bytes:
    """The document stands in it as it is stored, digit by digit."""
    shown: dict[str, Any] = {
        "entity": version.entity,
        "key": version.key,
        "version": version.version,
        "event": version.event.value,
        "cause": version.cause.value,
        "lsn": lsn_text(version.lsn),
        "transaction": version.transaction,
        "committed_at": rfc3339(version.committed_at),
    }
    if version.merged:
        shown["merged"] = version.merged
    shown["document"] = None if version.body is None else msgspec.Raw(version.body)
    return encode(shown)


def one_line(version: Version) -> str:
    merged = f" and {', '.join(map(str, version.merged))}" if version.merged else ""
    return (
        f"{version.entity} {version.key}  version {version.version}  {version.event.value} ({version.cause.value})  "
        f"{rfc3339(version.committed_at)}  lsn {lsn_text(version.lsn)}  transaction {version.transaction}{merged}"
    )


COMMANDS = (documents,)
