"""Values that Python converts, and Debezium's settings, without a database."""

from typing import Any

import pytest

from cdc.settings import StreamSettings, connection_settings, engine_settings
from cdc.values import ELEMENTS, one_line, parse_array, shortest_real, unsupported, with_mask
from hub.catalogue import Catalogue, Column, Kind
from hub.errors import InputError


@pytest.mark.parametrize(
    ("base", "text", "expected"),
    [
        ("int4", "{{1,NULL},{3,4}}", [[1, None], [3, 4]]),
        ("int4", "[0:1]={1,2}", [1, 2]),
        ("text", '{"NULL",NULL,"","a\\"b\\\\","{,}"}', ["NULL", None, "", 'a"b\\', "{,}"]),
        ("interval", '{"-1 years -2 mons +3 days -04:00:00.5","00:00:00"}', ["P-1Y-2M3DT-4H-0.5S", "PT0S"]),
        ("timestamptz", '{"9999-12-31 23:30:00-01","0001-01-01 00:30:00+01 BC"}',
         ["10000-01-01T00:30:00Z", "0002-12-31T23:30:00Z BC"]),
        ("hstore", '{"\\"a\\"=>\\"1\\", \\"b\\"=>NULL"}', ['{"a": "1", "b": null}']),
        ("money", "{$1.50,\"-$1,234.50\"}", ["1.50", "-1234.50"]),
    ],
)  # fmt: skip
def test_arrays_as_postgres_prints_them(base: str, text: str, expected: list[Any]) -> None:
    """Nested, with nulls, quotes and lower bounds."""
    assert parse_array(text, ELEMENTS.get(base, str)) == expected


def test_reals_inets_and_json_text() -> None:
    """Each in the document's own form."""
    assert [shortest_real(value) for value in (1.4e-45, 0.1, 16777216.0, "NaN")] == [1e-45, 0.1, 16777216.0, "NaN"]
    assert [with_mask(text) for text in ("10.0.0.1", "::1", "10.0.0.0/8")] == ["10.0.0.1/32", "::1/128", "10.0.0.0/8"]
    assert one_line('{"a":\n\t"\\n"}') == '{"a":  "\\n"}'


def test_what_cannot_be_captured_says_why() -> None:
    """Generated columns are in the log from Postgres 18 on, and only stored ones."""
    stored = Column("g", "integer", "int4", Kind.INTEGER, generated="s")
    assert unsupported(stored, 170000) and not unsupported(stored, 180000)
    assert unsupported(Column("p", "point", "point", Kind.OTHER), 180000)


def test_the_source_url_is_taken_apart_for_debezium() -> None:
    """TLS and time-outs reach the driver; what it does not know is refused, and no password is repeated."""
    found = connection_settings(
        "postgresql://u:p%40w@h:6543/d?sslmode=verify-full&sslrootcert=/ca.pem&connect_timeout=3"
    )
    assert found["database.password"] == "p@w"
    assert (found["database.sslmode"], found["database.sslrootcert"]) == ("verify-full", "/ca.pem")
    assert (found["database.port"], found["driver.connectTimeout"]) == ("6543", "3")
    with pytest.raises(InputError, match="replication"):
        connection_settings("postgresql://u:secret@h/d?replication=database")


def test_no_default_that_corrupts_is_left() -> None:
    """Each of these corrupts, stalls or breaks the application where it is forgotten."""
    settings = engine_settings(StreamSettings("postgresql://u:p@h/d", "hub", {}, Catalogue({})), snapshot=True)
    expected = {
        "plugin.name": "pgoutput", "publication.autocreate.mode": "disabled", "skipped.operations": "none",
        "tombstones.on.delete": "false", "converter.replace.null.with.default": "false",
        "event.converting.failure.handling.mode": "fail", "record.processing.order": "ORDERED",
    }  # fmt: skip
    assert {name: settings[name] for name in expected} == expected
