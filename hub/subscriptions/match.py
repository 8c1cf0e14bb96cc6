"""Patterns: which documents are in a subscription's set.

A pattern is compiled into a tree of conditions once, and asked of many documents:

    Every            all of a map's keys
    Some             any of a list, or of any_of
    Inverse          not
    At, EachElement  a step of a path: a field, or [*]
    Equal, Compared, Present, Text, Never   what a value must be

Null and missing are the same, and a field of null is null. `[*]` asks whether some element fits, inside `not` too:
`lines[*].kind: {not: [ticket]}` is a line that is no ticket; `not: [{lines[*].kind: ticket}]` is no ticket at all.
"""

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from hub.catalogue import Kind
from hub.documents import Shape, encode
from hub.subscriptions.comparison import EXPECTED, OBJECTS, TEXTS, Key, literal_key, value_key
from hub.subscriptions.diff import Each, Element, parse_path

Matcher = Callable[[Any], bool]

RANGES: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
OPERATORS = (*RANGES, "prefix", "suffix", "matches", "not", "exists", "any_of")
MAX_DEPTH = 50  # maps and lists inside each other


def compile_match(pattern: Any, shape: Shape) -> Matcher:
    """Whether a document's tree fits. What is wrong in the pattern never fits: see `problems`."""
    return _Compiler().pattern(pattern, _root(shape), 0).fits


def problems(pattern: Any, shape: Shape) -> list[tuple[str, str]]:
    """What in the pattern can't work, each as the path where it is written and a sentence."""
    compiler = _Compiler()
    compiler.pattern(pattern, _root(shape), 0)
    return compiler.problems


def explain(pattern: Any, shape: Shape, tree: Any) -> str:
    """The first condition that the document fails, as a sentence; "" when it fits."""
    condition = _Compiler().pattern(pattern, _root(shape), 0)
    return "" if condition.fits(tree) else condition.why_not(tree)


class Condition(Protocol):
    def fits(self, value: Any) -> bool: ...

    def why_not(self, value: Any) -> str:
        """Why a value does not fit; asked only when it does not."""


@dataclass(frozen=True, slots=True)
class Every:
    conditions: tuple[Condition, ...]

    def fits(self, value: Any) -> bool:
        for condition in self.conditions:  # noqa: SIM110 - twice as fast as all()
            if not condition.fits(value):
                return False
        return True

    def why_not(self, value: Any) -> str:
        return next(condition.why_not(value) for condition in self.conditions if not condition.fits(value))


@dataclass(frozen=True, slots=True)
class Some:
    conditions: tuple[Condition, ...]

    def fits(self, value: Any) -> bool:
        for condition in self.conditions:  # noqa: SIM110 - twice as fast as any()
            if condition.fits(value):
                return True
        return False

    def why_not(self, value: Any) -> str:
        reasons = dict.fromkeys(condition.why_not(value).removesuffix(".") for condition in self.conditions)
        return f"{'; '.join(reasons)}." if reasons else "An empty list fits nothing."


@dataclass(frozen=True, slots=True)
class Inverse:
    path: str
    condition: Condition

    def fits(self, value: Any) -> bool:
        return not self.condition.fits(value)

    def why_not(self, value: Any) -> str:
        return f"{self.path or 'The document'} is {_shown(value)}, which `not` excludes."


@dataclass(frozen=True, slots=True)
class At:
    field: str
    condition: Condition

    def fits(self, value: Any) -> bool:
        return self.condition.fits(value.get(self.field) if isinstance(value, dict) else None)

    def why_not(self, value: Any) -> str:
        return self.condition.why_not(value.get(self.field) if isinstance(value, dict) else None)


@dataclass(frozen=True, slots=True)
class EachElement:
    path: str  # of the list
    condition: Condition

    def fits(self, value: Any) -> bool:
        if not isinstance(value, list):
            return False
        fits = self.condition.fits
        for element in value:  # noqa: SIM110 - twice as fast as any()
            if fits(element):
                return True
        return False

    def why_not(self, value: Any) -> str:
        if not isinstance(value, list) or not value:
            return f"{self.path} has no element."
        return (
            f"None of the {len(value)} elements of {self.path} fits; of the first: {self.condition.why_not(value[0])}"
        )


@dataclass(frozen=True, slots=True)
class Equal:
    """One of several literals. Null is one of them when `null` is set."""

    path: str
    keys: frozenset[Key]
    key: Callable[[Any], Key | None]
    null: bool
    written: str

    def fits(self, value: Any) -> bool:
        return self.null if value is None else self.key(value) in self.keys

    def why_not(self, value: Any) -> str:
        return f"{self.path} is {_shown(value)}, not {self.written}."


@dataclass(frozen=True, slots=True)
class Compared:
    path: str
    sign: str
    limit: Key
    key: Callable[[Any], Key | None]
    written: str

    def fits(self, value: Any) -> bool:
        key = self.key(value)
        if key is None or (isinstance(key, tuple) and type(key[0]) is str and key[0] != self.limit[0]):
            return False
        return RANGES[self.sign](key, self.limit)

    def why_not(self, value: Any) -> str:
        return f"{self.path} is {_shown(value)}, not {self.sign} {self.written}."


