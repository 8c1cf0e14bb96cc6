"""`hub source` and `hub doctor`: what has to be there outside, and whether it is."""

import dataclasses
import functools
from collections.abc import Iterator

import click

from hub.commands.context import ProjectOption, echo_json, json_option, known, pass_project
from hub.errors import FaultError, HubError, InputError, OutsideError
from hub.locks import owner
from hub.store.database import MissingStore, Store
from hub.store.streams import StreamState, ask_resnapshot, load_stream

BEFORE_THE_ROLE = "While the role is not there yet, read the catalogue by the owner's URL: --url."


@click.group()
def source() -> None:
    """The databases that the hub follows."""


@source.command()
@click.argument("stream", required=False)
@click.option("--url", default="", help="Read the catalogue by this URL, while the hub's own role is not there yet.")
@pass_project
def sql(option: ProjectOption, stream: str | None, url: str) -> None:
    """Print the SQL that a DBA runs once, for STREAM or for all: role, grants, publication. It changes nothing itself.

    For a stream that has no entity any more: what drops its slot and publication, as comments.

    \b
    Example: hub source sql --url postgresql://dba@db/legacy | psql postgresql://dba@db/legacy
    """
    from hub.bootstrap import read_catalogue, retire_sql, source_of, source_sql, stream_names

    names, retired = stream_names(option.project), _retired(option)
    for name in [known(stream, [*names, *retired], "stream")] if stream else [*names, *retired]:
        if name in retired:
            click.echo(f"-- {name}\n{retire_sql(option.project, name)}")
            continue
        config = source_of(option.project, name)
        try:
            catalogue = read_catalogue(dataclasses.replace(config, url=url or config.url))
        except OutsideError as error:
            # The role that the project connects as may be what this SQL is to make.
            raise error if url else OutsideError(error.what, f"{error.remedy} {BEFORE_THE_ROLE}") from None
        click.echo(f"-- {name}\n{source_sql(option.project, name, catalogue)}")


def _retired(option: ProjectOption) -> list[str]:
    """Streams that have no entity any more; none while there is no store."""
    from hub.bootstrap import retired_streams

    try:
        return retired_streams(option.project, option.store)
    except OutsideError:
        return []


password_option = click.option(
    "--password",
    default="",
    metavar="REFERENCE",
    help="What Kafka Connect resolves to the source's password. Default: ${env:HUB_MAIN_PASSWORD} for the source main.",
)


@source.command()
@click.argument("stream", required=False)
@password_option
@pass_project
def config(option: ProjectOption, stream: str | None, password: str) -> None:
    """Print the settings of the connector on Kafka Connect, of STREAM or of all, one JSON object each.

    \b
    Example: hub source config main/main
    """
    from hub.bootstrap import build_topic, connector_config

    for name in _streams(option, stream):
        connector = build_topic(option.project, name).connector
        echo_json({"name": connector, "config": connector_config(option.project, name, _reference(password))})


def _reference(password: str) -> str:
    """InputError when it is no reference: the settings of a connector are there for everyone to read."""
    if password and not (password.startswith("${") and password.endswith("}") and ":" in password):
        raise InputError(
            "The password of a connector has to be a reference.",
            "Write --password '${env:NAME}' or '${dir:PATH:FILE}'.",
        )
    return password


@source.command()
@click.argument("stream", required=False)
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True, help="Copies of a new topic.")
@password_option
@pass_project
def register(option: ProjectOption, stream: str | None, replication: int, password: str) -> None:
    """Make topic and connector on Kafka Connect, or bring the connector up to date, and wait until it runs.

    A connector that is there keeps its reference to the password, unless another one is given. Where the embedded
    engine has followed the stream so far, the connector goes on from the engine's slot without a snapshot.

    \b
    Example: hub source register --replication 3
    """
    from hub.bootstrap import build_topic, register_connector

    store = _store_if_any(option)
    for name in _streams(option, stream):
        goes_on = register_connector(option.project, name, store, replication, _reference(password))
        topic = build_topic(option.project, name)
        how = "goes on from the engine's slot" if goes_on else "runs"
        click.echo(f"{name}: the connector {topic.connector} {how}, and fills the topic {topic.name}.")


def _store_if_any(option: ProjectOption) -> Store | None:
    try:
        return option.store
    except MissingStore:
        return None


