"""What every hub.changes.Feed owes: the embedded engine's, that of a Kafka topic, and one in memory."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from cdc.connect import Connect
from cdc.engine import EngineFeed
from cdc.settings import StreamSettings
from cdc.source import read_stream_catalogue, source_sql
from cdc.topics import Topic, TopicFeed, register
from hub.changes import (
    Arrival,
    Batch,
    Commit,
    Feed,
    FeedPlan,
    Operation,
    Progress,
    RowChange,
    SnapshotBegun,
    SnapshotCompleted,
    SnapshotRows,
    Transaction,
    TransactionPart,
)
from hub.errors import OutsideError
from tests.conftest import KAFKA

SECONDS = 60.0
PART = 50  # row changes of one transaction that a feed holds at once
COLUMNS = {"public.t": ["id"]}


class Source(Protocol):
    """A table `t` of ids, and feeds that follow it."""

    def insert(self, *ids: int) -> None:
        """In one transaction."""
        ...

    def feed(self) -> Feed:
        """A new one; those before have been closed."""
        ...

    def plan(self, snapshot: bool, position: int, cursor: int) -> FeedPlan:
        """How a new feed begins: with a snapshot, or after what has been stored."""
        ...

    def close(self) -> None: ...


class MemorySource:
    """A log in memory, and the slot in it up to which all is stored."""

    def __init__(self) -> None:
        self.log: list[Transaction] = []
        self.slot = 0
        self.arrived = threading.Condition()

    def insert(self, *ids: int) -> None:
        with self.arrived:
            number = len(self.log) + 1
            changes = [RowChange("public.t", Operation.INSERT, {"id": id}) for id in ids]
            self.log.append(Transaction(Commit(number * 10, number, number), changes))
            self.arrived.notify_all()

    def feed(self) -> "MemoryFeed":
        return MemoryFeed(self)

    def plan(self, snapshot: bool, position: int, cursor: int) -> FeedPlan:
        return FeedPlan(snapshot, position, COLUMNS)

    def close(self) -> None:
        return None


class MemoryFeed:
    """hub.changes.Feed on a MemorySource."""

    def __init__(self, source: MemorySource) -> None:
        self._source = source
        self._after = 0
        self._first: list[Arrival] = []

    def start(self, plan: FeedPlan) -> None:
        if plan.snapshot:
            log = self._source.log
            rows = [RowChange(c.table, Operation.READ, c.values) for each in log for c in each.changes]
            commit = log[-1].commit if log else Commit(1, 0, 0)
            self._first = [SnapshotRows(rows), SnapshotCompleted(commit)]
            self._source.slot = commit.lsn
        self._after = self._source.slot

    def take(self, timeout: float) -> Batch | None:
        if self._first:
            arrivals, self._first = self._first, []
            return Batch(arrivals, lambda: None)
        with self._source.arrived:
            if not self._source.arrived.wait_for(self._following, timeout):
                return None
            following = self._following()
        self._after = following[-1].commit.lsn
        return Batch([arrival for each in following for arrival in _parted(each)], self._stored(self._after))

    def _following(self) -> list[Transaction]:
        return [each for each in self._source.log if each.commit.lsn > self._after]

    def _stored(self, lsn: int) -> Callable[[], None]:
        def stored() -> None:
            self._source.slot = max(self._source.slot, lsn)

        return stored

    def trouble(self) -> OutsideError | None:
        return None

    def close(self) -> None:
        return None


def _parted(transaction: Transaction) -> Iterator[Arrival]:
    changes = transaction.changes
    whole = len(changes) // PART * PART
    for first in range(0, whole, PART):
        yield TransactionPart(transaction.commit.transaction, first, changes[first : first + PART])
    yield Transaction(transaction.commit, changes[whole:], whole)


class EngineSource:
    """A Postgres database, followed by the embedded engine."""

    def __init__(self, url: str, directory: Path) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        slot = "hub_" + url.rpartition("/")[2]
        self._settings = StreamSettings(url, slot, COLUMNS, read_stream_catalogue(url, list(COLUMNS)))
        self._connection.execute(source_sql(COLUMNS, self._settings.catalogue, slot, url).encode())
        self._directory = directory
        self._feed: Feed | None = None

    def insert(self, *ids: int) -> None:
        self._connection.execute("INSERT INTO t SELECT unnest(%s::int[])", [list(ids)])

    def feed(self) -> Feed:
        self._feed = EngineFeed(self._settings, self._directory, PART)
        return self._feed

    def plan(self, snapshot: bool, position: int, cursor: int) -> FeedPlan:
        return FeedPlan(snapshot, position, COLUMNS)

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()
        self._connection.close()


class TopicSource:
    """A Postgres database, followed by Kafka Connect into a topic."""

    def __init__(self, url: str, bootstrap: str, connect: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        slot = "hub_" + url.rpartition("/")[2]
        self._settings = StreamSettings(url, slot, COLUMNS, read_stream_catalogue(url, list(COLUMNS)))
        self._connection.execute(source_sql(COLUMNS, self._settings.catalogue, slot, url).encode())
        self._topic = Topic(bootstrap, f"hub.{slot}", Connect(connect), f"hub-{slot}")
        self._feed: Feed | None = None

    def insert(self, *ids: int) -> None:
        self._connection.execute("INSERT INTO t SELECT unnest(%s::int[])", [list(ids)])

    def feed(self) -> Feed:
        self._feed = TopicFeed(self._settings, self._topic, PART)
        return self._feed

    def plan(self, snapshot: bool, position: int, cursor: int) -> FeedPlan:
        if snapshot:
            register(self._settings, self._topic, password="postgres", replication=1)
        return FeedPlan(False, position, COLUMNS, cursor)

    def close(self) -> None:
        if self._feed is not None:
            self._feed.close()
        if self._topic.connect.settings(self._topic.connector) is not None:
            self._topic.connect.stop(self._topic.connector)  # frees the slot, which goes with the database
            self._topic.connect.delete(self._topic.connector)
        self._topic.connect.close()
        self._connection.close()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("engine", marks=pytest.mark.integration),
        pytest.param("topic", marks=[pytest.mark.integration, KAFKA]),
    ]
)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    made: Source = MemorySource()
    if request.param == "engine":
        made = EngineSource(request.getfixturevalue("database"), tmp_path)
    elif request.param == "topic":
        broker, connect = request.getfixturevalue("broker"), request.getfixturevalue("connect")
        made = TopicSource(request.getfixturevalue("database"), broker.bootstrap, connect.url)
    yield made
    made.close()


class Taker:
    """A started feed, and all that was taken from it."""

    def __init__(self, source: Source, *, snapshot: bool = False, position: int = 0, cursor: int = 0) -> None:
        self.feed = source.feed()
        self.arrivals: list[Arrival] = []
        self.batches: list[Batch] = []
        self.cursor = 0
        self.feed.start(source.plan(snapshot, position, cursor))

    def until(self, enough: Callable[[], bool]) -> "Taker":
        end = time.monotonic() + SECONDS
        while not enough():
            assert time.monotonic() < end, self.arrivals
            batch = self.feed.take(0.2)
            if batch is not None:
                self.batches.append(batch)
                self.arrivals += batch.arrivals
        return self

    def snapshot(self) -> "Taker":
        return self.until(lambda: any(isinstance(arrival, SnapshotCompleted) for arrival in self.arrivals))

    def transactions(self, number: int) -> list[Transaction]:
        def found() -> list[Transaction]:
            return [arrival for arrival in self.arrivals if isinstance(arrival, Transaction)]

        self.until(lambda: len(found()) >= number)
        return found()

    def stored(self) -> None:
        for batch in self.batches:
            batch.stored()
            self.cursor = batch.cursor


def ids(transaction: Transaction) -> list[int]:
    return [change.values["id"] for change in transaction.changes]


def test_a_snapshots_rows_come_whole_before_its_end_and_before_what_follows(source: Source) -> None:
    """Rows, then SnapshotCompleted, then the transactions after it, whose LSNs are greater than the snapshot's."""
    source.insert(1, 2, 3)
    taker = Taker(source, snapshot=True).snapshot()
    source.insert(4)
    (after,) = taker.transactions(1)
    kinds = [type(a) for a in taker.arrivals if not isinstance(a, Progress | SnapshotBegun)]
    completed = next(a for a in taker.arrivals if isinstance(a, SnapshotCompleted))
    rows = [c.values["id"] for a in taker.arrivals if isinstance(a, SnapshotRows) for c in a.changes]

    assert kinds[-2:] == [SnapshotCompleted, Transaction]
    assert set(kinds[:-2]) == {SnapshotRows}
    assert sorted(rows) == [1, 2, 3]
    assert ids(after) == [4]
    assert after.commit.lsn > completed.commit.lsn


