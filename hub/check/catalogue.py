"""An entity held against the source's catalogue: tables, columns, keys and types, each problem at its place.

A table that cannot be captured is refused here, before it comes into the publication: once there, a table without a
usable replica identity breaks the UPDATE and DELETE of the application itself.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from hub.catalogue import Catalogue, Column, Kind, Table
from hub.documents import Shape
from hub.entities import compile_entity
from hub.project import Columns, EntityConfig, Place, Relation
from hub.project.problems import Problems
from hub.project.suggestions import did_you_mean

Unsupported = Callable[[Column, int], str | None]  # (column, server_version): why it cannot be carried, a sentence

_NOT_A_TABLE = {
    "v": "a view, and a view has no changes in the write-ahead log",
    "m": "a materialized view, and its changes are not in the publication",
    "f": "a foreign table, and its changes are in another server's write-ahead log",
}
_NO_WAL = {
    "u": "unlogged, so its changes are not in the write-ahead log",
    "t": "temporary, so its changes are not in the write-ahead log",
}
_NUMBERS = (Kind.INTEGER, Kind.NUMERIC, Kind.FLOAT)
_PLAIN_TEXTS = ("text", "varchar", "bpchar", "name")
_ADDRESSES = ("inet", "cidr")
# Values of these kinds may be equal and written differently, or have no equality at all.
_NO_JOIN = (Kind.JSON, Kind.HSTORE, Kind.INTERVAL, Kind.TIMETZ, Kind.OTHER)
_NO_ORDER = (Kind.JSON, Kind.HSTORE, Kind.OTHER)


def check_entity(
    entity: EntityConfig, catalogue: Catalogue, problems: Problems, unsupported: Unsupported | None
) -> Shape | None:
    """The shape of the entity's documents; None when its problems leave none."""
    before = len(problems.found)
    _Check(catalogue, problems, unsupported).entity(entity)
    if any(not problem.warning for problem in problems.found[before:]):
        return None
    return compile_entity(entity, catalogue).shape


