"""One YAML file as a tree of nodes that know their places, with ${ENVIRONMENT} references replaced.

The text goes through in three steps: references are masked by as many private-use characters, so that `{a: ${B}}` is
YAML and every column stays where it is; ruamel.yaml composes nodes; the nodes become ours, typed by YAML 1.2's core
rules whatever the file says (`on` is a word, not a boolean), with each masked reference replaced by its value.

A value that came from the environment is always text: a password of digits keeps its zeros.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.nodes import Node as ParsedNode

from hub.project import Place
from hub.project.problems import Problems

MAX_BYTES = 1_000_000  # a file
MAX_NODES = 20_000  # a file, its aliases written out
MAX_DEPTH = 64  # levels
MAX_DIGITS = 400  # of a number, and its exponent

_TAG = "tag:yaml.org,2002:"
_KNOWN_TAGS = {
    _TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value")
}
_NULL = {"", "~", "null", "Null", "NULL"}
_BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_REFERENCE = re.compile(r"\$\$\{[^}\n]*\}|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}\n]*))?\}")
_MASK_START, _MASK_END, _MASK_DIGIT = 0xF8F0, 0xF8F1, 0xE100
_MASK_BASE = 4096
_MASK = re.compile(
    f"{chr(_MASK_START)}([{chr(_MASK_DIGIT)}-{chr(_MASK_DIGIT + _MASK_BASE - 1)}]{{2,}}){chr(_MASK_END)}"
)

# What ruamel.yaml says, and what a person would.
_SYNTAX = (
    (
        "cannot start any token",
        "This character cannot begin a value.",
        "Put the value in quotes; indent with spaces, never tabs.",
    ),
    (
        "mapping values are not allowed",
        "There is a ': ' where no key can be.",
        "Check the indentation, or put the value in quotes.",
    ),
    ("could not find expected ':'", "A key has no ':' after it.", "Write it as 'key: value'."),
    ("did not find expected key", "A key was due here.", "Check the indentation and the brackets above."),
    (
        "found undefined alias",
        "An alias (*name) has no anchor (&name) before it.",
        "Define the anchor first, or quote the value.",
    ),
    (
        "expected a single document",
        "The file holds more than one YAML document.",
        "Write one thing a file: split it at '---'.",
    ),
    ("found unexpected end of stream", "A quote or bracket is never closed.", "Close it."),
    ("while scanning a quoted scalar", "A quote is never closed.", "Close it."),
    ("expected <block end>", "The indentation does not fit the lines above.", "Align the key with its neighbours."),
    (
        "expected ',' or '}'",
        "A '{' is not closed where it should be.",
        "Separate the entries by commas and close it with '}'.",
    ),
    (
        "expected ',' or ']'",
        "A '[' is not closed where it should be.",
        "Separate the entries by commas and close it with ']'.",
    ),
    ("expected the node content", "A value was due here.", "Write one, or delete the line."),
    ("found duplicate anchor", "Two anchors have one name.", "Rename one of them."),
    (
        "unknown escape character",
        "There is no such escape in double quotes.",
        "Double the backslash, or use single quotes.",
    ),
    (
        "sequence entries are not allowed",
        "A list entry ('- ') cannot be here.",
        "Put the list on lines of its own below its key.",
    ),
)


@dataclass(frozen=True, slots=True)
class Scalar:
    place: Place
    text: str = field(repr=False)  # with references replaced; may be a secret
    written: str  # as the file has it: what messages may show
    typed: bool  # written without quotes and without references: may be a number, a boolean or null
    broken: bool = False  # its problem is already reported

    @property
    def from_environment(self) -> bool:
        return self.text != self.written

    @property
    def value(self) -> str | int | Decimal | bool | None:
        return resolve(self.text) if self.typed else self.text


@dataclass(frozen=True, slots=True)
class Sequence:
    place: Place
    items: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Entry:
    place: Place  # of the key
    value: "Node"


@dataclass(frozen=True, slots=True)
class Map:
    place: Place
    entries: dict[str, Entry]


Node = Scalar | Sequence | Map


def read_yaml(content: bytes, file: str, environ: Mapping[str, str], problems: Problems) -> Node | None:
    """The file's tree; None when it cannot be read at all, with the problem reported."""
    text = _decoded(content, file, problems)
    if text is None:
        return None
    masked, references = _mask(text)
    try:
        parsed = YAML(typ="safe", pure=True).compose(masked)
    except YAMLError as error:
        _report_syntax(error, file, masked, references, problems)
        return None
    except RecursionError:
        problems.add(Place(file, 1, 1), f"The YAML is nested deeper than {MAX_DEPTH} levels.", "Flatten it.")
        return None
    except (ValueError, AssertionError, AttributeError, TypeError, IndexError, KeyError):
        # ruamel.yaml fails so on some malformed directives, tags and escapes.
        problems.add(
            Place(file, 1, 1), "The YAML cannot be read.", "Remove its directives (%…), tags (!…) and escapes."
        )
        return None
    if parsed is None:
        problems.add(Place(file, 1, 1), "The file is empty.", "Fill it in, or delete it.")
        return None
    return _Converter(file, environ, references, problems).root(parsed)


