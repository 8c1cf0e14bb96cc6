"""`hub store copy`: all that a store holds into an empty one, of either kind.

Every row keeps its numbers and the store its identity, so positions, pending fan-outs, the place up to which row images
follow the journal, and delivery ids mean in the copy what they meant before. All rows come in one transaction of the
target; the old store is then marked, and refuses to run.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from hub.errors import FaultError, InputError, OutsideError
from hub.locks import hold_all
from hub.store import tables
from hub.store.database import Store
from hub.store.images import statements, write_many
from hub.store.migrate import create_if_missing, require_newest, revisions, stored_revision, upgrade
from hub.store.workers import living

PAGE = 500  # rows in memory at once; a document may be large

# Who dispatches from a store is no concern of its copy.
TABLES = [
    table for table in tables.metadata.sorted_tables if table not in (tables.dispatch_worker, tables.dispatch_slice)
]

# How a column's values cross to Postgres in COPY's binary form.
_COPIED_AS = {sa.BigInteger: "int8", sa.Integer: "int4", sa.SmallInteger: "int2", sa.Text: "text",
              sa.LargeBinary: "bytea"}  # fmt: skip

_PATIENTLY = "SET LOCAL idle_in_transaction_session_timeout = 0"  # one side waits while the other counts

Row = Sequence[Any]


def copy_store(source: Store, target: Store, copied: Callable[[str, int], None]) -> None:
    """Copy all rows, and mark the source. `copied`: is told of each table and how many rows it has.

    InputError when the target holds anything. OutsideError when a role runs on one of the two, or a database refuses.
    FaultError when a row cannot be kept as it is; the target then is as empty as it was.
    """
    _prepare(target)
    source.identity()  # of a store that nobody has asked for it yet
    roles = _roles(source)
    _require_no_workers(source)
    _require_no_workers(target)
    with hold_all(source, roles), hold_all(target, roles), _at_rest(source) as reading:
        with target.write() as writing:
            if not target.is_sqlite:
                writing.exec_driver_sql(_PATIENTLY)
            for table in TABLES:
                copied(table.name, _copy_table(reading, writing, table, target.place))
        reading.execute(tables.identity.update().values(moved_to=target.place))


def run_again(store: Store) -> str | None:
    """Take the mark off a store that was copied; the copy that this gives up, None when there was no mark."""
    require_newest(stored_revision(store), revisions(), store.place)
    with store.write() as connection:
        copy: str | None = connection.execute(sa.select(tables.identity.c.moved_to)).scalar()
        connection.execute(tables.identity.update().values(moved_to=None))
    return copy


def _prepare(target: Store) -> None:
    """Make the target's tables, or bring them to this version. InputError when it holds anything."""
    there = not target.is_sqlite or target.path.exists()
    if there and stored_revision(target) is None:
        with target.read() as connection:
            others = sorted(sa.inspect(connection).get_table_names())
        if others:
            raise InputError(
                f"The database {target.place} has tables of somebody else's: {', '.join(others[:5])}.",
                "Give the store a database of its own.",
            )
    if not create_if_missing(target):
        upgrade(target)
    with target.read() as connection:
        counts = {table.name: _count(connection, table) for table in TABLES}
    held = [f"{count} of {name}" for name, count in counts.items() if count]
    if held:
        raise InputError(
            f"The store {target.place} is not empty, it holds rows: {', '.join(held)}.",
            "Copy to an empty one, or drop what is there.",
        )


def _roles(store: Store) -> list[str]:
    """All that may write to the store on their own."""
    query = sa.select(tables.name.c.name).where(tables.name.c.kind == "stream").order_by(tables.name.c.name)
    with store.read() as connection:
        streams = connection.execute(query).scalars().all()
    return ["run", "dispatch", *(f"capture {stream}" for stream in streams)]


def _require_no_workers(store: Store) -> None:
    """On Postgres dispatch has no lock: its workers have leases."""
    if not store.is_sqlite and (workers := living(store)):
        raise OutsideError(f"The dispatch of this store is running: {'; '.join(workers)}.", "Stop it first.")


