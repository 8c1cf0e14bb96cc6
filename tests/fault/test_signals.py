"""Whether an incremental snapshot of Debezium's, asked for by a signal, can be compared. `make signals` runs it.

`hub source resnapshot` does without one, for the reasons that docs/decisions gives. Both tests are expected to fail:
one that passes, after an upgrade of Debezium, is reported as a failure, and the decision is to be looked at again.
"""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka.admin import NewTopic

from cdc.connect import Connect
from cdc.settings import TOPIC_PREFIX, StreamSettings, connect_settings
from cdc.source import read_stream_catalogue, source_sql
from cdc.topics import Topic
from stack.connect import Connect as ConnectWorker
from stack.kafka import Broker

pytestmark = [
    pytest.mark.fault,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("HUB_SIGNALS"), reason="tells about Debezium, not the hub: make signals"),
]

ROWS = 600  # of the table that is read: one chunk
RUNS = 20
WRITERS = 2
BURST = 100  # commits, each of which changes every row: Debezium takes seconds for them
QUIET_SECONDS = 20.0  # without a record of a run, after which it has come to nothing
COLUMNS = {"public.t": ["id", "n"], "public.busy": ["id", "n"]}


class Source:
    """A stream's connector that takes signals, and all that its topic gets."""

    def __init__(self, database: str, broker: Broker, worker: ConnectWorker) -> None:
        slot = "signals_" + database.rpartition("/")[2]
        catalogue = read_stream_catalogue(database)
        with psycopg.connect(database) as owner:
            owner.execute(source_sql(COLUMNS, catalogue, slot, database).encode())
        self._topic = Topic(broker.bootstrap, f"hub.{slot}", Connect(worker.url), slot)
        self._signals = f"hub.{slot}.signals"
        self._topic.make(1)
        with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
            admin.create_topics([NewTopic(self._signals, num_partitions=1, replication_factor=1)])
        settings = connect_settings(StreamSettings(database, slot, COLUMNS, catalogue), self._topic.name, "postgres")
        self._topic.connect.put(slot, settings | self._taking_signals())
        self._topic.connect.wait(slot, lambda state: state.runs, "run")
        self._producer = KafkaProducer(bootstrap_servers=broker.bootstrap)
        self._consumer = self._topic.consumer()
        self._partition = TopicPartition(self._topic.name, 0)
        self._consumer.assign([self._partition])
        self._consumer.seek(self._partition, 0)

    def _taking_signals(self) -> dict[str, str]:
        return {
            "read.only": "true",
            "signal.enabled.channels": "kafka",
            "signal.kafka.topic": self._signals,
            "signal.kafka.bootstrap.servers": self._topic.bootstrap,
            "signal.poll.interval.ms": "50",
            "heartbeat.interval.ms": "500",
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """Until none comes for QUIET_SECONDS."""
        while found := self._consumer.poll(timeout_ms=int(QUIET_SECONDS * 1000)):
            for record in found[self._partition]:
                if record.value:
                    yield json.loads(record.value)

    def ask(self, id: str) -> None:
        data = {"type": "INCREMENTAL", "data-collections": ["public.t"]}
        signal = json.dumps({"id": id, "type": "execute-snapshot", "data": data}).encode()
        self._producer.send(self._signals, key=TOPIC_PREFIX.encode(), value=signal).get(QUIET_SECONDS)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """The connector reads what is done meanwhile later, with whatever signals have come."""
        self._topic.connect.stop(self._topic.connector)
        yield
        self._topic.connect.resume(self._topic.connector)

    def problem(self) -> str:
        """Why the connector has failed, "" when it has not; it is started again."""
        state = self._topic.connect.state(self._topic.connector)
        if state.failed:
            self._topic.connect.restart(self._topic.connector)
        return state.problem

    def close(self) -> None:
        self._consumer.close()
        self._producer.close()
        self._topic.connect.delete(self._topic.connector)
        self._topic.connect.close()


expected_to_fail = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="Debezium 3.6.3: docs/decisions/2026-11-24-a-resnapshot-takes-a-new-slot.md",
)


@pytest.fixture
def source(database: str, broker: Broker, connect: ConnectWorker) -> Iterator[Source]:
    """Its connector has taken its first snapshot."""
    with psycopg.connect(database) as owner:
        owner.execute("create table t (id int primary key, n int not null)")
        owner.execute("create table busy (id int primary key, n int not null)")
        owner.execute("insert into t select i, 0 from generate_series(1, %s) i", [ROWS])
        owner.execute("insert into busy select i, 0 from generate_series(1, %s) i", [WRITERS])
    with closing(Source(database, broker, connect)) as made:
        assert any(
            one.get("aggregate_type") == "Initial Snapshot" and one["type"] == "COMPLETED" for one in made.records()
        )
        yield made


@expected_to_fail
def test_each_row_is_read_while_others_write(database: str, source: Source) -> None:
    """Each run ends, and each row has been read, or was left out because it has been streamed meanwhile."""
    with _written(database):
        runs = [_run(source, f"run-{number}") for number in range(RUNS)]

    assert not [f"{run.id}: {run.problem or run.missing}" for run in runs if run.problem or run.missing]


@expected_to_fail
def test_a_row_is_not_read_before_its_place_in_the_stream(database: str, source: Source) -> None:
    """Where the stream is behind, a row that is read in its midst shows no change that has yet to come."""
    with source.stopped(), psycopg.connect(database, autocommit=True) as connection:
        for _ in range(BURST):
            connection.execute("update t set n = n + 1")
        source.ask("behind")
    run = _come_of(source, "behind")

    assert not (run.problem or run.missing or run.ahead)


@contextmanager
def _written(database: str) -> Iterator[None]:
    """By WRITERS sessions: each commit changes one row, every fifth one a row of the table that is read."""
    stop = threading.Event()

    def write(number: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            while not stop.is_set():
                for _ in range(4):
                    connection.execute("update busy set n = n + 1 where id = %s", [number])
                connection.execute("update t set n = n + 1 where id = 1 + (random() * %s)::int", [ROWS - 1])

    threads = [threading.Thread(target=write, args=(1 + number,), daemon=True) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)


@dataclass(frozen=True)
class Run:
    """What came of one snapshot."""

    id: str
    problem: str  # why it did not end; "" when it did
    missing: int  # rows that were neither read nor streamed
    ahead: int  # rows that were read with an n which had not been streamed since the run was asked for


def _run(source: Source, id: str) -> Run:
    source.ask(id)
    return _come_of(source, id)


def _come_of(source: Source, id: str) -> Run:
    read: set[int] = set()
    streamed: dict[int, int] = {}  # by row: its last n
    ahead = 0
    for record in source.records():
        if record.get("aggregate_type") and record["type"] == "COMPLETED" and record["id"] == id:
            return Run(id, "", ROWS - len(read | streamed.keys()), ahead)
        if "op" not in record or record["op"] not in "ru" or record["source"]["table"] != "t":
            continue
        row, n = record["after"]["id"], record["after"]["n"]
        if record["op"] == "r":
            read.add(row)
            ahead += n > streamed.get(row, 0)
        else:
            streamed[row] = n
    return Run(id, source.problem() or "nothing came any more", 0, ahead)