def test_transactions_come_whole_in_commit_order_with_rising_lsns(source: Source) -> None:
    """Each once, its changes in the order in which they were made; progress never runs ahead of a transaction."""
    taker = Taker(source, snapshot=True).snapshot()
    for number in range(20):
        source.insert(*range(number * 10, number * 10 + 1 + number % 4))
    found = taker.transactions(20)
    lsns = [each.commit.lsn for each in found]
    reached = [a.lsn if isinstance(a, Progress) else a.commit.lsn
               for a in taker.arrivals if isinstance(a, Progress | Transaction)]  # fmt: skip

    assert [ids(each) for each in found] == [list(range(n * 10, n * 10 + 1 + n % 4)) for n in range(20)]
    assert lsns == sorted(set(lsns))
    assert reached == sorted(reached)


def test_a_long_transaction_comes_in_parts_and_then_its_end(source: Source) -> None:
    """Parts count the changes before them; nothing else comes between them; the end says how many they were."""
    taker = Taker(source, snapshot=True).snapshot()
    source.insert(*range(175))
    (end,) = taker.transactions(1)
    parts = [a for a in taker.arrivals if isinstance(a, TransactionPart)]
    spooled = [change.values["id"] for part in parts for change in part.changes]

    assert [part.first for part in parts] == [sum(len(p.changes) for p in parts[:n]) for n in range(len(parts))]
    assert all(len(part.changes) <= PART for part in parts)
    assert {part.transaction for part in parts} == {end.commit.transaction}
    assert end.spooled == len(spooled)
    assert spooled + ids(end) == list(range(175))


