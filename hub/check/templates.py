"""Fields that a template asks of a document and that no document of the shape has.

Only what is plain to see: `doc.customer.emial`, not what goes through filters, loops or variables.
"""

from collections.abc import Iterator

from jinja2 import Environment, TemplateSyntaxError, nodes

from hub.documents import Shape
from hub.project.suggestions import did_you_mean

DOCUMENTS = ("doc", "before")

_parser = Environment()


def missing_fields(template: str, shape: Shape) -> list[tuple[str, str]]:
    """What is missing and the remedy, each once. A template that does not parse asks for nothing."""
    try:
        tree = _parser.parse(template)
    except (TemplateSyntaxError, RecursionError):
        return []
    assigned = {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}
    found = [_fault(chain, shape) for root, *chain in _chains(tree) if root in DOCUMENTS and root not in assigned]
    return [fault for fault in dict.fromkeys(found) if fault is not None]


def _chains(node: nodes.Node) -> Iterator[list[str]]:
    """Each `a.b.c` as its names; not what is called or asked whether it is there."""
    if isinstance(node, nodes.Getattr | nodes.Getitem):
        chain = _chain(node)
        if chain:
            yield chain
            return
    for child in node.iter_child_nodes():
        guarded = isinstance(node, nodes.Call) and child is node.node
        guarded |= isinstance(node, nodes.Test | nodes.Filter) and node.name in ("defined", "undefined", "default", "d")
        if not (guarded and _chain(child)):
            yield from _chains(child)


def _chain(node: nodes.Node) -> list[str]:
    if isinstance(node, nodes.Name):
        return [node.name]
    if isinstance(node, nodes.Getattr):
        above = _chain(node.node)
        return [*above, node.attr] if above else []
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
        above = _chain(node.node)
        return [*above, node.arg.value] if above else []
    return []


def _fault(chain: list[str], shape: Shape) -> tuple[str, str] | None:
    path = "doc"
    for name in chain:
        if name in shape.fields:
            return None  # what is below a column's value is the value's own
        embed = shape.embeds.get(name)
        if embed is None:
            return f"There is no field {path}.{name}.", did_you_mean(name, [*shape.fields, *shape.embeds])
        if embed.many:
            return None
        shape, path = embed.shape, f"{path}.{name}"
    return None
