"""What changed between two versions of a document, as paths.

A path is readable and concrete: `status`, `customer.email`, `lines[3].quantity`. In brackets stands the element's key,
so that a move within the list is no change of what stands there; without a key it is the element's position from 0.
A composite key is written as its JSON array: `lines[12,"FR"].quantity`.

    an element came or went                lines[3]
    an embedded row came or went           customer
    elements stand in another order        lines
    a json, jsonb, hstore or array column  the column as a whole
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hub.documents import Embed, Shape, encode


class Element(NamedTuple):
    """The part of a path that names one element of a list."""

    key: str


class Order(NamedTuple):
    """The part of a path that says: the elements are the same, their order is not."""


Segment = str | Element | Order
Path = tuple[Segment, ...]


class Each(NamedTuple):
    """`[*]` in a pattern of paths."""


PathPattern = tuple[str | Element | Each, ...]


def diff(before: Any, after: Any, shape: Shape) -> list[Path]:
    """The paths at which two trees differ, in the shape's order; [] when they are the same.

    Null and missing are the same. Numbers and texts that are written differently differ: "1.0" and "1.00".
    """
    return list(_differences(before, after, shape, ()))


def changed_paths(before: Any, after: Any, shape: Shape) -> list[str]:
    """`diff` as text, each path once."""
    return list(dict.fromkeys(path_text(path) for path in diff(before, after, shape)))


def path_text(path: Path) -> str:
    text = "".join(_segment_text(segment) for segment in path)
    return text.removeprefix(".")


def parse_path(text: str) -> PathPattern:
    """`lines[*].quantity` in parts. ValueError when it is not of that form."""
    pattern: list[str | Element | Each] = []
    for part in text.split("."):
        name, *brackets = part.split("[")
        if not name or not all(bracket.endswith("]") and bracket != "]" for bracket in brackets):
            raise ValueError(f"{text} is not a path like lines[*].quantity.")
        pattern.append(name)
        pattern.extend(Each() if bracket == "*]" else Element(bracket[:-1]) for bracket in brackets)
    return tuple(pattern)


def selects(pattern: PathPattern, path: Path) -> bool:
    """Whether a change at `path` is one of what `pattern` names: the same, below it, or a whole that it is part of."""
    return all(_same_segment(wanted, found) for wanted, found in zip(pattern, path, strict=False))


def any_selected(patterns: Iterable[PathPattern], paths: Sequence[Path]) -> bool:
    return any(selects(pattern, path) for pattern in patterns for path in paths)


def _same_segment(wanted: str | Element | Each, found: Segment) -> bool:
    return isinstance(found, Element) if isinstance(wanted, Each) else wanted == found and type(wanted) is type(found)


def _segment_text(segment: Segment) -> str:
    if isinstance(segment, Order):
        return ""
    if isinstance(segment, Element):
        return segment.key if segment.key.startswith("[") else f"[{segment.key}]"
    return f".{segment}"


def _differences(before: Any, after: Any, shape: Shape, at: Path) -> Iterator[Path]:
    for name in _names(shape, before, after):
        old, new = before.get(name), after.get(name)
        embed = shape.embeds.get(name)
        if embed is None:
            if not same(old, new):
                yield (*at, name)
        else:
            yield from _embed_differences(old, new, embed, (*at, name))


def _names(shape: Shape, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    """The shape's fields, and what else the trees hold: an older version may have had other columns."""
    return dict.fromkeys([*after, *before, *shape.fields, *shape.embeds])


def _embed_differences(before: Any, after: Any, embed: Embed, at: Path) -> Iterator[Path]:
    if same(before, after):
        return
    if embed.many and _is_list(before) and _is_list(after):
        yield from _list_differences(before or [], after or [], embed.shape, at)
    elif isinstance(before, dict) and isinstance(after, dict):
        yield from _differences(before, after, embed.shape, at)
    else:
        yield at


def _is_list(value: Any) -> bool:
    return value is None or isinstance(value, list)


def _list_differences(before: list[Any], after: list[Any], shape: Shape, at: Path) -> Iterator[Path]:
    name = _namer(shape)
    old, new = _by_key(before, name), _by_key(after, name)
    for key in dict.fromkeys([*new, *old]):
        path = (*at, Element(key[0]))
        if key not in old or key not in new:
            yield path
        elif not same(old[key], new[key]):
            yield from _element_differences(old[key], new[key], shape, path)
    if [key for key in old if key in new] != [key for key in new if key in old]:
        yield (*at, Order())


def _element_differences(before: Any, after: Any, shape: Shape, at: Path) -> Iterator[Path]:
    if isinstance(before, dict) and isinstance(after, dict):
        yield from _differences(before, after, shape, at)
    else:
        yield at


def _by_key(elements: list[Any], name: Callable[[int, Any], str]) -> dict[tuple[str, int], Any]:
    """Elements by key and by how often the key came before: a row may be linked twice."""
    counts: dict[str, int] = {}
    found: dict[tuple[str, int], Any] = {}
    for position, element in enumerate(elements):
        key = name(position, element)
        counts[key] = counts.get(key, -1) + 1
        found[key, counts[key]] = element
    return found


def _namer(shape: Shape) -> Callable[[int, Any], str]:
    def by_position(position: int, element: Any) -> str:
        return str(position)

    def by_key(position: int, element: Any) -> str:
        if not isinstance(element, dict):
            return str(position)
        values = [element.get(field) for field in shape.key]
        return _key_text(values[0]) if len(values) == 1 else encode(values).decode()

    return by_key if shape.key else by_position


def _key_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else encode(value).decode()


def same(before: Any, after: Any) -> bool:
    """Whether two JSON values are written alike; True and 1, or 1 and 1.0, are not."""
    if type(before) is not type(after):
        return False
    if isinstance(before, str | int | None):
        return bool(before == after)
    return encode(before) == encode(after)
