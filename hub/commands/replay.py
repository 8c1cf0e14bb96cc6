"""`hub replay` and `hub backfill`: journal versions delivered again, current documents delivered."""

import sys
from dataclasses import dataclass
from typing import Any

import click

from hub.commands.context import ProjectOption, counted, echo_json, echo_table, json_option, known, pass_project
from hub.commands.parameters import Lsn, Moment, Rate, rfc3339
from hub.errors import InputError
from hub.operate.replay import Filters, refuse_empty
from hub.operate.replayer import Plan, Replayer
from hub.store.journal import Journal
from hub.store.replays import Replay, Replays

dry_run_option = click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
rate_option = click.option("--rate", type=Rate(), metavar="N/s", help="So many deliveries a second at most: 100/s.")
new_ids_option = click.option(
    "--new-ids", is_flag=True, help="With new delivery ids, for a receiver that accepted and then lost."
)
side_effects_option = click.option(
    "--side-effects",
    is_flag=True,
    help="Also to destinations where a delivery cannot be taken back: mails are sent again.",
)


@click.command(short_help="Deliver journal versions again.")
@click.option("--subscription", "subscriptions", multiple=True, help="To this one; may be repeated. Default: all.")
@click.option("--entity", help="Documents of this entity.")
@click.option("--key", "keys", multiple=True, help="This document; may be repeated. Composite: a JSON array.")
@click.option("--since", type=Moment(), help="Committed then or later: 2024-01-02T03:04:05Z, or 15m ago.")
@click.option("--until", type=Moment(), help="Committed before then.")
@click.option("--from-lsn", type=Lsn(), help="Committed at this WAL position or later.")
@click.option("--to-lsn", type=Lsn(), help="Committed at this WAL position or earlier.")
@click.option("--transaction", type=int, help="Of this source transaction id.")
@click.option("--failed", is_flag=True, help="Only what is parked.")
@new_ids_option
@side_effects_option
@dry_run_option
@yes_option
@rate_option
@click.option(
    "--resume", type=int, is_flag=False, flag_value=0, metavar="[ID]", help="Go on with one that was cut off."
)
@click.option("--list", "show_list", is_flag=True, help="Show the replays so far.")
@json_option
@pass_project
def replay(
    option: ProjectOption,
    /,
    side_effects: bool,
    dry_run: bool,
    yes: bool,
    rate: float | None,
    resume: int | None,
    show_list: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Deliver journal versions again: the chosen ones in order, then each document's newest, so that no receiver
    ends older than it was. With `mode: latest` the newest alone.

    \b
    Example: hub replay --subscription crm-orders --since 2h --dry-run
             hub replay --failed --yes
             hub replay --resume
    """
    if show_list:
        _list(option, as_json)
    elif resume is not None:
        _resume(option, resume, rate, as_json)
    else:
        filters = _filters(option, chosen)
        refuse_empty(filters)
        again = Again("replay", filters, rate, side_effects=side_effects)
        _carry_out(option, again, dry_run=dry_run, yes=yes, as_json=as_json)


@click.command(short_help="Deliver the current documents of a subscription.")
@click.argument("subscription")
@new_ids_option
@side_effects_option
@dry_run_option
@yes_option
@rate_option
@json_option
@pass_project
def backfill(
    option: ProjectOption,
    subscription: str,
    new_ids: bool,
    side_effects: bool,
    dry_run: bool,
    yes: bool,
    rate: float | None,
    as_json: bool,
) -> None:
    """Deliver the documents that are in a subscription's set now, as created, and delete those that its receiver
    has, or may have, and that are outside, if `on` has deleted: so a changed `match` or `where` is carried out.

    \b
    Example: hub backfill crm-orders --rate 50/s
    """
    from hub.store.definitions import differs

    known(subscription, option.project.subscriptions, "subscription")
    if differs(option.store, option.project, subscription):
        click.echo(
            f"The hub last ran without {subscription} as it is now. Where it runs, restart it first: until then it "
            "goes by what it was started with.",
            err=True,
        )
    filters = Filters(subscriptions=(subscription,), new_ids=new_ids)
    again = Again("backfill", filters, rate, side_effects=side_effects)
    _carry_out(option, again, dry_run=dry_run, yes=yes, as_json=as_json)


def _filters(option: ProjectOption, chosen: dict[str, Any]) -> Filters:
    project = option.project
    for name in chosen["subscriptions"]:
        known(name, project.subscriptions, "subscription")
    entity = chosen.pop("entity") or ""
    if entity:
        known(entity, project.entities, "entity")
    entities = {project.subscriptions[name].entity for name in chosen["subscriptions"]}
    if entity and entities - {entity}:
        raise InputError(
            f"{' and '.join(chosen['subscriptions'])} do not all deliver {entity}.", "Leave --entity or name others."
        )
    keys = chosen.pop("keys")
    if keys:
        entity = entity or _only(entities or set(project.entities))
    journal = Journal(option.store)
    return Filters(entity=entity, keys=tuple(journal.key(entity, key) for key in keys), **chosen)


def _only(entities: set[str]) -> str:
    if len(entities) > 1:
        raise InputError("A key names a document of one entity.", f"Give --entity: {', '.join(sorted(entities))}.")
    return next(iter(entities))


def replayer(option: ProjectOption) -> Replayer:
    """With the subscriptions as their entities' streams were started."""
    from hub.bootstrap import compile_subscription, stored_entities

    entities = stored_entities(option.project, option.store)
    subscriptions = {
        name: compile_subscription(config, entities) for name, config in option.project.subscriptions.items()
    }
    return Replayer(Replays(option.store), subscriptions)


@dataclass(frozen=True, slots=True)
class Again:
    """What was asked for."""

    kind: str  # replay, backfill
    filters: Filters
    rate: float | None  # deliveries a second
    side_effects: bool  # also where a delivery cannot be taken back


def _carry_out(option: ProjectOption, again: Again, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    worker = replayer(option)
    plan = worker.plan(again.kind, again.filters)
    if not as_json or not (yes or dry_run):
        click.echo(_plan_text(again.kind, plan), err=as_json)
    if dry_run or not plan.total:
        if as_json:
            echo_json(_plan_json(again.kind, plan))
        return
    if not again.side_effects:
        _refuse_side_effects(option, plan)
    if not yes:
        click.confirm("Go?", abort=True, err=True)
    begun = Replays(option.store).begin(again.kind, again.filters, plan.total)
    done = _run(worker, begun, again.rate)
    _report(done, plan, as_json)


def _refuse_side_effects(option: ProjectOption, plan: Plan) -> None:
    """InputError when the plan has deliveries that cannot be taken back."""
    from hub.bootstrap import has_side_effects

    project = option.project
    names = sorted(
        name
        for name, count in plan.deliveries.items()
        if count and has_side_effects(project, project.subscriptions[name].to)
    )
    if names:
        raise InputError(
            f"What {' and '.join(names)} delivers cannot be taken back, and may have been delivered before.",
            "Name other subscriptions with --subscription, or give --side-effects to deliver it again.",
        )


def _resume(option: ProjectOption, id: int, rate: float | None, as_json: bool) -> None:
    replays = Replays(option.store)
    begun = replays.get(id) if id else replays.unfinished()
    if begun.finished_at:
        raise InputError(f"Replay {begun.id} is finished: nothing is left.", "`hub replay --list` shows them all.")
    for name in begun.filters.subscriptions:
        known(name, option.project.subscriptions, "subscription")
    _report(_run(replayer(option), begun, rate), None, as_json)


def _run(worker: Replayer, begun: Replay, rate: float | None) -> Replay:
    label = f"{begun.kind} {begun.id}"
    with click.progressbar(length=max(begun.planned - begun.written, 0), label=label, file=sys.stderr) as bar:
        try:
            return worker.run(begun, rate, lambda written: bar.update(written))
        except KeyboardInterrupt:
            click.echo(f"\nCut off. `hub replay --resume {begun.id}` goes on where it was.", err=True)
            raise click.exceptions.Exit(130) from None


def _report(done: Replay, plan: Plan | None, as_json: bool) -> None:
    if as_json:
        echo_json(_replay_json(done) | (_plan_json(done.kind, plan) if plan else {}))
    else:
        click.echo(f"{done.kind} {done.id}: {done.written} deliveries are in the queue.")


def _plan_text(kind: str, plan: Plan) -> str:
    if not plan.total:
        return "Nothing fits: there is nothing to send."
    versions, documents = counted(plan.versions, "version"), counted(plan.documents, "document")
    lines = [f"{kind}: {versions} of {documents}, {counted(plan.total, 'delivery')}"]
    lines += [f"  {name}: {count}" for name, count in sorted(plan.deliveries.items())]
    if kind == "backfill" and plan.deleted:
        lines.append(f"  {plan.deleted} of them delete what the receiver has, or may have, and is outside the set.")
    if plan.undecided:
        lines.append(f"  {plan.undecided} of them are parked at once: their subscription's `where` or `when` fails.")
    return "\n".join(lines)


def _plan_json(kind: str, plan: Plan) -> dict[str, Any]:
    return {
        "kind": kind,
        "documents": plan.documents,
        "versions": plan.versions,
        "deliveries": plan.total,
        "subscriptions": dict(sorted(plan.deliveries.items())),
        "deleted": plan.deleted,
        "undecided": plan.undecided,
    }


def _list(option: ProjectOption, as_json: bool) -> None:
    found = Replays(option.store).all()
    if as_json:
        for one in found:
            echo_json(_replay_json(one))
        return
    echo_table(
        (
            (
                one.id,
                one.kind,
                rfc3339(one.created_at),
                f"{one.written} of {one.planned}",
                rfc3339(one.finished_at) if one.finished_at else "unfinished",
                _request_text(one.filters),
            )
            for one in found
        ),
        ("id", "kind", "begun", "written", "finished", "of"),
    )


def _replay_json(one: Replay) -> dict[str, Any]:
    return {
        "id": one.id,
        "kind": one.kind,
        "filters": _request(one.filters),
        "planned": one.planned,
        "written": one.written,
        "created_at": rfc3339(one.created_at),
        "finished_at": rfc3339(one.finished_at) if one.finished_at else None,
    }


def _request(filters: Filters) -> dict[str, Any]:
    import msgspec

    request: dict[str, Any] = msgspec.to_builtins(filters)
    return request


def _request_text(filters: Filters) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in _request(filters).items())


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


COMMANDS = (replay, backfill)
