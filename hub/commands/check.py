"""`hub check` and `hub init`: a project is judged, a project is begun."""

import dataclasses
import os
from pathlib import Path

import click

from hub.catalogue import Catalogue
from hub.commands.context import ProjectOption, counted, echo_json, json_option, pass_project
from hub.errors import InputError, OutsideError, Problem
from hub.project import Project
from hub.project.files import HUB_FILE, read
from hub.project.template import FILES, NEXT_STEPS

NOT_READ = "The source's catalogue was not read: tables and columns are not checked."


@click.command()
@click.option("--offline", is_flag=True, help="Do not ask the source for its catalogue.")
@json_option
@pass_project
@click.pass_context
def check(context: click.Context, option: ProjectOption, offline: bool, as_json: bool) -> None:
    """Say everything that is wrong in the project, with file, line, column and remedy.

    With the source in reach its tables and columns are checked too. Exit code 2 when there is a problem.

    \b
    Example: hub --project shop check --offline
    """
    project, problems = read(option.directory, os.environ)
    remarks: list[str] = []
    if project is not None:
        problems, remarks = _judged(project, problems, offline)
    if as_json:
        _echo_as_json(problems, remarks)
    else:
        _echo_as_text(problems, remarks)
    if _faults(problems):
        context.exit(InputError.exit_code)


def _judged(project: Project, known: list[Problem], offline: bool) -> tuple[list[Problem], list[str]]:
    """All problems, the known ones included, and what has to be said of how they were looked for."""
    from hub.bootstrap import find_connectors, unsupported_type
    from hub.check import check as judge

    unclear = any(problem.file == HUB_FILE for problem in known)
    catalogues, remarks = ({}, [NOT_READ]) if offline or unclear else _catalogues(project)
    return judge(project, catalogues, unsupported_type, find_connectors(project.directory), known), remarks


def _catalogues(project: Project) -> tuple[dict[str, Catalogue], list[str]]:
    from hub.bootstrap import read_catalogue

    catalogues: dict[str, Catalogue] = {}
    remarks = []
    for source in project.sources.values():
        try:
            catalogues[source.name] = read_catalogue(source)
        except OutsideError as error:
            remarks.append(f"The source {source.name!r} could not be reached, so it was checked offline: {error}")
    return catalogues, remarks


def _faults(problems: list[Problem]) -> int:
    return sum(not problem.warning for problem in problems)


def _echo_as_text(problems: list[Problem], remarks: list[str]) -> None:
    for problem in problems:
        click.echo(f"{problem} (note)" if problem.warning else str(problem))
    for remark in remarks:
        click.echo(remark)
    faults = _faults(problems)
    summary = f"{counted(faults, 'problem')}, {counted(len(problems) - faults, 'note')}."
    click.echo(summary.capitalize())


def _echo_as_json(problems: list[Problem], remarks: list[str]) -> None:
    found = [dataclasses.asdict(problem) for problem in problems]
    echo_json({"well": not _faults(problems), "problems": found, "remarks": remarks})


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def init(directory: Path) -> None:
    """Begin a project in DIRECTORY, which must be empty or not there yet.

    \b
    Example: hub init shop
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty.", "Name a new directory.")
    try:
        for file, text in FILES.items():
            path = directory / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutsideError(f"{directory} cannot be written: {error.strerror}.", "Name another directory.") from None
    click.echo(NEXT_STEPS.format(directory=os.fspath(directory)))


COMMANDS = (check, init)
