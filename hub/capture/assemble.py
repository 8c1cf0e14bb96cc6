"""From changed rows to documents: which documents they reach, and what these look like.

`reach` names the nodes by which changed rows touch an entity, before and after; `climb` follows these up to
document keys; `assemble` builds the document of a key from the row images. All of it reads through a `View` that
shows the rows after the transaction. That is enough for both sides of a move: the topmost changed row on any old
path is itself a changed row, and above it nothing differs.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import msgspec

from hub.capture.images import Touched, View
from hub.capture.layout import JoinValue, Layout, Lookup, Row, join_value, row_key
from hub.capture.ordering import sort_key
from hub.entities import Entity, Node

Fields = Callable[[Row], dict[str, Any]]
Reached = dict[tuple[str, int], set[str]]  # (entity, node): join values; of node 0 document keys


@dataclass(frozen=True, slots=True)
class _Step:
    """A node, made ready to walk."""

    node: Node
    fields: Fields
    down: Lookup | None  # rows of this node, by the parent's value
    down_value: JoinValue | None  # of a parent's row
    up: Lookup | None  # rows of the parent's node, by this node's value
    up_value: JoinValue | None  # of a row of this node
    order: Callable[[Row], Any]
    children: tuple[int, ...]


class Assembler:
    """One entity's way from rows to documents."""

    def __init__(self, entity: Entity, layout: Layout) -> None:
        self.entity = entity
        self.key_of = row_key(entity.key)
        self._row_key = row_key(entity.root.table.primary_key)
        self._by_key = layout.lookup(entity.root.table, entity.key)
        self._key_value = join_value(entity.root.table, entity.key)
        self.steps = tuple(_step(entity, node, layout) for node in entity.nodes)

    # which documents

    def reach(self, touched: Touched, node: Node, reached: Reached) -> None:
        """Add what the change of one row, where `node` embeds it, touches."""
        old, new = touched.old, touched.new
        if node.index == 0:
            keys = reached.setdefault((self.entity.name, 0), set())
            if old is None and self._by_key.direct:
                keys.add(touched.key)
            else:
                keys.update(self.key_of(row) for row in (old, new) if row is not None)
            return
        if not node.refresh or _same(node, old, new):
            return
        value = self.steps[node.index].up_value
        assert value is not None
        values = {value(row) for row in (old, new) if row is not None} - {None}
        reached.setdefault((self.entity.name, node.index), set()).update(v for v in values if v is not None)

    def climb(self, view: View, node: int, values: Collection[str], limit: int) -> Collection[str]:
        """The keys of the documents that embed, at `node`, rows joined by `values`. TooMany past `limit` rows."""
        while node:
            step = self.steps[node]
            parent = self.steps[step.node.parent]
            assert step.up is not None
            if self.names_document(node):
                return values
            view.load_found(step.up, values, limit)
            rows = [row for value in values for row in view.found(step.up, value)]
            if parent.node.index == 0:
                return {self.key_of(row) for row in rows}
            assert parent.up_value is not None
            values = {value for row in rows if (value := parent.up_value(row)) is not None}
            node = parent.node.index
        return values

    def names_document(self, node: int) -> bool:
        """Whether the value that joins this node's rows to their parent is the key of a document."""
        step = self.steps[node]
        return step.up is not None and step.node.parent == 0 and step.up.direct and self._by_key.direct

    # what they look like

    def root(self, view: View, key: str) -> Row | None:
        """The root row of a document, unless it is absent or counts as absent."""
        if self._by_key.direct:
            row = view.row(self._by_key.table, key)
        else:
            rows = view.found(self._by_key, self.root_value(key))
            row = next((row for row in rows if self.key_of(row) == key), None)
        return None if row is None or _hidden(self.entity.root, row) else row

    def alone(self, row: Row | None) -> dict[str, Any] | None:
        """The document of an entity that embeds nothing, from its root row."""
        return None if row is None or _hidden(self.entity.root, row) else self.steps[0].fields(row)

    def root_row_keys(self, view: View, key: str) -> list[str]:
        """The row keys of the rows that a document key leads to: one, or none."""
        rows = view.found(self._by_key, self.root_value(key))
        return [self._row_key(row) for row in rows if self.key_of(row) == key]

    def without_row(self, view: View, keys: Sequence[str]) -> list[str]:
        """Those of `keys` that lead to no row."""
        view.load_found(self._by_key, [self.root_value(key) for key in keys])
        return [key for key in keys if not self.root_row_keys(view, key)]

    def root_value(self, key: str) -> str:
        """A document key as the value that its root row is found by."""
        if self._by_key.direct:
            return key
        values = msgspec.json.decode(key) if len(self.entity.key) > 1 else [key]
        value = self._key_value(dict(zip(self.entity.key, values, strict=True)))
        assert value is not None
        return value

    def assemble(self, view: View, key: str) -> dict[str, Any] | None:
        """The document of `key`, or None when its root row is absent."""
        row = self.root(view, key)
        return None if row is None else self._element(view, self.steps[0], row)

    def _element(self, view: View, step: _Step, row: Row) -> dict[str, Any]:
        element = step.fields(row)
        for index in step.children:
            child = self.steps[index]
            element[child.node.name] = self._embed(view, child, row)
        return element

    def _embed(self, view: View, step: _Step, parent: Row) -> Any:
        rows = self.joined(view, step, parent)
        if step.node.through:
            return self._related(view, step, rows)
        if step.node.many:
            rows.sort(key=step.order)
            return [self._element(view, step, row) for row in rows]
        if not rows:
            return None
        return self._element(view, step, min(rows, key=step.order) if len(rows) > 1 else rows[0])

    def _related(self, view: View, through: _Step, rows: Sequence[Row]) -> list[dict[str, Any]]:
        step = self.steps[through.children[0]]
        related = [row for between in rows for row in self.joined(view, step, between)]
        related.sort(key=step.order)
        return [self._element(view, step, row) for row in related]

    def joined(self, view: View, step: _Step, parent: Row) -> list[Row]:
        """The rows of a node below one row of its parent, those that count as absent left out."""
        assert step.down is not None and step.down_value is not None
        value = step.down_value(parent)
        if value is None:
            return []
        rows = view.found(step.down, value)
        soft_delete = step.node.soft_delete
        return [row for row in rows if row[soft_delete] is None] if soft_delete else rows

    def warm(self, view: View, keys: Iterable[str], rows: dict[int, list[Row]] | None = None) -> None:
        """Read in a few statements all that the documents of `keys` are made of.

        `rows`: by node, rows that will be there and are not in the store yet; what they lead to is read too.
        """
        values = [self.root_value(key) for key in keys]
        view.load_found(self._by_key, values)
        level: dict[int, list[Row]] = {0: [row for value in values for row in view.found(self._by_key, value)]}
        for step in self.steps[1:]:
            assert step.down is not None and step.down_value is not None
            parents = level.get(step.node.parent, []) + (rows or {}).get(step.node.parent, [])
            wanted = {value for row in parents if (value := step.down_value(row)) is not None}
            view.load_found(step.down, wanted)
            level[step.node.index] = [row for value in wanted for row in view.found(step.down, value)]

    def visits(self, view: View, key: str) -> set[tuple[int, str]]:
        """Every (node, join value) by which a change could reach the document of `key`, as it is now."""
        row = self.root(view, key)
        return {(0, key)} | (set() if row is None else self.below(view, 0, row))

    def below(self, view: View, node: int, row: Row) -> set[tuple[int, str]]:
        """Every (node, join value) that a row at `node` leads down to."""
        visited: set[tuple[int, str]] = set()
        level: dict[int, list[Row]] = {node: [row]}
        for step in self.steps[node + 1 :]:
            parents = level.get(step.node.parent, [])
            assert step.down_value is not None
            values = {value for parent in parents if (value := step.down_value(parent)) is not None}
            visited |= {(step.node.index, value) for value in values}
            level[step.node.index] = [row for parent in parents for row in self.joined(view, step, parent)]
        return visited

    def parted(self, one: Touched, node: Node) -> str | None:
        """The join value (of the root the document key) under which the row was, if it lost something that it led to.

        It is gone or counts as absent, has moved, or refers to other rows than before.
        """
        old, new = one.old, one.new
        if old is None or _hidden(node, old):
            return None
        value = self.key_of if node.index == 0 else self.steps[node.index].up_value
        assert value is not None
        was = value(old)
        if new is None or value(new) != was or _hidden(node, new):
            return was
        downs = [down for child in node.children if (down := self.steps[child].down_value) is not None]
        return was if any(down(old) != down(new) for down in downs) else None


