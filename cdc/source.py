"""The source from outside: what must be there before a stream starts, what can go wrong later, the SQL for it."""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import namedtuple_row

from cdc.catalogue import read_catalogue
from cdc.settings import HEARTBEAT_PREFIX, StreamSettings, parse_url
from cdc.values import quote, unsupported
from hub.catalogue import Catalogue, Table
from hub.changes import Missed, SchemaDrift, lsn_text, parse_lsn
from hub.errors import OutsideError

CONNECT_SECONDS = 10
RESNAPSHOT = "`hub source resnapshot` takes a new, compared snapshot."
QUIET_SECONDS = 10.0  # without arrivals, after which an idle slot is helped on
WATCH_SECONDS = 5.0  # between two looks at the slot


class Finding(msgspec.Struct, frozen=True):
    """One thing that `hub doctor` looked at."""

    what: str  # one sentence
    remedy: str = ""  # one sentence, where something is to be done
    fatal: bool = False  # the stream cannot run like this


class Slot(msgspec.Struct, frozen=True):
    """A row of pg_replication_slots."""

    name: str
    plugin: str
    database: str
    active_pid: int | None
    wal_status: str  # reserved, extended, unreserved, lost
    confirmed: int  # LSN up to which it has been read
    restart: int  # LSN from which the server keeps its write-ahead log


def connect(url: str, **extra: Any) -> psycopg.Connection[Any]:
    """An autocommit connection of the hub's own. OutsideError with the remedy when there is none to be had."""
    parts = parse_url(url)
    settings: dict[str, Any] = {"connect_timeout": CONNECT_SECONDS, "application_name": "hub"} | parts | extra
    try:
        return psycopg.connect(make_conninfo(**settings), autocommit=True)
    except psycopg.OperationalError as error:
        raise _connection_error(error, parts) from error


def _connection_error(error: psycopg.OperationalError, parts: Mapping[str, str]) -> OutsideError:
    place = f"{parts.get('host', 'localhost')}:{parts.get('port', '5432')}"
    text = " ".join(str(error).split())
    user, database = parts.get("user", ""), parts.get("dbname", "")
    for pattern, what, remedy in (
        (
            "password authentication failed|no password supplied",
            f"The source at {place} refuses the password of {user}.",
            "Put the right one into the source's url.",
        ),
        ("role .* does not exist", f"The source at {place} has no role {user}.", "Run the SQL of `hub source sql`."),
        ("database .* does not exist", f"The source at {place} has no database {database}.", "Correct its url."),
        (
            "no pg_hba.conf entry",
            f"The source at {place} does not let {user} in from here.",
            "Add a line to its pg_hba.conf.",
        ),
        (
            "permission denied for database",
            f"The role {user} may not connect to {database}.",
            "Run the SQL of `hub source sql`.",
        ),
        (
            "too many connections|remaining connection slots",
            f"The source at {place} has no free connection.",
            "Raise max_connections.",
        ),
        ("starting up|shutting down", f"The source at {place} is starting or stopping.", "Try again in a moment."),
        ("certificate|SSL", f"TLS with the source at {place} failed: {text}.", "Check sslmode in its url."),
    ):
        if re.search(pattern, text):
            return OutsideError(what, remedy)
    # libpq's own question comes after its reason, and its address is ours already.
    reason = re.sub(
        r"^connection failed: |connection to server at .*? failed: |(?:Is|\bis) the server running.*", "", text
    )
    return OutsideError(
        f"The source at {place} cannot be reached: {reason.strip(' .')}.", "Check the source's url and that it runs."
    )


def read_slot(connection: psycopg.Connection[Any], name: str) -> Slot | None:
    row: Any = (
        connection.cursor(row_factory=namedtuple_row)
        .execute(
            "SELECT slot_name, plugin, database, active_pid, wal_status, confirmed_flush_lsn, restart_lsn"
            " FROM pg_replication_slots WHERE slot_name = %s",
            [name],
        )
        .fetchone()
    )
    if row is None:
        return None
    return Slot(
        row.slot_name,
        row.plugin or "",
        row.database or "",
        row.active_pid,
        row.wal_status or "lost",
        parse_lsn(row.confirmed_flush_lsn or "0/0"),
        parse_lsn(row.restart_lsn or "0/0"),
    )


