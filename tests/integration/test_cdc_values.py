"""Hostile values of every type, through the real engine, against the value table's SQL."""

import json
import math
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc.engine import EngineFeed
from cdc.settings import StreamSettings
from cdc.source import read_stream_catalogue, source_sql
from cdc.values import SESSION, sql_expression
from hub.catalogue import Kind, Table
from hub.changes import FeedPlan, Operation, RowChange, SnapshotCompleted, SnapshotRows, Transaction

pytestmark = pytest.mark.integration

DATES = ["2024-01-02", "infinity", "-infinity", "0044-03-15 BC", "12345-01-01", "5874897-12-31", "4713-01-01 BC"]
MOMENTS = ["2024-01-02 03:04:05.12", "infinity", "-infinity", "0044-03-15 01:02:03 BC", "12345-01-01 00:00:00.000001"]
MOMENTS += ["294276-12-31 23:59:59.999999", "1969-12-31 23:59:59.999999", "1582-10-10 01:02:03", "1900-01-01 00:00"]
INTERVALS = ["1 year 2 mons 3 days 04:05:06.7", "-1 days +02:03:00", "0", "100 years", "1 mon -1 day", "14 mons"]
INTERVALS += ["-00:00:00.000001", "999999999:00:00", "-1 year -3 days -04:05:06.5"]
REALS = ["0.1", "NaN", "Infinity", "-Infinity", "1e-45", "3.4028235e38", "16777216", "1e10", "0", "1.17549435e-38"]
DOUBLES = ["0.1", "NaN", "Infinity", "5e-324", "1.7976931348623157e308", "1e22", "123456789012345680000", "2e-3"]
NUMERICS = ["1.10", "NaN", "Infinity", "-Infinity", "1e-30", "123456789012345678901234567890.123450", "1e25", "-0.00"]

# Column type: its values, one a row; the rows beyond are NULL.
VALUES: dict[str, list[str]] = {
    "int2": ["-32768"],
    "int4": ["2147483647"],
    "int8": ["-9223372036854775808", "9223372036854775807"],
    "oid": ["4294967295"],
    "numeric": NUMERICS,
    "numeric(10,2)": ["1.1", "-12345678.90"],
    "money": ["-1234.5", "92233720368547758.07", "0.1"],
    "float4": REALS,
    "float8": DOUBLES,
    "bool": ["t", "f"],
    "text": ['é😀"\\\n\t\x01', "", "__debezium_unavailable_value"],
    "varchar(5)": ["ab "],
    "char(5)": ["ab", "     ", "a b"],
    "name": ["x"],
    "uuid": ["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11"],
    "mood": ["sad"],
    "inet": ["10.0.0.1/8", "fe80::1/64", "::1", "10.0.0.1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2B:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "int4range": ["[1,5)", "empty", "(,)"],
    "int8range": ["[1,2]"],
    "numrange": ["[1.10,2.0]"],
    "tsrange": ["[2024-01-01 00:00:00,2024-01-02 00:00:00.5)"],
    "tstzrange": ["[2024-01-01 00:00:00+02,infinity)"],
    "daterange": ["[2024-01-01,2024-02-01)"],
    "bit(1)": ["1", "0"],
    "bit(12)": ["101010101010"],
    "varbit": ["101", "", "1"],
    "xml": ["<a> b</a>"],
    "date": DATES,
    "time": ["12:34:56", "12:34:56.1", "24:00:00", "00:00:00.000001"],
    "time(3)": ["12:34:56.123", "24:00:00"],
    "timetz": ["12:34:56+02", "00:00:00.12+05:30", "24:00:00+00", "23:59:59.999999-15:59"],
    "timestamp": MOMENTS,
    "timestamp(3)": MOMENTS,
    "timestamptz": [moment if "inf" in moment else f"{moment} UTC" for moment in MOMENTS]
    + ["2024-01-02 03:04:05+05:30"],
    "interval": INTERVALS,
    "json": ['{"a": 1.10,  "b":\n\t[1e400, "\\n"]}', "null"],
    "jsonb": ['{"b": 12345678901234567890.10}', "null", '"x"'],
    "bytea": ["\\xdeadbeef", "\\x", "\\x" + "00ff" * 200],
    "dom": ["7.50"],
    "domarr": ["{1,2}"],
    "int4[]": ["{1,NULL,3}", "{}", "{{1,2},{3,4}}", "[2:3]={5,6}", "{{{1},{NULL}}}"],
    "text[]": ['{a,NULL,"b c","NULL","","q\\"\\\\,{}"}', "{{a,b},{c,d}}"],
    "numeric[]": ["{1.10,NaN}"],
    "float4[]": ["{0.1,NaN,-Infinity}"],
    "float8[]": ["{0.1,NaN}"],
    "bool[]": ["{t,f,NULL}"],
    "timestamp[]": ['{"2024-01-02 03:04:05.12",infinity,"0044-03-15 01:02:03 BC"}'],
    "timestamptz[]": ['{"2024-01-02 03:04:05.12+02",infinity,"0044-03-15 01:02:03+00 BC",NULL}', "{}"],
    "date[]": ['{2024-01-02,infinity,"0044-03-15 BC"}'],
    "time[]": ["{12:34:56.1,24:00:00}"],
    "timetz[]": ["{12:34:56.1+02}"],
    "inet[]": ["{10.0.0.1,::1,10.0.0.1/8}"],
    "oid[]": ["{4294967295}"],
    "json[]": ['{"{\\"a\\": 1.10}",NULL}'],
    "bytea[]": ['{"\\\\xdead",NULL}'],
    "uuid[]": ["{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}"],
    "interval[]": ['{"1 day","-1 mons","-1 days -02:03:04.5"}'],
    "mood[]": ["{sad,happy}"],
    "char(5)[]": ["{ab}"],
    "money[]": ["{1.5,-1234.5}"],
    "bit(3)[]": ["{101}"],
    "int4range[]": ['{"[1,5)"}'],
    "dom[]": ["{7.50}"],
    "name[]": ["{x}"],
    "xml[]": ["{<a/>}"],
}
CONTRIB = {
    "citext": ["Ab"],
    "citext[]": ["{Ab,NULL}"],
    "hstore": ['a=>1, b=>NULL, "q\\"x"=>"y\n"', ""],
    "hstore[]": ['{"a=>1, b=>NULL","\\"q\\\\\\"x\\"=>y"}'],
}


def comparable(value: Any) -> Any:
    """Numbers by value, but for the sign of zero; JSON text as its tree."""
    if isinstance(value, float) and math.isinf(value):
        return str(value)
    return [comparable(each) for each in value] if isinstance(value, list) else value


def make_table(connection: psycopg.Connection[Any], values: dict[str, list[str]]) -> dict[str, str]:
    """The table, and its columns' types by name."""
    connection.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
    connection.execute("CREATE DOMAIN dom AS numeric(6,2)")
    connection.execute("CREATE DOMAIN domarr AS int4[]")
    columns = {f"c{number} {type}": type for number, type in enumerate(values)}
    listed = ", ".join(f'"{name}" {type}' for name, type in columns.items())
    connection.execute(f"CREATE TABLE everything (id int PRIMARY KEY, {listed})")
    return columns


def insert(
    connection: psycopg.Connection[Any], columns: dict[str, str], values: dict[str, list[str]], base: int
) -> int:
    rows = max(len(each) for each in values.values())
    for row in range(rows):
        here = {name: values[type][row] for name, type in columns.items() if row < len(values[type])}
        names = ", ".join(f'"{name}"' for name in here).replace("%", "%%")
        casts = ", ".join(f"%s::text::{columns[name]}" for name in here)
        connection.execute(f"INSERT INTO everything (id, {names}) VALUES ({base + row}, {casts})", list(here.values()))
    return rows


def expected(connection: psycopg.Connection[Any], table: Table) -> dict[int, dict[str, Any]]:
    for name, value in SESSION.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, value])
    columns = [column for column in table.columns if column.name != "id"]
    query = f"SELECT id, {', '.join(f'({sql_expression(column)})::text' for column in columns)} FROM everything"
    return {
        row[0]: {c.name: None if v is None else json.loads(v) for c, v in zip(columns, row[1:], strict=True)}
        for row in connection.execute(query.replace("%", "%%")).fetchall()
    }


