"""docs/values.md and the code that compares documents with SQL say the same."""

import re
from pathlib import Path

import pytest

from cdc.values import sql_expression
from hub.catalogue import Column, Kind

PAGE = (Path(__file__).parents[2] / "docs/values.md").read_text("utf-8")
ROWS = dict(re.findall(r"^\| ([a-z0-9 ()]+) \| .* \| `(.*)` \|$", PAGE, re.MULTILINE))

# The page's types as the catalogue has them: typname and kind.
TYPES = {
    "smallint": ("int2", Kind.INTEGER), "integer": ("int4", Kind.INTEGER), "bigint": ("int8", Kind.INTEGER),
    "oid": ("oid", Kind.INTEGER), "numeric": ("numeric", Kind.NUMERIC), "money": ("money", Kind.MONEY),
    "real": ("float4", Kind.FLOAT), "double precision": ("float8", Kind.FLOAT), "boolean": ("bool", Kind.BOOLEAN),
    "text": ("text", Kind.TEXT), "varchar": ("varchar", Kind.TEXT), "name": ("name", Kind.TEXT),
    "char(n)": ("bpchar", Kind.TEXT), "citext": ("citext", Kind.CITEXT), "uuid": ("uuid", Kind.TEXT),
    "inet": ("inet", Kind.TEXT), "cidr": ("cidr", Kind.TEXT), "macaddr": ("macaddr", Kind.TEXT),
    "int4range": ("int4range", Kind.TEXT), "bit": ("bit", Kind.TEXT), "varbit": ("varbit", Kind.TEXT),
    "xml": ("xml", Kind.TEXT), "date": ("date", Kind.DATE), "time": ("time", Kind.TIME),
    "timetz": ("timetz", Kind.TIMETZ), "timestamp": ("timestamp", Kind.TIMESTAMP),
    "timestamptz": ("timestamptz", Kind.TIMESTAMPTZ), "interval": ("interval", Kind.INTERVAL),
    "json": ("json", Kind.JSON), "jsonb": ("jsonb", Kind.JSON), "bytea": ("bytea", Kind.BYTEA),
    "hstore": ("hstore", Kind.HSTORE),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(TYPES))
def test_the_page_has_the_sql_of_each_type(name: str) -> None:
    """As `hub verify` runs it, with `c` for the column."""
    base, kind = TYPES[name]

    written = ROWS[name].replace("\\|", "|")
    assert written == sql_expression(Column("c", name, base, kind), "c")


def test_the_page_has_every_kind() -> None:
    """And no type that the table above does not know."""
    assert sorted(ROWS) == sorted(TYPES)
    assert {kind for _, kind in TYPES.values()} == set(Kind) - {Kind.OTHER}
