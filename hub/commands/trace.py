"""`hub trace`: one document from its commit to the receivers' answers."""

from typing import Any

import click
import msgspec

from hub.changes import lsn_text
from hub.commands.context import ProjectOption, echo_json, json_option, known, pass_project
from hub.commands.documents import kept_version, one_line
from hub.commands.parameters import rfc3339
from hub.operate.tracing import AttemptTrace, DeliveryTrace, Holding, Trace, read_trace
from hub.store.journal import Journal


@click.command(short_help="From commit to receiver's answer, with times.")
@click.argument("entity")
@click.argument("key")
@click.option("--version", "number", type=click.IntRange(min=1), help="This version instead of the newest.")
@json_option
@pass_project
def trace(option: ProjectOption, entity: str, key: str, number: int | None, as_json: bool) -> None:
    """One version's way: when it was committed, when its document was made, and each attempt to deliver it.

    And what each receiver has of the document by now.

    \b
    Example: hub trace order 42 --version 7
    """
    known(entity, option.project.entities, "entity")
    journal = Journal(option.store)
    version = kept_version(journal, entity, journal.key(entity, key), number)
    found = read_trace(option.store, version)
    if as_json:
        echo_json(_as_json(found))
    else:
        _show(found)


def _show(found: Trace) -> None:
    committed_at = found.version.committed_at
    click.echo(one_line(found.version))
    if found.forwarded_by:
        by = found.forwarded_by
        click.echo(f"  forwarded by {by.subscription}, in answer to {by.entity} {by.key} version {by.version}  {by.id}")
    click.echo(f"  {_after(found.made_at, committed_at)}  document made")
    if not found.deliveries:
        click.echo("  no subscription has it in its queue, or was sent it as far as attempts are kept")
    for delivery in found.deliveries:
        turn = f"  turn {delivery.turn}" if delivery.turn else ""
        click.echo(f"  {delivery.subscription}: {delivery.event}, {delivery.state}  {delivery.id}{turn}")
        if delivery.reason:
            click.echo(f"    {delivery.reason}")
        if delivery.state == "pending" and delivery.due_at:
            click.echo(f"    next attempt not before {rfc3339(delivery.due_at)}")
        if delivery.state == "rescheduled":
            click.echo(f"    its receiver asks for the document again at {rfc3339(delivery.due_at)}")
        for attempt in delivery.attempts:
            click.echo(f"    {_after(attempt.ended_at, committed_at)}  {_attempt_text(attempt)}")
        for issued in delivery.forwarded:
            click.echo(f"    forwarded {issued.entity} {issued.key} version {issued.version}")
    for holding in found.holdings:
        click.echo(f"  {holding.subscription} has {_holding_text(holding)}")


def _holding_text(holding: Holding) -> str:
    named = f" as {holding.receiver_id}" if holding.receiver_id else ""
    return f"version {holding.version}{named}: {holding.event}, accepted at {rfc3339(holding.accepted_at)}"


def _attempt_text(attempt: AttemptTrace) -> str:
    replay = f"  (replay {attempt.replay_id})" if attempt.replay_id else ""
    if attempt.outcome == "unchanged":
        return attempt.detail
    took = f"{attempt.duration / 1000:.1f} ms"
    return f"attempt {attempt.number}: {attempt.outcome} after {took}  {attempt.detail}{replay}".rstrip()


def _after(time: int, committed_at: int) -> str:
    return f"+{_milliseconds(time, committed_at):.1f} ms"


def _milliseconds(time: int, committed_at: int) -> float:
    """Since the commit; by two clocks, so it can be a little below 0."""
    return round((time - committed_at) / 1000, 3)


def _as_json(found: Trace) -> dict[str, Any]:
    version = found.version
    return {
        "entity": version.entity,
        "key": version.key,
        "version": version.version,
        "event": version.event.value,
        "cause": version.cause.value,
        "lsn": lsn_text(version.lsn),
        "transaction": version.transaction,
        "committed_at": rfc3339(version.committed_at),
        "made_at": rfc3339(found.made_at),
        "made_after_ms": _milliseconds(found.made_at, version.committed_at),
        "forwarded_by": msgspec.to_builtins(found.forwarded_by),
        "deliveries": [_delivery_json(delivery, version.committed_at) for delivery in found.deliveries],
        "receivers": [
            {**msgspec.to_builtins(holding), "accepted_at": rfc3339(holding.accepted_at)} for holding in found.holdings
        ],
    }


def _delivery_json(delivery: DeliveryTrace, committed_at: int) -> dict[str, Any]:
    return {
        "subscription": delivery.subscription,
        "id": delivery.id,
        "turn": delivery.turn,
        "event": delivery.event,
        "state": delivery.state,
        "reason": delivery.reason or None,
        "due_at": rfc3339(delivery.due_at) if delivery.due_at else None,
        "attempts": [
            {
                "number": attempt.number,
                "started_at": rfc3339(attempt.started_at),
                "duration_ms": attempt.duration / 1000,
                "outcome": attempt.outcome,
                "detail": attempt.detail,
                "after_ms": _milliseconds(attempt.ended_at, committed_at),
                "replay": attempt.replay_id,
            }
            for attempt in delivery.attempts
        ],
        "forwarded": msgspec.to_builtins(delivery.forwarded),
    }


COMMANDS = (trace,)