def actual(change: RowChange, table: Table) -> dict[str, Any]:
    found = {}
    for column in table.columns:
        value = change.values[column.name]
        if column.kind in (Kind.JSON, Kind.HSTORE) and value is not None:
            value = json.loads(value)
        if column.name != "id":
            found[column.name] = value
    return found


def check_values(url: str, directory: Path, values: dict[str, list[str]]) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        columns = make_table(connection, values)
        rows = insert(connection, columns, values, 0)
        captured = {"public.everything": ["id", *columns]}
        catalogue = read_stream_catalogue(url, list(captured))
        connection.execute(source_sql(captured, catalogue, "hub_values", url))
        feed = EngineFeed(StreamSettings(url, "hub_values", captured, catalogue), directory)
        feed.start(FeedPlan(snapshot=True))
        try:
            changes: dict[int, RowChange] = {}
            for _ in range(90):
                batch = feed.take(1.0)
                for arrival in batch.arrivals if batch else ():
                    if isinstance(arrival, SnapshotRows | Transaction):
                        changes |= {change.values["id"]: change for change in arrival.changes}
                    elif isinstance(arrival, SnapshotCompleted):
                        insert(connection, columns, values, 1000)
                if len(changes) == 2 * rows:
                    break
        finally:
            feed.close()
        table = catalogue.tables["public.everything"]
        assert {change.operation for change in changes.values()} == {Operation.READ, Operation.INSERT}
        differences = [
            (key, name, got[name], want)
            for key, wants in expected(connection, table).items()
            for got in [actual(changes[key], table)]
            for name, want in wants.items()
            if comparable(got[name]) != comparable(want)
        ]
        assert differences == []


def test_every_type_by_snapshot_and_by_stream(database: str, tmp_path: Path) -> None:
    """What a row change holds is what the value table's SQL returns, whichever way the row came."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION citext")
        connection.execute("CREATE EXTENSION hstore")
    check_values(database, tmp_path, VALUES | CONTRIB)


def test_every_type_on_the_newest_postgres(pypi_database: str, tmp_path: Path) -> None:
    """The same on the demo's server, which is of another major version and has no extensions."""
    without_xml = {type: values for type, values in VALUES.items() if not type.startswith("xml")}
    check_values(pypi_database, tmp_path, without_xml)
