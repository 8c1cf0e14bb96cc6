"""The source's catalogue, read from pg_catalog alone: no application table is touched."""

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from hub.catalogue import Catalogue, Column, ForeignKey, Kind, Table

KINDS = {
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "oid": Kind.INTEGER,
    "numeric": Kind.NUMERIC,
    "money": Kind.MONEY,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "bool": Kind.BOOLEAN,
    "citext": Kind.CITEXT,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timetz": Kind.TIMETZ,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "interval": Kind.INTERVAL,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    "bytea": Kind.BYTEA,
    "hstore": Kind.HSTORE,
} | dict.fromkeys(
    [
        *("text", "varchar", "name", "bpchar", "char", "uuid", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit"),
        *("xml", "int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
    ],
    Kind.TEXT,
)

_TABLES = """
SELECT c.oid, n.nspname || '.' || c.relname AS name, c.relkind, c.relpersistence, c.relreplident,
       CASE WHEN c.relkind = 'p'
            THEN (SELECT coalesce(sum(p.reltuples) FILTER (WHERE p.reltuples >= 0), -1)
                  FROM pg_partition_tree(c.oid) AS t JOIN pg_class p ON p.oid = t.relid WHERE t.isleaf)
            ELSE c.reltuples END::bigint AS rows
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
  AND (%(names)s::text[] IS NULL OR n.nspname || '.' || c.relname = ANY (%(names)s))
ORDER BY 2
"""

# A domain's base may be a domain again, or an array, whose element may be a domain.
_COLUMNS = """
WITH RECURSIVE used AS (
  SELECT DISTINCT a.atttypid AS oid FROM pg_attribute a
  WHERE a.attrelid = ANY (%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
), resolved AS (
  SELECT u.oid, u.oid AS step, false AS is_array FROM used u
  UNION ALL
  SELECT r.oid, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.typelem END, r.is_array OR t.typtype <> 'd'
  FROM resolved r JOIN pg_type t ON t.oid = r.step
  WHERE t.typtype = 'd' OR (t.typcategory = 'A' AND t.typsubscript = 'array_subscript_handler'::regproc)
), base AS (
  SELECT r.oid, t.typname, t.typtype, r.is_array FROM resolved r JOIN pg_type t ON t.oid = r.step
  WHERE NOT (t.typtype = 'd' OR (t.typcategory = 'A' AND t.typsubscript = 'array_subscript_handler'::regproc))
)
SELECT a.attrelid, a.attname, format_type(a.atttypid, a.atttypmod) AS type, b.typname, b.typtype, b.is_array,
       a.attnotnull, a.attgenerated
FROM pg_attribute a JOIN base b ON b.oid = a.atttypid
WHERE a.attrelid = ANY (%(oids)s) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT i.indrelid, i.indisprimary, array_agg(a.attname::text ORDER BY k.position) AS columns
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = ANY (%(oids)s) AND i.indisunique AND i.indimmediate AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid, i.indrelid, i.indisprimary
HAVING bool_and(a.attnotnull)
ORDER BY i.indisprimary DESC, i.indexrelid
"""

_FOREIGN_KEYS = """
SELECT k.conrelid, n.nspname || '.' || c.relname AS referenced,
       (SELECT array_agg(a.attname::text ORDER BY u.position)
        FROM unnest(k.conkey) WITH ORDINALITY AS u (attnum, position)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
       (SELECT array_agg(a.attname::text ORDER BY u.position)
        FROM unnest(k.confkey) WITH ORDINALITY AS u (attnum, position)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS references
FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.conrelid = ANY (%(oids)s) AND NOT c.relispartition
ORDER BY k.conname
"""


def read_catalogue(connection: psycopg.Connection[Any], tables: Iterable[str] | None = None) -> Catalogue:
    """What pg_catalog says of `tables` ("schema.table"), or of every table; those that are not there are left out.

    Partitions are left out too: their root stands for them.
    """
    cursor: psycopg.Cursor[Any] = connection.cursor(row_factory=namedtuple_row)
    found = cursor.execute(_TABLES, {"names": None if tables is None else list(tables)}).fetchall()
    oids = {"oids": [row.oid for row in found]}
    columns = _by_table(cursor.execute(_COLUMNS, oids).fetchall())
    keys = _by_table(cursor.execute(_KEYS, oids).fetchall())
    foreign_keys = _by_table(cursor.execute(_FOREIGN_KEYS, oids).fetchall())
    return Catalogue(
        {
            row.name: _table(row, columns.get(row.oid, ()), keys.get(row.oid, ()), foreign_keys.get(row.oid, ()))
            for row in found
        },
        connection.info.server_version,
    )


def _by_table(rows: Sequence[Any]) -> dict[int, list[Any]]:
    grouped: dict[int, list[Any]] = {}
    for row in rows:
        grouped.setdefault(row[0], []).append(row)
    return grouped


def _table(row: Any, columns: Sequence[Any], keys: Sequence[Any], foreign_keys: Sequence[Any]) -> Table:
    return Table(
        name=row.name,
        relkind=row.relkind,
        persistence=row.relpersistence,
        columns=tuple(_column(column) for column in columns),
        primary_key=next((tuple(key.columns) for key in keys if key.indisprimary), ()),
        unique_keys=tuple(tuple(key.columns) for key in keys),
        foreign_keys=tuple(ForeignKey(tuple(k.columns), k.referenced, tuple(k.references)) for k in foreign_keys),
        replica_identity=row.relreplident,
        rows=row.rows,
    )


def _column(row: Any) -> Column:
    enum = row.typtype == "e"
    return Column(
        name=row.attname,
        type=row.type,
        base="text" if enum else row.typname,
        kind=Kind.TEXT if enum else KINDS.get(row.typname, Kind.OTHER),
        array=row.is_array,
        not_null=row.attnotnull,
        generated=row.attgenerated,
    )