def resolve(text: str) -> str | int | Decimal | bool | None:
    """A plain scalar's value by YAML 1.2's core rules; timestamps stay text, floats keep their digits."""
    if text in _NULL:
        return None
    if text in _BOOLEAN:
        return _BOOLEAN[text]
    if len(text) > MAX_DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return Decimal(text)
    return text


def plain(node: Node, number: type[float] | type[Decimal] = Decimal) -> Any:
    """A tree of dict, list, str, int, bool, None and `number`."""
    if isinstance(node, Map):
        return {key: plain(entry.value, number) for key, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [plain(item, number) for item in node.items]
    value = node.value
    return number(value) if isinstance(value, Decimal) else value


def places(node: Node, path: str = "") -> Iterator[tuple[str, Place]]:
    """The place of everything below `node` by its path: `match.customer.country`, `changed[1]`.

    A map's entry stands at its key.
    """
    if isinstance(node, Map):
        for key, entry in node.entries.items():
            below = f"{path}.{key}" if path else key
            yield below, entry.place
            yield from places(entry.value, below)
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield f"{path}[{index}]", item.place
            yield from places(item, f"{path}[{index}]")


def _decoded(content: bytes, file: str, problems: Problems) -> str | None:
    if len(content) > MAX_BYTES:
        problems.add(Place(file, 1, 1), f"The file has more than {MAX_BYTES:,} bytes.", "Split it.")
        return None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", "replace")
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        problems.add(place, "The file is not UTF-8 from here on.", "Save it as UTF-8.")
        return None


def _mask(text: str) -> tuple[str, list[re.Match[str]]]:
    references: list[re.Match[str]] = []

    def masked(match: re.Match[str]) -> str:
        references.append(match)
        digits, number = [], len(references) - 1
        for _ in range(len(match[0]) - 2):
            number, digit = divmod(number, _MASK_BASE)
            digits.append(chr(_MASK_DIGIT + digit))
        return chr(_MASK_START) + "".join(reversed(digits)) + chr(_MASK_END)

    return _REFERENCE.sub(masked, text), references


def _unmask(text: str, references: list[re.Match[str]], replacement: Any) -> str:
    """`text` with each mask replaced by `replacement(reference)`."""

    def one(match: re.Match[str]) -> str:
        index = 0
        for digit in match[1]:
            index = index * _MASK_BASE + ord(digit) - _MASK_DIGIT
        return replacement(references[index]) if index < len(references) else match[0]

    return _MASK.sub(one, text)


def _report_syntax(error: YAMLError, file: str, text: str, references: list[re.Match[str]], problems: Problems) -> None:
    said = str(getattr(error, "problem", None) or "")
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    context = str(getattr(error, "context", None) or "")
    if isinstance(error, MarkedYAMLError) and mark is not None:
        last = text.count("\n") + 1
        place = Place(file, min(mark.line + 1, last), mark.column + 1 if mark.line < last else 1)
    else:
        position = getattr(error, "position", 0)
        position = position if isinstance(position, int) else 0
        before = text[:position]
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        said = said or "it holds a character that YAML does not allow"
    for sign, what, remedy in _SYNTAX:
        if sign in said or sign in context:
            problems.add(place, what, remedy)
            return
    said = _unmask(said.split("\n")[0], references, lambda reference: reference[0])
    problems.add(
        place, f"This is not YAML: {said or 'it cannot be read'}.", "Check the indentation, quotes and brackets."
    )


class _Converter:
    """ruamel's nodes into ours: aliases written out within bounds, keys unique, references replaced."""

    def __init__(
        self, file: str, environ: Mapping[str, str], references: list[re.Match[str]], problems: Problems
    ) -> None:
        self.file = file
        self.environ = environ
        self.references = references
        self.problems = problems
        self.count = 0
        self.open: list[int] = []  # ids of the nodes that we are inside of

    def root(self, node: ParsedNode) -> Node | None:
        try:
            return self.convert(node)
        except _TooMuch as error:
            self.problems.add(error.place, error.what, error.remedy)
            return None

    def place(self, node: ParsedNode) -> Place:
        return Place(self.file, node.start_mark.line + 1, node.start_mark.column + 1)

    def convert(self, node: ParsedNode) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            raise _TooMuch(
                self.place(node),
                f"The file has more than {MAX_NODES:,} values with its aliases written out.",
                "Split it, or use fewer aliases.",
            )
        if id(node) in self.open:
            raise _TooMuch(
                self.place(node),
                "An alias refers to a value that it is itself inside of.",
                "Write the value out instead of the alias.",
            )
        if len(self.open) >= MAX_DEPTH:
            raise _TooMuch(self.place(node), f"The YAML is nested deeper than {MAX_DEPTH} levels.", "Flatten it.")
        self._check_tag(node)
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        self.open.append(id(node))
        try:
            return self._map(node) if isinstance(node, MappingNode) else self._sequence(node)
        finally:
            self.open.pop()

    def _check_tag(self, node: ParsedNode) -> None:
        if str(node.tag) not in _KNOWN_TAGS:
            self.problems.add(self.place(node), f"The tag {node.tag} is not known here.", "Remove the tag.")

    def _sequence(self, node: ParsedNode) -> Sequence:
        return Sequence(self.place(node), tuple(self.convert(item) for item in node.value))

    def _map(self, node: MappingNode) -> Map:
        entries: dict[str, Entry] = {}
        merged: dict[str, Entry] = {}
        for key, value in node.value:
            if isinstance(key, ScalarNode) and key.value == "<<" and not key.style:
                self._merge(value, merged)
            elif isinstance(key, ScalarNode):
                self._add_entry(entries, key, value)
            else:
                self.problems.add(
                    self.place(key), "A key must be one word or text, not a list or a map.", "Write it as 'key: value'."
                )
        return Map(self.place(node), {**merged, **entries})

    def _add_entry(self, entries: dict[str, Entry], key: ScalarNode, value: ParsedNode) -> None:
        name = self._written(key)
        place = self.place(key)
        if name in entries:
            first = entries[name].place
            self.problems.add(place, f"The key {name!r} is already given in line {first.line}.", "Keep one of the two.")
        self._check_characters(name, place)
        entries[name] = Entry(place, self.convert(value))

    def _merge(self, node: ParsedNode, merged: dict[str, Entry]) -> None:
        """`<<: *map` or `<<: [*map, *map]`: its entries, the first one given first."""
        tree = self.convert(node)
        for source in tree.items if isinstance(tree, Sequence) else (tree,):
            if isinstance(source, Map):
                for name, entry in source.entries.items():
                    merged.setdefault(name, entry)
            else:
                self.problems.add(source.place, "'<<' must be given a map.", "Write '<<: *name' of an anchored map.")

    def _scalar(self, node: ScalarNode) -> Scalar:
        place = self.place(node)
        masked = str(node.value)
        before = len(self.problems.found)
        written = self._written(node)
        text = _unmask(masked, self.references, lambda reference: self._replaced(reference, place))
        if "${" in _MASK.sub("", masked).replace("$${", ""):
            self.problems.add(
                place, "A '${' begins no reference.", "Write ${NAME} or ${NAME:-default}; $${ stands for a literal ${."
            )
        if not _MASK.search(masked):
            text = text.replace("$${", "${")
        self._check_characters(text, place)
        typed = str(node.tag) != _TAG + "str" and not _MASK.search(masked)
        if typed:
            self._check_number(text, place)
        return Scalar(place, text, written, typed, broken=len(self.problems.found) > before)

    def _written(self, node: ScalarNode) -> str:
        return _unmask(str(node.value), self.references, lambda reference: reference[0])

    def _replaced(self, reference: re.Match[str], place: Place) -> str:
        name, default = reference[1], reference[2]
        if name is None:
            return reference[0][1:]
        value = self.environ.get(name, "")
        if value or (default is None and name in self.environ):
            return value
        if default is None:
            self.problems.add(
                place, f"The environment variable {name} is not set.", f"Set it, or write a default: ${{{name}:-…}}."
            )
        return default or ""

    def _check_characters(self, text: str, place: Place) -> None:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self.problems.add(
                place, "The text holds a character that cannot be stored (NUL or half a surrogate pair).", "Remove it."
            )

    def _check_number(self, text: str, place: Place) -> None:
        if _NOT_FINITE.fullmatch(text):
            self.problems.add(
                place, f"{text} is not a number that a document can hold.", "Put it in quotes to mean the text."
            )
        exponent = re.search(r"[eE][-+]?0*([0-9]+)$", text)
        number = _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text)
        if number and (len(text) > MAX_DIGITS or (exponent and int(exponent[1]) > MAX_DIGITS)):
            raise _TooMuch(place, f"A number has more than {MAX_DIGITS} digits.", "Put it in quotes to mean the text.")


@dataclass
class _TooMuch(Exception):
    """The file cannot be taken in as a whole."""

    place: Place
    what: str
    remedy: str
