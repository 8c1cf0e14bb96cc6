"""`make bench-store`: what a row change costs in the store, by how many of them share a store transaction.

Made-up transactions go through capture into a store, without Debezium or Kafka: on Postgres and on SQLite, in turn,
both with every commit on disk. Two workloads: `accounts`, rows that are documents, and `orders`, an order and one of
its lines a commit, with row images and references. Before them a snapshot of the same tables, which is all bulk.

    …_rate       row changes a second
    …_store_us   microseconds of store a row change: its transactions whole, and the statements that read before them
    ratio_…      Postgres to SQLite, of the rates' medians
"""

import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from examples.postgres import LocalPostgres
from hub.capture.capture import Capture
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.changes import Commit, Operation, RowChange, SnapshotCompleted, SnapshotRows, Transaction
from hub.entities import compile_entity
from hub.project import EntityConfig, Relation, SubscriptionConfig
from hub.store.database import Store, now
from hub.store.migrate import upgrade
from hub.store.streams import begin_snapshot
from hub.subscriptions import Subscription

ALTERNATIONS = int(os.environ.get("HUB_BENCH_ALTERNATIONS", "3"))
SCALE = float(os.environ.get("HUB_BENCH_SCALE", "1"))
ROWS = int(10_000 * SCALE)  # accounts, and orders
LINES = 3  # of an order
GROUPS = {1: int(1_000 * SCALE), 20: int(10_000 * SCALE), 500: int(40_000 * SCALE)}  # row changes, by group
FILLER = "0123456789abcdef" * 6

_INSERT, _UPDATE = Operation.READ, Operation.UPDATE


def _table(name: str, key: tuple[str, ...], *numbers: str, **others: Kind) -> Table:
    kinds = dict.fromkeys(numbers, Kind.INTEGER) | others
    return Table(name, "r", "p", tuple(Column(column, "x", "x", kind) for column, kind in kinds.items()), key)


CATALOGUE = Catalogue(
    {
        table.name: table
        for table in (
            _table("accounts", ("id",), "id", "branch", "balance", filler=Kind.TEXT),
            _table("orders", ("id",), "id", customer=Kind.TEXT, total=Kind.NUMERIC),
            _table("lines", ("order_id", "n"), "order_id", "n", "quantity", sku=Kind.TEXT),
        )
    },
    150000,
)
ENTITIES = (
    EntityConfig("account", "main", "accounts"),
    EntityConfig(
        "order", "main", "orders", relations=(Relation("lines", "has_many", "lines", ("order_id",), order_by=("n",)),)
    ),
)


