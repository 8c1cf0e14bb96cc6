"""The filters, tests and functions of templates. Each takes the budget first and pays for what it does."""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from jinja2.runtime import LoopContext, Undefined
from jinja2.utils import Namespace

from hub.documents import encode
from hub.subscriptions.sandbox import (
    MAX_DIGITS,
    Budget,
    SandboxError,
    check_length,
    compared,
    compute,
    elements,
    item,
    joined,
    kind_of,
    number,
    parse_number,
    plain,
    sliced,
    text_of,
    weigh,
)

Filter = Callable[..., Any]  # (budget, value, *arguments) -> value
MAX_STRIPPED = 100  # characters that trim takes away


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise SandboxError(f"It takes a text, not {kind_of(value)}.")
    return value


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise SandboxError(f"It takes an integer, not {kind_of(value)}.")
    return value


# Text


def _of_text(change: Callable[[str], str]) -> Filter:
    def changed(budget: Budget, value: Any) -> str:
        return budget.text(change(budget.text(text_of(value, budget))))

    return changed


def _trim(strip: Callable[[str, str | None], str]) -> Filter:
    def trimmed(budget: Budget, value: Any, characters: Any = None) -> str:
        if characters is not None and len(_text(characters)) > MAX_STRIPPED:
            raise SandboxError(f"It trims more than {MAX_STRIPPED} different characters.")
        return budget.text(strip(budget.text(_text(value)), characters))

    return trimmed


def _replace(budget: Budget, value: Any, old: Any, new: Any, count: Any = -1) -> str:
    text, found, put, times = _text(value), _text(old), _text(new), _integer(count)
    budget.text(text)
    occurrences = text.count(found) if times < 0 else min(times, text.count(found))
    check_length(len(text) + occurrences * (len(put) - len(found)))
    return budget.text(text.replace(found, put, times))


def _truncate(budget: Budget, value: Any, length: Any = 255, end: Any = "…") -> str:
    """At most `length` characters, the end included."""
    text, most, tail = _text(value), _integer(length), _text(end)
    if len(text) <= most:
        return text
    return budget.text(text[: max(0, most - len(tail))] + tail)


def _split(budget: Budget, value: Any, separator: Any = None, most: Any = -1) -> list[str]:
    text = _text(value)
    budget.pay(1 + len(text))
    return text.split(None if separator is None else _text(separator), _integer(most))


def _sha256(budget: Budget, value: Any) -> str:
    return sha256(text_of(value, budget).encode()).hexdigest()


def _tojson(budget: Budget, value: Any) -> str:
    return budget.text(encode(plain(value, budget)).decode())


def _urlencode(budget: Budget, value: Any) -> str:
    text = text_of(value, budget)
    budget.pay(len(text))
    return budget.text(quote(text, safe=""))


def _escape(budget: Budget, value: Any) -> str:
    text = text_of(value, budget)
    for plain_, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;"), ("'", "&#39;")):
        text = _replace(budget, text, plain_, escaped)
    return text


# Numbers

_MISSING: Any = object()
_ROUNDINGS = {
    "common": ROUND_HALF_UP,
    "half_even": ROUND_HALF_EVEN,
    "ceil": ROUND_CEILING,
    "floor": ROUND_FLOOR,
}
_wide = Context(prec=4 * MAX_DIGITS)


def _decimal(budget: Budget, value: Any, default: Any = _MISSING) -> Any:
    """An exact number, scale kept. NaN and Infinity are no numbers here."""
    budget.pay(1)
    if value is None or isinstance(value, Undefined) or value == "":
        if default is not _MISSING:
            return default
        raise SandboxError(f"{'An empty text' if value == '' else kind_of(value).capitalize()} is not a number.")
    if isinstance(value, bool) or not isinstance(value, int | Decimal | str):
        raise SandboxError(f"{kind_of(value).capitalize()} is not a number.")
    made = Decimal(number(value)) if not isinstance(value, str) else parse_number(value)
    if not made.is_finite():
        raise SandboxError(f"{made} is not a number to compute with.")
    return made