def gap(slot: Slot | None, position: int) -> bool:
    """Whether transactions after `position`, the store's, are no longer to be had: a new snapshot is needed."""
    return slot is None or slot.wal_status == "lost" or slot.confirmed > position


def drop_slot(url: str, name: str) -> None:
    """Drop the stream's slot, which a new snapshot replaces. OutsideError when somebody reads from it."""
    with connect(url) as connection:
        slot = read_slot(connection, name)
        if slot is None:
            return
        if slot.active_pid is not None:
            raise _held(slot)
        try:
            connection.execute("SELECT pg_drop_replication_slot(%s)", [name])
        except psycopg.errors.ObjectInUse as error:
            raise _held(slot) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise OutsideError(
                f"The role may not drop the slot {name}.", "Run the SQL of `hub source sql`: it needs REPLICATION."
            ) from error


def _held(slot: Slot) -> OutsideError:
    return OutsideError(
        f"The replication slot {slot.name} is in use by the server process {slot.active_pid}.",
        "Stop the other hub that reads from it, or give this source another `slot:`.",
    )


def check_start(stream: StreamSettings, *, snapshot: bool, position: int = 0) -> None:
    """Raises OutsideError with all that would keep the stream from running, a line each."""
    with connect(stream.url) as connection:
        if not snapshot:
            stream = _still_there(connection, stream)
            if cut := _cut(connection, stream):
                raise Missed(cut.what, cut.remedy)
        found = findings(connection, stream, snapshot=snapshot, position=position)
    fatal = [f"{finding.what} {finding.remedy}".strip() for finding in found if finding.fatal]
    if fatal:
        raise OutsideError("\n".join(fatal))


def _still_there(connection: psycopg.Connection[Any], stream: StreamSettings) -> StreamSettings:
    """The stream without what its tables have lost: their documents are held, the others go on."""
    live = read_columns(connection, stream.columns)
    columns = {
        table: tuple(name for name in names if name in live[table])
        for table, names in stream.columns.items()
        if table in live
    }
    return msgspec.structs.replace(stream, columns=columns)


def _cut(connection: psycopg.Connection[Any], stream: StreamSettings) -> Finding | None:
    """Tables that are there and no longer published: their changes are gone for good."""
    publication = read_publication(connection, stream.slot)
    published = publication.tables.keys() if publication else set()
    if publication and publication.all_tables:
        return None
    cut = sorted(read_columns(connection, stream.columns).keys() - published)
    if not cut:
        return None
    return _fatal(
        f"The publication {stream.slot} no longer has {', '.join(cut)}.",
        "Run the SQL of `hub source sql`; a compared snapshot then finds what was missed.",
    )


def findings(
    connection: psycopg.Connection[Any],
    stream: StreamSettings,
    *,
    snapshot: bool,
    position: int = 0,
    starting: bool = True,
) -> list[Finding]:
    """All that is to be said of the source for this stream: what is well, what to mend, what is advised.

    `starting`: the slot must be free; otherwise its reader may be this very hub.
    """
    return [
        *_server(connection, stream.slot, snapshot),
        *_role(connection, stream.columns),
        *table_findings(stream.catalogue, stream.columns),
        *publication_findings(connection, stream.slot, stream.columns, stream.catalogue),
        *_slot(connection, stream.slot, snapshot, position, starting),
    ]


def _fatal(what: str, remedy: str) -> Finding:
    return Finding(what, remedy, fatal=True)


