"""A YAML map read key by key: each value checked for its type, each problem reported with its place, reading goes on.

A reader that reports a problem returns its default, so that one mistake gives one sentence.
"""

import re
from collections.abc import Sequence as Listing
from decimal import Decimal
from typing import Any, TypeVar

from hub.project import DAY, HOUR, Place
from hub.project.problems import Problems
from hub.project.suggestions import did_you_mean, nearest
from hub.project.yaml_source import Map, Node, Scalar, Sequence, plain

LONGEST = 36_500 * DAY  # seconds: a hundred years
NAME = re.compile(r"[A-Za-z0-9_-]+")

Default = TypeVar("Default", bound=int | None)

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": HOUR, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)")
_RATE = re.compile(r"([0-9]{1,9})/([0-9]*\.?[0-9]*(?:ms|s|m|h|d))")


def duration(text: str) -> float | None:
    """Seconds of `5s`, `5m`, `1.5h`, `30d`, `500ms` or `0`; None for anything else or more than a hundred years."""
    if text == "0":
        return 0.0
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _UNITS[match[2]] if match else None
    return seconds if seconds is not None and seconds <= LONGEST else None


def duration_text(seconds: float) -> str:
    """`30d`, `1h`, `90m`, `0.5s`: as `duration` reads it, in the largest unit that needs no fraction."""
    unit = next((unit for unit in "dhm" if seconds and seconds % _UNITS[unit] == 0), "s")
    return f"{seconds / _UNITS[unit]:.12g}{unit}"


def rate(text: str) -> tuple[int, float] | None:
    """(100, 10.0) of `100/10s`, (5, 1.0) of `5/s`; None for anything else, or for no request at all."""
    match = _RATE.fullmatch(text)
    if match is None:
        return None
    period = match[2] if match[2][0].isdigit() else f"1{match[2]}"
    seconds = duration(period)
    return (int(match[1]), seconds) if int(match[1]) and seconds else None


def kind_of(node: Node) -> str:
    """What a node is, in words: `a map`, `a number`."""
    if isinstance(node, Map):
        return "a map"
    if isinstance(node, Sequence):
        return "a list"
    value = node.value
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    return "text" if isinstance(value, str) else "a number"