@dataclass(frozen=True, slots=True)
class _Check:
    catalogue: Catalogue
    problems: Problems
    unsupported: Unsupported | None

    def entity(self, entity: EntityConfig) -> None:
        place = entity.places.get("table") or entity.place
        table = self.table(entity.table, place)
        if table is None:
            return
        key = self.columns(table, entity.key, entity.places.get("key"))
        if entity.key and key and not _is_unique(table, entity.key):
            what = f"{_list(entity.key)} of {table.name} is neither its primary key nor unique and not null."
            self.problems.add(entity.places.get("key"), what, _keys_remedy(table))
        if entity.soft_delete:
            self.columns(table, (entity.soft_delete,), entity.places.get("soft_delete"))
        self.level(entity, table, dict.fromkeys(entity.key, "the key"))

    def level(self, level: EntityConfig | Relation, table: Table, needed: Mapping[str, str]) -> None:
        """One level's columns and what it embeds; `needed` are columns of it that its own joins use, and for what."""
        place = level.places.get("columns") or level.places.get("table") or level.place
        used = {**needed, **{column: "the primary key" for column in table.primary_key if column not in needed}}
        if level.soft_delete:
            used.setdefault(level.soft_delete, "soft_delete")
        for relation in level.relations:
            self.relation(relation, table, used)
        fields = self.fields(level.columns, table)
        self.names(level, table, fields, place)
        self.types(table, fields, used, level.columns, place)
        self.kept(table, fields, used, place)

    def relation(self, relation: Relation, parent: Table, used: dict[str, str]) -> None:
        """`used` gains the parent's columns that the relation joins by."""
        table = self.table(relation.table, relation.places.get("table") or relation.place)
        joins = self.through_joins(relation, parent, table) if relation.through else _joins(relation, parent, table)
        for join in joins:
            self.join(join, relation)
            if join.parent is parent:
                used.update(
                    {column: f"the relation {relation.name!r}" for column in join.parent_columns if column not in used}
                )
        if table is None:
            return
        self.columns(table, relation.order_by, relation.places.get("order_by"))
        self.order(table, relation)
        if relation.soft_delete:
            self.columns(table, (relation.soft_delete,), relation.places.get("soft_delete"))
        needed = dict.fromkeys(relation.order_by, "order_by")
        needed |= {column: "the join" for join in joins if join.child is table for column in join.child_columns}
        self.level(relation, table, needed)

    def through_joins(self, relation: Relation, parent: Table, table: Table | None) -> list["_Join"]:
        through = self.table(relation.through, relation.places.get("through"))
        if through is None:
            return []
        place = relation.places.get("through")
        joined = (*through.primary_key, *relation.foreign_key, *relation.related_key)
        self.types(through, (), joined, Columns(), place)
        references = relation.references or parent.primary_key
        joins = [_Join(parent, references, "references", through, relation.foreign_key, "foreign_key")]
        if table is not None:
            target = relation.related_references or table.primary_key
            joins.append(_Join(through, relation.related_key, "related_key", table, target, "related_references", True))
        return joins

    def table(self, name: str, place: Place | None) -> Table | None:
        """The table; None, with the reason reported, when it is not there or cannot be captured."""
        table = self.catalogue.tables.get(name)
        if table is None:
            self.problems.add(place, f"The source has no table {name}.", _tables_remedy(name, self.catalogue))
            return None
        reason, remedy = _refusal(table)
        if reason:
            self.problems.add(place, f"{name} {reason}.", remedy)
            return None
        if table.replica_identity == "i":
            what = f"{name} has REPLICA IDENTITY USING INDEX: its deletes are known only by that index's columns."
            self.problems.note(place, what, "See to it that the primary key is among them.")
        return table

    def columns(self, table: Table, columns: Iterable[str], place: Place | None) -> bool:
        """Whether the table has them all."""
        missing = [column for column in columns if table.column(column) is None]
        for column in missing:
            self.missing(table, column, place)
        return not missing

    def missing(self, table: Table, column: str, place: Place | None) -> None:
        names = [one.name for one in table.columns]
        self.problems.add(place, f"{table.name} has no column {column!r}.", did_you_mean(column, names))

    def fields(self, columns: Columns, table: Table) -> dict[str, str]:
        """Field by column, of those that are in the document."""
        written = dict.fromkeys((*(columns.include or ()), *columns.exclude, *columns.rename))
        for column in written:
            self.columns(table, (column,), columns.places.get(column))
        names = [column.name for column in table.columns]
        kept = [name for name in names if name not in columns.exclude]
        if columns.include is not None:
            kept = [name for name in kept if name in columns.include]
        return {name: columns.rename.get(name, name) for name in kept}

    def names(self, level: EntityConfig | Relation, table: Table, fields: dict[str, str], place: Place | None) -> None:
        written = {*level.columns.rename, *(level.columns.include or ())}  # judged without the catalogue
        names = {field: column for column, field in fields.items() if column not in written}
        for relation in level.relations:
            column = names.get(relation.name)
            if column:
                what = f"The relation {relation.name!r} has the name of a column of {table.name}."
                self.problems.add(
                    relation.place, what, f"Rename it, or leave the column out: 'columns: {{exclude: [{column}]}}'."
                )
        for column, field in level.columns.rename.items():
            if field != column and field in fields and fields[field] == field:
                what = f"{column!r} is renamed to {field!r}, which is a column of {table.name} too."
                self.problems.add(level.columns.places.get(column) or place, what, "Choose another name.")

    def types(
        self, table: Table, fields: Collection[str], joined: Iterable[str], level: Columns, place: Place | None
    ) -> None:
        """`fields` are columns of the document, `joined` those that the hub itself needs."""
        for name in dict.fromkeys((*fields, *joined)):
            column = table.column(name)
            if column is None or self.unsupported is None:
                continue
            reason = self.unsupported(column, self.catalogue.server_version)
            if reason:
                remedy = "Key, join or order by another column."
                if name not in joined:
                    remedy = f"Write 'columns: {{exclude: [{name}]}}'."
                self.problems.add(level.places.get(name) or place, f"{table.name}, column {name!r}: {reason}", remedy)

    def kept(self, table: Table, fields: Mapping[str, str], used: Mapping[str, str], place: Place | None) -> None:
        left_out = {name: use for name, use in used.items() if name not in fields and table.column(name)}
        for name, use in left_out.items():
            what = (
                f"The column {name!r} of {table.name} is left out of the document, and kept in the row image for {use}."
            )
            self.problems.note(place, what)

    def order(self, table: Table, relation: Relation) -> None:
        for name in relation.order_by:
            column = table.column(name)
            if column and (column.kind in _NO_ORDER or column.base == "xml"):
                what = f"{table.name} cannot be ordered by {name!r}, which is {column.type}."
                self.problems.add(relation.places.get("order_by"), what, "Order by another column.")

    def join(self, join: "_Join", relation: Relation) -> None:
        """A join's columns exist, are as many on both sides, can be equal, and name one row where one is due."""
        parent_place = relation.places.get(join.parent_key) or relation.place
        child_place = relation.places.get(join.child_key) or relation.place
        there = self.columns(join.parent, join.parent_columns, parent_place)
        if not self.columns(join.child, join.child_columns, child_place) or not there:
            return
        if len(join.parent_columns) != len(join.child_columns):
            sides = (join.parent.name, join.parent_columns), (join.child.name, join.child_columns)
            what = " and ".join(f"{_list(columns)} of {name}" for name, columns in sides) + " are not as many columns."
            self.problems.add(
                relation.places.get("foreign_key") or relation.place, what, "Name as many, in the same order."
            )
            return
        if join.to_one and not _is_unique(join.child, join.child_columns):
            what = f"{_list(join.child_columns)} of {join.child.name} is not unique, so it does not name one row."
            self.problems.add(child_place, what, _keys_remedy(join.child))
        else:
            self.comparable(join, relation)

    def comparable(self, join: "_Join", relation: Relation) -> None:
        for left, right in zip(join.parent_columns, join.child_columns, strict=True):
            one, other = join.parent.column(left), join.child.column(right)
            if one and other and not _comparable(one, other):
                sides = f"{left!r} of {join.parent.name} ({one.type})", f"{right!r} of {join.child.name} ({other.type})"
                what = f"{sides[0]} cannot be joined to {sides[1]}."
                place = relation.places.get(join.parent_key) or relation.places.get(join.child_key) or relation.place
                self.problems.add(place, what, "Name columns of one type.")


