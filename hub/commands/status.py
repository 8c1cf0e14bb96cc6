"""`hub status`: sources, lag, backlog, fan-outs, freshness, failures, on one screen."""

from typing import Any

import click

from hub.changes import lsn_text
from hub.commands.context import ProjectOption, echo_json, echo_table, json_option, pass_project
from hub.commands.parameters import rfc3339
from hub.errors import FaultError
from hub.locks import owner
from hub.operate.status import Status, StreamStatus, read_status
from hub.store.database import now


@click.command(short_help="Sources, lag, backlog, fan-outs, freshness, failures.")
@json_option
@pass_project
@click.pass_context
def status(context: click.Context, option: ProjectOption, as_json: bool) -> None:
    """Sources, lag, backlog, fan-outs, freshness and failures. Exit code 1 when something needs an operator.

    It asks each source for the end of its log and the state of its slot, and touches no application table.

    \b
    Example: hub status
    """
    found = _read(option)
    problems = found.problems()
    if as_json:
        echo_json(_as_json(found, problems))
    else:
        _show(found, problems)
    if problems:
        context.exit(FaultError.exit_code)


def _read(option: ProjectOption) -> Status:
    from hub.bootstrap import log_end, retired_streams, slot_of, source_of, stream_names

    project = option.project
    return read_status(
        option.store,
        project,
        stream_names(project),
        lambda stream: log_end(project, stream),
        lambda role: owner(option.store, role),
        [(name, slot_of(source_of(project, name), name)) for name in retired_streams(project, option.store)],
    )


def _show(found: Status, problems: list[str]) -> None:
    for stream in found.streams:
        _show_stream(stream)
    click.echo(f"dispatch: {'runs, ' + found.dispatch if found.dispatch else 'does not run'}")
    if found.made_at:
        click.echo(f"newest version made {_ago(found.made_at)}")
    click.echo()
    echo_table(
        (
            (one.name, one.state, one.waiting, _ago(one.oldest) if one.oldest else "-", one.parked)
            for one in found.subscriptions
        ),
        ("subscription", "state", "waiting", "oldest", "parked"),
    )
    for destination in found.destinations:
        if destination.paused_until:
            until = _time(destination.paused_until)
            click.echo(f"Destination {destination.name} asked for time until {until}: {destination.reason}")
    click.echo()
    click.echo("All is well." if not problems else "\n".join(problems))


def _show_stream(stream: StreamStatus) -> None:
    log = stream.log
    lag = "source unreachable" if log.unreachable else f"{stream.lag} bytes behind, slot {log.slot} {log.wal_status}"
    click.echo(f"{stream.name}: {stream.state} at {lsn_text(stream.position)}, {lag.rstrip()}")
    capture = f"runs, {stream.owner}" if stream.owner else "does not run"
    click.echo(f"  capture: {capture}" + (f"; last arrival {_ago(stream.seen_at)}" if stream.seen_at else ""))
    for fan_out in stream.fan_outs:
        click.echo(
            f"  fan-out of transaction {fan_out.transaction}: {fan_out.made} documents made, {fan_out.items} items left"
        )


def _ago(time: int) -> str:
    seconds = max(0, now() - time) // 1_000_000
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def _as_json(found: Status, problems: list[str]) -> dict[str, Any]:
    return {
        "streams": [_stream_json(stream) for stream in found.streams],
        "subscriptions": [
            {
                "subscription": one.name,
                "state": one.state,
                "reason": one.reason,
                "waiting": one.waiting,
                "oldest": _time(one.oldest),
                "parked": one.parked,
            }
            for one in found.subscriptions
        ],
        "destinations": [
            {
                "destination": one.name,
                "held_since": _time(one.held_since),
                "paused_until": _time(one.paused_until),
                "reason": one.reason,
            }
            for one in found.destinations
        ],
        "dispatch": found.dispatch or None,
        "made_at": _time(found.made_at),
        "problems": problems,
    }


def _stream_json(stream: StreamStatus) -> dict[str, Any]:
    return {
        "stream": stream.name,
        "state": stream.state,
        "position": lsn_text(stream.position),
        "lag_bytes": stream.lag,
        "slot": stream.log.slot or None,
        "wal_status": stream.log.wal_status or None,
        "unreachable": stream.log.unreachable or None,
        "way": stream.log.way or None,
        "seen_at": _time(stream.seen_at),
        "problem": stream.problem or None,
        "drift": dict(stream.drift),
        "fan_outs": [{"transaction": f.transaction, "made": f.made, "items": f.items} for f in stream.fan_outs],
        "capture": stream.owner or None,
    }


def _time(time: int) -> str | None:
    return rfc3339(time) if time else None


COMMANDS = (status,)
