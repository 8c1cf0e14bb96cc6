"""The statements of capture on row images, and how many rows are written at once.

Reads go by lists of keys, writes by lists of rows, each one driver call: SQLAlchemy's cost per row stays off this
path. The two dialects differ in how a list becomes a table, and in nothing else: SQLite's driver runs a statement for
each row, in this process; Postgres gets one statement with an array for each column, or COPY.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from hub.capture.images import View, encode_image
from hub.store.tables import metadata

Rows = Sequence[tuple[Any, ...]]

_TYPES: dict[type[Any], str] = {
    sa.SmallInteger: "smallint",
    sa.Integer: "integer",
    sa.BigInteger: "bigint",
    sa.Text: "text",
    sa.LargeBinary: "bytea",
}


class Statements:
    """SQL texts of one dialect."""

    def __init__(self, sqlite: bool) -> None:
        self.sqlite = sqlite
        mark = "?" if sqlite else "%s"
        self.mark = mark
        self.rows = self.look_up("r.key, r.run, r.image", "row_image", f"r.table_id = {mark} AND r.key = w.value")
        self.references = (
            self.look_up("r.value, r.row_key", "row_reference", f"r.lookup_id = {mark} AND r.value = w.value")
            + f" LIMIT {mark}"
        )
        newest = f"(SELECT max(n.version) FROM document n WHERE n.entity_id = {mark} AND n.key = w.value)"
        self.heads = self.look_up(
            "r.key, r.version, r.body",
            "document",
            f"r.entity_id = {mark} AND r.key = w.value AND r.version = {newest}",
        )
        self.items = (
            "SELECT i.fan_out_id, i.node, i.key, i.cursor FROM json_each(?) w CROSS JOIN fan_out_item i "
            "WHERE i.entity_id = ? AND i.node = json_extract(w.value, '$[0]') AND i.key = json_extract(w.value, '$[1]')"
            if sqlite
            else "SELECT i.* FROM unnest(%b::smallint[], %b::text[]) AS w(node, key) CROSS JOIN LATERAL ("
            "SELECT fan_out_id, node, key, cursor FROM fan_out_item "
            "WHERE entity_id = %s AND node = w.node AND key = w.key OFFSET 0) i"
        )

    def look_up(self, columns: str, table: str, where: str) -> str:
        """One look-up in the index for each key: Postgres would rather read a table whole that it deems small, and
        may have planned the statement when it was.
        """
        if self.sqlite:
            return f"SELECT {columns} FROM json_each({self.mark}) w CROSS JOIN {table} r WHERE {where}"
        each = "unnest(%b::text[]) AS w(value)"
        return f"SELECT {columns} FROM {each} CROSS JOIN LATERAL (SELECT * FROM {table} r WHERE {where} OFFSET 0) r"

    def keys(self, keys: Collection[str] | Collection[int]) -> Any:
        """The parameter that stands for a list."""
        return msgspec.json.encode(list(keys)).decode() if self.sqlite else list(keys)

    def pairs(self, pairs: Collection[tuple[int, str]]) -> tuple[Any, ...]:
        """The parameters that stand for (number, text) pairs."""
        if self.sqlite:
            return (msgspec.json.encode(list(pairs)).decode(),)
        return [number for number, _ in pairs], [text for _, text in pairs]

    def insert(self, table: str, columns: Sequence[str], conflict: str = "") -> str:
        """For `write_many`."""
        names = ", ".join(f'"{column}"' for column in columns)
        rows = f"SELECT * FROM {_unnest(table, columns)}"
        if self.sqlite:
            rows = f"VALUES ({', '.join('?' * len(columns))})"
        return f"INSERT INTO {table} ({names}) {rows} {conflict}".rstrip()

    def delete(self, table: str, columns: Sequence[str]) -> str:
        """For `write_many`."""
        if self.sqlite:
            return f"DELETE FROM {table} WHERE " + " AND ".join(f"{column} = ?" for column in columns)
        return f"DELETE FROM {table} WHERE ctid IN ({_places(table, columns)})"

    def lock(self, table: str, columns: Sequence[str]) -> str:
        """For `write_many`, before it changes rows that others change too: in the order of `seq`, so that no two who
        change the same ones wait for each other. Postgres only: a writer on SQLite is alone.
        """
        return f"SELECT seq FROM {table} WHERE ctid IN ({_places(table, columns)}) ORDER BY seq FOR UPDATE"


def _places(table: str, columns: Sequence[str]) -> str:
    """Where the rows are whose columns have the values of a row of arrays: one look-up in the index for each."""
    same = " AND ".join(f"{column} = w.{column}" for column in columns)
    each = f"{_unnest(table, columns)} AS w({', '.join(columns)})"
    return f"SELECT r.ctid FROM {each} CROSS JOIN LATERAL (SELECT ctid FROM {table} WHERE {same} OFFSET 0) r"


def _unnest(table: str, columns: Sequence[str]) -> str:
    """Arrays as a table. In binary: as text, the driver would take twice as long over them."""
    return f"unnest({', '.join(f'%b::{_type(table, column)}[]' for column in columns)})"


def _type(table: str, column: str) -> str:
    """A column's type in Postgres."""
    return _TYPES[type(metadata.tables[table].c[column].type)]


