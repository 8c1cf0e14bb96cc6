"""From Debezium's JSON values to a document's: the value table of docs/values.md, column by column.

Three parts share the work. `cdc/java/hub/DocumentValues.java` runs inside Debezium for the columns that `java_form`
names: dates, times, intervals, numerics and the like come as the document's own text, arrays as Postgres prints
them. `converter` does what is left in Python, which for most columns is nothing. `sql_expression` says the same in
SQL, for comparison.
"""

import base64
import json
import re
import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hub.catalogue import Column, Kind

Converter = Callable[[Any], Any]

# What a session must have set for `sql_expression`.
SESSION = {
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmloption": "content",
}
# Debezium's parser wants intervals as Postgres itself prints them, so only this differs in the stream's sessions.
STREAM_SESSION = SESSION | {"IntervalStyle": "postgres"}

JAVA_FORMS = {
    "numeric": "numeric",
    "bpchar": "char",
    "date": "date",
    "time": "time",
    "timetz": "timetz",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "interval": "interval",
    "bit": "text",
    "bytea": "bytea",
    "varbit": "text",
    "name": "text",
    "xml": "text",
}


def java_form(column: Column) -> str | None:
    """How DocumentValues.java converts the column; None when Debezium's own form is taken."""
    return "array" if column.array else JAVA_FORMS.get(column.base)


def unsupported(column: Column, server_version: int) -> str | None:
    """Why the column cannot be captured exactly, as one sentence; None when it can."""
    if column.kind is Kind.OTHER:
        return f"Its type {column.type} has no form in a document; exclude the column."
    if column.generated == "v":
        return "It is a virtual generated column, which the write-ahead log does not hold; exclude it."
    if column.generated and server_version < 180000:
        return "It is a generated column, which Postgres before 18 leaves out of the write-ahead log; exclude it."
    return None


def converter(column: Column) -> Converter | None:
    """What turns a non-null value of the stream into the document's; None when it is the same."""
    if column.array:
        element = ELEMENTS.get(column.base) or _text
        if column.kind in (Kind.JSON, Kind.HSTORE):
            return lambda text: _json_text(parse_array(text, element))
        return lambda text: parse_array(text, element)
    if column.kind in (Kind.JSON, Kind.HSTORE):
        return one_line
    return {"float4": shortest_real, "inet": with_mask}.get(column.base)


def one_line(text: str) -> str:
    """JSON text without line breaks and tabs: inside its strings they are escaped, so these stand between values."""
    if "\n" in text or "\t" in text or "\r" in text:
        return text.replace("\r", " ").replace("\n", " ").replace("\t", " ")
    return text


def with_mask(text: str) -> str:
    """As a cast to text gives an inet, which its own output leaves out for a single host: "10.0.0.1/32"."""
    return text if "/" in text else f"{text}/{128 if ':' in text else 32}"


_REAL = struct.Struct("f")


def shortest_real(value: Any) -> Any:
    """The decimal number with the fewest digits that reads back as the same real. NaN and infinities are strings."""
    if not isinstance(value, float):
        return value
    packed = _REAL.pack(value)
    for digits in range(1, 9):
        candidate = float(f"{value:.{digits}g}")
        if _packs_to(candidate, packed):
            return candidate
    return value


def _packs_to(candidate: float, packed: bytes) -> bool:
    try:
        return _REAL.pack(candidate) == packed
    except OverflowError:
        return False


# Arrays: Postgres's own text, {1,NULL,"a b"}, nested for several dimensions.


def _text(text: str) -> Any:
    return text


def _float(text: str) -> Any:
    return text if text[-1] in "Ny" else float(text)  # NaN, Infinity, -Infinity are strings in JSON


def _timestamp(text: str) -> str:
    return text if text.endswith("infinity") else text.replace(" ", "T", 1)


