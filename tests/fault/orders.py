"""A legacy application that counts: it changes one order a commit, so the journal must hold each count once."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import psycopg

from tests.oracle import journal

RATE = 60  # commits a second
ORDERS = 40
SCHEMA = """
create table orders (id int primary key, n int not null, note text);
create table lines (id bigint primary key generated always as identity, order_id int not null references orders, n int);
"""
ENTITY = """
entity: order
table: orders
has_many: {lines: {table: lines, foreign_key: order_id, order_by: n}}
"""


class Application:
    """Commits RATE times a second, each time to one order, until it is stopped; what fell behind is caught up.

    A database that goes away is waited for.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.connection = psycopg.connect(url, autocommit=True)
        self.counts = dict.fromkeys(range(ORDERS), 0)
        self.position = 0  # a WAL position just below the newest commit
        self.rate = 0.0  # commits a second while it worked
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        rng = Random(11)
        begun, done = time.monotonic(), 0
        while not self._stop.is_set():
            try:
                self._commit(rng.randrange(ORDERS), rng)
            except psycopg.OperationalError:
                self._come_back()
                continue
            done += 1
            self._stop.wait(max(0.0, begun + done / RATE - time.monotonic()))
        self.rate = done / (time.monotonic() - begun)

    def _commit(self, order: int, rng: Random) -> None:
        count = self.counts[order] + 1
        with self.connection.transaction():
            self.connection.execute("update orders set n = %s, note = %s where id = %s", [count, "x" * 200, order])
            if rng.random() < 0.3:
                self.connection.execute("insert into lines (order_id, n) values (%s, %s)", [order, count])
            if rng.random() < 0.2:
                self.connection.execute("delete from lines where order_id = %s and n < %s - 5", [order, count])
            found = self.connection.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        self.counts[order], self.position = count, int(found[0]) if found else 0

    def _come_back(self) -> None:
        """Connect again. Whether the last commit took effect is not known here, so the counts are read anew."""
        while not self._stop.is_set():
            try:
                self.connection = psycopg.connect(self._url, autocommit=True)
                self.counts = dict(self.connection.execute("select id, n from orders").fetchall())
                return
            except psycopg.OperationalError:
                self._stop.wait(0.1)

    def start(self) -> None:
        self._thread.start()

    @contextmanager
    def working(self) -> Iterator[None]:
        self.start()
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """What it has counted is final on return."""
        self._stop.set()
        self._thread.join(30)


def expect_each_count_once(versions: Sequence[journal.Version], counts: dict[int, int]) -> None:
    """One version a commit: order by order the counts 0, 1, 2 …, up to what the application wrote last."""
    found: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for version in versions:
        assert version.body
        found[version.key].append((version.version, journal.parse(version.body)["n"]))
    assert found == {str(order): [(n + 1, n) for n in range(count + 1)] for order, count in counts.items()}