def statements(connection: sa.Connection) -> Statements:
    return _SQLITE if connection.dialect.name == "sqlite" else _POSTGRES


_SQLITE = Statements(sqlite=True)
_POSTGRES = Statements(sqlite=False)


class StoredImages:
    """hub.capture.images.ImageReader on one connection, and the heads of documents."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._sql = statements(connection)

    def rows(self, table_id: int, keys: Collection[str]) -> Iterable[tuple[str, int, bytes]]:
        return self._all(self._sql.rows, (self._sql.keys(keys), table_id))

    def references(self, lookup_id: int, values: Collection[str], limit: int) -> Sequence[tuple[str, str]]:
        return self._all(self._sql.references, (self._sql.keys(values), lookup_id, limit))

    def heads(self, entity_id: int, keys: Collection[str]) -> Iterable[tuple[str, int, bytes | None]]:
        """(key, version, body) of the newest version of each document."""
        return self._all(self._sql.heads, (self._sql.keys(keys), entity_id, entity_id))

    def _all(self, sql: str, parameters: tuple[Any, ...]) -> Sequence[Any]:
        return self._connection.exec_driver_sql(sql, parameters).fetchall()


def write_many(connection: sa.Connection, sql: str, rows: Rows) -> None:
    """`sql` as of `Statements.insert` or `delete`. Where it resolves conflicts, no two rows may be of one key."""
    if not rows:
        return
    if statements(connection).sqlite:
        connection.exec_driver_sql(sql, list(rows))
    else:
        connection.exec_driver_sql(sql, tuple(map(list, zip(*rows, strict=True))))


_UPSERT_IMAGE = "ON CONFLICT (table_id, key) DO UPDATE SET run = excluded.run, image = excluded.image"


class ViewRows(NamedTuple):
    """What changed in a view, as the rows of statements."""

    upserts: Rows  # (table id, key, run, image)
    deletes: Rows  # (table id, key)
    joined: Rows  # (lookup id, value, row key)
    parted: Rows


def view_rows(view: View, run: int, late: Collection[str] = ()) -> ViewRows:
    """Images as bytearrays: SQLite's driver looks for an adapter for each value that is bytes.

    `late`: tables whose images are written later; those of deleted rows go now.
    """
    upserts: list[tuple[Any, ...]] = []
    deletes: list[tuple[Any, ...]] = []
    for table, changed in view.changed.items():
        table_id = view.layout.tables[table].id
        if table not in late:
            upserts += [
                (table_id, key, run, bytearray(encode_image(row))) for key, row in changed.items() if row is not None
            ]
        deletes += [(table_id, key) for key, row in changed.items() if row is None]
    joined: list[tuple[Any, ...]] = []
    parted: list[tuple[Any, ...]] = []
    for lookup_id, moved in view.moved.items():
        for (value, key), is_joined in moved.items():
            (joined if is_joined else parted).append((lookup_id, value, key))
    return ViewRows(upserts, deletes, joined, parted)


def write_view(connection: sa.Connection, rows: ViewRows) -> None:
    sql = statements(connection)
    images = ("table_id", "key", "run", "image")
    references = ("lookup_id", "value", "row_key")
    write_many(connection, sql.insert("row_image", images, _UPSERT_IMAGE), rows.upserts)
    write_many(connection, sql.delete("row_image", ("table_id", "key")), rows.deletes)
    write_many(connection, sql.insert("row_reference", references, "ON CONFLICT DO NOTHING"), rows.joined)
    write_many(connection, sql.delete("row_reference", references), rows.parted)


_DOCUMENT = (
    "entity_id", "key", "version", "event", "cause", "lsn", "transaction", "committed_at", "made_at", "body", "merged",
)  # fmt: skip
_DELIVERY = (
    "subscription_id", "entity_id", "key", "version", "before_version", "turn", "event", "cause", "state", "due_at",
    "attempts", "created_at", "reason",
)  # fmt: skip


def write_documents(connection: sa.Connection, documents: Rows, deliveries: Rows) -> None:
    """`documents` in the order of _DOCUMENT, `deliveries` in that of _DELIVERY."""
    append(connection, "document", _DOCUMENT, documents)
    append(connection, "delivery", _DELIVERY, deliveries)


def append(connection: sa.Connection, table: str, columns: Sequence[str], rows: Rows) -> None:
    """Add rows whose last column is rarely there: a None costs SQLite's driver more than all other values together.

    Postgres takes them by COPY: in a third less time than as arrays for hundreds of rows, in the same for one or two.
    (What has to be merged gains nothing by it: a temporary table costs what COPY saves.)
    """
    if all(row[-1] is None for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    if statements(connection).sqlite:
        write_many(connection, statements(connection).insert(table, columns), rows)
    elif rows:
        _copy(connection, table, columns, rows)


def _copy(connection: sa.Connection, table: str, columns: Sequence[str], rows: Rows) -> None:
    names = ", ".join(f'"{column}"' for column in columns)
    sql = f"COPY {table} ({names}) FROM STDIN (FORMAT BINARY)"
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor() as cursor, cursor.copy(sql) as copy:
            copy.set_types([_type(table, column) for column in columns])
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(sql, None, error, psycopg.Error) from error
