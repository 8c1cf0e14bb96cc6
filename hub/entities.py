"""An entity as a tree of nodes: what `hub.capture.images`, `hub.capture.assemble` and `verify` walk.

An entity's YAML and the catalogue give one tree. Each node embeds rows of one table and is joined to its parent by
`parent_columns = child_columns`. A many_to_many relation is two nodes: the through table's, which has no field of
its own, and below it the related table's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from hub.catalogue import Catalogue, Kind, Table
from hub.documents import Embed, Field, Shape
from hub.errors import InputError
from hub.project import Columns, EntityConfig, Relation

JSON_TEXT = (Kind.JSON, Kind.HSTORE)  # kinds whose row image is JSON text, spliced into documents as it is


@dataclass(frozen=True, slots=True)
class Node:
    """One level of an entity's tree."""

    index: int  # in Entity.nodes; parents come first, 0 is the root
    name: str  # the field that holds it; of the root the entity's name
    table: Table
    parent: int  # index; -1 for the root
    parent_columns: tuple[str, ...]  # of the parent's table
    child_columns: tuple[str, ...]  # of this node's table, equal to the parent's
    many: bool  # a list, or one element or null
    through: bool  # only a step to its one child: no field, no elements of its own
    fields: tuple[tuple[str, str], ...]  # (column, field), in catalogue order
    json_fields: tuple[str, ...]  # fields that hold JSON text
    order_by: tuple[str, ...]  # columns; then the key
    soft_delete: str  # column; a row where it is not null counts as absent
    refresh: bool  # a change of its rows makes a new version; False also below a node where it is False
    children: tuple[int, ...]
    used: frozenset[str]  # columns that can alter the document or its place in it
    takes_new: bool = True  # a column that its table gains becomes a field with the next snapshot


@dataclass(frozen=True, slots=True)
class Entity:
    name: str
    source: str
    key: tuple[str, ...]  # columns of the root table
    nodes: tuple[Node, ...]
    shape: Shape

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def tables(self) -> set[str]:
        return {node.table.name for node in self.nodes}


def compile_entity(config: EntityConfig, catalogue: Catalogue) -> Entity:
    """Raises InputError at a table or column that the catalogue does not have; `hub check` says it better."""
    root = _table(catalogue, config.table, config.name)
    nodes: list[Node] = []
    _add(nodes, _root_relation(config, root), catalogue, parent=None, refresh=True)
    key = config.key or root.primary_key
    _columns_of(root, key, config.name)
    nodes[0] = replace(nodes[0], used=nodes[0].used | {*key})
    return Entity(config.name, config.source, key, tuple(nodes), _shape(nodes, 0))


def _root_relation(config: EntityConfig, root: Table) -> Relation:
    return Relation(
        name=config.name,
        kind="root",
        table=root.name,
        foreign_key=(),
        columns=config.columns,
        soft_delete=config.soft_delete,
        relations=config.relations,
    )


def _add(nodes: list[Node], relation: Relation, catalogue: Catalogue, parent: Node | None, refresh: bool) -> int:
    if relation.kind == "many_to_many":
        return _add_through(nodes, relation, catalogue, parent, refresh)
    table = _table(catalogue, relation.table, relation.name)
    parent_columns, child_columns = _join(relation, table, parent)
    fields = _fields(table, relation.columns)
    many = relation.kind == "has_many"
    return _append(nodes, relation, table, parent, parent_columns, child_columns, fields, catalogue, refresh, many=many)


def _add_through(
    nodes: list[Node], relation: Relation, catalogue: Catalogue, parent: Node | None, refresh: bool
) -> int:
    assert parent is not None
    through = _table(catalogue, relation.through, relation.name)
    related = _table(catalogue, relation.table, relation.name)
    step = Relation(
        name=relation.name,
        kind="through",
        table=relation.through,
        foreign_key=relation.foreign_key,
        relations=(
            Relation(
                name=relation.name,
                kind="belongs_to",
                table=relation.table,
                foreign_key=relation.related_key,
                references=relation.related_references or related.primary_key,
                columns=relation.columns,
                order_by=relation.order_by,
                soft_delete=relation.soft_delete,
                relations=relation.relations,
            ),
        ),
    )
    references = relation.references or parent.table.primary_key
    return _append(
        nodes,
        step,
        through,
        parent,
        references,
        _columns_of(through, relation.foreign_key, relation.name),
        (),
        catalogue,
        refresh and relation.refresh,
        many=True,
        through=True,
    )


