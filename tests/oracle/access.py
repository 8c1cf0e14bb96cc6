"""What the owner of a legacy database does for the hub, once: a role, and the SQL that `hub source sql` prints."""

from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
from psycopg import sql

from tests.oracle import mode
from tests.oracle.command import Project

PASSWORD = "p@ss:w/rd %é"  # every character that a URL must escape


def make_role(owner: str) -> str:
    """Make a role that may log in and no more, for the database at `owner`, a URL. Returns the role's URL."""
    parts = urlsplit(owner)
    role = f"hub_{_slot(owner)}"
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(role), PASSWORD))
    place = f"{role}:{quote(PASSWORD, safe='')}@{parts.hostname}:{parts.port}"
    return urlunsplit((parts.scheme, place, parts.path, "", ""))


def admit(project: Project, owner: str) -> None:
    """Run what `hub source sql` prints, as the owner; on Kafka Connect, then register the connector."""
    printed = project.hub("source", "sql")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(printed.encode())
    if kafka := mode.kafka():
        project.hub("source", "register", "--password", kafka.keep(_slot(owner), PASSWORD))


def withdraw(owner: str) -> None:
    """Take connector and role away again; a server's roles outlive its databases."""
    if kafka := mode.kafka():
        kafka.forget(_slot(owner))
    role = sql.Identifier(f"hub_{_slot(owner)}")
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(sql.SQL("drop owned by {}").format(role))
        connection.execute(sql.SQL("drop role {}").format(role))


def _slot(owner: str) -> str:
    """The slot of a test's source has the name of its database: a slot's name is the server's."""
    return urlsplit(owner).path.removeprefix("/")


def fence(connection: psycopg.Connection[Any]) -> int:
    """A WAL position that every commit so far is below; a commit of no row follows it, so that a follower passes it."""
    found = connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    connection.execute("select pg_logical_emit_message(true, 'fence', '')")
    assert found
    return int(found[0])
