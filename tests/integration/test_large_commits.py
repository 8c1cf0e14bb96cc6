"""Commits that reach far more than memory should hold: hot parents, truncates and very long transactions.

What arrives is made up, so that all of the time goes into capture and the store. `make large` takes the full sizes.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from statistics import median
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from hub.capture.capture import Capture
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.changes import (
    Commit,
    Operation,
    RowChange,
    SnapshotCompleted,
    SnapshotRows,
    Transaction,
    TransactionPart,
)
from hub.documents import decode
from hub.entities import compile_entity
from hub.project import EntityConfig, Relation
from hub.store import streams, tables
from hub.store.database import Store

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

LARGE = bool(os.environ.get("HUB_LARGE"))
HOT = 100_000 if LARGE else 30_000  # documents that embed one row
TRUNCATED = 100_000  # rows
LONG = 500_000 if LARGE else 100_000  # row changes of one transaction
PART = 2_000
MEMORY = 150 << 20  # bytes that the process may grow by; SQLite's cache may take 64 MB of them


def _table(name: str, key: tuple[str, ...], *columns: str) -> Table:
    made = tuple(Column(c, "x", "x", Kind.TEXT if c in ("name", "sku") else Kind.INTEGER) for c in columns)
    return Table(name, "r", "p", made, key)


CATALOGUE = Catalogue(
    {
        table.name: table
        for table in (
            _table("customers", ("id",), "id", "name"),
            _table("orders", ("id",), "id", "customer_id", "total"),
            _table("lines", ("order_id", "n"), "order_id", "n", "sku"),
            _table("accounts", ("id",), "id", "balance"),
        )
    },
    150000,
)
ENTITIES = [
    compile_entity(config, CATALOGUE)
    for config in (
        EntityConfig(
            "order",
            "main",
            "orders",
            relations=(
                Relation("customer", "belongs_to", "customers", ("customer_id",)),
                Relation("lines", "has_many", "lines", ("order_id",)),
            ),
        ),
        EntityConfig("account", "main", "accounts"),
    )
]


class Killed(Exception):
    """The process ended here."""


class ProbedStore(Store):
    """A store that notes how long each write holds the lock, and can end the process before one."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.held: list[float] = []  # seconds from BEGIN's return to COMMIT's
        self.writes_left = -1  # before it is killed; negative: it is not

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        if self.writes_left == 0:
            self.writes_left = -1
            raise Killed
        self.writes_left -= 1
        with super().write(durable=durable) as connection:
            started = time.monotonic()
            yield connection
        self.held.append(time.monotonic() - started)


class Memory:
    """How much the process has grown since, at its largest."""

    def __init__(self) -> None:
        self._first = psutil.Process().memory_info().rss
        self.growth = 0

    def look(self) -> None:
        self.growth = max(self.growth, psutil.Process().memory_info().rss - self._first)


@pytest.fixture
def probed(store: Store) -> Iterator[ProbedStore]:
    probed = ProbedStore(store.url.render_as_string(hide_password=False))
    yield probed
    probed.close()


def capture(store: Store) -> Capture:
    state = streams.load_stream(store, "main/main") or streams.begin_snapshot(store, "main/main", CATALOGUE, {})
    return Capture(store, state, ENTITIES, [], 1000)


def row(table: str, operation: Operation = Operation.INSERT, **values: Any) -> RowChange:
    return RowChange(table, operation, values)


def commit(number: int) -> Commit:
    return Commit(number * 10, number, number)


def one(number: int, *changes: RowChange) -> Transaction:
    return Transaction(commit(number), changes)


def pages(changes: Iterator[RowChange]) -> Iterator[list[RowChange]]:
    while page := list(islice(changes, PART)):
        yield page


def load(under_test: Capture, changes: Iterator[RowChange]) -> None:
    for page in pages(changes):
        under_test.apply([SnapshotRows(page)])
    under_test.apply([SnapshotCompleted(commit(1))])
    settle(under_test)


def settle(under_test: Capture, look: Callable[[], object] = lambda: None) -> None:
    while under_test.work():
        look()


def value(store: Store, query: Any) -> Any:
    with store.read() as connection:
        return connection.execute(query).scalar()


def count(store: Store, table: sa.Table, *where: Any) -> int:
    return int(value(store, sa.select(sa.func.count()).select_from(table).where(*where)))


def of(store: Store, entity: str) -> Any:
    return tables.document.c.entity_id == store.find_name("entity", entity)


def by_transaction(number: int) -> Any:
    return tables.document.c.transaction == number