def _append(
    nodes: list[Node],
    relation: Relation,
    table: Table,
    parent: Node | None,
    parent_columns: tuple[str, ...],
    child_columns: tuple[str, ...],
    fields: tuple[tuple[str, str], ...],
    catalogue: Catalogue,
    refresh: bool,
    *,
    many: bool,
    through: bool = False,
) -> int:
    """Add the node and those below it; a node knows its children, so it takes its place once they are there."""
    index = len(nodes)
    order_by = _columns_of(table, relation.order_by, relation.name)
    soft_delete = _columns_of(table, (relation.soft_delete,), relation.name)[0] if relation.soft_delete else ""
    node = Node(
        index=index,
        name=relation.name,
        table=table,
        parent=parent.index if parent else -1,
        parent_columns=parent_columns,
        child_columns=child_columns,
        many=many,
        through=through,
        fields=fields,
        json_fields=tuple(field for column, field in fields if _kind(table, column) in JSON_TEXT),
        order_by=order_by,
        soft_delete=soft_delete,
        refresh=refresh and relation.refresh,
        children=(),
        used=frozenset(),
        takes_new=relation.columns.include is None and not through,
    )
    nodes.append(node)
    children = tuple(_add(nodes, child, catalogue, node, node.refresh) for child in relation.relations)
    joins = {column for child in children for column in nodes[child].parent_columns}
    used = {column for column, _ in fields} | {*child_columns, *order_by, *table.primary_key} | joins
    if soft_delete:
        used.add(soft_delete)
    nodes[index] = replace(node, children=children, used=frozenset(used))
    return index


def _join(relation: Relation, table: Table, parent: Node | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the parent's columns, the child's) that have to be equal."""
    if parent is None:
        return (), ()
    if relation.kind == "belongs_to":
        references = relation.references or table.primary_key
        return (
            _columns_of(parent.table, relation.foreign_key, relation.name),
            _columns_of(table, references, relation.name),
        )
    references = relation.references or parent.table.primary_key
    return (
        _columns_of(parent.table, references, relation.name),
        _columns_of(table, relation.foreign_key, relation.name),
    )


def _table(catalogue: Catalogue, name: str, where: str) -> Table:
    table = catalogue.tables.get(name)
    if table is None:
        raise InputError(f"{where}: the source has no table {name}.", "`hub check` names the place and what is near.")
    return table


def _columns_of(table: Table, columns: Sequence[str], where: str) -> tuple[str, ...]:
    for column in columns:
        if table.column(column) is None:
            raise InputError(
                f"{where}: table {table.name} has no column {column}.", "`hub check` names the place and what is near."
            )
    return tuple(columns)


def _kind(table: Table, column: str) -> Kind:
    found = table.column(column)
    assert found is not None
    return found.kind


def _fields(table: Table, columns: Columns) -> tuple[tuple[str, str], ...]:
    included = {column.name for column in table.columns} if columns.include is None else set(columns.include)
    _columns_of(table, [*included, *columns.exclude, *columns.rename], table.name)
    kept = included - set(columns.exclude)
    return tuple((c.name, columns.rename.get(c.name, c.name)) for c in table.columns if c.name in kept)


def _shape(nodes: Sequence[Node], index: int) -> Shape:
    node = nodes[index]
    fields = {field: _field(node.table, column) for column, field in node.fields}
    names = dict(node.fields)
    key = node.table.primary_key
    embeds: dict[str, Embed] = {}
    for child in node.children:
        target = nodes[child].children[0] if nodes[child].through else child
        embeds[nodes[child].name] = Embed(_shape(nodes, target), nodes[child].many)
    return Shape(fields, embeds, tuple(names[c] for c in key) if all(c in names for c in key) else ())


def _field(table: Table, name: str) -> Field:
    column = table.column(name)
    assert column is not None
    return Field(column.kind, column.array)


def captured_columns(entities: Iterable[Entity]) -> dict[str, tuple[str, ...]]:
    """By table, in catalogue order: every column that some entity uses. Nothing else leaves the source."""
    used: dict[str, set[str]] = {}
    tables: dict[str, Table] = {}
    for entity in entities:
        for node in entity.nodes:
            tables[node.table.name] = node.table
            used.setdefault(node.table.name, set()).update(node.used)
    return {
        name: tuple(column.name for column in table.columns if column.name in used[name])
        for name, table in sorted(tables.items())
    }


def key_text(values: Sequence[Any]) -> str:
    """How a key is written everywhere: a single value as plain text, several as a JSON array."""
    if len(values) > 1:
        return msgspec.json.encode(list(values)).decode()
    return single_key_text(values[0])


def single_key_text(value: Any) -> str:
    """`key_text` of one value."""
    if value is True or value is False:
        return "true" if value else "false"
    return str(value)