class TimedStore(Store):
    """Adds up the time that is spent in the store."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.seconds = 0.0
        self._writing = False
        sa.event.listen(self.engine, "before_cursor_execute", self._begin)
        sa.event.listen(self.engine, "after_cursor_execute", self._end)

    def _begin(self, connection: sa.Connection, *_: Any) -> None:
        connection.info["began"] = time.perf_counter()

    def _end(self, connection: sa.Connection, *_: Any) -> None:
        if not self._writing:
            self.seconds += time.perf_counter() - connection.info["began"]

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        began = time.perf_counter()
        self._writing = True
        try:
            with super().write(durable=durable) as connection:
                yield connection
        finally:
            self._writing = False
            self.seconds += time.perf_counter() - began


def account(id: int, operation: Operation = _INSERT) -> RowChange:
    return RowChange("accounts", operation, {"id": id, "branch": id % 100, "balance": _any(), "filler": FILLER})


def order(id: int, operation: Operation = _INSERT) -> RowChange:
    return RowChange("orders", operation, {"id": id, "customer": f"customer {id}", "total": f"{_any()}.00"})


def line(order_id: int, n: int, operation: Operation = _INSERT) -> RowChange:
    return RowChange("lines", operation, {"order_id": order_id, "n": n, "sku": f"sku-{n}", "quantity": _any()})


def _any() -> int:
    return random.randrange(1 << 30)


class Bench:
    """A store with the snapshot in it, and capture on it."""

    def __init__(self, url: str) -> None:
        self.store = TimedStore(url)
        upgrade(self.store)
        entities = [compile_entity(config, CATALOGUE) for config in ENTITIES]
        subscriptions = [
            Subscription.compile(SubscriptionConfig(f"all-{entity.name}", entity.name, "out"), entity.shape)
            for entity in entities
        ]
        state = begin_snapshot(self.store, "main/main", CATALOGUE, {})
        self.capture = Capture(self.store, state, entities, subscriptions, 1000)
        self.lsn = 0

    def commit(self, *changes: RowChange) -> Transaction:
        self.lsn += 1
        return Transaction(Commit(self.lsn, self.lsn, now()), changes)

    def snapshot(self) -> int:
        """Rows stored, and the documents made of them; how many rows."""
        rows = [account(id) for id in range(ROWS)] + [order(id) for id in range(ROWS)]
        rows += [line(id, n) for id in range(ROWS) for n in range(LINES)]
        self.capture.apply([SnapshotRows(rows)])
        self.capture.apply([SnapshotCompleted(self.commit().commit)])
        while self.capture.work():
            pass
        return len(rows)

    def accounts(self, size: int) -> Sequence[Transaction]:
        return [self.commit(account(random.randrange(ROWS), _UPDATE)) for _ in range(size)]

    def orders(self, size: int) -> Sequence[Transaction]:
        ids = [random.randrange(ROWS) for _ in range(max(1, size // 2))]
        if size == 1:
            return [self.commit(order(ids[0], _UPDATE))]
        return [self.commit(order(id, _UPDATE), line(id, random.randrange(LINES), _UPDATE)) for id in ids]


def measure(bench: Bench, workload: str, size: int) -> tuple[float, float]:
    """Row changes a second, and microseconds of store a row change."""
    groups = [getattr(bench, workload)(size) for _ in range(GROUPS[size] // size)]
    bench.store.seconds, began = 0.0, time.perf_counter()
    for group in groups:
        bench.capture.apply(group)
    changes = sum(len(transaction.changes) for group in groups for transaction in group)
    return changes / (time.perf_counter() - began), 1e6 * bench.store.seconds / changes


def snapshot(bench: Bench) -> tuple[float, float]:
    bench.store.seconds, began = 0.0, time.perf_counter()
    rows = bench.snapshot()
    return rows / (time.perf_counter() - began), 1e6 * bench.store.seconds / rows


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="hub-bench-", dir="/var/tmp"))
    directory.chmod(0o755)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with LocalPostgres(directory / "postgres", "debian", {"fsync": "on", "shared_buffers": "512MB"}) as server:
            url = sa.make_url(server.url("postgres")).set(drivername="postgresql+psycopg")
            benches = {
                "postgres": Bench(url.render_as_string(hide_password=False)),
                "sqlite": Bench(f"sqlite:///{directory / 'hub.db'}"),
            }
            for kind, bench in benches.items():
                found["snapshot", kind] = [snapshot(bench)]
            for _ in range(ALTERNATIONS):
                for workload in ("accounts", "orders"):
                    for size in GROUPS:
                        for kind, bench in benches.items():
                            found.setdefault((f"{workload}_{size}", kind), []).append(measure(bench, workload, size))
            for bench in benches.values():
                bench.store.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(_report(found)))


def _report(found: dict[tuple[str, str], list[tuple[float, float]]]) -> dict[str, float]:
    """Print what was found, and return it under the names of the last line."""
    results: dict[str, float] = {}
    for name in dict.fromkeys(name for name, _ in found):
        rates, costs = {}, {}
        for kind in ("postgres", "sqlite"):
            rates[kind] = statistics.median(rate for rate, _ in found[name, kind])
            costs[kind] = statistics.median(cost for _, cost in found[name, kind])
            results[f"{name}_{kind}_rate"] = round(rates[kind])
            results[f"{name}_{kind}_store_us"] = round(costs[kind], 1)
        results[f"ratio_{name}"] = round(rates["postgres"] / rates["sqlite"], 3)
        print(
            f"{name:14} Postgres {rates['postgres']:8,.0f}/s, store {costs['postgres']:7.1f} µs"
            f"   SQLite {rates['sqlite']:8,.0f}/s, store {costs['sqlite']:7.1f} µs"
            f"   ratio {results[f'ratio_{name}']:.2f}",
            flush=True,
        )
    return results


if __name__ == "__main__":
    main()