def newest(store: Store, entity: str) -> Iterator[tuple[str, int, Any]]:
    """(key, version, document) in the order of keys."""
    d = tables.document.c
    query = sa.select(d.key, d.version, d.body).where(of(store, entity)).order_by(d.key, d.version.desc())
    last = None
    with store.read() as connection:
        for key, version, body in connection.execution_options(stream_results=True).execute(query):
            if key != last:
                yield key, version, decode(body) if body else None
            last = key


def check_locks(store: ProbedStore, what: str, documents: int, seconds: float) -> None:
    held = sorted(store.held)
    print(
        f"{store.dialect}: {what}: {documents / seconds:.0f}/s, {len(held)} writes, median "
        f"{median(held) * 1000:.0f} ms, 99 % {held[len(held) * 99 // 100] * 1000:.0f} ms, "
        f"longest {held[-1] * 1000:.0f} ms"
    )
    if store.is_sqlite:  # where there is one writer at a time; the longest says more of the machine than of us
        assert median(held) <= 0.050


def test_a_hot_parent_is_followed_piece_by_piece_while_others_flow(probed: ProbedStore) -> None:
    """Its documents follow in short writes, other commits are made at once between them, and restarts double nothing.

    Memory stays bounded, and each document has exactly one version for the commit.
    """
    under_test = capture(probed)
    orders = (row("orders", Operation.READ, id=id, customer_id=7, total=id) for id in range(HOT))
    load(under_test, iter([row("customers", Operation.READ, id=7, name="old"), *orders]))
    probed.held.clear()
    memory = Memory()
    started = time.monotonic()
    under_test.apply([one(2, row("customers", Operation.UPDATE, id=7, name="new"))])
    assert count(probed, tables.document, by_transaction(2)) == 0
    number = 2
    pieces = 0
    while under_test.work():
        pieces += 1
        memory.look()
        if pieces in (1, 7, 30):  # a kill: what is not in the store is gone
            under_test = capture(probed)
        if pieces % 2 == 0:
            number += 1
            under_test.apply([one(number, row("accounts", id=number, balance=pieces))])
            assert count(probed, tables.document, by_transaction(number)) == 1
            assert under_test.pending
    took = time.monotonic() - started
    assert number > 5
    check_locks(probed, "fan-out documents", HOT, took)
    assert memory.growth < MEMORY
    assert count(probed, tables.document, by_transaction(2)) == HOT
    made = {key: (version, tree) for key, version, tree in newest(probed, "order")}
    assert made == {
        str(id): (2, {"id": id, "customer_id": 7, "total": id, "customer": {"id": 7, "name": "new"}, "lines": []})
        for id in range(HOT)
    }
    others = count(probed, tables.document, of(probed, "account"))
    ends = value(probed, sa.select(sa.func.max(tables.document.c.seq)).where(by_transaction(2)))
    between = count(probed, tables.document, of(probed, "account"), tables.document.c.seq < ends)
    assert others == number - 2
    assert between >= others - 1  # at the last one only the fan-out's end may have been left


def test_a_pending_document_that_a_commit_reaches_has_one_version_for_both(probed: ProbedStore) -> None:
    """It names the transactions of both; the fan-out then finds it as it should be."""
    under_test = capture(probed)
    orders = (row("orders", Operation.READ, id=id, customer_id=7, total=0) for id in range(3000))
    load(under_test, iter([row("customers", Operation.READ, id=7, name="old"), *orders]))
    under_test.apply([one(2, row("customers", Operation.UPDATE, id=7, name="new"))])
    under_test.apply([one(3, row("orders", Operation.UPDATE, id=2999, customer_id=7, total=5))])
    settle(under_test)
    d = tables.document.c
    with probed.read() as connection:
        query = sa.select(d.version, d.transaction, d.merged).where(of(probed, "order"), d.key == "2999")
        made = connection.execute(query.order_by(d.version)).all()
    assert [tuple(version) for version in made] == [(1, 1, None), (2, 3, "[2]")]
    assert count(probed, tables.document, by_transaction(2)) == 2999


