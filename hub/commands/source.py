"""`hub source` and `hub doctor`: what has to be there outside, and whether it is."""

import dataclasses
from collections.abc import Iterator

import click

from hub.commands.context import ProjectOption, echo_json, json_option, known, pass_project
from hub.errors import FaultError, HubError, OutsideError
from hub.locks import owner
from hub.store.streams import ask_resnapshot, load_stream


@click.group()
def source() -> None:
    """The databases that the hub follows."""


@source.command()
@click.option("--url", default="", help="Read the catalogue by this URL, while the hub's own role is not there yet.")
@pass_project
def sql(option: ProjectOption, url: str) -> None:
    """Print the SQL that a DBA runs once: role, grants and publication. It changes nothing itself.

    \b
    Example: hub source sql --url postgresql://dba@db/legacy | psql postgresql://dba@db/legacy
    """
    from hub.bootstrap import read_catalogue, source_sql, stream_names

    for stream in stream_names(option.project):
        config = option.project.sources[stream.split("/", 1)[0]]
        catalogue = read_catalogue(dataclasses.replace(config, url=url or config.url))
        click.echo(f"-- {stream}\n{source_sql(option.project, stream, catalogue)}")


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

    positions: dict[str, int] = {}
    names = stream_names(option.project)
    try:
        states = {name: load_stream(option.store, name) for name in names}
        positions = {name: state.position for name, state in states.items() if state and state.state == "streaming"}
        yield "store", "The store is there and of this version.", "", False
    except OutsideError as error:
        missing = "There is no store" in error.what
        yield "store", error.what, error.remedy, not missing
    for name in names:
        try:
            for what, remedy, fatal in diagnose(option.project, name, positions.get(name)):
                yield name, what, remedy, fatal
        except HubError as error:
            yield name, error.what, error.remedy, True


COMMANDS = (source, doctor)