def _money(text: str) -> str:
    """ "-$1,234.50" is "-1234.50", whatever the currency sign."""
    digits = re.sub(r"[^0-9.]", "", text)
    return f"-{digits}" if text.startswith(("-", "(")) else digits


def _bytea(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text[2:])).decode()


_OFFSET = re.compile(r"^(.*?)([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?( BC)?$")


def _utc(text: str) -> tuple[str, str, int]:
    """A time with its zone as (what stands before the zone, " BC" or "", seconds east of UTC)."""
    found = _OFFSET.match(text)
    if not found:
        raise ValueError(f"{text!r} has no time zone")
    local, sign, hours, minutes, seconds, era = found.groups()
    offset = int(hours) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)
    return local, era or "", -offset if sign == "-" else offset


def _timestamptz(text: str) -> str:
    if text.endswith("infinity"):
        return text
    local, era, offset = _utc(text)
    if offset == 0:
        return local.replace(" ", "T", 1) + "Z" + era
    moment, _, fraction = local.partition(".")
    # Python's calendar ends at years 1 and 9999: years further out are shifted by whole 400-year cycles.
    year, rest = moment.split("-", 1)
    number = 1 - int(year) if era else int(year)
    shift = (number - 2000) // 400 * 400
    at = datetime.fromisoformat(f"{number - shift:04d}-{rest}").replace(tzinfo=UTC) - timedelta(seconds=offset)
    number = at.year + shift
    year_text, era = (f"{number:04d}", "") if number > 0 else (f"{1 - number:04d}", " BC")
    return f"{year_text}-{at:%m-%dT%H:%M:%S}{'.' + fraction if fraction else ''}Z{era}"


def _timetz(text: str) -> str:
    local, _, offset = _utc(text)
    clock, _, fraction = local.partition(".")
    hours, minutes, seconds = map(int, clock.split(":"))
    at = (hours * 3600 + minutes * 60 + seconds - offset) % 86400
    return f"{at // 3600:02d}:{at // 60 % 60:02d}:{at % 60:02d}{'.' + fraction if fraction else ''}Z"


_UNIT = re.compile(r"([+-]?\d+) (year|mon|day)s?")
_CLOCK = re.compile(r"([+-]?)(\d+):(\d\d):(\d\d)(\.\d+)?$")


def _interval(text: str) -> str:
    """ "1 year 2 mons -3 days +04:05:06.7" is "P1Y2M-3DT4H5M6.7S", as Postgres prints it in iso_8601."""
    if text.endswith("infinity"):
        return text
    units = "".join(f"{int(number)}{unit[0].upper()}" for number, unit in _UNIT.findall(text) if int(number))
    clock = _CLOCK.search(text)
    parts = []
    if clock:
        sign, hours, minutes, seconds, fraction = clock.groups()
        minus = "-" if sign == "-" else ""
        second = Decimal(seconds + (fraction or ""))
        parts = [f"{minus}{int(number)}{unit}" for number, unit in ((hours, "H"), (minutes, "M")) if int(number)]
        parts += [f"{minus}{second.normalize():f}S"] if second else []
    return f"P{units}{'T' if parts else ''}{''.join(parts)}" if units or parts else "PT0S"


_HSTORE = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)', re.DOTALL)


def _hstore(text: str) -> str:
    pairs = {_unescape(key): None if value is None else _unescape(value) for key, value in _pairs(text)}
    return json.dumps(pairs, ensure_ascii=False)


def _pairs(text: str) -> list[tuple[str, str | None]]:
    return [(found[1], found[2]) for found in _HSTORE.finditer(text)]


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text


ELEMENTS: dict[str, Converter] = {
    "int2": int,
    "int4": int,
    "int8": int,
    "oid": int,
    "bool": "t".__eq__,
    "float4": _float,
    "float8": _float,
    "money": _money,
    "bpchar": lambda text: text.rstrip(" "),
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "timetz": _timetz,
    "inet": with_mask,
    "interval": _interval,
    "bytea": _bytea,
    "json": one_line,
    "jsonb": one_line,
    "hstore": _hstore,
}

