"""Values as they compare: of each kind of column, a key that is equal and ordered as Postgres has it.

Keys of one kind can be hashed and compared with each other. A value that is not of the kind has none.

    integer, numeric, money, float   exact numbers; NaN equals NaN and is above all
    timestamp, timestamptz, date     microseconds or days since 1970; infinity at both ends
    time, timetz, interval           microseconds; a month has 30 days
    text, citext                     by code point; citext in lower case
    json, hstore                     by JSON type first
"""

import re
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from hub.catalogue import Kind

Key = Any  # hashable; ordered among keys of the same kind

NUMBERS = frozenset({Kind.INTEGER, Kind.NUMERIC, Kind.MONEY, Kind.FLOAT})
TEXTS = frozenset({Kind.TEXT, Kind.CITEXT, Kind.JSON, Kind.HSTORE, Kind.BYTEA, Kind.OTHER})
OBJECTS = frozenset({Kind.JSON, Kind.HSTORE})  # paths may go on below them

EXPECTED = {
    Kind.INTEGER: "a number",
    Kind.NUMERIC: "a number",
    Kind.MONEY: "a number",
    Kind.FLOAT: 'a number, "NaN", "Infinity" or "-Infinity"',
    Kind.BOOLEAN: "true or false",
    Kind.DATE: "a date like 2024-01-31",
    Kind.TIME: "a time like 13:45:00",
    Kind.TIMETZ: "a time like 13:45:00Z",
    Kind.TIMESTAMP: "a time without zone like 2024-01-31T13:45:00",
    Kind.TIMESTAMPTZ: "a time with zone like 2024-01-31T13:45:00Z",
    Kind.INTERVAL: "an ISO 8601 interval like P1DT2H",
    Kind.JSON: "a text, a number, true or false",
}

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,6})?")
_NOT_FINITE = {"NaN": Decimal("NaN"), "Infinity": Decimal("Infinity"), "-Infinity": Decimal("-Infinity")}
_DATE = r"(\d{4,})-(\d\d)-(\d\d)"
_TIME = r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?"
_ZONE = r"(Z|[+-]\d\d(?::?\d\d)?(?::\d\d)?)?"
_DATE_FORM = re.compile(rf"{_DATE}( BC)?", re.ASCII)
_TIME_FORM = re.compile(rf"{_TIME}{_ZONE}", re.ASCII)
_TIMESTAMP_FORM = re.compile(rf"{_DATE}(?:[T ]{_TIME}{_ZONE})?( BC)?(Z)?", re.ASCII)
_INTERVAL_FORM = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)W)?(?:(-?\d+)D)?"
    r"(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?\d+(?:\.\d{1,6})?)S)?)?",
    re.ASCII,
)
_INFINITE = {"infinity": Decimal("Infinity"), "-infinity": Decimal("-Infinity")}
SECOND = 1_000_000
DAY = 86_400 * SECOND


def value_key(kind: Kind) -> Callable[[Any], Key | None]:
    """What turns a document's value into its key; None when it has none."""
    return _KEYS[kind]


def literal_key(kind: Kind, literal: Any) -> Key | None:
    """The key of what an integrator wrote in YAML; None when it is of another type and never fits."""
    if isinstance(literal, float):
        literal = (
            Decimal(repr(literal)) if literal == literal and abs(literal) != float("inf") else _not_finite(literal)
        )
    if isinstance(literal, date | datetime):
        literal = literal.isoformat()
    if kind is Kind.INTEGER and isinstance(literal, str):
        return None
    return _KEYS[kind](literal)


def _not_finite(literal: float) -> str:
    return "NaN" if literal != literal else "Infinity" if literal > 0 else "-Infinity"


def number_key(value: Any) -> Key | None:
    if type(value) is int:
        return (0, value)
    number = _number(value)
    if number is None:
        return None
    return (1, 0) if number != number else (0, number)


def _number(value: Any) -> int | Decimal | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | Decimal):
        return value
    if not isinstance(value, str):
        return None
    if value in _NOT_FINITE:
        return _NOT_FINITE[value]
    try:
        return Decimal(value) if _NUMBER.fullmatch(value) else None
    except InvalidOperation:
        return None


def text_key(value: Any) -> Key | None:
    return value if isinstance(value, str) else None


def _citext_key(value: Any) -> Key | None:
    return value.lower() if isinstance(value, str) else None


def _boolean_key(value: Any) -> Key | None:
    return value if isinstance(value, bool) else None


