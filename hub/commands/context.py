"""What every command shares: the project, the store, how results are printed, and the edge where errors end."""

import errno
import json
import os
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hub.errors import HubError, InputError, OutsideError

if TYPE_CHECKING:
    from hub.project import Project
    from hub.store.database import Store


class ProjectOption:
    """The project directory that `--project` names; read and opened once, when a command first asks."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory).resolve()

    @cached_property
    def project(self) -> "Project":
        from hub.project.files import load

        return load(self.directory, os.environ)

    @cached_property
    def store(self) -> "Store":
        """The project's store, which must exist and be of this version."""
        from hub.store.database import open_store

        return open_store(self.project.store)


# What the file system may answer to a write.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO}
_FREE = "Free some space or raise the limit; nothing stored is lost."

pass_project = click.make_pass_decorator(ProjectOption)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object; for lists one a line.")


class HubGroup(click.Group):
    """The one place where errors become a sentence and an exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except HubError as error:
            click.echo(f"hub: {error}", err=True)
            context.exit(error.exit_code)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(0)
        except Exception as error:
            told = outside(error)
            if told is None:
                raise
            click.echo(f"hub: {told}", err=True)
            context.exit(told.exit_code)


def outside(error: Exception) -> OutsideError | None:
    """What the store's database or the machine's files have against us; None when the error is the hub's own."""
    if isinstance(error, OSError) and error.errno in _DISK:
        return OutsideError(f"{error.filename or 'A file'} cannot be written: {error.strerror}.", _FREE)
    import psycopg
    from sqlalchemy.exc import DBAPIError, OperationalError

    if isinstance(error, psycopg.OperationalError | psycopg.errors.InsufficientPrivilege):
        return OutsideError(f"Postgres ends it: {str(error).strip().splitlines()[0]}.", "`hub doctor` looks closer.")
    # Whoever was stopped amid a store transaction finds its session ended, which Postgres calls no operational error.
    ended = psycopg.errors.IdleInTransactionSessionTimeout
    if isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and isinstance(error.orig, ended)):
        said = str(error.orig).strip().splitlines()[0].rstrip(".")
        remedy = _FREE if "full" in said or "No space" in said else "Check `store:` in hub.yaml, and that it runs."
        return OutsideError(f"The store cannot be used: {said}.", remedy)
    return None


def echo_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


def echo_table(rows: Iterable[Iterable[Any]], header: Iterable[str]) -> None:
    """Columns as wide as their widest value, two spaces between."""
    lines = [[str(cell) for cell in row] for row in rows]
    titles = list(header)
    widths = [max(len(line[i]) for line in [titles, *lines]) for i in range(len(titles))]
    for line in [titles, *lines]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def counted(count: int, noun: str) -> str:
    """`1 delivery`, `2 deliveries`, `no deliveries`."""
    several = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"1 {noun}" if count == 1 else f"{count or 'no'} {several}"


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name` if it is one of `names`; InputError with the nearest ones otherwise."""
    import difflib

    choices = sorted(names)
    if name in choices:
        return name
    near = difflib.get_close_matches(name, choices, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"There is: {', '.join(choices) or 'none'}."
    raise InputError(f"There is no {what} {name!r}.", hint)