@dataclass(frozen=True, slots=True)
class Present:
    path: str
    wanted: bool
    list: bool  # of a list of embedded rows: there is one

    def fits(self, value: Any) -> bool:
        return (bool(value) if self.list else value is not None) is self.wanted

    def why_not(self, value: Any) -> str:
        return f"{self.path} is {_shown(value)}, but is to be {'there' if self.wanted else 'absent'}."


@dataclass(frozen=True, slots=True)
class Text:
    path: str
    test: Callable[[str], bool]
    fold: bool  # citext: compare in lower case
    written: str  # what it is to be: 'with prefix "A"'

    def fits(self, value: Any) -> bool:
        return isinstance(value, str) and self.test(value.lower() if self.fold else value)

    def why_not(self, value: Any) -> str:
        return f"{self.path} is {_shown(value)}, not {self.written}."


@dataclass(frozen=True, slots=True)
class Never:
    path: str
    reason: str

    def fits(self, value: Any) -> bool:
        return False

    def why_not(self, value: Any) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Spot:
    """Where in a document a pattern stands: at an embedded row or list of rows, or else at a column's value."""

    path: str
    shape: Shape | None = None
    rows: bool = False  # a list of embedded rows
    kind: Kind = Kind.OTHER
    array: bool = False

    def field(self, name: str) -> "Spot | str":
        """The spot of a field, or why there is none."""
        path = f"{self.path}.{name}".lstrip(".")
        if self.rows or self.array:
            return f"{self.path} is a list: write {self.path}[*].{name}."
        if self.shape is not None:
            return _shape_field(self.shape, name, path)
        if self.kind is Kind.JSON:
            return Spot(path, kind=Kind.JSON)
        return Spot(path, kind=Kind.TEXT) if self.kind is Kind.HSTORE else f"{self.path} has no fields."

    def element(self) -> "Spot | str":
        path = f"{self.path}[*]"
        if self.rows:
            return Spot(path, shape=self.shape)
        if self.shape is None and (self.array or self.kind is Kind.JSON):
            return Spot(path, kind=self.kind)
        return f"{self.path} is not a list: leave [*] out."


def _root(shape: Shape) -> Spot:
    """Of a document whose fields are not declared, a derived entity's, values are compared by their JSON type."""
    declared = shape.fields or shape.embeds
    return Spot("", shape=shape) if declared else Spot("", kind=Kind.JSON)


def _shape_field(shape: Shape, name: str, path: str) -> "Spot | str":
    if name in shape.embeds:
        embed = shape.embeds[name]
        return Spot(path, shape=embed.shape, rows=embed.many)
    if name in shape.fields:
        return Spot(path, kind=shape.fields[name].kind, array=shape.fields[name].array)
    near = get_close_matches(name, [*shape.fields, *shape.embeds], n=1)
    return f"There is no field {path}." + (f" Did you mean {near[0]}?" if near else "")


