"""Documents against the live database: what one SQL query returns, and what the journal holds at that moment.

A snapshot of the source shows what was committed up to some place between two positions of its log, `low` read before
it and `high` read within it. Once the hub has stored all up to `high`, a document is right when the live one equals
the newest version up to `low`, or one of those between. So traffic meanwhile is no difference. What still differs is
looked at again, alone and with a new snapshot, before it counts.

Parts under `refresh: false` are as of their document's last version, so they are left out of the comparison.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal
from itertools import chain, count, islice
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy as sa

from hub.catalogue import Column, Kind
from hub.changes import parse_lsn
from hub.documents import decode
from hub.entities import Entity, Node, key_text
from hub.errors import FaultError
from hub.store import tables
from hub.store.database import Store
from hub.subscriptions.diff import diff, path_text

PAGE = 200  # documents in memory at one time
LONGEST_DOUBLE = 309  # digits before the point
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN)
ROUNDS = 3  # how often a document has to differ, each time with a new snapshot
MOST = 10_000  # differences to look for; there may be more

Expression = Callable[[Column, str], str]  # SQL, of type json, of what a document holds of a column
Row = tuple[str, bytes | None]  # key and live document; None: no row
Item = TypeVar("Item")

# Kinds whose document form sorts as text; the others sort as Postgres compares them.
_TEXT_ORDER = (Kind.TEXT, Kind.CITEXT, Kind.JSON, Kind.HSTORE, Kind.OTHER)


@dataclass(frozen=True, slots=True)
class Difference:
    """A document that is not what the source says."""

    entity: str
    key: str
    kind: str  # differs, no document, no row
    paths: tuple[str, ...] = ()  # where it differs
    live: bytes | None = None
    stored: bytes | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """The positions that a snapshot of the source lies between."""

    low: int
    high: int


# The SQL of an entity, built from its compiled tree.


@dataclass
class LiveQuery:
    """One SELECT for each document: its key columns as JSON, then the document as JSON with columns c0, c1 …"""

    entity: Entity
    expression: Expression
    _aliases: Iterator[int] = field(default_factory=count)

    def sql(self, condition: str = "true") -> str:
        """`condition` speaks of the root table as t0."""
        self._aliases = count()
        root = self._alias()
        table = self.entity.root.table
        keys = [f"({self.expression(_column(table, name), f'{root}.{quote(name)}')})::text" for name in self.entity.key]
        document = self._element(self.entity.root, root)
        present = _present(self.entity.root, root)
        return (
            f"SELECT {', '.join(keys)}, ({document})::text FROM {_table(self.entity.root)} AS {root} "
            f"WHERE {present} AND {condition}"
        )

    def sample(self) -> str:
        """So many documents at random: one parameter."""
        names = ", ".join(quote(name) for name in self.entity.key)
        columns = ", ".join(f"t0.{quote(name)}" for name in self.entity.key)
        root = f"{_table(self.entity.root)} AS sampled WHERE {_present(self.entity.root, 'sampled')}"
        return self._with_parameters(f"({columns}) IN (SELECT {names} FROM {root} ORDER BY random() LIMIT ", "%s)")

    def of_keys(self) -> str:
        """The documents of some keys: one parameter a key column, a list of texts."""
        table = self.entity.root.table
        columns = ", ".join(f"t0.{quote(name)}" for name in self.entity.key)
        values = ", ".join(_from_text(_column(table, name), f"x{n}") for n, name in enumerate(self.entity.key))
        names = ", ".join(f"x{n}" for n in range(len(self.entity.key)))
        lists = ", ".join(["%s::text[]"] * len(self.entity.key))
        return self._with_parameters(f"({columns}) IN (SELECT {values} FROM unnest(", f"{lists}) AS x({names}))")

    def _with_parameters(self, condition: str, parameters: str) -> str:
        return self.sql(condition + "\0").replace("%", "%%").replace("\0", parameters)

    def _alias(self) -> str:
        return f"t{next(self._aliases)}"

    def _element(self, node: Node, alias: str) -> str:
        columns = [
            f"{self.expression(_column(node.table, column), f'{alias}.{quote(column)}')} AS c{n}"
            for n, (column, _) in enumerate(node.fields)
        ]
        columns += [
            f"({self._embed(child, alias)}) AS e{child.index}" for child in compared_children(self.entity, node)
        ]
        return f"SELECT row_to_json(r) FROM (SELECT {', '.join(columns)}) AS r" if columns else "SELECT '{}'::json"

    def _embed(self, node: Node, parent: str) -> str:
        alias = self._alias()
        source = f"{_table(node)} AS {alias}"
        condition = _join(node, parent, alias)
        if node.through:
            related = self.entity.nodes[node.children[0]]
            other = self._alias()
            source += f" JOIN {_table(related)} AS {other} ON {_join(related, alias, other)}"
            node, alias = related, other
            return self._list(node, alias, source, condition)
        if node.many:
            return self._list(node, alias, source, condition)
        return (
            f"SELECT ({self._element(node, alias)}) FROM {source} WHERE {condition} AND {_present(node, alias)} "
            f"ORDER BY {_order(node, alias)} LIMIT 1"
        )

    def _list(self, node: Node, alias: str, source: str, condition: str) -> str:
        return (
            f"SELECT coalesce(json_agg(({self._element(node, alias)}) ORDER BY {_order(node, alias)}), '[]'::json) "
            f"FROM {source} WHERE {condition} AND {_present(node, alias)}"
        )


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _table(node: Node) -> str:
    schema, _, name = node.table.name.partition(".")
    return f"{quote(schema)}.{quote(name)}"


def _column(table: Any, name: str) -> Column:
    found: Column | None = table.column(name)
    assert found is not None
    return found


def _present(node: Node, alias: str) -> str:
    return f"{alias}.{quote(node.soft_delete)} IS NULL" if node.soft_delete else "true"


def _join(node: Node, parent: str, alias: str) -> str:
    pairs = zip(node.parent_columns, node.child_columns, strict=True)
    return " AND ".join(f"{parent}.{quote(left)} = {alias}.{quote(right)}" for left, right in pairs)


def _order(node: Node, alias: str) -> str:
    names = dict.fromkeys((*node.order_by, *node.table.primary_key))
    return ", ".join(f"{_ordered(_column(node.table, name), f'{alias}.{quote(name)}')} NULLS LAST" for name in names)


def _ordered(column: Column, operand: str) -> str:
    if column.kind is Kind.TIMETZ and not column.array:
        return f"({operand} AT TIME ZONE 'UTC')::time"
    if column.kind in _TEXT_ORDER:
        return f'({operand}::text{"[]" if column.array else ""}) COLLATE "C"'
    return operand


def _from_text(column: Column, operand: str) -> str:
    """A key's document form as a value of its column."""
    return f"decode({operand}, 'base64')" if column.kind is Kind.BYTEA else f"{operand}::{column.type}"