@source.command()
@click.argument("stream", required=False)
@click.option("--pause", "action", flag_value="pause", help="Have the connector rest; its slot keeps the log.")
@click.option("--resume", "action", flag_value="resume", help="Have it go on.")
@click.option("--restart", "action", flag_value="restart", help="Start it and its task again where they have failed.")
@click.option("--delete", "action", flag_value="delete", help="Take it away; topic and slot stay.")
@json_option
@pass_project
def status(option: ProjectOption, stream: str | None, action: str | None, as_json: bool) -> None:
    """Show how connector, task and slot stand, of STREAM or of all; pause, resume, restart or delete first.

    Exit code 1 when a connector does not run.

    \b
    Example: hub source status
    Example: hub source status main/main --restart
    """
    from hub.bootstrap import build_topic, connect_source, slot_of, source_of
    from hub.operate.status import ask_log_end

    faults = 0
    for name in _streams(option, stream):
        followed = source_of(option.project, name)
        topic = build_topic(option.project, name)
        if action:
            getattr(topic.connect, action)(topic.connector)
        state = topic.connect.state(topic.connector)
        log = ask_log_end(functools.partial(connect_source, followed), slot_of(followed, name))
        lag = None if log.unreachable or not log.confirmed else max(0, log.lsn - log.confirmed)
        faults += not state.runs and action not in ("pause", "delete")
        if as_json:
            slot = {"slot": log.slot, "wal_status": log.wal_status, "lag_bytes": lag}
            echo_json({"stream": name, "connector": topic.connector, "topic": topic.name,
                       "state": state.state, "task": state.task, "worker": state.worker, "problem": state.problem,
                       **slot})  # fmt: skip
            continue
        task = f", its task {state.task} on {state.worker}" if state.task else ""
        click.echo(f"{name}: connector {topic.connector} {state.state}{task}; topic {topic.name}.")
        if state.problem:
            click.echo(f"  {state.problem}")
        where = log.unreachable or f"slot {log.slot}, {log.wal_status or 'no log kept'}"
        click.echo(f"  {where}{'' if lag is None else f', {lag} bytes of log not yet in the topic'}.")
    if faults:
        raise FaultError(f"{faults} {'connector does' if faults == 1 else 'connectors do'} not run.")


def _streams(option: ProjectOption, stream: str | None) -> list[str]:
    """The one that was named, or all that Kafka Connect follows."""
    from hub.bootstrap import source_of, stream_names

    names = stream_names(option.project)
    if stream:
        return [known(stream, [*names, *_retired(option)], "stream")]
    followed = [name for name in names if source_of(option.project, name).kafka]
    if not followed:
        raise InputError("No source is followed by Kafka Connect.", "Give one `kafka:` in hub.yaml.")
    return followed


@source.command()
@click.argument("stream", required=False)
@pass_project
def resnapshot(option: ProjectOption, stream: str | None) -> None:
    """Ask for a new snapshot of STREAM, or of all: it is compared, and only differences are sent.

    Where `hub run` runs, it begins anew by itself; otherwise with its next start.

    \b
    Example: hub source resnapshot main/main
    """
    from hub.bootstrap import stream_names

    names = stream_names(option.project)
    for name in [known(stream, names, "stream")] if stream else names:
        asked = ask_resnapshot(option.store, name)
        runs = owner(option.store, f"capture {name}") is not None
        when = "is taken now" if runs else "is taken at the next start"
        click.echo(f"{name}: {f'a new snapshot {when}' if asked else 'its first snapshot is due'}.")


@click.command()
@json_option
@pass_project
def doctor(option: ProjectOption, as_json: bool) -> None:
    """Look at everything outside that the hub needs, and say how to mend it.

    Exit code 1 when something keeps the hub from running.

    \b
    Example: hub doctor
    """
    faults = 0
    for place, what, remedy, fatal in _looked_at(option):
        faults += fatal
        if as_json:
            echo_json({"place": place, "well": not fatal, "what": what, "remedy": remedy})
        else:
            mark = "FAULT" if fatal else "advice" if remedy else "well"
            click.echo(f"{mark:6}  {place}: {what}{f' {remedy}' if remedy else ''}")
    if faults:
        raise FaultError(f"{faults} {'thing keeps' if faults == 1 else 'things keep'} the hub from running.")


def _looked_at(option: ProjectOption) -> Iterator[tuple[str, str, str, bool]]:
    """(place, sentence, remedy, whether it is fatal) of the store and every stream's source."""
    from hub.bootstrap import diagnose, stream_names

    states: dict[str, StreamState | None] = {}
    names = stream_names(option.project)
    try:
        states = {name: load_stream(option.store, name) for name in names}
        yield "store", "The store is there and of this version.", "", False
    except OutsideError as error:
        yield "store", error.what, error.remedy, not isinstance(error, MissingStore)
    for name in names:
        try:
            for what, remedy, fatal in diagnose(option.project, name, states.get(name)):
                yield name, what, remedy, fatal
        except HubError as error:
            yield name, error.what, error.remedy, True


COMMANDS = (source, doctor)
