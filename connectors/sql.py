"""Deliver to a table of another database: a row for each document, written anew with each version, gone with a delete.

A column of the table has the version, so that an older one never overwrites a newer one, whichever comes first. That
also makes it safe that the same delivery comes twice.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any, Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchTableError, SQLAlchemyError

from connectors.redaction import Redactor
from hub.connector import MAY_SEND, ConnectorKind, System, Trial
from hub.delivery import Message, Outcome, OutcomeKind
from hub.project import Limits

CLOUD_EVENT = "application/cloudevents+json"
DRIVERS = {"postgresql": "postgresql+psycopg", "postgresql+psycopg": "postgresql+psycopg", "sqlite": "sqlite"}

Row = Mapping[str, msgspec.Raw]  # by column: the value as JSON, all digits of its numbers kept


class SqlSettings(msgspec.Struct, frozen=True):
    url: str
    table: str  # with its schema where that is not the connection's own
    key: str | list[str]  # the columns that have the document's key, in its order; unique together
    version: str = "hub_version"  # the integer column that has the document's version
    deleted: str = ""  # a boolean column that a delete sets, instead of removing the row

    @property
    def keys(self) -> list[str]:
        return [self.key] if isinstance(self.key, str) else self.key


class NoRow(Exception):
    """The body does not fit the table. One sentence with the remedy."""


class _Event(msgspec.Struct):
    data: "_Data"


class _Data(msgspec.Struct):
    document: dict[str, msgspec.Raw] | None


class Dialect(Protocol):
    """How a kind of database takes rows: the same effect in each."""

    def upsert(self, connection: sa.Connection, columns: Sequence[str], rows: Sequence[Row]) -> None: ...

    def remove(self, connection: sa.Connection, rows: Sequence[Row]) -> None: ...


class SqlConnector:
    batch = 500

    def __init__(self, settings: SqlSettings, limits: Limits) -> None:
        url = _url(settings.url)
        self._settings = settings
        self._redacted = Redactor([url.password or ""])
        self._engine = _engine(url, limits)
        self._threads = ThreadPoolExecutor(limits.concurrency, "sql")
        names = _Names(settings, self._engine)
        self._dialect: Dialect = _Sqlite(names) if url.get_backend_name() == "sqlite" else _Postgres(names)
        self._columns: frozenset[str] = frozenset()  # of the table; empty: not looked at yet

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        # A write whose time is over goes on in its thread; the version keeps it from undoing what comes after it.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, copy_context().run, self._deliver, messages)

    def _deliver(self, messages: Sequence[Message]) -> list[Outcome]:
        """In one transaction."""
        try:
            self._write(messages)
        except (NoRow, SQLAlchemyError) as error:
            self._columns = frozenset()  # whoever mends the table is seen at the next attempt
            fault = Outcome(outcome_of(error), self._redacted(_detail(error)), whole=len(messages) > 1)
            return [fault] * len(messages)
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)

    def _write(self, messages: Sequence[Message]) -> None:
        with self._engine.begin() as connection:
            columns = self._columns = self._columns or self._look(connection)
            newest: dict[str, Message] = {}
            for message in sorted(messages, key=lambda one: one.version):
                newest[message.key] = message
            rows: dict[tuple[str, ...], list[Row]] = defaultdict(list)
            gone: list[Row] = []
            for message in newest.values():
                if message.event == "deleted":
                    gone.append(self._identity(message))
                else:
                    row = self._row(message, columns)
                    rows[tuple(sorted(row))].append(row)
            for names, same in rows.items():
                self._dialect.upsert(connection, names, same)
            if gone:
                self._dialect.remove(connection, gone)
            MAY_SEND.get()()  # else all of it is rolled back

    def _look(self, connection: sa.Connection) -> frozenset[str]:
        """The table's columns. NoSuchTableError when there is none, or it lacks one that the settings name."""
        settings = self._settings
        schema, table = _split(settings.table)
        found = frozenset(column["name"] for column in sa.inspect(connection).get_columns(table, schema))
        for name in (*settings.keys, settings.version, *filter(None, [settings.deleted])):
            if name not in found:
                raise NoSuchTableError(f"The table {settings.table} has no column {name!r}.")
        return found

    def _row(self, message: Message, columns: frozenset[str]) -> Row:
        """The body's fields, or the document's as far as the table has columns for them; key and version beside."""
        if message.content_type == CLOUD_EVENT:
            document = _document(message)
            fields = {name: value for name, value in document.items() if name in columns}
        else:
            fields = _body(message)
            for name in fields:
                if name not in columns:
                    raise NoSuchTableError(f"The table {self._settings.table} has no column {name!r}.")
        mark = {self._settings.deleted: msgspec.Raw(b"false")} if self._settings.deleted else {}
        return {**fields, **mark, **self._identity(message)}

    def _identity(self, message: Message) -> Row:
        keys = self._settings.keys
        values = [message.key] if len(keys) == 1 else _composite(message.key)
        if len(values) != len(keys):
            raise NoRow(f"The key {message.key} has {len(values)} parts, `key` names {len(keys)} columns.")
        encoded = {name: _raw(value) for name, value in zip(keys, values, strict=True)}
        return {**encoded, self._settings.version: _raw(message.version)}

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._engine.dispose)


