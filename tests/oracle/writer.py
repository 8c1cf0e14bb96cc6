"""Random transactions over a schema, as an application that knows nothing of the hub would make them."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import psycopg

from tests.oracle.schema import Column, ForeignKey, Schema, Table, names, quote

ROWS = 10  # beyond this many rows in a table, deletes become likelier than inserts
REFUSED = (
    psycopg.IntegrityError,
    psycopg.errors.StringDataRightTruncation,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.LockNotAvailable,
    psycopg.errors.TriggeredDataChangeViolation,
)

Row = tuple[str, ...]  # a key's values as text


@dataclass(frozen=True)
class Commit:
    """A transaction that has been committed."""

    transaction: int  # the low 32 bits of its id; 0 when it wrote nothing
    truncated: bool
    statements: tuple[str, ...]  # all that were tried, for the message of a failure


class _RolledBack(Exception):
    """A transaction or a savepoint ends without effect, on purpose."""


@dataclass
class Writer:
    """One session that writes. Values are drawn from its own seed."""

    connection: psycopg.Connection[Any]
    schema: Schema
    seed: str
    truncates: bool = True
    rng: Random = field(init=False)
    statements: list[str] = field(default_factory=list, init=False)
    truncated: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.rng = Random(f"writer {self.seed}")
        self.connection.execute("set lock_timeout = '2s'")
        self.connection.autocommit = True

    def fill(self) -> None:
        """The rows that are there before the hub is."""
        for _ in range(3):
            for table in self.schema.tables:
                for _ in range(self.rng.randint(1, 3)):
                    with suppress(*REFUSED), self.connection.transaction():
                        self._insert(table)

    def commit(self) -> Commit | None:
        """One random transaction; None when it was rolled back."""
        self.statements, self.truncated = [], False
        careful = self.rng.random() < 0.75  # a savepoint around each statement, so that a refusal costs only that
        try:
            with self.connection.transaction():
                for _ in range(self.rng.choice((1, 1, 2, 3, 5))):
                    self._step(careful)
                if self.rng.random() < 0.08:
                    raise _RolledBack
                found = self.connection.execute("select pg_current_xact_id_if_assigned()::text").fetchone()
        except (_RolledBack, *REFUSED):
            return None
        transaction = int(found[0] or 0) % 2**32 if found else 0
        return Commit(transaction, self.truncated, tuple(self.statements))

    def _step(self, careful: bool) -> None:
        table = self.rng.choice(self.schema.tables)
        action = self._action(table)
        if not careful:
            action(table)
            return
        with suppress(_RolledBack, *REFUSED), self.connection.transaction():
            action(table)
            if self.rng.random() < 0.1:
                self.statements.append("rollback to savepoint")
                raise _RolledBack

    def _action(self, table: Table) -> Callable[[Table], None]:
        if self.truncates and self.rng.random() < 0.004:
            return self._truncate
        rows = self._count(table)
        if rows < 3 and self.rng.random() < 0.5:
            return self._insert
        many = rows > ROWS
        weights = {
            self._insert: 4 if many else 8,
            self._update: 10,
            self._update_all: 1,
            self._nothing: 2,
            self._move: 6,
            self._change_key: 3,
            self._delete: 7 if many else 3,
            self._delete_and_insert: 2,
            self._soft_delete: 3 if table.soft_delete else 0,
            self._upsert: 2,
        }
        return self.rng.choices(list(weights), list(weights.values()))[0]

    # What an application does.

    def _insert(self, table: Table) -> None:
        for _ in range(self.rng.choice((1, 1, 1, 3))):
            self._insert_row(table, self._row(table))

    def _update(self, table: Table) -> None:
        free = [column for column in self._data(table) if self.rng.random() < 0.4] or self._data(table)[:1]
        for key in self._some(table):
            self._set(table, key, {column.name: self._value(column) for column in free})

    def _update_all(self, table: Table) -> None:
        if any(column.name == "position" for column in table.columns):
            self._execute(f"update {table.sql} set position = least(coalesce(position, 0), 1000) + 1")

    def _nothing(self, table: Table) -> None:
        column = quote(self.rng.choice(table.columns).name)
        self._execute(f"update {table.sql} set {column} = {column}")

    def _move(self, table: Table) -> None:
        if table.foreign_keys:
            foreign = self.rng.choice(table.foreign_keys)
            for key in self._some(table):
                self._set(table, key, self._target(table, foreign))

    def _change_key(self, table: Table) -> None:
        columns = table.unique if table.unique and self.rng.random() < 0.4 else table.primary_key
        if table.link:
            return self._move(table)
        for key in self._some(table, most=1):
            fresh = {name: self._value(table.column(name), fill=True) for name in columns}
            self._set(table, key, fresh if self.rng.random() < 0.6 else dict([fresh.popitem()]))
        return None

    def _delete(self, table: Table) -> None:
        for key in self._some(table):
            self._execute(f"delete from {table.sql} where {_matches(table.primary_key)}", key)

    def _delete_and_insert(self, table: Table) -> None:
        """The row goes and comes again in one transaction, as it was or changed."""
        for key in self._some(table, most=1):
            columns = names(tuple(column.name for column in table.columns))
            where = _matches(table.primary_key)
            texts = ", ".join(f"{quote(column.name)}::text" for column in table.columns)
            found = self.connection.execute(f"select {texts} from {table.sql} where {where}".encode(), key).fetchone()
            if found:
                self._execute(f"delete from {table.sql} where {where}", key)
                self._execute(f"insert into {table.sql} ({columns}) values ({_places(len(found))})", found)
                if self.rng.random() < 0.5:
                    column = self.rng.choice(self._data(table))
                    self._set(table, key, {column.name: self._value(column)})

    def _soft_delete(self, table: Table) -> None:
        for key in self._some(table):
            value = "2024-05-06 07:08:09+00" if self.rng.random() < 0.6 else None
            self._set(table, key, {table.soft_delete: value})

    def _upsert(self, table: Table) -> None:
        row = self._row(table)
        for key in self._some(table, most=1):
            row |= dict(zip(table.primary_key, key, strict=True))
        updates = ", ".join(f"{quote(c.name)} = excluded.{quote(c.name)}" for c in self._data(table)[:2])
        self._insert_row(table, row, f" on conflict ({names(table.primary_key)}) do update set {updates}")

    def _truncate(self, table: Table) -> None:
        self.truncated = True
        self._execute(f"truncate {table.sql} cascade")

    # What the actions are made of.

    def _row(self, table: Table) -> dict[str, str | None]:
        row = {column.name: self._value(column) for column in table.columns}
        for foreign in table.foreign_keys:
            row |= self._target(table, foreign)
        if table.soft_delete and self.rng.random() < 0.85:
            row[table.soft_delete] = None
        return row

    def _data(self, table: Table) -> list[Column]:
        """The columns that are part of no key; in a link without any, those that are."""
        keys = {*table.primary_key, *table.unique, *(c for key in table.foreign_keys for c in key.columns)}
        return [column for column in table.columns if column.name not in keys] or list(table.columns)

    def _value(self, column: Column, *, fill: bool = False) -> str | None:
        if not column.not_null and not fill and self.rng.random() < 0.2:
            return None
        return column.type.value(self.rng)

    def _target(self, table: Table, foreign: ForeignKey) -> dict[str, str | None]:
        """Values for a foreign key: usually those of a row there is, now and then null, or dangling where they may."""
        optional = not any(table.column(name).not_null for name in foreign.columns)
        if optional and self.rng.random() < 0.12:
            return dict.fromkeys(foreign.columns)
        if not foreign.enforced and self.rng.random() < 0.3:
            return {name: self._value(table.column(name), fill=True) for name in foreign.columns}
        found = self._keys(self.schema.table(foreign.table), foreign.references)
        if not found:
            return {} if not optional else dict.fromkeys(foreign.columns)
        return dict(zip(foreign.columns, self.rng.choice(found), strict=True))

    def _some(self, table: Table, most: int = 3) -> list[Row]:
        """The primary keys of one or more rows, none when the table is empty."""
        found = self._keys(table, table.primary_key)
        return self.rng.sample(found, min(len(found), self.rng.randint(1, most)))

    def _keys(self, table: Table, columns: tuple[str, ...]) -> list[Row]:
        texts = ", ".join(f"{quote(name)}::text" for name in columns)
        order = ", ".join(f'{quote(name)}::text collate "C"' for name in columns)
        return self.connection.execute(f"select {texts} from {table.sql} order by {order}".encode()).fetchall()

    def _count(self, table: Table) -> int:
        found = self.connection.execute(f"select count(*) from {table.sql}".encode()).fetchone()
        return int(found[0]) if found else 0

    def _insert_row(self, table: Table, row: dict[str, str | None], conflict: str = "") -> None:
        places = _places(len(row))
        self._execute(f"insert into {table.sql} ({names(tuple(row))}) values ({places}){conflict}", tuple(row.values()))

    def _set(self, table: Table, key: Row, row: dict[str, str | None]) -> None:
        if row:
            new = ", ".join(f"{quote(name)} = %s" for name in row)
            self._execute(f"update {table.sql} set {new} where {_matches(table.primary_key)}", (*row.values(), *key))

    def _execute(self, statement: str, values_: tuple[str | None, ...] = ()) -> None:
        self.statements.append(f"{statement}  {[_short(value) for value in values_]}")
        self.connection.execute(statement.encode() if values_ else statement.replace("%", "%%").encode(), values_)


def _matches(columns: tuple[str, ...]) -> str:
    return " and ".join(f"{quote(name)} = %s" for name in columns)


def _places(count: int) -> str:
    return ", ".join(["%s"] * count)


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) < 60 else f"{value[:20]}… ({len(value)} characters)"
