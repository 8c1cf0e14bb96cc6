"""Random schemas: tables with their keys, and the foreign keys that every kind of relation needs."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tests.oracle import values
from tests.oracle.values import Type

NAMES = ("orders", "Lines", "people", "select", "sales.items")  # mixed case, a reserved word, another schema


@dataclass(frozen=True)
class Column:
    name: str
    type: Type
    not_null: bool = False


@dataclass(frozen=True)
class ForeignKey:
    columns: tuple[str, ...]
    table: str  # that is referenced
    references: tuple[str, ...]
    on_delete: str  # CASCADE, SET NULL, NO ACTION
    on_update: str
    enforced: bool  # False: no constraint says so, and a reference may dangle


@dataclass(frozen=True)
class Table:
    name: str  # as an entity's author writes it: "orders" or "sales.items"
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    unique: tuple[str, ...] = ()  # one more unique key, not null
    foreign_keys: tuple[ForeignKey, ...] = ()
    link: bool = False  # stands between two tables: its primary key is its two foreign keys
    soft_delete: str = ""

    def column(self, name: str) -> Column:
        return next(column for column in self.columns if column.name == name)

    @property
    def sql(self) -> str:
        return ".".join(quote(part) for part in self.name.split("."))


@dataclass(frozen=True)
class Schema:
    seed: int
    tables: tuple[Table, ...]
    contrib: bool  # citext and hstore are there

    def table(self, name: str) -> Table:
        return next(table for table in self.tables if table.name == name)

    def pointing_at(self, name: str) -> Iterator[tuple[Table, ForeignKey]]:
        return ((table, key) for table in self.tables for key in table.foreign_keys if key.table == name)

    def ddl(self) -> list[str]:
        extensions = ["create extension citext", "create extension hstore"] if self.contrib else []
        keys = [
            _constraint(table, key)
            for table in self.tables
            for key in table.foreign_keys
            if key.enforced
        ]  # fmt: skip
        return [*extensions, *values.DECLARATIONS, "create schema sales", *map(_create, self.tables), *keys]


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def names(columns: tuple[str, ...]) -> str:
    return ", ".join(map(quote, columns))


def _create(table: Table) -> str:
    columns = [f"{quote(c.name)} {c.type.sql}{' not null' if c.not_null else ''}" for c in table.columns]
    unique = [f"unique ({names(table.unique)})"] if table.unique else []
    return f"create table {table.sql} ({', '.join([*columns, f'primary key ({names(table.primary_key)})', *unique])})"


def _constraint(table: Table, key: ForeignKey) -> str:
    target = ".".join(quote(part) for part in key.table.split("."))
    return (
        f"alter table {table.sql} add foreign key ({names(key.columns)}) references {target} ({names(key.references)}) "
        f"on delete {key.on_delete} on update {key.on_update} deferrable"
    )


def random_schema(seed: int, *, contrib: bool = True) -> Schema:
    """Two to five tables; from three on, the last one usually links two others."""
    rng = Random(f"schema {seed}")
    count = rng.randint(2, 5)
    link = count > 2 and rng.random() < 0.75
    tables: list[Table] = []
    for name in rng.sample(NAMES, count - link):
        tables.append(_table(rng, name, tables, contrib))
    if link:
        tables.append(_link(rng, tables))
    return Schema(seed, tuple(tables), contrib)


def _primary_key(rng: Random) -> list[Column]:
    single = (values.INTEGER, values.BIGINT, values.UUID, values.TEXT, values.CODE, values.NUMBER, values.KEY_DATE)
    if rng.random() < 0.65:
        return [Column("id", rng.choice((values.INTEGER, values.INTEGER, *single)), not_null=True)]
    pairs = ((values.COUNTRY, values.INTEGER), (values.INTEGER, values.TEXT), (values.TEXT, values.BIGINT))
    first, second = rng.choice(pairs)
    return [Column("Number", first, not_null=True), Column("region", second, not_null=True)]


def _table(rng: Random, name: str, earlier: list[Table], contrib: bool) -> Table:
    key = _primary_key(rng)
    unique = [Column("code", rng.choice((values.CODE, values.BIGINT, values.TEXT)), not_null=True)]
    unique = unique if rng.random() < 0.5 else []
    itself = Table(name, (*key, *unique), _names(key), _names(unique))
    targets = [table for table in earlier if rng.random() < 0.8]
    if rng.random() < 0.45 or not (targets or earlier):
        targets.append(itself)
    if earlier and rng.random() < 0.25:
        targets.append(earlier[-1])  # two foreign keys to one table
    references = [_reference(rng, number, target, target is itself) for number, target in enumerate(targets)]
    soft = [Column("deleted_at", values.TIMESTAMPTZ_TYPE)] if rng.random() < 0.4 else []
    columns = [*key, *unique, *(c for found, _ in references for c in found), *soft, *_data(rng, contrib)]
    kept = columns[: len(key)] + rng.sample(columns[len(key) :], len(columns) - len(key))
    foreign = tuple(foreign_key for _, foreign_key in references)
    return Table(name, tuple(kept), _names(key), _names(unique), foreign, soft_delete="deleted_at" if soft else "")


def _reference(rng: Random, number: int, target: Table, itself: bool) -> tuple[list[Column], ForeignKey]:
    referenced = target.unique if target.unique and rng.random() < 0.4 else target.primary_key
    optional = itself or rng.random() < 0.8
    columns = [Column(f"ref{number}_{name}", target.column(name).type, not optional) for name in referenced]
    on_delete = rng.choice(("CASCADE", "CASCADE", "SET NULL", "NO ACTION") if optional else ("CASCADE", "NO ACTION"))
    on_update = rng.choice(("CASCADE", "NO ACTION"))
    return columns, ForeignKey(_names(columns), target.name, referenced, on_delete, on_update, rng.random() < 0.85)


def _data(rng: Random, contrib: bool) -> list[Column]:
    types = [type_ for type_ in values.DATA if contrib or not type_.contrib]
    position = [Column("position", values.INTEGER)]
    plain = [Column(f"{rng.choice(('c', 'C', 'user '))}{i}", rng.choice(types)) for i in range(rng.randint(3, 7))]
    bulk = [Column("bulk", rng.choice(values.BULK))] if rng.random() < 0.5 else []
    return [*position, *plain, *bulk]


def _link(rng: Random, tables: list[Table]) -> Table:
    left, right = rng.choice(tables), rng.choice(tables)
    sides = [(left, "left_"), (right, "right_")]
    columns: list[Column] = []
    foreign: list[ForeignKey] = []
    for table, prefix in sides:
        own = [Column(prefix + name, table.column(name).type, not_null=True) for name in table.primary_key]
        columns += own
        foreign.append(ForeignKey(_names(own), table.name, table.primary_key, "CASCADE", "CASCADE", True))
    extra = [Column("note", values.TEXT)] if rng.random() < 0.5 else []
    return Table("links", (*columns, *extra), _names(columns), (), tuple(foreign), link=True)


def _names(columns: list[Column]) -> tuple[str, ...]:
    return tuple(column.name for column in columns)