class _Names:
    """Quoted names, and the SQL that both dialects share."""

    def __init__(self, settings: SqlSettings, engine: sa.Engine) -> None:
        self._prepare = engine.dialect.identifier_preparer
        schema, table = _split(settings.table)
        self.table = ".".join(map(self.quote, filter(None, (schema, table))))
        self.keys = [self.quote(name) for name in settings.keys]
        self.key_names = settings.keys
        self.version = self.quote(settings.version)
        self.version_name = settings.version
        self.deleted = self.quote(settings.deleted) if settings.deleted else ""

    def quote(self, name: str) -> str:
        return self._prepare.quote(name)

    def on_conflict(self, columns: Sequence[str]) -> str:
        """What an INSERT INTO … AS existing does where the row is there: an older version leaves it alone."""
        changed = [self.quote(name) for name in columns if name not in self.key_names]
        assigned = ", ".join(f"{name} = excluded.{name}" for name in changed)
        return f"ON CONFLICT ({', '.join(self.keys)}) DO UPDATE SET {assigned} WHERE {self.fence('excluded')}"

    def fence(self, new: str) -> str:
        return f"(existing.{self.version} IS NULL OR existing.{self.version} <= {new}.{self.version})"


class _Postgres:
    """Rows as one JSON text, which the server reads by the table's own types."""

    def __init__(self, names: _Names) -> None:
        self._names = names
        self._rows = f"json_populate_recordset(CAST(NULL AS {names.table}), CAST(%s AS json))"

    def upsert(self, connection: sa.Connection, columns: Sequence[str], rows: Sequence[Row]) -> None:
        listed = ", ".join(map(self._names.quote, columns))
        self._run(
            connection,
            f"INSERT INTO {self._names.table} AS existing ({listed}) SELECT {listed} FROM {self._rows} "
            f"{self._names.on_conflict(columns)}",
            rows,
        )

    def remove(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        names = self._names
        same = " AND ".join(f"existing.{key} = gone.{key}" for key in names.keys)
        where = f"WHERE {same} AND {names.fence('gone')}"
        if names.deleted:
            marked = f"{names.deleted} = true, {names.version} = gone.{names.version}"
            statement = f"UPDATE {names.table} AS existing SET {marked} FROM {self._rows} AS gone {where}"
        else:
            statement = f"DELETE FROM {names.table} AS existing USING {self._rows} AS gone {where}"
        self._run(connection, statement, rows)

    @staticmethod
    def _run(connection: sa.Connection, statement: str, rows: Sequence[Row]) -> None:
        connection.exec_driver_sql(statement, (msgspec.json.encode(rows).decode(),))


class _Sqlite:
    """Rows one by one: texts, numbers, booleans as 0 and 1, lists and objects as JSON."""

    def __init__(self, names: _Names) -> None:
        self._names = names

    def upsert(self, connection: sa.Connection, columns: Sequence[str], rows: Sequence[Row]) -> None:
        listed = ", ".join(map(self._names.quote, columns))
        marks = ", ".join("?" * len(columns))
        statement = (
            f"INSERT INTO {self._names.table} AS existing ({listed}) VALUES ({marks}) "
            f"{self._names.on_conflict(columns)}"
        )
        connection.exec_driver_sql(statement, [tuple(_plain(row[name]) for name in columns) for row in rows])

    def remove(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        names = self._names
        same = " AND ".join(f"{key} = ?" for key in names.keys)
        where = f"WHERE {same} AND ({names.version} IS NULL OR {names.version} <= ?)"
        keys = [(*(_plain(row[key]) for key in names.key_names), _plain(row[names.version_name])) for row in rows]
        if names.deleted:
            statement = f"UPDATE {names.table} SET {names.deleted} = 1, {names.version} = ? {where}"
            connection.exec_driver_sql(statement, [(key[-1], *key) for key in keys])
        else:
            connection.exec_driver_sql(f"DELETE FROM {names.table} {where}", keys)


def outcome_of(error: Exception) -> OutcomeKind:
    """What a fault means, by the class of its SQLSTATE.

    22, 23: the values, or a constraint on them    refused
    40, 55, 57014: another transaction, a time-out    retry by the schedule
    the connection, the login, the table, its columns    held: the destination's, whatever the document
    """
    if isinstance(error, NoRow | IntegrityError):
        return OutcomeKind.REFUSED
    if not isinstance(error, DBAPIError):
        return OutcomeKind.HELD
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if state[:2] in ("22", "23"):
        return OutcomeKind.REFUSED
    if state[:2] in ("40", "55") or state == "57014" or "database is locked" in str(error.orig):
        return OutcomeKind.RETRY
    return OutcomeKind.HELD


def _detail(error: Exception) -> str:
    """The database's own first line, without the statement and its parameters."""
    if isinstance(error, DBAPIError):
        return str(error.orig).strip().partition("\n")[0]
    return str(error)


def _document(message: Message) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(message.content, type=_Event).data.document or {}
    except msgspec.DecodeError as error:
        raise NoRow(f"The event has no document: {error}.") from error


def _body(message: Message) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(message.content, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise NoRow("The body is no row. Give the subscription a `body:` that is a map of columns.") from error


def _composite(key: str) -> list[Any]:
    try:
        return msgspec.json.decode(key, type=list[Any])
    except msgspec.DecodeError:
        return [key]


def _raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def _plain(value: msgspec.Raw) -> Any:
    decoded = msgspec.json.decode(value)
    return bytes(value).decode() if isinstance(decoded, dict | list) else decoded


def _split(table: str) -> tuple[str | None, str]:
    schema, dot, name = table.rpartition(".")
    return (schema, name) if dot else (None, table)


def _url(text: str) -> sa.URL:
    """ArgumentError when it is none, or of a kind of database that is not known."""
    url = sa.make_url(text)
    if url.drivername not in DRIVERS:
        raise ArgumentError(url.drivername)
    return url.set(drivername=DRIVERS[url.drivername])


def _engine(url: sa.URL, limits: Limits) -> sa.Engine:
    if url.get_backend_name() == "sqlite":
        return sa.create_engine(url, connect_args={"timeout": limits.timeout / 2})
    settings = {
        "application_name": "hub",
        "connect_timeout": max(2, int(limits.timeout)),
        "options": f"-c statement_timeout={int(limits.timeout * 1000)}",
    }
    return sa.create_engine(
        url, pool_size=limits.concurrency, max_overflow=0, pool_pre_ping=True, connect_args=settings
    )


def check(settings: SqlSettings) -> str | None:
    """What is wrong with the values, one sentence with the remedy."""
    try:
        url = _url(settings.url)
    except ArgumentError:
        return "`url` is no database's. Write postgresql://user:password@host/database, or sqlite:///PATH."
    if not url.database:
        return "`url` names no database. Write postgresql://user:password@host/database, or sqlite:///PATH."
    named = [*settings.keys, settings.version, *filter(None, [settings.deleted])]
    if not settings.keys or not all(named):
        return "`key` or `version` names no column. Name the table's columns."
    if len(set(named)) < len(named):
        return "`key`, `version` and `deleted` name a column twice. Each needs its own."
    return None if all(settings.table.split(".")) else "`table` names no table. Write orders, or sales.orders."


@asynccontextmanager
async def _a_database(directory: Path) -> AsyncIterator[System]:
    """SQLite's, with a table."""
    url = f"sqlite:///{directory / 'kit.db'}"
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE documents (id text PRIMARY KEY, name text, hub_version bigint)")

        def has(key: str) -> bool:
            with engine.connect() as connection:
                return bool(connection.execute(sa.text("SELECT 1 FROM documents WHERE id = :key"), {"key": key}).all())

        yield System({"url": url}, has)
    finally:
        engine.dispose()


CONNECTOR = ConnectorKind(
    SqlSettings,
    SqlConnector,
    check,
    about="a table of another Postgres or SQLite, a row a document",
    trial=Trial(
        {"url": "postgresql://hub:kit-secret@{host}:{port}/kit", "table": "documents", "key": "id"},
        {"name": "{key}"},
        system=_a_database,
    ),
)