def test_take_comes_back_in_time(source: Source) -> None:
    """When nothing happens it gives None, or mere progress, after its timeout, which is no trouble; else at once."""
    taker = Taker(source, snapshot=True).snapshot()
    started = time.monotonic()
    quiet = taker.feed.take(0.3)
    took = time.monotonic() - started

    assert quiet is None or all(isinstance(arrival, Progress) for arrival in quiet.arrivals)
    assert took < 3.0
    assert taker.feed.trouble() is None
    threading.Timer(0.2, source.insert, [1]).start()
    assert [ids(each) for each in taker.transactions(1)] == [[1]]


def test_what_was_not_stored_comes_again_after_a_restart(source: Source) -> None:
    """With the LSNs it had before, from the first that was not stored at the latest, and nothing left out."""
    taker = Taker(source, snapshot=True).snapshot()
    taker.stored()
    source.insert(1)
    source.insert(2)
    stored = taker.transactions(2)
    taker.stored()
    taker.batches.clear()
    source.insert(3)
    source.insert(4, 5)
    before = taker.transactions(4)[2:]
    taker.feed.close()
    source.insert(6)
    again = Taker(source, position=stored[-1].commit.lsn, cursor=taker.cursor)
    again.until(lambda: any(isinstance(a, Transaction) and ids(a) == [6] for a in again.arrivals))
    found = [a for a in again.arrivals if isinstance(a, Transaction) and a.commit.lsn > stored[-1].commit.lsn]

    assert found[:2] == before
    assert [ids(each) for each in found] == [[3], [4, 5], [6]]
