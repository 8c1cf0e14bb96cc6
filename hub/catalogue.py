"""What the source's catalogue says of the tables that entities use: read once, kept in the store with the snapshot."""

import enum

import msgspec


class Kind(enum.Enum):
    """How values of a type are compared and written; the value table's rows."""

    INTEGER = "integer"  # smallint, integer, bigint, oid
    NUMERIC = "numeric"  # numeric: a string, its scale kept
    MONEY = "money"
    FLOAT = "float"  # real, double precision
    BOOLEAN = "boolean"
    TEXT = "text"  # text, varchar, name, char(n), uuid, enum, inet, cidr, macaddr, ranges, bit, xml
    CITEXT = "citext"
    DATE = "date"
    TIME = "time"
    TIMETZ = "timetz"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    INTERVAL = "interval"
    JSON = "json"  # json, jsonb
    BYTEA = "bytea"
    HSTORE = "hstore"
    OTHER = "other"  # refused unless excluded


class Column(msgspec.Struct, frozen=True):
    name: str
    type: str  # as format_type prints it: "numeric(10,2)", "text[]"
    base: str  # typname of the base type: domains resolved; of an array, its element's
    kind: Kind  # of an array, its element's
    array: bool = False
    not_null: bool = False
    generated: str = ""  # "": no; "s": stored; "v": virtual


class ForeignKey(msgspec.Struct, frozen=True):
    columns: tuple[str, ...]
    table: str  # "schema.table" that is referenced
    references: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    name: str  # "schema.table"
    relkind: str  # pg_class.relkind: r table, p partitioned, v view, f foreign, m materialized view
    persistence: str  # pg_class.relpersistence: p permanent, u unlogged, t temporary
    columns: tuple[Column, ...]  # in catalogue order
    primary_key: tuple[str, ...] = ()
    unique_keys: tuple[tuple[str, ...], ...] = ()  # unique, not null, not partial, not deferrable; primary key included
    foreign_keys: tuple[ForeignKey, ...] = ()
    replica_identity: str = "d"  # pg_class.relreplident: d default, f full, n nothing, i index
    rows: int = 0  # the planner's estimate, -1 when never analysed

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


class Catalogue(msgspec.Struct, frozen=True):
    tables: dict[str, Table]
    server_version: int = 0  # server_version_num: 150018