def _server(connection: psycopg.Connection[Any], name: str, snapshot: bool) -> list[Finding]:
    row: Any = (
        connection.cursor(row_factory=namedtuple_row)
        .execute(
            "SELECT current_setting('wal_level') AS wal_level, pg_is_in_recovery() AS standby,"
            " current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_replication_slots) AS slots,"
            " current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication) AS senders,"
            " current_setting('max_slot_wal_keep_size') AS keep,"
            " EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = %s) AS has_slot",
            [name],
        )
        .fetchone()
    )
    assert row is not None
    version = connection.info.server_version
    found = [Finding(f"Postgres {version // 10000} answers.")]
    if version < 130000:
        found.append(_fatal(f"Postgres {version // 10000} is too old.", "The hub needs 13 or later."))
    if row.wal_level != "logical":
        found.append(
            _fatal(
                f"wal_level is {row.wal_level}, not logical.",
                "ALTER SYSTEM SET wal_level = logical; then restart the server.",
            )
        )
    if not row.has_slot and row.slots <= 0:
        found.append(_fatal("No replication slot is free.", "Raise max_replication_slots, or drop one not in use."))
    if row.senders <= 0:
        found.append(_fatal("No WAL sender is free.", "Raise max_wal_senders, or end a replication not in use."))
    if row.keep == "-1":
        found.append(
            Finding(
                "max_slot_wal_keep_size is unlimited: while the hub is down, the server keeps all of its log.",
                "Set it to what the disk can spare; a hub that was away for longer then takes a new snapshot.",
            )
        )
    return found


def _role(connection: psycopg.Connection[Any], columns: Mapping[str, Sequence[str]]) -> list[Finding]:
    row = connection.execute(
        "SELECT rolname, rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user"
    ).fetchone()
    assert row is not None
    role, replicates = row
    found = []
    if not replicates and not _member_of_rds(connection):
        found.append(_fatal(f"The role {role} may not replicate.", f"ALTER ROLE {quote(role)} REPLICATION;"))
    rows = connection.execute(
        "SELECT n.nspname || '.' || c.relname, n.nspname, has_schema_privilege(n.oid, 'USAGE'),"
        " has_table_privilege(c.oid, 'SELECT'), "
        " ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0"
        "  AND NOT a.attisdropped AND has_column_privilege(c.oid, a.attnum, 'SELECT'))"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname || '.' || c.relname = ANY (%s)",
        [list(columns)],
    ).fetchall()
    for table, schema, usage, select, readable in rows:
        if not usage:
            found.append(
                _fatal(
                    f"The role {role} may not use the schema {schema}.",
                    f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)};",
                )
            )
        elif not select and not set(columns[table]) <= set(readable):
            found.append(
                _fatal(
                    f"The role {role} may not read {table}.",
                    f"GRANT SELECT ON {quote_table(table)} TO {quote(role)};",
                )
            )
    return found or [Finding(f"The role {role} may replicate and read the tables.")]


def _member_of_rds(connection: psycopg.Connection[Any]) -> bool:
    """On Amazon's servers a role replicates by membership."""
    row = connection.execute(
        "SELECT count(*) FROM pg_roles WHERE rolname = 'rds_replication' AND pg_has_role(oid, 'MEMBER')"
    ).fetchone()
    return bool(row and row[0])


def table_findings(catalogue: Catalogue, columns: Mapping[str, Sequence[str]]) -> list[Finding]:
    """What keeps tables and columns from being captured, from the catalogue alone."""
    found = []
    for name, names in columns.items():
        table = catalogue.tables.get(name)
        if table is None:
            found.append(_fatal(f"There is no table {name}.", "Correct the entity, or create the table."))
            continue
        reason = refusal(table)
        if reason:
            found.append(_fatal(*reason))
        for column_name in names:
            column = table.column(column_name)
            if column is None:
                found.append(_fatal(f"The table {name} has no column {column_name}.", "Correct the entity."))
            elif why := unsupported(column, catalogue.server_version):
                found.append(_fatal(f"The column {name}.{column_name} cannot be captured.", why))
    return found


_RELKINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


def refusal(table: Table) -> tuple[str, str] | None:
    """Why a table cannot be captured, and the remedy; None when it can."""
    if table.relkind in _RELKINDS:
        return (
            f"{table.name} is {_RELKINDS[table.relkind]}, whose changes are not in the write-ahead log.",
            "Use the tables behind it.",
        )
    if table.persistence != "p":
        return f"The table {table.name} is unlogged, so its changes are in no log.", "ALTER TABLE … SET LOGGED;"
    if not table.primary_key and table.replica_identity not in ("f", "i"):
        return (
            f"The table {table.name} has no primary key: publishing it would make the application's own updates fail.",
            "Add a primary key, or set REPLICA IDENTITY USING INDEX on a unique one.",
        )
    return None


