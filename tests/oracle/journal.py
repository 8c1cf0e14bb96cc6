"""What the hub says: the journal, read by plain SQL from its store, SQLite or Postgres."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg

EVENTS = ("created", "updated", "deleted")
CAUSES = ("row", "filter", "snapshot", "resync", "backfill", "replay")
VERSIONS = (
    'select n.name, d.key, d.version, d.event, d.cause, d.lsn, d."transaction", d.merged, d.body '
    "from document d join name n on n.id = d.entity_id order by d.seq"
)


@dataclass(frozen=True)
class Version:
    entity: str
    key: str
    version: int
    event: str
    cause: str
    lsn: int
    transaction: int
    merged: tuple[int, ...]
    body: str | None


def select(store: str, statement: str) -> Sequence[tuple[Any, ...]]:
    """The rows that `statement` returns from the store at `store`, an SQLAlchemy URL."""
    if store.startswith("sqlite:///"):
        with closing(sqlite3.connect(f"file:{store.removeprefix('sqlite:///')}?mode=ro", uri=True, timeout=30)) as file:
            return file.execute(statement).fetchall()
    with psycopg.connect(store.replace("+psycopg", "", 1)) as connection:
        return connection.execute(statement.encode()).fetchall()


def change(store: str, statement: str, values: Sequence[Any]) -> None:
    """Alter a store by hand, as nobody should; `?` in the statement stands for a value."""
    if not store.startswith("sqlite:///"):
        with psycopg.connect(store.replace("+psycopg", "", 1)) as connection:
            connection.execute(statement.replace("?", "%s").encode(), values)
        return
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"), timeout=30)) as file, file:
        file.execute(statement, values)


def versions(store: str) -> list[Version]:
    """The whole journal, in its own order."""
    return [
        Version(
            entity, key, version, EVENTS[event], CAUSES[cause], lsn, transaction,
            tuple(json.loads(merged or "[]")), None if body is None else bytes(body).decode(),
        )
        for entity, key, version, event, cause, lsn, transaction, merged, body in select(store, VERSIONS)
    ]  # fmt: skip


def settled(store: str, lsn: int) -> bool:
    """Whether every stream has applied the source's commits up to `lsn` and no fan-out is pending.

    Not while there is no store so far, or it is away.
    """
    try:
        streams = select(store, "select position, state from stream")
        pending = select(store, "select count(*) from fan_out")[0][0]
    except (sqlite3.OperationalError, psycopg.OperationalError, psycopg.errors.UndefinedTable):
        return False
    return bool(streams) and not pending and all(state == "streaming" and at >= lsn for at, state in streams)


def parse(text: str) -> Any:
    """JSON with every digit of its numbers."""
    return json.loads(text, parse_float=Decimal)
