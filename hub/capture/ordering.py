"""How values compare within Postgres's order, so that lists stand as ORDER BY … NULLS LAST would put them."""

import base64
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hub.catalogue import Column, Kind

SortKey = Callable[[Any], Any]

_INTERVAL = re.compile(
    r"P(?:(?P<Y>-?\d+)Y)?(?:(?P<M>-?\d+)M)?(?:(?P<W>-?\d+)W)?(?:(?P<D>-?\d+)D)?"
    r"(?:T(?:(?P<h>-?\d+)H)?(?:(?P<m>-?\d+)M)?(?:(?P<s>-?[\d.]+)S)?)?"
)


def sort_key(column: Column) -> SortKey:
    """A function from a column's document value to something that compares; nulls come last."""
    element = _ELEMENT.get(column.kind, _plain)
    if column.array:

        def array(value: Any) -> Any:
            return (1,) if value is None else (0, _array(value, element))

        return array

    def key(value: Any) -> Any:
        return (1,) if value is None else (0, element(value))

    return key


def _array(value: Any, element: SortKey) -> Any:
    """Arrays compare element by element; a null element is greater than any other."""
    if isinstance(value, list):
        return tuple((1,) if item is None else (0, _array(item, element)) for item in value)
    return element(value)


def _plain(value: Any) -> Any:
    return value


def _decimal(value: Any) -> Any:
    """NaN is greater than every number, Infinity included."""
    number = Decimal(value)
    return (1, Decimal(0)) if number.is_nan() else (0, number)


def _date(value: str) -> Any:
    """Infinities at the ends; years before Christ count backwards."""
    if value == "infinity":
        return (2,)
    if value == "-infinity":
        return (0,)
    before_christ = value.endswith(" BC")
    year, rest = value.removesuffix(" BC").split("-", 1)
    return (1, 1 - int(year) if before_christ else int(year), rest.removesuffix("Z"))


def _interval(value: str) -> Any:
    """Months count 30 days, days 24 hours."""
    if value.lower().lstrip("-") == "infinity":
        return (0,) if value.startswith("-") else (2,)
    match = _INTERVAL.fullmatch(value)
    if match is None:
        return (1, Decimal(0), value)
    part = {name: Decimal(text or 0) for name, text in match.groupdict().items()}
    days = (part["Y"] * 12 + part["M"]) * 30 + part["W"] * 7 + part["D"]
    return (1, days * 86400 + part["h"] * 3600 + part["m"] * 60 + part["s"])


_ELEMENT: dict[Kind, SortKey] = {
    Kind.NUMERIC: _decimal,
    Kind.MONEY: _decimal,
    Kind.FLOAT: _decimal,
    Kind.DATE: _date,
    Kind.TIMESTAMP: _date,
    Kind.TIMESTAMPTZ: _date,
    Kind.TIMETZ: lambda value: value.removesuffix("Z"),
    Kind.INTERVAL: _interval,
    Kind.BYTEA: base64.b64decode,
}