_TOKEN = re.compile(r'[{},]|"((?:[^"\\]|\\.)*)"|([^{},"]+)', re.DOTALL)


def parse_array(text: str, element: Converter) -> list[Any]:
    """Postgres's text of an array of any number of dimensions as nested lists; lower bounds are dropped."""
    if text == "{}":
        return []
    top: list[Any] = []
    stack = [top]
    for token in _TOKEN.finditer(text, text.index("{")):
        quoted, plain = token.groups()
        if quoted is not None:
            stack[-1].append(element(_unescape(quoted)))
        elif plain is not None:
            stack[-1].append(None if plain == "NULL" else element(plain))
        elif token[0] == "{":
            nested: list[Any] = []
            stack[-1].append(nested)
            stack.append(nested)
        elif token[0] == "}":
            stack.pop()
    result: list[Any] = top[0]
    return result


def _json_text(value: Any) -> str:
    """An array whose elements are JSON texts, as one JSON text: row images keep such columns in that form."""
    if isinstance(value, list):
        return "[" + ",".join(map(_json_text, value)) + "]"
    return "null" if value is None else str(value)


# The value table in SQL. Every expression gives json, in a session with SESSION set.


def sql_expression(column: Column, operand: str | None = None) -> str:
    """SQL of type json: what a document holds of the column. `operand`: the column in SQL, when it has a prefix."""
    value = operand or quote(column.name)
    if column.array:
        return _sql_array(column, value)
    if column.base == "oid":
        return f"to_json({value}::int8)"
    if column.kind in (Kind.INTEGER, Kind.FLOAT, Kind.BOOLEAN, Kind.TIMESTAMP):
        return f"to_json({value})"
    template = _SQL_BY_BASE.get(column.base, "to_json({0}::text)")
    return template.format(value)


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# The zone of a year before Christ stands where Postgres puts it: "0044-03-15T01:02:03Z BC".
_WITH_Z = "regexp_replace({0}, '([0-9])( BC)?$', '\\1Z\\2')"
_SQL_BY_BASE = {
    "money": "to_json({0}::numeric::text)",
    "bpchar": "to_json(rtrim({0}::text, ' '))",
    "timetz": "to_json(({0} AT TIME ZONE 'UTC')::time::text || 'Z')",
    "timestamptz": "to_json(" + _WITH_Z.format("to_json({0} AT TIME ZONE 'UTC') #>> '{{}}'") + ")",
    "json": "{0}::json",
    "jsonb": "{0}::json",
    "bytea": "to_json(replace(encode({0}, 'base64'), E'\\n', ''))",
    "hstore": "hstore_to_json({0})",
}
# Casting an array casts its elements and keeps its dimensions; what a cast cannot say is done element by element.
_SQL_ARRAYS = {
    "int2": "to_json({0})",
    "int4": "to_json({0})",
    "int8": "to_json({0})",
    "oid": "to_json({0}::int8[])",
    "float4": "to_json({0})",
    "float8": "to_json({0})",
    "bool": "to_json({0})",
    "timestamp": "to_json({0})",
    "json": "to_json({0})",
    "jsonb": "to_json({0})",
    "money": "to_json({0}::numeric[]::text[])",
}


def _sql_array(column: Column, value: str) -> str:
    if column.base in _SQL_ARRAYS:
        return _SQL_ARRAYS[column.base].format(value)
    if column.base not in _SQL_BY_BASE:
        return f"to_json({value}::text[])"
    element = _SQL_BY_BASE[column.base].format("element")
    return (
        f"CASE WHEN {value} IS NULL THEN NULL ELSE (SELECT coalesce(json_agg(CASE WHEN element IS NOT NULL"
        f" THEN {element} END ORDER BY position), '[]')"
        f" FROM unnest({value}) WITH ORDINALITY AS list (element, position)) END"
    )
