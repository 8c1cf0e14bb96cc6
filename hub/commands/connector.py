"""`hub connector`: what there is, a new one, and the conformance kit."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.commands.context import ProjectOption, echo_json, echo_table, json_option, known, pass_project
from hub.connector import ConnectorKind
from hub.discovery import FOLDER, Connectors, Found
from hub.errors import FaultError, InputError, OutsideError, ProjectError

if TYPE_CHECKING:
    from hub.kit.running import Verdict


UNTRIED = "says nothing of how to try it. Write `test:` in its YAML, or `trial=` in its Python."


@click.group()
def connector() -> None:
    """What documents are delivered by."""


def _connectors(option: ProjectOption) -> Connectors:
    from hub.bootstrap import find_connectors

    return find_connectors(option.directory)


@connector.command("list", short_help="Every connector, and what it can do.")
@json_option
@pass_project
def list_connectors(option: ProjectOption, as_json: bool) -> None:
    """Every connector of the hub, of the project and of installed packages, and what it can do.

    \b
    Example: hub connector list
    """
    connectors = _connectors(option)
    listed = []
    for name, found in sorted(connectors.found().items()):
        kind = connectors(name)
        settings = [field.encode_name + ("" if field.required else "?") for field in _fields(kind)]
        listed.append((name, found.origin, found.place, "yes" if kind.side_effects else "", settings, kind.about))
    if as_json:
        keys = ("connector", "from", "place", "side_effects", "settings", "about")
        for name, origin, place, effects, settings, about in listed:
            echo_json(dict(zip(keys, (name, origin, place, bool(effects), settings, about), strict=True)))
        return
    rows = [(name, origin, effects, " ".join(settings), about) for name, origin, _, effects, settings, about in listed]
    echo_table(rows, ("CONNECTOR", "FROM", "SIDE EFFECTS", "SETTINGS (? HAS A DEFAULT)", "WHAT IT DELIVERS TO"))


def _fields(kind: ConnectorKind[Any]) -> Any:
    import msgspec

    return msgspec.structs.fields(kind.settings)


@connector.command("test", short_help="Try connectors out against a hostile server.")
@click.argument("name", required=False)
@json_option
@pass_project
@click.pass_context
def test_connector(context: click.Context, option: ProjectOption, name: str | None, as_json: bool) -> None:
    """Run the conformance kit for connector NAME, or for all, against a server on this machine that misbehaves.

    Ends with the number that passed and failed. Exit code 1 when one failed, or NAME says nothing of how to try it.

    \b
    Example: hub connector test hubspot
    """
    from hub.kit.running import run_kit

    connectors = _connectors(option)
    names = [known(name, connectors.found(), "connector")] if name else sorted(connectors.found())
    passed = failed = untried = 0
    for each in names:
        verdicts = asyncio.run(run_kit(each, connectors(each)))
        faults = [verdict for verdict in verdicts if verdict.fault]
        well = sum(not (verdict.fault or verdict.not_tried) for verdict in verdicts)
        passed, failed, untried = passed + well, failed + len(faults), untried + (not verdicts)
        if as_json:
            told = [asdict(verdict) for verdict in verdicts]
            echo_json({"connector": each, "passed": well, "failed": len(faults), "checks": told})
            continue
        for reason, checks in untried_checks(verdicts):
            click.echo(f"{each}: not tried, {reason}: {'; '.join(checks)}")
        for verdict in faults:
            click.echo(f"{each}: failed: {_named(verdict.check, [verdict.request])}: {verdict.fault}")
        tried = ", ".join(dict.fromkeys(one.request for one in verdicts if one.request and not one.not_tried))
        count = f"{well} passed, {len(faults)} failed" + (f"; requests: {tried}" if tried else "")
        click.echo(f"{each}: {count if verdicts else UNTRIED}")
    if not as_json:
        click.echo(f"{passed} passed, {failed} failed")
    if failed or (name and untried):
        context.exit(FaultError.exit_code)


def untried_checks(verdicts: Sequence["Verdict"]) -> Iterator[tuple[str, list[str]]]:
    """Each reason, and the checks that were not tried for it, each once with its requests."""
    for reason in dict.fromkeys(verdict.not_tried for verdict in verdicts if verdict.not_tried):
        requests: dict[str, list[str]] = {}
        for verdict in verdicts:
            if verdict.not_tried == reason:
                requests.setdefault(verdict.check, []).append(verdict.request)
        yield reason, [_named(check, names) for check, names in requests.items()]


def _named(check: str, requests: Sequence[str]) -> str:
    """A check, with the requests that it was put to."""
    names = ", ".join(filter(None, requests))
    return f"{check} ({names})" if names else check


@connector.command("new", short_help="Begin a connector that passes the kit.")
@click.argument("name")
@click.option("--python", is_flag=True, help="A Python module, where HTTP is not enough.")
@click.option("--service", is_flag=True, help="A web service of your own that takes deliveries.")
@pass_project
def new(option: ProjectOption, name: str, python: bool, service: bool) -> None:
    """Begin connector NAME in the project's connectors/, with its tests: a YAML definition, unless told otherwise.

    \b
    Example: hub connector new acme
    Example: hub connector new scoring --service
    """
    from hub.kit.scaffold import files_of, next_steps
    from hub.project.yaml_fields import NAME

    if python and service:
        raise InputError("--python and --service are two different things to begin.", "Give one of them.")
    form = "python" if python else "service" if service else "yaml"
    if not NAME.fullmatch(name) or name.startswith(("-", "_")):
        raise InputError(f"{name!r} is not a name for a connector.", "Use letters, digits, - and _.")
    taken = _taken(option).get(name) if form != "service" else None
    if taken:
        raise InputError(f"There is a connector {name!r} already, {taken.place}.", "Take another name.")
    files = files_of(form, name)
    for file in files:
        if (option.directory / file).exists():
            raise InputError(f"{file} is there already.", "Take another name, or delete it.")
    for file, text in files.items():
        _write(option.directory / file, text)
    click.echo("\n".join(files))
    click.echo(next_steps(form, name))


def _taken(option: ProjectOption) -> Mapping[str, Found]:
    try:
        return _connectors(option).found()
    except ProjectError as error:
        raise InputError(f"{FOLDER}/ is not well: {error}", "Mend it first.") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutsideError(f"{path} cannot be written: {error.strerror}.", "Make the directory writable.") from None


COMMANDS = (connector,)