def _int(budget: Budget, value: Any, default: Any = _MISSING) -> Any:
    """Cut toward zero."""
    if isinstance(value, bool):
        return int(value)
    made = _decimal(budget, value, default)
    return int(made) if isinstance(made, Decimal) else made


def _round(budget: Budget, value: Any, digits: Any = 0, method: Any = "common") -> Any:
    """Of text too. `digits` after the point: exactly so many, so that 2.5 rounded to two is 2.50."""
    made, places = _decimal(budget, value), _integer(digits)
    if method not in _ROUNDINGS:
        raise SandboxError(f"round has no method {kind_of(method)}: take one of {', '.join(_ROUNDINGS)}.")
    if abs(places) > 100:
        raise SandboxError("round takes at most 100 digits.")
    rounded = made.quantize(Decimal(1).scaleb(-places), _ROUNDINGS[method], _wide)
    return int(rounded) if places <= 0 else rounded


def _abs(budget: Budget, value: Any) -> Any:
    budget.pay(1)
    checked = number(value)
    return checked.copy_abs() if isinstance(checked, Decimal) else abs(checked)


def negated(budget: Budget, value: Any) -> Any:
    budget.pay(1)
    return value.copy_negate() if isinstance(value, Decimal) else -number(value)


# Lists and objects


def _got(value: Any, name: str | int) -> Any:
    """None where something is missing or null on the way."""
    by_position = isinstance(name, str) and name.isdecimal() and not isinstance(value, dict)
    try:
        return item(value, int(name) if by_position else name)
    except LookupError:
        return None


def _getter(budget: Budget, path: Any) -> Callable[[Any], Any]:
    """By a dotted path, `product.sku`, or a position; the value itself when there is none."""
    if path is None:
        return lambda value: value
    parts: list[str | int] = [*budget.text(path).split(".")] if isinstance(path, str) else [_integer(path)]

    def got(value: Any) -> Any:
        budget.pay(len(parts))
        for part in parts:
            value = _got(value, part)
        return value

    return got


def _length(budget: Budget, value: Any) -> int:
    if not isinstance(value, str | list | tuple | dict | range):
        raise SandboxError(f"There is no length of {kind_of(value)}.")
    return len(value)


def _list(budget: Budget, value: Any) -> list[Any]:
    return list(elements(value, budget))


def _first(budget: Budget, value: Any) -> Any:
    """Null when there is none."""
    return next(iter(_ends(value)), None)


def _last(budget: Budget, value: Any) -> Any:
    ends = _ends(value)
    return ends[-1] if ends else None


def _ends(value: Any) -> Sequence[Any]:
    if not isinstance(value, str | list | tuple | range):
        raise SandboxError(f"There is no first or last of {kind_of(value)}.")
    return value


def _reverse(budget: Budget, value: Any) -> Any:
    return sliced(budget, value, None, None, -1)


def _join(budget: Budget, value: Any, separator: Any = "", attribute: Any = None) -> str:
    get = _getter(budget, attribute)
    return joined(budget, [get(part) for part in elements(value, budget)], _text(separator))


