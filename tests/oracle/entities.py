"""Random entities over a schema, and how an integrator would write them in YAML."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import StringIO
from random import Random
from typing import Any

from ruamel.yaml import YAML

from tests.oracle.schema import ForeignKey, Schema, Table

DEPTH = 3
NODES = 7  # embeds of one entity at most


@dataclass(frozen=True)
class Node:
    """A table at one place of an entity."""

    table: str
    fields: tuple[tuple[str, str], ...]  # column and the field's name, as documents show them
    columns: tuple[tuple[str, Any], ...]  # the `columns:` that says so
    soft_delete: str
    embeds: tuple["Embed", ...] = ()


@dataclass(frozen=True)
class Embed:
    name: str
    kind: str  # belongs_to, has_one, has_many, many_to_many
    foreign_key: ForeignKey  # belongs_to: of the parent; has_*: of the child; many_to_many: of the link, to the parent
    node: Node
    order_by: tuple[str, ...] = ()
    link: str = ""
    related: ForeignKey | None = None  # many_to_many: of the link, to the child


@dataclass(frozen=True)
class Entity:
    name: str
    key: tuple[str, ...]
    node: Node


@dataclass
class _Draft:
    schema: Schema
    rng: Random
    left: int  # how many more embeds there may be


def random_entities(schema: Schema) -> tuple[Entity, ...]:
    """One entity for each table that is no link, and one more over a table that has one already."""
    rng = Random(f"entities {schema.seed}")
    roots = [table for table in schema.tables if not table.link]
    roots.append(rng.choice(roots))
    return tuple(_entity(schema, rng, table, f"entity{i}") for i, table in enumerate(roots))


def _entity(schema: Schema, rng: Random, table: Table, name: str) -> Entity:
    draft = _Draft(schema, rng, rng.randint(2, NODES))
    key = table.unique if table.unique and rng.random() < 0.3 else table.primary_key
    return Entity(name, key, _node(draft, table, 1))


def _node(draft: _Draft, table: Table, depth: int) -> Node:
    rng = draft.rng
    fields, columns = _columns(rng, table)
    soft_delete = table.soft_delete if rng.random() < 0.8 else ""
    embeds: list[Embed] = []
    possible = list(_possible(draft.schema, table))
    rng.shuffle(possible)
    for embed in possible:
        if depth > DEPTH or draft.left <= 0 or rng.random() < 0.15 * depth:
            continue
        draft.left -= 1
        child = draft.schema.table(embed.node.table)
        order_by = () if embed.kind == "belongs_to" else _order(rng, child)
        node = _node(draft, child, depth + 1)
        embeds.append(replace(embed, name=f"{embed.kind}_{len(embeds)}", node=node, order_by=order_by))
    return Node(table.name, fields, columns, soft_delete, tuple(embeds))


def _possible(schema: Schema, table: Table) -> Iterator[Embed]:
    for key in table.foreign_keys:
        yield Embed("", "belongs_to", key, _bare(key.table))
    for child, key in schema.pointing_at(table.name):
        for kind in ("has_many", "has_one"):
            yield Embed("", kind, key, _bare(child.name))
        if child.link:
            for other in child.foreign_keys:
                if other is not key:
                    yield Embed("", "many_to_many", key, _bare(other.table), link=child.name, related=other)


def _bare(table: str) -> Node:
    return Node(table, (), (), "")


def _columns(rng: Random, table: Table) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, Any], ...]]:
    every = [column.name for column in table.columns]
    shown = list(every)
    written: dict[str, Any] = {}
    turn = rng.random()
    if turn < 0.25:
        written["exclude"] = [name for name in every if rng.random() < 0.3]
        shown = [name for name in every if name not in written["exclude"]]
    elif turn < 0.45:
        shown = written["include"] = rng.sample(every, rng.randint(1, len(every)))
    renamed = {rng.choice(shown): "renamed field"} if shown and rng.random() < 0.3 else {}
    if renamed:
        written["rename"] = renamed
    return tuple((name, renamed.get(name, name)) for name in shown), tuple((k, v) for k, v in written.items() if v)


def _order(rng: Random, table: Table) -> tuple[str, ...]:
    if rng.random() < 0.35:
        return ()
    fit = [column.name for column in table.columns if column.type.orderable]
    return tuple(rng.sample(fit, min(len(fit), rng.randint(1, 2))))


def as_yaml(schema: Schema, entity: Entity) -> str:
    """The entity's file in `entities/`."""
    table = schema.table(entity.node.table)
    written: dict[str, Any] = {"entity": entity.name, "table": table.name}
    if entity.key != table.primary_key:
        written["key"] = _one_or_list(entity.key)
    text = StringIO()
    YAML(typ="safe", pure=True).dump(written | _node_yaml(schema, entity.node), text)
    return text.getvalue()


def _node_yaml(schema: Schema, node: Node) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if node.columns:
        written["columns"] = dict(node.columns)
    if node.soft_delete:
        written["soft_delete"] = node.soft_delete
    for embed in node.embeds:
        written.setdefault(embed.kind, {})[embed.name] = _embed_yaml(schema, embed)
    return written


def _embed_yaml(schema: Schema, embed: Embed) -> dict[str, Any]:
    key = embed.foreign_key
    written: dict[str, Any] = {"table": embed.node.table, "foreign_key": _one_or_list(key.columns)}
    if embed.related:
        written |= {"through": embed.link, "related_key": _one_or_list(embed.related.columns)}
    if key.references != schema.table(key.table).primary_key:
        written["references"] = _one_or_list(key.references)
    if embed.order_by:
        written["order_by"] = _one_or_list(embed.order_by)
    return written | _node_yaml(schema, embed.node)


def _one_or_list(columns: tuple[str, ...]) -> str | list[str]:
    return columns[0] if len(columns) == 1 else list(columns)