def compared_children(entity: Entity, node: Node) -> list[Node]:
    return [entity.nodes[index] for index in node.children if entity.nodes[index].refresh]


def named(entity: Entity, node: Node, element: Any) -> Any:
    """The document of LiveQuery's JSON: its columns by their fields."""
    tree = {name: element[f"c{n}"] for n, (_, name) in enumerate(node.fields)}
    for child in compared_children(entity, node):
        held = element[f"e{child.index}"]
        target = entity.nodes[child.children[0]] if child.through else child
        if held is None:
            tree[child.name] = None
        elif child.many:
            tree[child.name] = [named(entity, target, one) for one in held]
        else:
            tree[child.name] = named(entity, target, held)
    return tree


def comparable(entity: Entity, node: Node, tree: Any) -> Any:
    """A stored document without its parts under `refresh: false`."""
    if not isinstance(tree, dict):
        return tree
    left_out = {entity.nodes[index].name for index in node.children if not entity.nodes[index].refresh}
    kept = {name: value for name, value in tree.items() if name not in left_out}
    for child in compared_children(entity, node):
        target = entity.nodes[child.children[0]] if child.through else child
        value = kept.get(child.name)
        if isinstance(value, list):
            kept[child.name] = [comparable(entity, target, one) for one in value]
        elif value is not None:
            kept[child.name] = comparable(entity, target, value)
    return kept


