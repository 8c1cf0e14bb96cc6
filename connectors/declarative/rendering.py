"""Templates of a definition filled in: parts of requests, and the questions that are asked of an answer."""

from collections.abc import Mapping
from typing import Any

import msgspec

from connectors.declarative.definition import ITEMS, LEAVE_OUT, SPREAD
from hub.errors import FaultError
from hub.subscriptions.templates import Expression, Template, TemplateFailure

Variables = Mapping[str, Any]


class Unfit(FaultError):
    """A document that no request can be made of; one sentence."""


def rendered(part: Any, variables: Variables, items: list[Any] | None = None) -> Any:
    """TemplateFailure when a template fails. `items`: what stands for `{{ items }}`."""
    if isinstance(part, Template):
        return part.render(variables)
    if isinstance(part, dict):
        whole = {name: rendered(value, variables, items) for name, value in part.items()}
        spread = whole.pop(SPREAD, {})
        if not isinstance(spread, dict):
            raise Unfit("What should be a map of fields is none: the subscription's `body:` must be a map.")
        return {**spread, **whole}
    if isinstance(part, list):
        return [rendered(value, variables, items) for value in part]
    return items if isinstance(part, str) and items is not None and part.strip() == ITEMS else part


def rendered_text(part: Any, variables: Variables, what: str) -> str:
    """Unfit when it would be null, a list or a map, or would not stay on its line."""
    value = rendered(part, variables)
    if value is None or isinstance(value, dict | list):
        raise Unfit(f"{what} would be {'null' if value is None else 'no text'}.")
    text = str(value)
    if not text.isprintable() or not text.isascii():
        raise Unfit(f"{what} has a line break or a character outside ASCII; the filter urlencode helps in a URL.")
    return text


def asked(template: Any, variables: Variables) -> str:
    """What a template gives as text; "" when what it asks for is not there."""
    try:
        value = rendered(template, variables)
    except TemplateFailure:
        return ""
    return "" if value is None else str(value)


def asked_all(template: Any, variables: Variables) -> list[str]:
    """As `asked`, of a template that may give a list of texts; [] when there is none."""
    try:
        value = rendered(template, variables)
    except TemplateFailure:
        return []
    return [str(one) for one in (value if isinstance(value, list) else [value]) if one not in (None, "")]


def holds(condition: Expression | None, variables: Variables) -> bool:
    """Whether there is no condition, or it is true. One on what is not there is not."""
    if condition is None:
        return True
    try:
        return bool(condition.evaluate(variables))
    except TemplateFailure:
        return False


def uses(part: Any, name: str) -> bool:
    """Whether a template in it, at any depth, asks for that name."""
    if isinstance(part, Template | Expression):
        return name in part.names
    if isinstance(part, msgspec.Struct):
        part = msgspec.structs.asdict(part)
    parts = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    return any(uses(one, name) for one in parts)


def at_path(tree: Any, path: tuple[str, ...]) -> Any:
    """None when it is not there."""
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def cleared(tree: Any, clear: Any) -> Any:
    """`tree` with each null of a map replaced by `clear`, or left out."""
    if isinstance(tree, dict):
        return {
            name: clear if value is None else cleared(value, clear)
            for name, value in tree.items()
            if value is not None or clear != LEAVE_OUT
        }
    return [cleared(value, clear) for value in tree] if isinstance(tree, list) else tree