def _hidden(node: Node, row: Row) -> bool:
    return bool(node.soft_delete) and row[node.soft_delete] is not None


def _same(node: Node, old: Row | None, new: Row | None) -> bool:
    return old is not None and new is not None and all(old[column] == new[column] for column in node.used)


def _step(entity: Entity, node: Node, layout: Layout) -> _Step:
    if node.index == 0:
        return _Step(node, _fields(node), None, None, None, None, _order(node), node.children)
    parent = entity.nodes[node.parent]
    return _Step(
        node=node,
        fields=_fields(node),
        down=layout.lookup(node.table, node.child_columns),
        down_value=join_value(parent.table, node.parent_columns),
        up=layout.lookup(parent.table, node.parent_columns),
        up_value=join_value(node.table, node.child_columns),
        order=_order(node),
        children=node.children,
    )


def _fields(node: Node) -> Fields:
    """A function from a row to its own fields, in the node's order."""
    columns = [column for column, _ in node.fields]
    names = [field for _, field in node.fields]
    json_fields = node.json_fields
    if not columns:
        return lambda row: {}
    values = itemgetter(*columns) if len(columns) > 1 else lambda row: (row[columns[0]],)

    def plain(row: Row) -> dict[str, Any]:
        return dict(zip(names, values(row), strict=True))

    def with_json(row: Row) -> dict[str, Any]:
        element = dict(zip(names, values(row), strict=True))
        for field in json_fields:
            if element[field] is not None:
                element[field] = msgspec.Raw(element[field])
        return element

    return with_json if json_fields else plain


def _order(node: Node) -> Callable[[Row], Any]:
    """By the order columns, nulls last, then by the key."""
    keys = []
    for name in (*node.order_by, *node.table.primary_key):
        column = node.table.column(name)
        assert column is not None
        keys.append((name, sort_key(column)))
    return lambda row: [key(row[name]) for name, key in keys]
