"""How a stream's rows are kept: by table the columns and keys, and by which columns a row can be found.

A `Lookup` is an index on row images: the columns by which a parent finds its children or a child its parents. Where
they are the primary key, the row's key is the lookup itself and nothing is stored.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from operator import itemgetter
from typing import Any

from hub.catalogue import Kind, Table
from hub.entities import Entity, Node, captured_columns, key_text, single_key_text

Row = dict[str, Any]
JoinValue = Callable[[Row], str | None]  # None when a column is null: null equals nothing


@dataclass(frozen=True, slots=True)
class Lookup:
    id: int
    table: str
    columns: tuple[str, ...]
    value: JoinValue  # of a row of `table`
    direct: bool  # the value is the row's key


@dataclass(frozen=True, slots=True)
class KeptTable:
    """One captured table, as its rows are kept."""

    id: int
    name: str
    columns: tuple[str, ...]
    key: Callable[[Row], str]
    lookups: tuple[Lookup, ...]  # those that are stored
    needs_old: bool  # whether a change can be understood only with the row as it was


@dataclass(frozen=True, slots=True)
class Layout:
    """All tables of one stream, and the lookups that its entities walk by."""

    entities: tuple[Entity, ...]
    tables: Mapping[str, KeptTable]
    lookups: Mapping[tuple[str, tuple[str, ...]], Lookup]
    nodes: Mapping[str, tuple[tuple[Entity, Node], ...]]  # by table: where it is embedded
    plain: Mapping[str, str]  # by table that is one entity's plain root and nothing else: the entity
    alone: Mapping[str, str]  # those of them whose entity embeds nothing
    journaled: Mapping[str, str]  # those of them whose documents are the rows, value by value

    def lookup(self, table: Table, columns: tuple[str, ...]) -> Lookup:
        return self.lookups[table.name, columns]


def make_layout(entities: Sequence[Entity], name_id: Callable[[str, str], int], stream: str) -> Layout:
    """`name_id` interns: of kind "table" the stream's tables, of kind "lookup" their lookups."""
    columns = captured_columns(entities)
    tables = {node.table.name: node.table for entity in entities for node in entity.nodes}
    ids = {name: name_id("table", f"{stream}/{name}") for name in columns}
    lookups = {
        (name, wanted): _lookup(tables[name], wanted, lambda label: name_id("lookup", label), ids[name])
        for name, wanted in sorted(_wanted(entities))
    }
    nodes: dict[str, list[tuple[Entity, Node]]] = {}
    for entity in entities:
        for node in entity.nodes:
            nodes.setdefault(node.table.name, []).append((entity, node))
    kept = {
        name: KeptTable(
            id=ids[name],
            name=name,
            columns=columns[name],
            key=row_key(tables[name].primary_key),
            lookups=(stored := tuple(k for k in lookups.values() if k.table == name and not k.direct)),
            needs_old=bool(stored) or any(not node_is_plain(entity, node) for entity, node in nodes[name]),
        )
        for name in columns
    }
    plain = {
        name: places[0][0].name for name, places in nodes.items() if len(places) == 1 and node_is_plain(*places[0])
    }
    single = {entity.name: entity for entity in entities if len(entity.nodes) == 1}
    alone = {table: entity for table, entity in plain.items() if entity in single}
    return Layout(
        entities=tuple(entities),
        tables=kept,
        lookups=lookups,
        nodes={name: tuple(places) for name, places in nodes.items()},
        plain=plain,
        alone=alone,
        journaled={table: entity for table, entity in alone.items() if _is_its_row(single[entity], kept[table])},
    )


def node_is_plain(entity: Entity, node: Node) -> bool:
    """A root whose document key is its row's: a change of it reaches this document and no other."""
    return node.index == 0 and entity.key == node.table.primary_key


def _is_its_row(entity: Entity, kept: KeptTable) -> bool:
    """The document's JSON is the row's: every column, under its own name, and nothing that hides a row."""
    root = entity.root
    as_it_is = root.fields == tuple((column, column) for column in kept.columns)
    return as_it_is and not (root.json_fields or root.soft_delete or kept.needs_old)


def _wanted(entities: Iterable[Entity]) -> set[tuple[str, tuple[str, ...]]]:
    """(table, columns) of every join, from both its sides, and of every entity's key."""
    wanted: set[tuple[str, tuple[str, ...]]] = set()
    for entity in entities:
        wanted.add((entity.root.table.name, entity.key))
        for node in entity.nodes[1:]:
            wanted.add((entity.nodes[node.parent].table.name, node.parent_columns))
            wanted.add((node.table.name, node.child_columns))
    return wanted


def _lookup(table: Table, columns: tuple[str, ...], intern: Callable[[str], int], table_id: int) -> Lookup:
    direct = columns == table.primary_key and not any(_normaliser(table, column) for column in columns)
    id = 0 if direct else intern(f"{table_id}({','.join(columns)})")
    return Lookup(id, table.name, columns, join_value(table, columns), direct)


def row_key(columns: tuple[str, ...]) -> Callable[[Row], str]:
    """The row's key as text."""
    if len(columns) == 1:
        column = columns[0]

        def single(row: Row) -> str:
            value = row[column]
            return value if value.__class__ is str else single_key_text(value)

        return single
    values = itemgetter(*columns)
    return lambda row: key_text(values(row))


def join_value(table: Table, columns: tuple[str, ...]) -> JoinValue:
    """The text by which rows are joined: equal values give equal texts, whatever the column's scale or case.

    A row of an older snapshot may lack a column that is joined by since: it is found by nothing then.
    """
    normalisers = tuple(_normaliser(table, column) for column in columns)
    if len(columns) == 1 and normalisers[0] is None:
        column = columns[0]

        def single(row: Row) -> str | None:
            value = row.get(column)
            return value if value is None or value.__class__ is str else single_key_text(value)

        return single

    def composite(row: Row) -> str | None:
        values = [row.get(column) for column in columns]
        if None in values:
            return None
        return key_text([normal(v) if normal else v for normal, v in zip(normalisers, values, strict=True)])

    return composite


def _normaliser(table: Table, column: str) -> Callable[[Any], Any] | None:
    found = table.column(column)
    assert found is not None
    return None if found.array else _NORMALISERS.get(found.kind)


def _plain_number(value: Any) -> Any:
    """1.50 and 1.5 are one value, and so are 2.0 and the integer 2 of the other side."""
    number = Decimal(str(value))
    if not number.is_finite():
        return str(value)
    # Not by normalize(), which rounds to 28 digits.
    return int(number) if number == number.to_integral_value() else format(number, "f").rstrip("0")


_NORMALISERS: dict[Kind, Callable[[Any], Any]] = {
    Kind.NUMERIC: _plain_number,
    Kind.MONEY: _plain_number,
    Kind.FLOAT: _plain_number,
    Kind.CITEXT: str.lower,
}