@contextmanager
def _at_rest(store: Store) -> Iterator[sa.Connection]:
    """A transaction that sees one state of the store, which no other command changes before it ends."""
    with store.write() as connection:
        if not store.is_sqlite:
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            connection.exec_driver_sql(_PATIENTLY)
            names = ", ".join(f'"{table.name}"' for table in TABLES)
            connection.exec_driver_sql(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE")
        yield connection


def _copy_table(reading: sa.Connection, writing: sa.Connection, table: sa.Table, place: str) -> int:
    """How many rows there are, counted in the copy. FaultError when it is not as many as before."""
    write = _write_sqlite if writing.dialect.name == "sqlite" else _write_postgres
    rows = reading.execute(sa.select(table), execution_options={"yield_per": PAGE})
    try:
        write(writing, table, rows.partitions(PAGE))
    except psycopg.Error as error:
        said = str(error).strip().splitlines()
        raise OutsideError(f"{place} refuses the rows of {table.name}: {said[0] if said else error}.") from error
    _number_on(reading, writing, table)
    before, after = _count(reading, table), _count(writing, table)
    if before != after:
        raise FaultError(f"The table {table.name} has {before} rows, and its copy {after}.", "Nothing was copied.")
    return after


def _count(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def _write_sqlite(connection: sa.Connection, table: sa.Table, pages: Iterable[Sequence[Row]]) -> None:
    statement = statements(connection).insert(table.name, [column.name for column in table.columns])
    for page in pages:
        write_many(connection, statement, [tuple(row) for row in page])


def _write_postgres(connection: sa.Connection, table: sa.Table, pages: Iterable[Sequence[Row]]) -> None:
    columns = list(table.columns)
    texts = [place for place, column in enumerate(columns) if isinstance(column.type, sa.Text)]
    driver: Any = connection.connection.driver_connection
    names = ", ".join(f'"{column.name}"' for column in columns)
    with driver.cursor() as cursor:
        with cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN (FORMAT BINARY)') as copy:
            copy.set_types([_COPIED_AS[type(column.type)] for column in columns])
            for page in pages:
                for row in page:
                    for place in texts:
                        if row[place] is not None and "\0" in row[place]:
                            raise _nul(table, row, columns[place].name)
                    copy.write_row(row)
        cursor.execute(f'ANALYZE "{table.name}"')  # the first statements after the move shall not be planned blindly


def _nul(table: sa.Table, row: Row, column: str) -> FaultError:
    key = ", ".join(f"{c.name} {value!r}" for c, value in zip(table.columns, row, strict=True) if c.primary_key)
    return FaultError(
        f"The row of {table.name} with {key} has a NUL character in its {column}, which Postgres cannot store.",
        "Postgres sources have none: a connector's answer may. Nothing was copied.",
    )


def _number_on(reading: sa.Connection, writing: sa.Connection, table: sa.Table) -> None:
    """The copy's next number is past the highest that was ever given, also to a row that has left since."""
    column = table.autoincrement_column
    if column is None:
        return
    highest = max(_given(reading, table, column), reading.execute(sa.select(sa.func.max(column))).scalar() or 0)
    if writing.dialect.name != "sqlite":
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        writing.execute(sa.select(sa.func.setval(sequence, max(1, highest), highest > 0)))
    elif table.dialect_options["sqlite"]["autoincrement"]:
        writing.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        writing.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, highest))


def _given(connection: sa.Connection, table: sa.Table, column: sa.Column[Any]) -> int:
    """The highest number that the store has given to a row of the table; 0 for none, and where it keeps no account."""
    if connection.dialect.name != "sqlite":
        sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(table.name, column.name))).scalar_one()
        query = f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"
        return int(connection.exec_driver_sql(query).scalar_one())
    if not table.dialect_options["sqlite"]["autoincrement"]:
        return 0
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table.name,)).scalar()
    return int(found or 0)