class Publication(msgspec.Struct, frozen=True):
    """What a publication publishes."""

    tables: Mapping[str, tuple[str, ...] | None]  # by table: its column list, None for all columns
    all_tables: bool
    via_root: bool
    operations: frozenset[str]  # insert, update, delete, truncate
    filtered: tuple[str, ...]  # tables with a row filter
    generated: bool  # stored generated columns are published (Postgres 18)


def read_publication(connection: psycopg.Connection[Any], name: str) -> Publication | None:
    version = connection.info.server_version
    row: Any = (
        connection.cursor(row_factory=namedtuple_row)
        .execute("SELECT to_jsonb(p) AS p FROM pg_publication p WHERE pubname = %s", [name])
        .fetchone()
    )
    if row is None:
        return None
    publication = row.p
    lists = (
        "CASE WHEN r.prattrs IS NULL THEN NULL ELSE ARRAY(SELECT a.attname::text FROM pg_attribute a"
        " WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])) END, r.prqual IS NOT NULL"
        if version >= 150000
        else "NULL::text[], false"
    )
    tables = connection.execute(
        f"SELECT n.nspname || '.' || c.relname, {lists} FROM pg_publication_rel r"
        " JOIN pg_class c ON c.oid = r.prrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE r.prpubid = (SELECT oid FROM pg_publication WHERE pubname = %s)",
        [name],
    ).fetchall()
    return Publication(
        {table: None if names is None else tuple(names) for table, names, _ in tables},
        bool(publication["puballtables"]),
        bool(publication.get("pubviaroot")),
        frozenset(kind for kind in ("insert", "update", "delete", "truncate") if publication.get(f"pub{kind}")),
        tuple(table for table, _, qualified in tables if qualified),
        publication.get("pubgencols") in ("s", True),
    )


def publication_findings(
    connection: psycopg.Connection[Any], name: str, columns: Mapping[str, Sequence[str]], catalogue: Catalogue
) -> list[Finding]:
    """How the publication differs from what the project captures, each with its ALTER statement."""
    publication = read_publication(connection, name)
    if publication is None:
        return [_fatal(f"There is no publication {name}.", "Have a DBA run the SQL of `hub source sql`.")]
    if publication.all_tables:
        return [
            _fatal(
                f"The publication {name} is FOR ALL TABLES, which breaks updates of tables without a key.",
                f"DROP PUBLICATION {quote(name)}; then run the SQL of `hub source sql`.",
            )
        ]
    set_tables = f"ALTER PUBLICATION {quote(name)} SET TABLE {table_list(columns, catalogue)};"
    found = []
    if missing := sorted(columns.keys() - publication.tables.keys()):
        found.append(_fatal(f"The publication {name} lacks {', '.join(missing)}.", set_tables))
    for table, names in columns.items():
        published = publication.tables.get(table)
        if published is not None and (lacking := sorted(set(names) - set(published))):
            found.append(_fatal(f"The publication {name} lacks {table}.{f', {table}.'.join(lacking)}.", set_tables))
    if more := sorted(publication.tables.keys() - columns.keys()):
        found.append(Finding(f"The publication {name} also has {', '.join(more)}, which no entity uses.", set_tables))
    if publication.filtered:
        found.append(_fatal(f"The publication {name} filters rows of {', '.join(publication.filtered)}.", set_tables))
    found += _publication_options(publication, name, columns, catalogue)
    return found or [Finding(f"The publication {name} has the tables and columns that the entities use.")]


def _publication_options(
    publication: Publication, name: str, columns: Mapping[str, Sequence[str]], catalogue: Catalogue
) -> list[Finding]:
    found = []
    if len(publication.operations) < 4:
        found.append(
            _fatal(
                f"The publication {name} leaves out some operations.",
                f"ALTER PUBLICATION {quote(name)} SET (publish = 'insert, update, delete, truncate');",
            )
        )
    if not publication.via_root and any(_is_partitioned(catalogue, table) for table in columns):
        found.append(
            _fatal(
                f"The publication {name} publishes partitions under their own names.",
                f"ALTER PUBLICATION {quote(name)} SET (publish_via_partition_root = true);",
            )
        )
    if _generated(catalogue, columns) and catalogue.server_version >= 180000 and not publication.generated:
        listed = all(publication.tables.get(table) is not None for table in _generated(catalogue, columns))
        if not listed:
            found.append(
                _fatal(
                    f"The publication {name} leaves out generated columns.",
                    f"ALTER PUBLICATION {quote(name)} SET (publish_generated_columns = stored);",
                )
            )
    return found