def plain(tree: Any) -> Any:
    """Equal JSON in one form: the source writes a double as 1 or 1e+20, and an hstore's keys in an order of its own."""
    if isinstance(tree, dict):
        return {name: plain(tree[name]) for name in sorted(tree)}
    if isinstance(tree, list):
        return [plain(one) for one in tree]
    if not isinstance(tree, Decimal):
        return tree
    if not tree:
        return 0
    whole = tree.adjusted() < LONGEST_DOUBLE and tree == tree.to_integral_value()
    return int(tree) if whole else tree.normalize(_EXACT)


def difference(entity: Entity, key: str, live: bytes | None, candidates: Sequence[bytes | None]) -> Difference | None:
    """None when the live document equals one of those that it may equal, the newest first."""
    if live is None and None in candidates:
        return None
    live_tree = None if live is None else plain(named(entity, entity.root, decode(live)))
    found: Difference | None = None
    for stored in candidates:
        if live_tree is None or stored is None:
            kind = "no row" if live_tree is None else "no document"
            found = found or Difference(entity.name, key, kind, live=live, stored=stored)
            continue
        paths = diff(plain(comparable(entity, entity.root, decode(stored))), live_tree, entity.shape)
        if not paths:
            return None
        texts = tuple(dict.fromkeys(map(path_text, paths)))
        found = found or Difference(entity.name, key, "differs", texts, live, stored)
    return found


# Reading both sides.


