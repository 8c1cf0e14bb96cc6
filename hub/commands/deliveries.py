"""`hub deliveries`, `hub pause` and `hub resume`: what is not settled, and what an operator does about it."""

import sys
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from hub.commands.context import ProjectOption, echo_json, echo_table, json_option, known, pass_project
from hub.commands.parameters import rfc3339
from hub.delivery import State
from hub.errors import InputError
from hub.store.operators import Choice, Operators, Unsettled

STATES = {
    "pending": State.PENDING,
    "parked": State.PARKED,
    "superseded": State.SUPERSEDED,
    "rescheduled": State.RESCHEDULED,
}
PARKED = (State.PARKED,)

subscription_option = click.option("--subscription", default="", help="Of this subscription.")


@click.group()
def deliveries() -> None:
    """Pending and parked deliveries."""


@deliveries.command("list", short_help="Show what is not settled.")
@subscription_option
@click.option("--state", type=click.Choice(list(STATES)), help="In this state.")
@click.option("--entity", default="", help="Of this entity.")
@click.option("--key", default="", help="Of this document.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="So many at most.")
@json_option
@pass_project
def list_deliveries(
    option: ProjectOption, subscription: str, state: str | None, entity: str, key: str, limit: int, as_json: bool
) -> None:
    """Show what is not settled, oldest first: pending, parked with the reason, or superseded by a newer version.

    \b
    Example: hub deliveries list --state parked --subscription crm-orders
    """
    _check_names(option, subscription, entity)
    choice = Choice(subscription=subscription, entity=entity, key=key, states=(STATES[state],) if state else ())
    operators = Operators(option.store)
    found = list(operators.chosen(choice, limit))
    if as_json:
        for one in found:
            echo_json(_shown(one))
        return
    rows = [
        (o.number, o.state, o.subscription, o.entity, o.key, o.version, o.event, o.attempts, o.reason) for o in found
    ]
    if not rows:
        click.echo("There is none.")
        return
    echo_table(rows, ("number", "state", "subscription", "entity", "key", "version", "event", "attempts", "reason"))
    total = operators.count(choice)
    if total > len(rows):
        click.echo(f"{total - len(rows)} more: see --limit.", err=True)


@deliveries.command(short_help="Show one with its attempts.")
@click.argument("id")
@json_option
@pass_project
def show(option: ProjectOption, id: str, as_json: bool) -> None:
    """Show one that is not settled, with its attempts. ID is its number, or the id that the receiver sees.

    \b
    Example: hub deliveries show 4711
    """
    operators = Operators(option.store)
    one = _one(operators, id)
    attempts = operators.attempts(one)
    if as_json:
        tried = [{**msgspec.to_builtins(each), "started_at": rfc3339(each.started_at)} for each in attempts]
        echo_json({**_shown(one), "tried": tried})
        return
    for name, value in _shown(one).items():
        click.echo(f"{name + ':':<14}{value}")
    if attempts:
        click.echo()
        rows = [(a.number, rfc3339(a.started_at), f"{a.duration / 1000:.1f} ms", a.outcome, a.detail) for a in attempts]
        echo_table(rows, ("attempt", "at", "took", "outcome", "detail"))


@deliveries.command(short_help="Send parked ones again.")
@click.argument("ids", nargs=-1)
@subscription_option
@click.option("--all-parked", is_flag=True, help="All that are parked.")
@click.option("--force", is_flag=True, help="Also what the receiver has a newer version of.")
@json_option
@pass_project
def retry(
    option: ProjectOption, ids: Sequence[str], subscription: str, all_parked: bool, force: bool, as_json: bool
) -> None:
    """Send parked deliveries again, with the same delivery ids; attempts and age begin anew.

    Of a document that was delivered in a newer version since, the older one is sent only with --force.

    \b
    Example: hub deliveries retry 4711 4712
             hub deliveries retry --subscription crm-orders
    """
    states = (State.PARKED, State.SUPERSEDED) if force else PARKED
    operators = Operators(option.store)
    choice = _choice(option, operators, ids, subscription, all_parked, states)
    count = operators.release(choice, force=force)
    stale = operators.count(msgspec.structs.replace(choice, states=(State.SUPERSEDED,)))
    if as_json:
        echo_json({"released": count, "superseded": stale})
        return
    click.echo(f"{count} will be sent.")
    if stale and not force:
        click.echo(f"{stale} left: the receiver has a newer version. Send them with --force.")


@deliveries.command(short_help="Give parked ones up.")
@click.argument("ids", nargs=-1)
@subscription_option
@click.option("--all-parked", is_flag=True, help="All that are parked.")
@click.option("--reason", required=True, help="Why; it is kept with the attempts.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_project
def discard(
    option: ProjectOption,
    ids: Sequence[str],
    subscription: str,
    all_parked: bool,
    reason: str,
    yes: bool,
    as_json: bool,
) -> None:
    """Give deliveries up. They are not sent, and the reason is kept; their documents stay in the journal.

    \b
    Example: hub deliveries discard 4711 --reason "the contact was merged by hand"
    """
    operators = Operators(option.store)
    choice = _choice(option, operators, ids, subscription, all_parked, (State.PARKED, State.SUPERSEDED))
    count = operators.count(choice)
    if count and not yes:
        _confirm(count)
    count = operators.discard(choice, reason)
    if as_json:
        echo_json({"discarded": count})
    else:
        click.echo(f"{count} discarded.")


def _confirm(count: int) -> None:
    if not sys.stdin.isatty():
        raise InputError(f"{count} would be discarded.", "Say so with --yes.")
    click.confirm(f"Discard {count}?", abort=True)


@click.command(short_help="Hold a subscription.")
@click.argument("subscription")
@click.option("--reason", default="", help="Why; `hub status` shows it.")
@pass_project
def pause(option: ProjectOption, subscription: str, reason: str) -> None:
    """Hold a subscription, its queue included. Its deliveries are still made, and wait.

    \b
    Example: hub pause crm-orders --reason "the CRM is being moved"
    """
    known(subscription, option.project.subscriptions, "subscription")
    operators = Operators(option.store)
    if operators.state(subscription) == "disabled":
        raise InputError(f"{subscription} is disabled by its receiver already.", "`hub resume` lifts that.")
    operators.set_state(subscription, "paused", reason)
    click.echo(f"{subscription} is paused.")


@click.command(short_help="Let a subscription go on.")
@click.argument("subscription")
@pass_project
def resume(option: ProjectOption, subscription: str) -> None:
    """Let a subscription go on that was paused, or that its receiver had disabled by answering 410.

    \b
    Example: hub resume crm-orders
    """
    known(subscription, option.project.subscriptions, "subscription")
    operators = Operators(option.store)
    before = operators.state(subscription)
    operators.set_state(subscription, "active", "")
    click.echo(f"{subscription} {'was active already' if before == 'active' else f'goes on; it was {before}'}.")


def _choice(
    option: ProjectOption,
    operators: Operators,
    ids: Sequence[str],
    subscription: str,
    all_parked: bool,
    states: tuple[State, ...],
) -> Choice:
    """What the arguments mean; InputError when they mean nothing, or all by accident."""
    if ids:
        if subscription or all_parked:
            raise InputError("IDs and --subscription or --all-parked do not go together.", "Give one of them.")
        return Choice(numbers=tuple(_one(operators, id).number for id in ids))
    if not subscription and not all_parked:
        raise InputError("Nothing is chosen.", "Give IDs, --subscription or --all-parked.")
    _check_names(option, subscription, "")
    return Choice(subscription=subscription, states=states)


def _one(operators: Operators, id: str) -> Unsettled:
    if id.isascii() and id.isdigit():
        found = next(operators.chosen(Choice(numbers=(int(id),)), 1), None)
    else:
        found = operators.find(id)
    if found is None:
        raise InputError(
            f"No unsettled delivery is {id!r}.", "`hub deliveries list` shows them; delivered ones are in `hub trace`."
        )
    return found


def _check_names(option: ProjectOption, subscription: str, entity: str) -> None:
    if subscription:
        known(subscription, option.project.subscriptions, "subscription")
    if entity:
        known(entity, option.project.entities, "entity")


def _shown(one: Unsettled) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(one)
    shown["created_at"] = rfc3339(one.created_at)
    shown["due_at"] = rfc3339(one.due_at) if one.due_at else None
    return shown


COMMANDS = [deliveries, pause, resume]