def _sum(budget: Budget, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    """Of numbers, numeric texts and nulls, which count as nothing."""
    get = _getter(budget, attribute)
    total = number(start)
    for part in elements(value, budget):
        found = get(part)
        if found is not None:
            total = compute(budget, total, "+", parse_number(found) if isinstance(found, str) else found)
    return total


def _sort_key(value: Any, case_sensitive: Any) -> Any:
    return value.lower() if isinstance(value, str) and not case_sensitive else value


def _sorted(
    budget: Budget, value: Any, reverse: Any = False, case_sensitive: Any = False, attribute: Any = None
) -> list[Any]:
    parts = elements(value, budget)
    get = _getter(budget, attribute)
    keys = [_sort_key(get(part), case_sensitive) for part in parts]
    kinds = {kind_of(key) for key in keys}
    if len(kinds) > 1 or kinds & {"null", "an object"}:
        raise SandboxError(f"It sorts {' and '.join(sorted(kinds))}.")
    _pay_for_sorting(budget, keys)
    order = sorted(range(len(keys)), key=keys.__getitem__, reverse=bool(reverse))
    return [parts[position] for position in order]


def _pay_for_sorting(budget: Budget, keys: list[Any]) -> None:
    """Every key is compared about as often as the number of keys has binary digits."""
    before = budget.left
    weigh(keys, budget)
    budget.pay((before - budget.left) * len(keys).bit_length())


def _dictsort(budget: Budget, value: Any) -> list[Any]:
    return _sorted(budget, _items(budget, value), attribute=0)


def _items(budget: Budget, value: Any) -> list[tuple[Any, Any]]:
    return list(_object(budget, value).items())


def _keys(budget: Budget, value: Any) -> list[Any]:
    return list(_object(budget, value))


def _values(budget: Budget, value: Any) -> list[Any]:
    return list(_object(budget, value).values())


def _object(budget: Budget, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise SandboxError(f"It takes an object, not {kind_of(value)}.")
    budget.pay(1 + len(value))
    return value


def _identity(value: Any, budget: Budget, case_sensitive: Any) -> Any:
    """Something to know equal values by."""
    key = _sort_key(value, case_sensitive)
    return (kind_of(key), encode(plain(key, budget)) if isinstance(key, list | tuple | dict) else key)


def _unique(budget: Budget, value: Any, case_sensitive: Any = False, attribute: Any = None) -> list[Any]:
    get = _getter(budget, attribute)
    found: dict[Any, Any] = {}
    for part in elements(value, budget):
        key = get(part)
        weigh(key, budget)
        found.setdefault(_identity(key, budget, case_sensitive), part)
    return list(found.values())


def _groupby(budget: Budget, value: Any, attribute: Any) -> list[tuple[Any, list[Any]]]:
    """Pairs of what is common and its elements, sorted by it."""
    get = _getter(budget, attribute)
    groups: dict[Any, tuple[Any, list[Any]]] = {}
    for part in elements(value, budget):
        key = get(part)
        weigh(key, budget)
        groups.setdefault(_identity(key, budget, True), (key, []))[1].append(part)
    return _sorted(budget, list(groups.values()), case_sensitive=True, attribute=0)


def _extreme(choose: Callable[..., Any]) -> Filter:
    def chosen(budget: Budget, value: Any, case_sensitive: Any = False, attribute: Any = None) -> Any:
        ordered = _sorted(budget, value, False, case_sensitive, attribute)
        return choose(budget, ordered)

    return chosen


def _batch(budget: Budget, value: Any, size: Any) -> list[Any]:
    parts, step = elements(value, budget), _integer(size)
    if step < 1:
        raise SandboxError("batch takes a size of at least 1.")
    return [list(parts[start : start + step]) for start in range(0, len(parts), step)]


def _map(budget: Budget, value: Any, *arguments: Any, attribute: Any = None, default: Any = None) -> list[Any]:
    """By attribute, or by a filter's name and its arguments."""
    parts = elements(value, budget)
    if attribute is not None:
        get = _getter(budget, attribute)
        return [default if found is None else found for found in map(get, parts)]
    if not arguments:
        raise SandboxError("map takes attribute='…' or the name of a filter.")
    mapped = _named(FILTERS, "filter", arguments[0])
    return [mapped(budget, part, *arguments[1:]) for part in parts]


def _selection(wanted: bool, by_attribute: bool) -> Filter:
    def selected(budget: Budget, value: Any, *arguments: Any) -> list[Any]:
        get = _getter(budget, arguments[0] if by_attribute and arguments else None)
        test, *rest = arguments[1 if by_attribute else 0 :] or ("truthy",)
        holds = _named(TESTS, "test", test)
        return [part for part in elements(value, budget) if bool(holds(budget, get(part), *rest)) is wanted]

    return selected


def _named(table: Mapping[str, Filter], what: str, name: Any) -> Filter:
    if not isinstance(name, str) or name not in table:
        raise SandboxError(f"There is no {what} named {name if isinstance(name, str) else kind_of(name)}.")
    return table[name]


def _default(budget: Budget, value: Any, default: Any = "", empty: Any = False) -> Any:
    """Instead of what is undefined or null; with `true`, of what is empty, 0 or false too."""
    if isinstance(value, Undefined) or value is None or (empty and not value):
        return default
    return value


# Dates and times

_DIRECTIVES: Mapping[str, Callable[[datetime], str]] = {
    "Y": lambda moment: f"{moment.year:04}",
    "m": lambda moment: f"{moment.month:02}",
    "d": lambda moment: f"{moment.day:02}",
    "H": lambda moment: f"{moment.hour:02}",
    "M": lambda moment: f"{moment.minute:02}",
    "S": lambda moment: f"{moment.second:02}",
    "f": lambda moment: f"{moment.microsecond:06}",
    "y": lambda moment: f"{moment.year % 100:02}",
    "j": lambda moment: f"{moment.timetuple().tm_yday:03}",
    "u": lambda moment: str(moment.isoweekday()),
    "%": lambda moment: "%",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _moment(value: Any) -> datetime:
    """UTC; what has no zone is taken as UTC."""
    text = _text(value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SandboxError(f'"{text[:40]}" is not a date or time.') from None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _date(budget: Budget, value: Any, form: Any = "%Y-%m-%d") -> Any:
    """By a format of strftime's numeric directives; null stays null."""
    if value is None:
        return None
    moment = _moment(value)

    def written(directive: re.Match[str]) -> str:
        if directive[1] not in _DIRECTIVES:
            raise SandboxError(f"date has no %{directive[1]}: take %{', %'.join(_DIRECTIVES)}.")
        return _DIRECTIVES[directive[1]](moment)

    return budget.text(re.sub(r"%(.?)", written, budget.text(_text(form))))


def _epoch(unit: timedelta) -> Filter:
    def counted(budget: Budget, value: Any) -> Any:
        budget.pay(1)
        return None if value is None else (_moment(value) - _EPOCH) // unit

    return counted


# Functions and methods


class Function:
    """What a template can call."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call  # (budget, *arguments) -> value


def _range(budget: Budget, *arguments: Any) -> list[int]:
    try:
        numbers = range(*map(_integer, arguments))
        count = len(numbers)
    except (TypeError, ValueError, OverflowError):
        raise SandboxError("range takes a start, an end and a step that is not 0, not too far apart.") from None
    budget.pay(1 + count)
    return list(numbers)


def _namespace(budget: Budget, **values: Any) -> Namespace:
    for value in values.values():
        kind_of(value)
    budget.pay(1 + len(values))
    return Namespace(**values)


def _dict(budget: Budget, **values: Any) -> dict[str, Any]:
    for value in values.values():
        kind_of(value)
    budget.pay(1 + len(values))
    return values


def _starts(budget: Budget, value: Any, prefix: Any) -> bool:
    return _text(value).startswith(budget.text(_text(prefix)))


def _ends_with(budget: Budget, value: Any, suffix: Any) -> bool:
    return _text(value).endswith(budget.text(_text(suffix)))


def _get_field(budget: Budget, value: Any, name: Any, default: Any = None) -> Any:
    budget.pay(1)
    return value.get(_text(name), default)


def _cycle(budget: Budget, loop: LoopContext, *values: Any) -> Any:
    budget.pay(1)
    if not values:
        raise SandboxError("loop.cycle takes the values to go through.")
    return values[loop.index0 % len(values)]


def method(value: Any, name: str) -> Function | None:
    """A method that a template may call on a value, or None."""
    found = next((methods.get(name) for kind, methods in _METHODS if isinstance(value, kind)), None)
    return found and Function(lambda budget, *arguments, **named: found(budget, value, *arguments, **named))


# Tests


def _tested(holds: Callable[[Any], bool]) -> Filter:
    def tested(budget: Budget, value: Any) -> bool:
        budget.pay(1)
        return holds(value)

    return tested


def _comparing(sign: str) -> Filter:
    return lambda budget, value, other: compared(budget, value, sign, other)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | Decimal) and not isinstance(value, bool)


def _divisible(budget: Budget, value: Any, by: Any) -> bool:
    return bool(compute(budget, value, "%", by) == 0)


_COMPARISONS = {
    "eq": ("eq", "equalto", "=="),
    "ne": ("ne", "!="),
    "lt": ("lt", "lessthan", "<"),
    "lteq": ("le", "<="),
    "gt": ("gt", "greaterthan", ">"),
    "gteq": ("ge", ">="),
    "in": ("in",),
}

TESTS: dict[str, Filter] = {
    "defined": _tested(lambda value: not isinstance(value, Undefined)),
    "undefined": _tested(lambda value: isinstance(value, Undefined)),
    "none": _tested(lambda value: value is None),
    "true": _tested(lambda value: value is True),
    "false": _tested(lambda value: value is False),
    "truthy": _tested(bool),
    "boolean": _tested(lambda value: isinstance(value, bool)),
    "number": _tested(_is_number),
    "integer": _tested(lambda value: type(value) is int),
    "string": _tested(lambda value: isinstance(value, str)),
    "mapping": _tested(lambda value: isinstance(value, dict)),
    "sequence": _tested(lambda value: isinstance(value, list | tuple | range | str | dict)),
    "iterable": _tested(lambda value: isinstance(value, list | tuple | range | str | dict)),
    "even": lambda budget, value: _divisible(budget, value, 2),
    "odd": lambda budget, value: not _divisible(budget, value, 2),
    "divisibleby": _divisible,
    "startingwith": _starts,
    "endingwith": _ends_with,
    **{name: _comparing(sign) for sign, names in _COMPARISONS.items() for name in names},
}

FILTERS: dict[str, Filter] = {
    "abs": _abs,
    "batch": _batch,
    "capitalize": _of_text(str.capitalize),
    "count": _length,
    "d": _default,
    "date": _date,
    "decimal": _decimal,
    "default": _default,
    "dictsort": _dictsort,
    "e": _escape,
    "epoch": _epoch(timedelta(seconds=1)),
    "epoch_ms": _epoch(timedelta(milliseconds=1)),
    "escape": _escape,
    "first": _first,
    "groupby": _groupby,
    "int": _int,
    "items": _items,
    "join": _join,
    "keys": _keys,
    "last": _last,
    "length": _length,
    "list": _list,
    "lower": _of_text(str.lower),
    "map": _map,
    "max": _extreme(_last),
    "min": _extreme(_first),
    "reject": _selection(wanted=False, by_attribute=False),
    "rejectattr": _selection(wanted=False, by_attribute=True),
    "replace": _replace,
    "reverse": _reverse,
    "round": _round,
    "select": _selection(wanted=True, by_attribute=False),
    "selectattr": _selection(wanted=True, by_attribute=True),
    "sha256": _sha256,
    "sort": _sorted,
    "split": _split,
    "string": lambda budget, value: text_of(value, budget),
    "sum": _sum,
    "title": _of_text(str.title),
    "tojson": _tojson,
    "trim": _trim(str.strip),
    "truncate": _truncate,
    "unique": _unique,
    "upper": _of_text(str.upper),
    "urlencode": _urlencode,
    "values": _values,
}

FUNCTIONS: dict[str, Function] = {
    "range": Function(_range),
    "namespace": Function(_namespace),
    "dict": Function(_dict),
}

_METHODS: tuple[tuple[type, Mapping[str, Filter]], ...] = (
    (dict, {"items": _items, "keys": _keys, "values": _values, "get": _get_field}),
    (
        str,
        {
            "upper": FILTERS["upper"],
            "lower": FILTERS["lower"],
            "title": FILTERS["title"],
            "capitalize": FILTERS["capitalize"],
            "strip": FILTERS["trim"],
            "lstrip": _trim(str.lstrip),
            "rstrip": _trim(str.rstrip),
            "split": _split,
            "replace": _replace,
            "startswith": _starts,
            "endswith": _ends_with,
            "join": lambda budget, separator, parts: _join(budget, parts, separator),
        },
    ),
    (LoopContext, {"cycle": _cycle}),
)