@dataclass(frozen=True, slots=True)
class _Join:
    """`parent_columns = child_columns`, and the YAML keys that name them."""

    parent: Table
    parent_columns: tuple[str, ...]
    parent_key: str
    child: Table
    child_columns: tuple[str, ...]
    child_key: str
    to_one: bool = False  # the child's columns have to name one row


def _joins(relation: Relation, parent: Table, table: Table | None) -> list[_Join]:
    if table is None:
        return []
    if relation.kind == "belongs_to":
        references = relation.references or table.primary_key
        return [_Join(parent, relation.foreign_key, "foreign_key", table, references, "references", True)]
    references = relation.references or parent.primary_key
    return [_Join(parent, references, "references", table, relation.foreign_key, "foreign_key")]


def _refusal(table: Table) -> tuple[str, str]:
    """Why the table cannot be captured and the remedy, ("", "") when it can."""
    if table.relkind in _NOT_A_TABLE:
        return f"is {_NOT_A_TABLE[table.relkind]}", "Name the tables that it reads from."
    if table.persistence in _NO_WAL:
        return f"is {_NO_WAL[table.persistence]}", "Leave it out of the entity."
    if not table.primary_key:
        return _keyless(table), "Ask its owner for a primary key, or leave the table out of the entity."
    if table.replica_identity == "n":
        reason = "has REPLICA IDENTITY NOTHING: in the publication, the application's own UPDATE and DELETE on it fail"
        return reason, "Ask its owner for ALTER TABLE … REPLICA IDENTITY DEFAULT, or leave the table out of the entity."
    return "", ""


def _keyless(table: Table) -> str:
    if table.replica_identity == "f":
        return "has no primary key, so its rows cannot be told apart"
    return "has no primary key: in the publication, the application's own UPDATE and DELETE on it would fail"


def _tables_remedy(name: str, catalogue: Catalogue) -> str:
    """A table of this name in another schema, or what is near."""
    bare = name.partition(".")[2]
    elsewhere = [table for table in catalogue.tables if table.partition(".")[2] == bare]
    return (
        f"Did you mean {' or '.join(map(repr, elsewhere[:2]))}?" if elsewhere else did_you_mean(name, catalogue.tables)
    )


def _keys_remedy(table: Table) -> str:
    keys = dict.fromkeys([table.primary_key, *table.unique_keys])
    return f"Name one of: {', '.join(_list(key) for key in keys)}."


def _is_unique(table: Table, columns: tuple[str, ...]) -> bool:
    return any(set(columns) == set(key) for key in (table.primary_key, *table.unique_keys))


def _comparable(one: Column, other: Column) -> bool:
    """Whether equal values of the two are equal in Postgres, and written equally in row images."""
    if any(column.array or column.kind in _NO_JOIN or column.base == "xml" for column in (one, other)):
        return False
    if one.kind in _NUMBERS and other.kind in _NUMBERS:
        return True
    if one.kind is Kind.TEXT and other.kind is Kind.TEXT:
        families = ({one.base, other.base} <= set(_PLAIN_TEXTS), {one.base, other.base} <= set(_ADDRESSES))
        return one.base == other.base or any(families)
    return one.kind is other.kind


def _list(columns: tuple[str, ...]) -> str:
    return repr(columns[0]) if len(columns) == 1 else f"[{', '.join(columns)}]"