class Verifier:
    """Compares one entity's documents. `wait` returns once the hub has stored all up to a position."""

    def __init__(
        self,
        store: Store,
        entity: Entity,
        connect: Callable[[], psycopg.Connection[Any]],
        session: Mapping[str, str],
        expression: Expression,
        wait: Callable[[int], None],
    ) -> None:
        """`session`: settings under which `expression` gives what documents hold."""
        self.store = store
        self.entity = entity
        self.compared = 0  # documents so far
        self._connect = connect
        self._session = session
        self._query = LiveQuery(entity, expression)
        self._wait = wait

    @property
    def _entity_id(self) -> int:
        return self.store.find_name("entity", self.entity.name) or 0

    def run(self, sample: int | None = None) -> list[Difference]:
        """All differences, at most MOST of them; of `sample` documents from either side when it is given."""
        found = self._first_round(sample)
        for _ in range(ROUNDS - 1):
            if not found:
                break
            found = self.again([one.key for one in found])
        return found

    def again(self, keys: Iterable[str]) -> list[Difference]:
        """The same of these documents alone, with a snapshot of its own."""
        with self._snapshot() as (connection, window):
            rows = (row for page in _pages(keys) for row in self._of_keys(connection, page))
            return list(self._differences(rows, window))

    def _first_round(self, sample: int | None) -> list[Difference]:
        found: list[Difference] = []
        with self._snapshot() as (connection, window), closing(self._live(connection, sample)) as live:
            for one in chain(self._differences(live, window), self._without_row(connection, sample, window)):
                found.append(one)
                if len(found) >= MOST:
                    break
        return found

    def _without_row(
        self, connection: psycopg.Connection[Any], sample: int | None, window: Window
    ) -> Iterator[Difference]:
        rows = (row for page in _pages(self._stored_keys(sample)) for row in self._of_keys(connection, page))
        return self._differences((row for row in rows if row[1] is None), window)

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[psycopg.Connection[Any], Window]]:
        with self._connect() as connection:
            for name, value in self._session.items():
                connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            low = _position(connection)
            with connection.transaction():
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                window = Window(low, _position(connection))
                self._wait(window.high)
                yield connection, window

    def _live(self, connection: psycopg.Connection[Any], sample: int | None) -> Generator[Row, None, None]:
        with connection.cursor(name="hub_verify") as cursor:
            cursor.itersize = PAGE
            if sample is None:
                cursor.execute(self._query.sql().encode())
            else:
                cursor.execute(self._query.sample().encode(), (sample,))
            for row in cursor:
                self.compared += 1
                yield self._row(row)

    def _of_keys(self, connection: psycopg.Connection[Any], keys: Sequence[str]) -> Iterator[Row]:
        """Each key's live document; None where there is no row."""
        values = [_key_values(self.entity, key) for key in keys]
        rows = connection.execute(
            self._query.of_keys().encode(), [list(column) for column in zip(*values, strict=True)]
        )
        found = dict(map(self._row, rows))
        return ((key, found.get(key)) for key in keys)

    def _row(self, row: Sequence[str]) -> tuple[str, bytes]:
        *key, document = row
        return key_text([msgspec.json.decode(part) for part in key]), document.encode()

    def _stored_keys(self, sample: int | None) -> Iterator[str]:
        """Of all current documents, or of some at random."""
        document, newer = tables.document, tables.document.alias("newer")
        newest = (
            sa.select(sa.func.max(newer.c.version))
            .where(newer.c.entity_id == document.c.entity_id, newer.c.key == document.c.key)
            .correlate(document)
            .scalar_subquery()
        )
        query = sa.select(document.c.key).where(
            document.c.entity_id == self._entity_id, document.c.version == newest, document.c.body.is_not(None)
        )
        if sample is not None:
            with self.store.read() as connection:
                yield from connection.scalars(query.order_by(sa.func.random()).limit(sample)).all()
            return
        after: list[str] = []
        while True:
            page = query.where(document.c.key > after[-1]) if after else query
            with self.store.read() as connection:
                after = list(connection.scalars(page.order_by(document.c.key).limit(PAGE)))
            yield from after
            if len(after) < PAGE:
                return

    def _differences(self, rows: Iterable[Row], window: Window) -> Iterator[Difference]:
        for page in _pages(rows):
            candidates = self._candidates([key for key, _ in page], window)
            for key, live in page:
                found = difference(self.entity, key, live, candidates[key])
                if found is not None:
                    yield found

    def _candidates(self, keys: Sequence[str], window: Window) -> dict[str, list[bytes | None]]:
        """By key, the newest first: what the document may be within the window."""
        document, older = tables.document, tables.document.alias("older")
        settled = (
            sa.select(sa.func.max(older.c.version))
            .where(older.c.entity_id == document.c.entity_id, older.c.key == document.c.key, older.c.lsn <= window.low)
            .correlate(document)
            .scalar_subquery()
        )
        query = (
            sa.select(document.c.key, document.c.lsn, document.c.body)
            .where(
                document.c.entity_id == self._entity_id,
                document.c.key.in_(keys),
                document.c.lsn <= window.high,
                document.c.version >= sa.func.coalesce(settled, 0),
            )
            .order_by(document.c.version.desc())
        )
        found: dict[str, list[bytes | None]] = {key: [] for key in keys}
        settled_keys: set[str] = set()
        with self.store.read() as connection:
            for key, lsn, body in connection.execute(query):
                found[key].append(body)
                if lsn <= window.low:
                    settled_keys.add(key)
        for key in found.keys() - settled_keys:
            found[key].append(None)  # before its first version there was none
        return found


def _pages(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while page := list(islice(rest, PAGE)):
        yield page


def _position(connection: psycopg.Connection[Any]) -> int:
    row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0])


def _key_values(entity: Entity, key: str) -> list[str]:
    """A document key as text for each key column."""
    if len(entity.key) == 1:
        return [key]
    return [key_text([part]) for part in msgspec.json.decode(key)]


# Mending.


def ask_repair(store: Store, stream: str, entity: str, keys: Sequence[str], now: int) -> int:
    """A pending fan-out for these documents: capture makes them anew from the row images. Its number."""
    from hub.changes import Commit
    from hub.documents import Cause
    from hub.store import streams

    state = streams.load_stream(store, stream)
    if state is None:
        raise FaultError(f"The stream {stream} was never started.", "`hub run` starts it.")
    entity_id = store.name_id("entity", entity)
    with store.write() as connection:
        fan_out = streams.save_fan_out(connection, state.id, Commit(state.position, 0, now), Cause.RESYNC)
        streams.save_items(connection, fan_out.id, [(entity_id, 0, key) for key in keys])
    store.ring(f"capture {stream}")
    return fan_out.id
