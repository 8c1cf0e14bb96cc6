"""Capture workers that share a stream by Kafka: one is killed, one is stopped and wakes up, Kafka and Connect restart.

The application counts in its orders, so the journal must hold each count once, whoever made it.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from kafka import KafkaAdminClient, TopicPartition

from stack.connect import Connect
from stack.kafka import Broker
from tests.fault.orders import ENTITY, ORDERS, SCHEMA, Application, expect_each_count_once
from tests.fault.processes import Worker, until
from tests.oracle import journal
from tests.oracle.access import PASSWORD, admit, fence, make_role, withdraw
from tests.oracle.command import HUB, Project

pytestmark = pytest.mark.fault

SUBSCRIPTION = "subscription: every\nentity: order\nto: out\non: [created, updated, deleted, snapshot]\n"
DESTINATION = "destination: out\nconnector: file\npath: {path}\n"


@pytest.fixture
def project(
    database: str, make_store: Callable[[str], str], broker: Broker, connect: Connect, tmp_path: Path
) -> Iterator[Project]:  # fmt: skip
    with psycopg.connect(database) as connection:
        connection.execute(SCHEMA)
        connection.execute("insert into orders select i, 0, '' from generate_series(0, %s) i", [ORDERS - 1])
    store = make_store("postgres")
    made = Project(tmp_path / "project", store)
    slot = urlsplit(database).path.removeprefix("/")
    kafka = {"bootstrap": broker.bootstrap, "connect": connect.url, "topic": f"hub.{slot}"}
    source = {"url": make_role(database), "slot": slot, "kafka": kafka}
    made.write(
        {
            "hub.yaml": json.dumps({"hub": slot, "sources": {"main": source}, "store": store}),
            "entities/order.yaml": ENTITY,
            "subscriptions/every.yaml": SUBSCRIPTION,
            "destinations/out.yaml": DESTINATION.format(path=tmp_path / "out.jsonl"),
        }
    )
    admit(made, database)
    connect.secrets.mkdir(exist_ok=True)
    (connect.secrets / slot).write_text(PASSWORD)
    made.hub("source", "register", "--password", f"${{dir:{connect.secrets}:{slot}}}")
    made.hub("store", "upgrade")
    yield made
    made.hub("source", "status", "--delete")
    with psycopg.connect(database, autocommit=True) as connection:
        until(lambda: _free(connection, slot), "the slot is free")
    withdraw(database)


def _free(connection: psycopg.Connection[tuple[object, ...]], slot: str) -> bool:
    active = connection.execute("select active from pg_replication_slots where slot_name = %s", [slot]).fetchone()
    return active is None or not active[0]


def _follower(*workers: Worker) -> tuple[Worker, psutil.Process]:
    """Which of them has the stream, and its process."""
    found: list[tuple[Worker, psutil.Process]] = []

    def look() -> bool:
        found[:] = [(worker, process) for worker in workers for process in worker.followers()]
        return len(found) == 1

    until(look, "one worker has the stream")
    return found[0]


def _until_settled(project: Project, lsn: int, what: str) -> None:
    """Until the store has every commit up to `lsn`."""
    until(lambda: journal.settled(project.store, lsn), what)


@pytest.mark.timeout(600)
def test_whoever_follows_the_stream_each_commit_is_once_in_the_journal(
    database: str, project: Project, broker: Broker, connect: Connect, tmp_path: Path
) -> None:
    """A worker is killed, the next one is stopped past its session and wakes up, then Kafka and Connect are killed."""
    application = Application(database)
    workers = [Worker(project, "first"), Worker(project, "second")]
    try:
        with psycopg.connect(database, autocommit=True) as connection:
            _until_settled(project, fence(connection), "the snapshot is applied")
            with application.working():
                owner, _ = _follower(*workers)
                owner.kill()
                (other,) = (worker for worker in workers if worker is not owner)
                until(other.followers, "the other worker has taken over", 40)
                workers.append(Worker(project, "third"))
                third = workers[-1]

                other.stop()
                until(third.followers, "the third worker has taken over", 60)
                _until_settled(project, application.position, "the third worker writes")
                other.wake()

                broker.kill()
                broker.start()
                connect.kill()
                connect.start()
                _until_settled(project, application.position, "what came after Connect's restart is there")
            _until_settled(project, fence(connection), "the last commit is there")
            project.hub("verify")
    finally:
        for worker in workers:
            worker.kill()
    assert application.rate >= 50
    expect_each_count_once(journal.versions(project.store), application.counts)
    project.hub("run", "--role", "dispatch", "--until-idle")
    delivered = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert len(delivered) == len(journal.versions(project.store))


def test_a_worker_that_is_cut_off_from_kafka_takes_no_stream(project: Project, broker: Broker) -> None:
    """Its group has given it the stream, and another one may have that by now: it stands back."""
    project.hub("run", "--role", "capture", "--stream", "main/main", "--until-idle")
    epoch = journal.select(project.store, "select epoch from stream")
    given = ["run", "--role", "capture", "--stream", "main/main", "--shared", "--supervised"]

    broker.kill()
    try:
        with subprocess.Popen(
            [HUB, "--project", project.directory, *given], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as cut_off:
            assert cut_off.wait(90) == 3
            assert cut_off.stderr
            said = cut_off.stderr.read()
    finally:
        broker.start()

    assert "does not answer" in said
    assert journal.select(project.store, "select epoch from stream") == epoch


@pytest.mark.timeout(300)
def test_a_topic_that_lost_records_leads_to_a_compared_snapshot(
    database: str, project: Project, broker: Broker
) -> None:
    """Nobody read while its retention passed by: the next worker says so, and only differences become versions."""
    with psycopg.connect(database, autocommit=True) as connection:
        worker = Worker(project, "first")
        try:
            _until_settled(project, fence(connection), "the snapshot is applied")
        finally:
            worker.kill()
        (run,) = journal.select(project.store, "select run from stream")[0]
        connection.execute("update orders set n = 1 where id < 3")
        connection.execute("delete from orders where id = 3")
        slot = urlsplit(database).path.removeprefix("/")
        end = fence(connection)
        until(lambda: _in_topic(connection, slot, end), "all of it is in the topic")
        _forget_records(broker, f"hub.{slot}")

        worker = Worker(project, "second")
        try:
            until(lambda: journal.select(project.store, "select run from stream")[0][0] > run, "a new run has begun")
            _until_settled(project, fence(connection), "the new snapshot is applied")
            project.hub("verify")
        finally:
            worker.kill()

    said = (project.directory / "second.log").read_text("utf-8")
    assert "holds offsets" in said
    later = [version for version in journal.versions(project.store) if version.version > 1]
    assert sorted((one.key, one.event, one.cause) for one in later) == [
        *((str(id), "updated", "resync") for id in range(3)), ("3", "deleted", "resync"),
    ]  # fmt: skip


def _in_topic(connection: psycopg.Connection[tuple[object, ...]], slot: str, lsn: int) -> bool:
    """Kafka Connect has flushed all up to `lsn`."""
    query = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"
    row = connection.execute(query, [slot]).fetchone()
    return row is not None and int(str(row[0])) >= lsn


def _forget_records(broker: Broker, topic: str) -> None:
    """As retention does."""
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.delete_records({TopicPartition(topic, 0): -1})
    finally:
        admin.close()


def test_a_connector_is_looked_at_paused_and_resumed(project: Project) -> None:
    """What is shown holds no password; a second registration keeps the reference; a connector that rests is a fault."""
    printed = json.loads(project.hub("source", "config"))
    assert printed["config"]["database.password"] == "${env:HUB_MAIN_PASSWORD}"
    assert PASSWORD not in json.dumps(printed)
    assert printed["config"]["table.include.list"] == "public\\.lines,public\\.orders"

    standing = json.loads(project.hub("source", "status", "--json"))
    assert (standing["state"], standing["task"], standing["slot"]) == ("RUNNING", "RUNNING", "active")
    project.hub("source", "register")
    assert "runs" in project.hub("source", "register")
    project.hub("source", "status", "--pause")
    until(lambda: "PAUSED" in project.hub("source", "status", "--pause"), "it rests")
    project.hub("source", "status", "--json", ends_with=1)
    begun = time.monotonic()
    catch_up = ("run", "--role", "capture", "--stream", "main/main", "--until-idle")
    project.hub(*catch_up, ends_with=3)  # the snapshot is in the topic, what follows is not
    assert time.monotonic() - begun < 30
    assert "is paused. `hub source status --resume`" in project.hub("status", ends_with=1)
    project.hub("source", "register")  # waits until it runs, so it has to be resumed
    project.hub(*catch_up)
    project.hub("source", "register", "--password", PASSWORD, ends_with=2)