class _Compiler:
    def __init__(self) -> None:
        self.problems: list[tuple[str, str]] = []

    def never(self, path: str, reason: str) -> Condition:
        self.problems.append((path, reason))
        return Never(path, reason)

    def pattern(self, pattern: Any, spot: Spot, depth: int) -> Condition:
        """What is written at a spot: a map, a list of which any will do, or a literal."""
        if depth > MAX_DEPTH:
            return self.never(spot.path, f"The pattern is nested more than {MAX_DEPTH} levels deep.")
        if isinstance(pattern, list | tuple):
            return self._any_of(pattern, spot, depth)
        if isinstance(pattern, Mapping):
            return self._map(pattern, spot, depth)
        return self._literal(pattern, spot)

    def _any_of(self, patterns: Iterable[Any], spot: Spot, depth: int) -> Condition:
        conditions = [self.pattern(pattern, spot, depth + 1) for pattern in patterns]
        if not conditions:
            return self.never(spot.path, f"{spot.path or 'The pattern'}: an empty list fits nothing.")
        literals = [condition for condition in conditions if isinstance(condition, Equal)]
        others = [condition for condition in conditions if not isinstance(condition, Equal)]
        merged = [_merged(literals)] if literals else []
        return _single(Some, [*merged, *others])

    def _map(self, pattern: Mapping[Any, Any], spot: Spot, depth: int) -> Condition:
        if not pattern:
            return self.never(spot.path, f"{spot.path or 'The pattern'}: an empty map fits nothing.")
        conditions = [self._entry(str(name), value, spot, depth + 1) for name, value in pattern.items()]
        return _single(Every, conditions)

    def _entry(self, name: str, value: Any, spot: Spot, depth: int) -> Condition:
        shape = spot.shape
        is_field = shape is not None and (name in shape.fields or name in shape.embeds)
        if name in OPERATORS and not is_field:
            return self._operator(name, value, spot, depth)
        if shape is None and spot.kind not in OBJECTS and not spot.array:
            near = get_close_matches(name, OPERATORS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"It takes one of {', '.join(OPERATORS)}."
            return self.never(f"{spot.path}.{name}", f"{spot.path}: there is no operator {name}. {hint}")
        return self._path(name, value, spot, depth)

    def _path(self, text: str, value: Any, spot: Spot, depth: int) -> Condition:
        path = f"{spot.path}.{text}".lstrip(".")
        try:
            segments = parse_path(text)
        except ValueError as error:
            return self.never(path, str(error))
        steps: list[Callable[[Condition], Condition]] = []
        for segment in segments:
            if isinstance(segment, Element):
                return self.never(path, f"{path}: only [*] can stand in brackets, for some element.")
            found = spot.element() if isinstance(segment, Each) else spot.field(segment)
            if isinstance(found, str):
                return self.never(path, found)
            steps.append(_step(segment, spot.path))
            spot = found
        condition = self.pattern(value, spot, depth)
        for step in reversed(steps):
            condition = step(condition)
        return condition

    def _operator(self, name: str, value: Any, spot: Spot, depth: int) -> Condition:
        if name == "any_of":
            return self._any_of(value if isinstance(value, list | tuple) else [value], spot, depth)
        if name == "not":
            return Inverse(spot.path, self._any_of(value if isinstance(value, list | tuple) else [value], spot, depth))
        if name == "exists":
            return self._exists(value, spot)
        if spot.shape is not None or spot.array:
            return self.never(f"{spot.path}.{name}".lstrip("."), _not_a_value(spot))
        return self._range(name, value, spot) if name in RANGES else self._text(name, value, spot)

    def _exists(self, value: Any, spot: Spot) -> Condition:
        if not isinstance(value, bool):
            return self.never(f"{spot.path}.exists", f"{spot.path}: exists takes true or false, not {_shown(value)}.")
        return Present(spot.path, value, spot.rows)

    def _range(self, sign: str, value: Any, spot: Spot) -> Condition:
        limit = None if value is None or spot.kind is Kind.BOOLEAN else literal_key(spot.kind, value)
        if limit is None:
            return self.never(f"{spot.path}.{sign}", _never_fits(spot, value))
        return Compared(spot.path, sign, limit, value_key(spot.kind), _shown(value))

    def _text(self, name: str, value: Any, spot: Spot) -> Condition:
        if spot.kind not in TEXTS:
            return self.never(f"{spot.path}.{name}", f"{spot.path} is not a text column: {name} never fits.")
        if not isinstance(value, str):
            return self.never(f"{spot.path}.{name}", f"{spot.path}: {name} takes a text, not {_shown(value)}.")
        fold = spot.kind is Kind.CITEXT
        test = _text_test(name, value.lower() if fold else value)
        return Text(spot.path, test, fold, f"{_PHRASES[name]} {_shown(value)}")

    def _literal(self, value: Any, spot: Spot) -> Condition:
        if value is None:
            return Equal(spot.path, frozenset(), value_key(spot.kind), True, "null")
        if spot.shape is not None or spot.array:
            return self.never(spot.path, _not_a_value(spot))
        key = literal_key(spot.kind, value)
        if key is None:
            return self.never(spot.path, _never_fits(spot, value))
        return Equal(spot.path, frozenset({key}), value_key(spot.kind), False, _shown(value))


_PHRASES = {"prefix": "with prefix", "suffix": "with suffix", "matches": "like"}


def _text_test(name: str, wanted: str) -> Callable[[str], bool]:
    if name == "prefix":
        return lambda text: text.startswith(wanted)
    if name == "suffix":
        return lambda text: text.endswith(wanted)
    glob = re.compile(fnmatch.translate(wanted))
    return lambda text: glob.match(text) is not None


def _step(segment: str | Each | Element, path: str) -> Callable[[Condition], Condition]:
    if isinstance(segment, str):
        return lambda condition: At(segment, condition)
    return lambda condition: EachElement(path, condition)


def _single(kind: type[Every] | type[Some], conditions: list[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else kind(tuple(conditions))


def _merged(literals: list[Equal]) -> Equal:
    """Literals of one list as one look-up."""
    keys = frozenset().union(*(literal.keys for literal in literals))
    written = " or ".join(literal.written for literal in literals)
    return Equal(literals[0].path, keys, literals[0].key, any(literal.null for literal in literals), written)


def _not_a_value(spot: Spot) -> str:
    if spot.rows or spot.array:
        return f"{spot.path} is a list: write {spot.path}[*] for some element of it."
    return f"{spot.path or 'The document'} is an embedded row: name one of its fields."


def _never_fits(spot: Spot, value: Any) -> str:
    expected = EXPECTED.get(spot.kind, "a text")
    quote = " Put it in quotes." if expected == "a text" and isinstance(value, int | float) else ""
    return f"{spot.path} is compared with {expected}: {_shown(value)} never fits.{quote}"


def _shown(value: Any) -> str:
    """A value as a sentence has it: JSON, cut."""
    if not isinstance(value, str | int | list | dict | None):
        return str(value)
    text = encode(value).decode()
    return text if len(text) <= 60 else f"{text[:57]}…"
