"""Values compare as Postgres compares them."""

import itertools
import random
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from hub.catalogue import Kind
from hub.subscriptions.comparison import DAY, literal_key, value_key

ASCENDING: list[tuple[Kind, list[str]]] = [
    (Kind.NUMERIC, ["-Infinity", "-1e3", "0", "0.10", "99999999999999999999.1", "Infinity", "NaN"]),
    (Kind.DATE, ["-infinity", "4713-01-01 BC", "0001-12-31 BC", "0001-01-01", "2024-02-29", "10000-01-01", "infinity"]),
    (Kind.TIMESTAMP, ["-infinity", "0044-03-15T00:00:00 BC", "1969-12-31T23:59:59.999999", "1970-01-01", "infinity"]),
    (Kind.TIMESTAMPTZ, ["2024-01-01T01:00+02", "2024-01-01T00:00Z", "2024-01-01 00:00:00-05:30", "infinity"]),
    (Kind.TIME, ["00:00", "00:00:00.000001", "23:59:59.9", "24:00:00"]),
    (Kind.TIMETZ, ["01:00+01:00", "00:30Z", "23:00-00:30"]),
    (Kind.INTERVAL, ["P-1D", "PT0S", "PT0.5S", "PT23H59M", "P1D", "P1M", "P1M1D", "P1Y"]),
    (Kind.TEXT, ["", "A", "Z", "a", "é", "\U0001f600"]),
]
EQUAL: list[tuple[Kind, Any, Any]] = [
    (Kind.NUMERIC, "1.10", Decimal("1.1")),
    (Kind.NUMERIC, "100", 100),
    (Kind.FLOAT, Decimal("0.1"), 0.1),
    (Kind.FLOAT, "NaN", float("nan")),
    (Kind.TIMESTAMPTZ, "2024-01-01T00:00:00Z", "2024-01-01 02:00:00+02"),
    (Kind.TIMESTAMPTZ, "2024-01-01T00:00:00Z", datetime(2024, 1, 1, tzinfo=UTC)),
    (Kind.TIMETZ, "23:30:00Z", "01:30+02:00"),
    (Kind.DATE, "2024-01-01", date(2024, 1, 1)),
    (Kind.INTERVAL, "P1M", "P30D"),
    (Kind.INTERVAL, "P1DT-1H", "PT23H"),
    (Kind.CITEXT, "ÀB", "àb"),
    (Kind.JSON, 1, Decimal("1.0")),
]
OTHER_TYPES: list[tuple[Kind, Any]] = [
    (Kind.INTEGER, "1"),
    (Kind.INTEGER, True),
    (Kind.NUMERIC, "1_000"),
    (Kind.NUMERIC, "0x1"),
    (Kind.BOOLEAN, 1),
    (Kind.TEXT, 1),
    (Kind.DATE, "2023-02-29"),
    (Kind.DATE, "2024-13-01"),
    (Kind.DATE, "2024-01-01T00:00"),
    (Kind.TIME, "24:00:01"),
    (Kind.TIMESTAMP, "2024-01-01T00:00Z"),
    (Kind.INTERVAL, "1 day"),
    (Kind.INTERVAL, "P"),
    (Kind.JSON, [1]),
]


@pytest.mark.parametrize(("kind", "texts"), ASCENDING, ids=lambda value: getattr(value, "value", ""))
def test_order(kind: Kind, texts: list[str]) -> None:
    """Each value is above the one before."""

    keys = [value_key(kind)(text) for text in texts]
    assert None not in keys
    assert all(below < above for below, above in itertools.pairwise(keys))


@pytest.mark.parametrize(("kind", "value", "literal"), EQUAL)
def test_equal(kind: Kind, value: Any, literal: Any) -> None:
    """A value and a literal that mean the same are equal, and hash alike."""

    assert {value_key(kind)(value)} == {literal_key(kind, literal)}


@pytest.mark.parametrize(("kind", "literal"), OTHER_TYPES)
def test_another_type(kind: Kind, literal: Any) -> None:
    """A literal of another type has no key."""

    assert literal_key(kind, literal) is None


def test_json_types_are_apart() -> None:
    """true, 1 and "1" are three values."""

    assert len({value_key(Kind.JSON)(value) for value in (True, 1, "1")}) == 3


@pytest.mark.parametrize("seed", range(100))
def test_against_datetime(seed: int) -> None:
    """Dates and instants count as Python's datetime counts them."""

    random_ = random.Random(seed)
    day = date.fromordinal(random_.randrange(1, date.max.toordinal()))
    assert value_key(Kind.DATE)(day.isoformat()) == (day - date(1970, 1, 1)).days
    zone = timezone(timedelta(minutes=random_.randrange(-900, 900)))
    moment = datetime(2000, 1, 1, tzinfo=zone) + timedelta(microseconds=random_.randrange(10**15))
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert value_key(Kind.TIMESTAMPTZ)(moment.isoformat()) == expected
    assert (
        value_key(Kind.TIMESTAMP)(moment.replace(tzinfo=None).isoformat()) % DAY
        == (moment.replace(tzinfo=None) - datetime(1970, 1, 1)) // timedelta(microseconds=1) % DAY
    )
