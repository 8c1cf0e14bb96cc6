"""`hub explain`: why a change did or did not reach a subscription."""

import dataclasses

import click

from hub.commands.context import ProjectOption, echo_json, json_option, known, pass_project
from hub.commands.documents import kept_version, one_line
from hub.operate.explaining import explain as explain_version
from hub.store.journal import Journal


@click.command(short_help="Why a change did or did not reach a subscription.")
@click.argument("entity")
@click.argument("key")
@click.option("--subscription", help="Only this one. Default: all of the entity.")
@click.option("--version", "number", type=click.IntRange(min=1), help="This version instead of the newest.")
@json_option
@pass_project
def explain(
    option: ProjectOption, entity: str, key: str, subscription: str | None, number: int | None, as_json: bool
) -> None:
    """Say of one version, for each subscription, whether it is for it, down to the condition that fails.

    \b
    Example: hub explain order 42 --subscription crm-orders
    """
    from hub.bootstrap import compile_subscription, stored_entities

    project = option.project
    known(entity, project.entities, "entity")
    of_entity = {name: config for name, config in project.subscriptions.items() if config.entity == entity}
    names = [known(subscription, of_entity, f"subscription of {entity}")] if subscription else sorted(of_entity)
    journal = Journal(option.store)
    version = kept_version(journal, entity, journal.key(entity, key), number)
    previous = journal.previous(entity, version.key, version.version)
    entities = stored_entities(project, option.store)
    found = [explain_version(compile_subscription(of_entity[name], entities), previous, version) for name in names]
    if as_json:
        for one in found:
            echo_json(dataclasses.asdict(one))
        return
    click.echo(one_line(version))
    for one in found:
        click.echo(f"  {one.subscription}: {'sent as ' + one.event if one.sent else 'not sent'}. {one.why}")


COMMANDS = (explain,)