def _is_partitioned(catalogue: Catalogue, name: str) -> bool:
    table = catalogue.tables.get(name)
    return table is not None and table.relkind == "p"


def _generated(catalogue: Catalogue, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The captured tables of which a generated column is captured."""
    return [
        name
        for name, names in columns.items()
        if (table := catalogue.tables.get(name))
        and any((column := table.column(each)) and column.generated for each in names)
    ]


def _slot(
    connection: psycopg.Connection[Any], name: str, snapshot: bool, position: int, starting: bool
) -> list[Finding]:
    slot = read_slot(connection, name)
    if slot is None:
        if snapshot:
            return [Finding(f"The slot {name} will be made with the snapshot.")]
        return [_fatal(f"The replication slot {name} is gone.", RESNAPSHOT)]
    row = connection.execute("SELECT current_database()").fetchone()
    if row and slot.database != row[0]:
        return [
            _fatal(f"The slot {name} belongs to the database {slot.database}.", "Give this source another `slot:`.")
        ]
    if slot.plugin != "pgoutput":
        return [
            _fatal(f"The slot {name} is made for {slot.plugin}, not pgoutput.", "Give this source another `slot:`.")
        ]
    if slot.active_pid is not None:
        held = _held(slot)
        if not starting:
            return [Finding(f"The slot {name} is being read from.")]
        return [_fatal(held.what, held.remedy)]
    if snapshot:
        return [Finding(f"The slot {name} exists.")]
    if slot.wal_status == "lost":
        return [lost(name)]
    if gap(slot, position):
        return [
            _fatal(
                f"The slot {name} stands at {lsn_text(slot.confirmed)}, past the store's {lsn_text(position)}.",
                RESNAPSHOT,
            )
        ]
    return [Finding(f"The slot {name} stands at {lsn_text(slot.confirmed)}.")]


def lost(name: str) -> Finding:
    return _fatal(
        f"The slot {name} is lost: the server had to remove log that the hub had not read (max_slot_wal_keep_size).",
        RESNAPSHOT,
    )


_COLUMNS = """
SELECT n.nspname || '.' || c.relname, array_agg(a.attname::text)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname || '.' || c.relname = ANY (%s) AND a.attnum > 0 AND NOT a.attisdropped
GROUP BY 1
"""


def read_columns(connection: psycopg.Connection[Any], tables: Iterable[str]) -> dict[str, frozenset[str]]:
    """By table that is there: the columns it has now."""
    rows = connection.execute(_COLUMNS, [list(tables)]).fetchall()
    return {table: frozenset(columns) for table, columns in rows}


class Watch:
    """A connection of our own beside the stream: it helps an idle slot on, and sees when the slot is lost.

    It also sees columns come and go: row events hold those that are captured, so they cannot show an added one, and
    a column that is dropped may take its whole table out of the publication.
    """

    def __init__(self, stream: StreamSettings) -> None:
        self._stream = stream
        self._connection: psycopg.Connection[Any] | None = None
        self._arrived = time.monotonic()
        self._looked = time.monotonic()
        self._seen = False  # the slot has been there: a snapshot's is made by Debezium, which takes its time
        self._columns = {
            name: frozenset(column.name for column in stream.catalogue.tables[name].columns) for name in stream.columns
        }
        self._drifts: list[SchemaDrift] = []  # not yet handed over
        self._told = 0  # WAL position after our last message

    def look(self, arrived: bool) -> OutsideError | None:
        """To be called often. What has happened to the slot, if anything; most calls do nothing."""
        now = time.monotonic()
        if arrived:
            self._arrived = now
            if now - self._looked < 10 * WATCH_SECONDS:
                return None
        if now - self._looked < WATCH_SECONDS:
            return None
        self._looked = now
        try:
            return self._slot(quiet=now - self._arrived >= QUIET_SECONDS)
        except (psycopg.OperationalError, OutsideError):
            self.close()  # Debezium notices too and says so, after its own attempts
            return None

    def take_drifts(self) -> list[SchemaDrift]:
        """What has been seen of the tables' columns since the last call."""
        drifts, self._drifts = self._drifts, []
        return drifts

    def _slot(self, quiet: bool) -> OutsideError | None:
        if self._connection is None or self._connection.closed:
            self._connection = connect(self._stream.url)
        slot = read_slot(self._connection, self._stream.slot)
        if slot is None:
            if not self._seen:
                return None
            return OutsideError(
                f"The replication slot {self._stream.slot} is gone.",
                RESNAPSHOT,
            )
        self._seen = True
        if slot.wal_status == "lost":
            finding = lost(slot.name)
            return OutsideError(finding.what, finding.remedy)
        self._look_at_columns(self._connection)
        if cut := _cut(self._connection, self._stream):
            return Missed(cut.what, cut.remedy)
        if quiet:
            self._help_on(self._connection)
        return None

    def _look_at_columns(self, connection: psycopg.Connection[Any]) -> None:
        live = read_columns(connection, self._columns)
        for table, known in self._columns.items():
            columns = live.get(table, frozenset())
            gone = sorted(set(self._stream.columns[table]) & known - columns)
            added = sorted(columns - known)
            if gone or added:
                self._columns[table] = columns
                self._drifts.append(SchemaDrift(table, tuple(gone), tuple(added)))

    def _help_on(self, connection: psycopg.Connection[Any]) -> None:
        """A message in the log, where others have moved the log on, gives the slot something to confirm."""
        row = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        if parse_lsn(row[0]) <= self._told:
            return
        _say(connection)
        row = connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()
        assert row is not None
        # The server writes some log of its own for it (a record of running transactions): that is not news.
        self._told = parse_lsn(row[0]) + 1024

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def send_message(url: str) -> None:
    """Put a message into the source's log, which everyone who follows it gets."""
    with connect(url) as connection:
        _say(connection)


def _say(connection: psycopg.Connection[Any]) -> None:
    connection.execute("SELECT pg_logical_emit_message(false, %s, '')", [HEARTBEAT_PREFIX])


def explain_failure(messages: Sequence[str], stream: StreamSettings, directory: Path) -> OutsideError:
    """Debezium's end in a plain sentence. `messages`: its own words, the causes last."""
    text = " | ".join(messages)
    for pattern, what, remedy in (
        ("replication slot .* is active", f"The replication slot {stream.slot} is held by another process.",
         "Stop the other hub that reads from it."),
        ("can no longer get changes|has been invalidated|requested WAL segment", f"The slot {stream.slot} is lost.",
         RESNAPSHOT),
        ("replication slot .* does not exist", f"The replication slot {stream.slot} is gone.",
         RESNAPSHOT),
        ("publication .* does not exist", f"The publication {stream.slot} is gone.",
         "Run the SQL of `hub source sql`."),
        ("password authentication failed", "The source refuses the password.", "Correct the source's url."),
        ("permission denied", f"The role lacks a right: {_cause(messages)}", "Run the SQL of `hub source sql`."),
        ("Cannot parse time|Failed to properly convert|is not expected here|DateTimeParseException",
         f"A value of the source cannot be captured exactly: {_cause(messages)}", "Correct it, or exclude the column."),
        ("Connection refused|terminating connection|connection failed|I/O error|EOF|closed|starting up|shutting down",
         "The connection to the source was lost.", "It is tried again; check that the source runs."),
    ):  # fmt: skip
        if re.search(pattern, text, re.IGNORECASE):
            return OutsideError(what, remedy)
    return OutsideError(f"Debezium has stopped: {_cause(messages)}", f"See {directory / 'debezium.log'}.")


def _cause(messages: Sequence[str]) -> str:
    """The innermost cause, without its class."""
    return re.sub(r"^[\w.$]+: ", "", messages[-1]).splitlines()[0] if messages else ""


def quote_table(name: str) -> str:
    schema, _, table = name.partition(".")
    return f"{quote(schema)}.{quote(table)}"


def table_list(columns: Mapping[str, Sequence[str]], catalogue: Catalogue) -> str:
    """For CREATE and ALTER PUBLICATION: the tables, each with its columns where some are left out (Postgres 15)."""
    return ", ".join(_published(name, names, catalogue) for name, names in sorted(columns.items()))


def _published(name: str, names: Sequence[str], catalogue: Catalogue) -> str:
    table = catalogue.tables.get(name)
    if table is None or catalogue.server_version < 150000:
        return quote_table(name)
    # Postgres refuses updates when a column list lacks the replica identity; with an identity other than the
    # primary key it is not known here which columns that takes, so such a table is published whole.
    if table.replica_identity != "d" or set(names) >= {column.name for column in table.columns}:
        return quote_table(name)
    listed = [column.name for column in table.columns if column.name in {*names, *table.primary_key}]
    return f"{quote_table(name)} ({', '.join(quote(column) for column in listed)})"


def source_sql(columns: Mapping[str, Sequence[str]], catalogue: Catalogue, slot: str, url: str) -> str:
    """The SQL that a DBA runs once: role, grants and publication. It can be run again."""
    parts = parse_url(url)
    role, database = parts.get("user", ""), parts.get("dbname", "")
    schemas = sorted({name.partition(".")[0] for name in columns})
    options = ["publish = 'insert, update, delete, truncate'", "publish_via_partition_root = true"]
    if catalogue.server_version >= 180000 and _generated(catalogue, columns):
        options.append("publish_generated_columns = stored")
    tables = table_list(columns, catalogue)
    literal = "'" + slot.replace("'", "''") + "'"
    return f"""\
-- Run once, in {database}, as a superuser or the owner of the tables.
-- The server needs: wal_level = logical (takes a restart), a free replication slot and WAL sender.
-- Advised: ALTER SYSTEM SET max_slot_wal_keep_size = '10GB', so that a hub that is down cannot fill the disk.

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {_literal(role)}) THEN
    CREATE ROLE {quote(role)} LOGIN;  -- then set its password: \\password {role}
  END IF;
  IF NOT (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = {_literal(role)}) THEN
    ALTER ROLE {quote(role)} REPLICATION;
  END IF;
END $$;

GRANT CONNECT ON DATABASE {quote(database)} TO {quote(role)};
{chr(10).join(f"GRANT USAGE ON SCHEMA {quote(schema)} TO {quote(role)};" for schema in schemas)}
{chr(10).join(_grant(name, names, catalogue, role) for name, names in sorted(columns.items()))}

-- Only these tables: a publication of all tables makes updates of tables without a key fail.
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_publication WHERE pubname = {literal}) THEN
    ALTER PUBLICATION {quote(slot)} SET TABLE {tables};
    ALTER PUBLICATION {quote(slot)} SET ({", ".join(options)});
  ELSE
    CREATE PUBLICATION {quote(slot)} FOR TABLE {tables}
      WITH ({", ".join(options)});
  END IF;
END $$;
"""


def retire_sql(slot: str) -> str:
    """What takes a stream's slot and publication away, commented out."""
    return f"""\
-- SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {_literal(slot)};
-- DROP PUBLICATION IF EXISTS {quote(slot)};"""


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _grant(name: str, names: Sequence[str], catalogue: Catalogue, role: str) -> str:
    table = catalogue.tables.get(name)
    if table is None or set(names) >= {column.name for column in table.columns}:
        return f"GRANT SELECT ON {quote_table(name)} TO {quote(role)};"
    listed = ", ".join(quote(column.name) for column in table.columns if column.name in {*names, *table.primary_key})
    return f"GRANT SELECT ({listed}) ON {quote_table(name)} TO {quote(role)};"


def read_stream_catalogue(url: str, tables: Sequence[str] | None = None) -> Catalogue:
    """The live catalogue of a source. OutsideError when it cannot be reached."""
    with connect(url) as connection:
        return read_catalogue(connection, tables)