def json_key(value: Any) -> Key | None:
    """The JSON type stands first, so that true is not 1 and "1" is not 1. Objects and lists have none."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | Decimal):
        return ("number", value)
    return ("text", value) if isinstance(value, str) else None


def _date_key(value: Any) -> Key | None:
    if not isinstance(value, str):
        return None
    if value in _INFINITE:
        return _INFINITE[value]
    form = _DATE_FORM.fullmatch(value)
    return form and _days(form[1], form[2], form[3], form[4])


def _timestamp_key(value: Any) -> Key | None:
    return _instant(value, zoned=False)


def _timestamptz_key(value: Any) -> Key | None:
    """Without an offset it is UTC."""
    return _instant(value, zoned=True)


def _instant(value: Any, zoned: bool) -> Key | None:
    if not isinstance(value, str):
        return None
    if value.removesuffix("Z") in _INFINITE:
        return _INFINITE[value.removesuffix("Z")]
    form = _TIMESTAMP_FORM.fullmatch(value)
    if form is None or ((form[8] or form[10]) and not zoned):
        return None
    days = _days(form[1], form[2], form[3], form[9])
    clock = _clock(form[4] or "00", form[5] or "00", form[6], form[7])
    return None if days is None or clock is None else days * DAY + clock - _offset(form[8])


def _time_key(value: Any) -> Key | None:
    form = _TIME_FORM.fullmatch(value) if isinstance(value, str) else None
    return None if form is None or form[5] else _clock(form[1], form[2], form[3], form[4])


def _timetz_key(value: Any) -> Key | None:
    """The moment of a UTC day; without an offset it is UTC."""
    form = _TIME_FORM.fullmatch(value) if isinstance(value, str) else None
    clock = form and _clock(form[1], form[2], form[3], form[4])
    if form is None or clock is None:
        return None
    return clock if not _offset(form[5]) else (clock - _offset(form[5])) % DAY


def _interval_key(value: Any) -> Key | None:
    form = _INTERVAL_FORM.fullmatch(value) if isinstance(value, str) else None
    if form is None or value in ("P", "PT"):
        return None
    years, months, weeks, days, hours, minutes = (int(form[part] or 0) for part in range(1, 7))
    seconds = int(Decimal(form[7] or 0) * SECOND)
    return (years * 360 + months * 30 + weeks * 7 + days) * DAY + (hours * 60 + minutes) * 60 * SECOND + seconds


def _clock(hour: str, minute: str, second: str | None, fraction: str | None) -> int | None:
    """Microseconds since midnight; 24:00 is a time in Postgres."""
    seconds = int(hour) * 3600 + int(minute) * 60 + int(second or 0)
    if int(minute) > 59 or int(second or 0) > 60 or seconds > 86_400:
        return None
    return seconds * SECOND + int((fraction or "").ljust(6, "0"))


def _offset(zone: str | None) -> int:
    """Microseconds east of UTC."""
    if zone is None or zone == "Z":
        return 0
    digits = zone[1:].replace(":", "").ljust(6, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:])
    return (-seconds if zone[0] == "-" else seconds) * SECOND


def _days(year: str, month: str, day: str, bc: str | None) -> int | None:
    """Days since 1970 in the Gregorian calendar, which Postgres uses for all time; year 1 BC is 0."""
    years, months, days = int(year), int(month), int(day)
    if bc:
        years = 1 - years
    if not 1 <= months <= 12 or not 1 <= days <= _month_length(years, months):
        return None
    # Count from 1 March, so that the leap day is a year's last.
    years -= months <= 2
    day_of_year = (153 * ((months + 9) % 12) + 2) // 5 + days - 1
    return years * 365 + years // 4 - years // 100 + years // 400 + day_of_year - 719_468


def _month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


_KEYS: dict[Kind, Callable[[Any], Key | None]] = {
    Kind.INTEGER: number_key,
    Kind.NUMERIC: number_key,
    Kind.MONEY: number_key,
    Kind.FLOAT: number_key,
    Kind.BOOLEAN: _boolean_key,
    Kind.TEXT: text_key,
    Kind.CITEXT: _citext_key,
    Kind.DATE: _date_key,
    Kind.TIME: _time_key,
    Kind.TIMETZ: _timetz_key,
    Kind.TIMESTAMP: _timestamp_key,
    Kind.TIMESTAMPTZ: _timestamptz_key,
    Kind.INTERVAL: _interval_key,
    Kind.JSON: json_key,
    Kind.BYTEA: text_key,
    Kind.HSTORE: text_key,
    Kind.OTHER: text_key,
}