class Fields:
    """One map of the YAML, and what its keys must hold."""

    def __init__(self, node: Node, where: str, known: Listing[str] | None, problems: Problems) -> None:
        """`where` names the map inside a sentence; `known` are its keys, None when any will do."""
        self.where = where
        self.Where = where[:1].upper() + where[1:]
        self.problems = problems
        self.place = node.place
        self.misspelt: set[str] = set()  # known keys that an unknown one may be a slip of
        self.entries = node.entries if isinstance(node, Map) else {}
        if not isinstance(node, Map) and not _is_broken(node):
            problems.add(
                node.place, f"{self.Where} must be a map, but is {kind_of(node)}.", "Write it as 'key: value' lines."
            )
        if known is not None:
            self._report_unknown(known)

    def _report_unknown(self, known: Listing[str]) -> None:
        for key, entry in self.entries.items():
            if key not in known:
                self.misspelt |= set(nearest(key, known))
                self.problems.add(entry.place, f"{self.Where} has no key {key!r}.", did_you_mean(key, known))

    def has(self, key: str) -> bool:
        return key in self.entries

    def at(self, key: str) -> Place:
        """Where `key` was written; the map itself when it was not."""
        return self.entries[key].place if key in self.entries else self.place

    def places(self) -> dict[str, Place]:
        return {key: entry.place for key, entry in self.entries.items()}

    def wrong(self, key: str, what: str, remedy: str = "") -> None:
        """A problem with the value of `key`."""
        place = self.at(key)
        node = self.entries[key].value if key in self.entries else None
        if node is not None and not (isinstance(node, Scalar) and node.text == ""):  # nothing has no place of its own
            place = node.place
        self.problems.add(place, f"{key!r} of {self.where} {what}", remedy)

    def require(self, key: str, example: str) -> None:
        if key not in self.entries and key not in self.misspelt:
            self.problems.add(self.place, f"{self.Where} has no {key!r}.", f"Add '{key}: {example}'.")

    def node(self, key: str) -> Node | None:
        """The value; None when there is none, or when it is empty, which is reported."""
        if key not in self.entries:
            return None
        node = self.entries[key].value
        if _is_broken(node):
            return None
        if isinstance(node, Scalar) and node.value is None:
            self.wrong(key, "is empty.", "Give it a value, or delete the line.")
            return None
        return node

    def text(self, key: str, default: str = "", *, example: str = "", may_be_empty: bool = False) -> str:
        """Text; `example` makes it required. A number or boolean without quotes is refused: it may have lost digits."""
        if example:
            self.require(key, example)
        node = self.node(key)
        if node is None:
            return default
        value = self._as_text(node)
        if value is None:
            self.wrong(key, f"must be text, but is {kind_of(node)}.", self._quote(node))
            return default
        if not value and not may_be_empty:
            self.wrong(key, "is empty.", "Give it a value, or delete the line.")
        return value

    @staticmethod
    def _as_text(node: Node) -> str | None:
        return node.value if isinstance(node, Scalar) and isinstance(node.value, str) else None

    @staticmethod
    def _quote(node: Node) -> str:
        return f'Put it in quotes: "{node.written}".' if isinstance(node, Scalar) else "Write one value."

    def name(self, key: str, example: str) -> str:
        """A name of letters, digits, - and _; required."""
        text = self.text(key, example=example)
        if text and not NAME.fullmatch(text):
            self.wrong(key, f"is {self.shown(key)}, which is not a name.", "Use only letters, digits, - and _.")
            return ""
        return text

    def shown(self, key: str) -> str:
        """A value as the file has it, references unreplaced."""
        return _shown(self.entries[key].value)

    def names(self, key: str) -> tuple[str, ...]:
        """One text, or a list of different ones."""
        return tuple(text for _, text in self._texts(key))

    def _texts(self, key: str) -> list[tuple[Node, str]]:
        node = self.node(key)
        if node is None:
            return []
        items = node.items if isinstance(node, Sequence) else (node,)
        texts: dict[str, Node] = {}
        for item in items:
            text = self._as_text(item)
            if text:
                if text in texts:
                    self.problems.add(item.place, f"{key!r} of {self.where} names {_shown(item)} twice.", "Keep one.")
                texts.setdefault(text, item)
            elif not _is_broken(item):
                what = f"{key!r} of {self.where} must be text or a list of texts, but holds {_held(item)}."
                self.problems.add(item.place, what, self._quote(item))
        if not items:
            self.wrong(key, "is an empty list.", "Name something, or delete the line.")
        return [(item, text) for text, item in texts.items()]

    def choices(self, key: str, options: Listing[str], default: tuple[str, ...]) -> tuple[str, ...]:
        """One or several of `options`."""
        if not self.has(key):
            return default
        chosen = self._texts(key)
        for item, text in chosen:
            if text not in options:
                what = f"{key!r} of {self.where} cannot hold {_shown(item)}."
                self.problems.add(item.place, what, did_you_mean(text, options))
        return tuple(text for _, text in chosen if text in options)

    def choice(self, key: str, options: Listing[str], default: str) -> str:
        text = self.text(key, default)
        if text not in options:
            self.wrong(key, f"cannot be {self.shown(key)}.", f"Write {' or '.join(options)}.")
            return default
        return text

    def flag(self, key: str, default: bool) -> bool:
        node = self.node(key)
        if node is None:
            return default
        value = _retyped(node)
        if not isinstance(value, bool):
            self.wrong(key, f"must be true or false, but is {kind_of(node)}.", "Write true or false.")
            return default
        return value

    def integer(self, key: str, default: Default, low: int, high: int) -> int | Default:
        node = self.node(key)
        if node is None:
            return default
        value = _retyped(node)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.wrong(
                key,
                f"must be a whole number from {low:,} to {high:,}, but is {self.shown(key)}.",
                f"Write {default or low}, for example.",
            )
            return default
        return value

    def seconds(self, key: str, default: float, *, zero: bool = True) -> float:
        """A duration; `zero` says whether none at all is one."""
        node = self.node(key)
        if node is None:
            return default
        value = self._duration(key, node)
        if value == 0 and not zero:
            self.wrong(key, "must be more than 0.", "Write 15s, for example.")
            return default
        return default if value is None else value

    def durations(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """A list of durations, which may be empty."""
        node = self.node(key)
        if node is None:
            return default
        items = node.items if isinstance(node, Sequence) else (node,)
        read = [self._duration(key, item) for item in items]
        return tuple(value for value in read if value is not None)

    def _duration(self, key: str, node: Node) -> float | None:
        if _is_broken(node):
            return None
        value = duration(node.text) if isinstance(node, Scalar) else None
        if value is None:
            remedy = "Write a number and its unit, ms, s, m, h or d: 5s, 1.5h, 30d."
            self.problems.add(node.place, f"{key!r} of {self.where} must be a duration, but is {_shown(node)}.", remedy)
        return value

    def rate(self, key: str) -> tuple[int, float] | None:
        node = self.node(key)
        if node is None:
            return None
        value = rate(node.text) if isinstance(node, Scalar) else None
        if value is None:
            self.wrong(key, f"must be a rate, but is {self.shown(key)}.", "Write requests per time: 100/10s.")
        return value

    def map(self, key: str, known: Listing[str] | None, where: str) -> "Fields | None":
        """The map below `key`, None when there is none."""
        node = self.node(key)
        return None if node is None else Fields(node, where, known, self.problems)

    def tree(self, key: str, number: type[float] | type[Decimal] = Decimal) -> Any:
        """The value as plain Python data; None when it is not there or empty."""
        node = self.node(key)
        return None if node is None else plain(node, number)


def _retyped(node: Node) -> Any:
    """A scalar's value, one from the environment read as if it stood in the file."""
    if not isinstance(node, Scalar):
        return None
    return Scalar(node.place, node.text, node.written, typed=True).value if node.from_environment else node.value


def _shown(node: Node) -> str:
    return repr(node.written) if isinstance(node, Scalar) else kind_of(node)


def _is_broken(node: Node) -> bool:
    return isinstance(node, Scalar) and node.broken


def _held(node: Node) -> str:
    return "an empty one" if isinstance(node, Scalar) and node.text == "" else kind_of(node)