def test_a_truncate_costs_nothing_at_its_commit_and_leaves_nothing(probed: ProbedStore) -> None:
    """The commit writes a few rows; documents follow, and what was truncated is swept with its references."""
    orders = TRUNCATED // 10
    under_test = capture(probed)
    load(
        under_test,
        iter(
            [row("orders", Operation.READ, id=id, customer_id=None, total=0) for id in range(orders)]
            + [row("lines", Operation.READ, order_id=n % orders, n=n // orders, sku="s") for n in range(TRUNCATED)]
        ),
    )
    before = count(probed, tables.row_image)
    assert before == orders + TRUNCATED
    probed.held.clear()
    memory = Memory()
    started = time.monotonic()
    under_test.apply([one(2, row("lines", Operation.TRUNCATE))])
    assert len(probed.held) <= 5 and sum(probed.held) < 0.5
    assert count(probed, tables.row_image) == before
    under_test.apply([one(3, row("lines", order_id=5, n=1, sku="again"))])
    under_test.apply([one(4, row("orders", Operation.UPDATE, id=6, customer_id=None, total=1))])
    for _ in range(3):
        under_test.work()
    settle(capture(probed), memory.look)
    check_locks(probed, "truncated rows", TRUNCATED, time.monotonic() - started)
    assert memory.growth < MEMORY
    for key, version, tree in newest(probed, "order"):
        lines = [{"order_id": 5, "n": 1, "sku": "again"}] if key == "5" else []
        assert (version, tree["lines"]) == (2, lines)
    table_id = probed.find_name("table", "main/main/lines")
    lookup_id = probed.find_name("lookup", f"{table_id}(order_id)")
    assert table_id and lookup_id
    assert count(probed, tables.row_image, tables.row_image.c.table_id == table_id) == 1
    assert count(probed, tables.row_reference, tables.row_reference.c.lookup_id == lookup_id) == 1


LINES = 4  # of each order in the long transaction


def long_transaction(orders: int) -> Iterator[RowChange]:
    """Orders with their lines, (1 + LINES) changes each; the first hundred orders are there already."""
    for id in range(orders):
        yield row("orders", Operation.UPDATE if id < 100 else Operation.INSERT, id=id, customer_id=None, total=id)
        for n in range(LINES):
            yield row("lines", order_id=id, n=n, sku=f"s{n}")


def spool(under_test: Capture, number: int, parts: Sequence[int], orders: int, look: Callable[[], object]) -> None:
    """Hand over the parts of these numbers."""
    for part, page in enumerate(pages(long_transaction(orders))):
        if part in parts:
            under_test.apply([TransactionPart(number, part * PART, page)])
            look()


def test_a_long_transaction_is_spooled_and_seen_only_whole(probed: ProbedStore) -> None:
    """Memory stays bounded; nothing of it shows, nor moves the position, before its end; kills change no result.

    Killed while its parts come in, they come again from the first. Killed while they are applied, it goes on.
    """
    orders = LONG // (1 + LINES)
    parts = LONG // PART
    under_test = capture(probed)
    load(under_test, (row("orders", Operation.READ, id=id, customer_id=None, total=-1) for id in range(100)))
    probed.held.clear()
    memory = Memory()
    spool(under_test, 2, range(parts // 3), orders, memory.look)
    assert count(probed, tables.spool) == parts // 3
    under_test = capture(probed)
    assert count(probed, tables.spool) == 0
    started = time.monotonic()
    spool(under_test, 2, range(parts), orders, memory.look)
    spooled = time.monotonic() - started
    assert (under_test.position, count(probed, tables.document)) == (10, 100)
    probed.writes_left = parts // 2
    with pytest.raises(Killed):
        under_test.apply([Transaction(commit(2), [], LONG)])
    assert 0 < count(probed, tables.spool) < parts
    assert count(probed, tables.document) == 100
    resumed = time.monotonic()
    under_test = capture(probed)
    applied = time.monotonic() - resumed
    assert count(probed, tables.spool) == 0
    assert under_test.position == 20
    under_test.apply([Transaction(commit(2), [], LONG), one(3, row("accounts", id=1, balance=1))])
    assert count(probed, tables.document, of(probed, "account")) == 1
    assert under_test.pending
    following = time.monotonic()
    settle(under_test, memory.look)
    followed = time.monotonic() - following
    print(
        f"{probed.dialect}: spooled {LONG / spooled:.0f} changes/s, applied {LONG / 2 / applied:.0f}/s, "
        f"documents {orders / followed:.0f}/s, memory {memory.growth >> 20} MB"
    )
    check_locks(probed, "row changes in all", LONG, time.monotonic() - started)
    assert memory.growth < MEMORY
    made = 0
    for key, version, tree in newest(probed, "order"):
        id = int(key)
        lines = [{"order_id": id, "n": n, "sku": f"s{n}"} for n in range(LINES)]
        assert tree == {"id": id, "customer_id": None, "total": id, "customer": None, "lines": lines}
        assert version == (2 if id < 100 else 1)
        made += 1
    assert made == orders
    assert count(probed, tables.document, of(probed, "order")) == orders + 100
