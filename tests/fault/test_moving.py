"""A hub outgrows one machine while its source goes on working: SQLite and engine become Postgres and Kafka Connect.

The application counts in its orders, so the journal must hold each count once, whoever followed the source.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from cdc.connect import Connect as Connectors
from stack.connect import Connect
from stack.kafka import Broker
from tests.fault.orders import ENTITY, ORDERS, SCHEMA, Application, expect_each_count_once
from tests.oracle import journal
from tests.oracle.access import PASSWORD, admit, fence, make_role, withdraw
from tests.oracle.command import Project, Run

pytestmark = pytest.mark.fault

SUBSCRIPTION = "subscription: every\nentity: order\nto: out\non: [created, updated, deleted, snapshot]\n"
DESTINATION = "destination: out\nconnector: file\npath: {path}\n"


class Hub:
    """A project whose store and whose way to follow the source change."""

    def __init__(self, directory: Path, source: dict[str, object], store: str) -> None:
        self.directory = directory
        self.source = source
        self.use(store)
        self.project.write(
            {
                "entities/order.yaml": ENTITY,
                "subscriptions/every.yaml": SUBSCRIPTION,
                "destinations/out.yaml": DESTINATION.format(path=directory / "out.jsonl"),
            }
        )

    def use(self, store: str, kafka: dict[str, str] | None = None) -> None:
        """Write hub.yaml with this store, and the source followed by Kafka Connect or by the engine."""
        source = self.source | ({"kafka": kafka} if kafka else {})
        settings = {"hub": self.source["slot"], "sources": {"main": source}, "store": store,
                    "console": {"listen": "127.0.0.1:0"}}  # fmt: skip
        self.project = Project(self.directory, store)
        self.project.write({"hub.yaml": json.dumps(settings)})


@pytest.fixture
def slot(database: str) -> str:
    return urlsplit(database).path.removeprefix("/")


@pytest.fixture
def hub(database: str, slot: str, make_store: Callable[[str], str], tmp_path: Path) -> Iterator[Hub]:
    """An embedded one."""
    with psycopg.connect(database) as connection:
        connection.execute(SCHEMA)
        connection.execute("insert into orders select i, 0, '' from generate_series(0, %s) i", [ORDERS - 1])
    made = Hub(tmp_path / "project", {"url": make_role(database), "slot": slot}, make_store("sqlite"))
    admit(made.project, database)
    yield made
    withdraw(database)


@pytest.mark.timeout(600)
def test_a_hub_moves_to_postgres_and_kafka_connect_and_back_to_the_engine(
    database: str, slot: str, hub: Hub, make_store: Callable[[str], str], broker: Broker, connect: Connect
) -> None:
    """Nothing is lost or doubled and no snapshot is taken, though the application never stops on the way there."""
    connect.secrets.mkdir(exist_ok=True)
    (connect.secrets / slot).write_text(PASSWORD)
    kafka = {"bootstrap": broker.bootstrap, "connect": connect.url, "topic": f"hub.{slot}"}
    embedded, store = hub.project.store, make_store("postgres")
    application = Application(database)
    with psycopg.connect(database, autocommit=True) as connection:
        with hub.project.running() as run:
            run.until_settled(fence(connection))
            application.start()
            run.until(lambda: sum(application.counts.values()) > 100, "there are commits")
            run.until_settled(fence(connection))
            _kill_capture(run)  # before the slot has been told of all that the store has
        assert _confirmed(connection, slot) < journal.select(embedded, "select position from stream")[0][0]

        hub.project.hub("store", "copy", store)
        assert _versions(store) == _versions(embedded)
        hub.project.hub("run", "--until-idle", ends_with=3)
        hub.use(store, kafka)
        assert "Run `hub source register main/main`" in hub.project.hub("doctor", ends_with=1)
        said = hub.project.hub("source", "register", "--password", f"${{dir:{connect.secrets}:{slot}}}")
        assert "goes on from the engine's slot" in said
        with hub.project.running() as run:
            run.until_settled(fence(connection))
            application.stop()
            run.until_settled(fence(connection))
            hub.project.hub("verify")
        # A loss of its offsets would lead to a snapshot, as with any other connector.
        settings = Connectors(connect.url).settings(f"hub-{slot}-main-main")
        assert settings is not None and settings["snapshot.mode"] == "initial"

        hub.project.hub("source", "status", "--delete")
        connection.execute("update orders set n = n + 1, note = 'y'")
        hub.use(store)
        hub.project.hub("run", "--until-idle")

    versions = journal.versions(store)
    counts = {order: count + 1 for order, count in application.counts.items()}
    expect_each_count_once(versions, counts)
    assert {version.cause for version in versions if version.version > 1} == {"row"}
    assert journal.select(store, "select run, position > 0 from stream") == [(1, True)]
    sent = [json.loads(line) for line in (hub.directory / "out.jsonl").read_text("utf-8").splitlines()]
    assert {(one["key"], one["version"]) for one in sent} == {(one.key, one.version) for one in versions}
    assert len({one["id"] for one in sent}) == len(versions)


def _kill_capture(run: Run) -> None:
    capture = run.role("capture")
    assert capture is not None
    capture.kill()
    capture.wait(10)


def _confirmed(connection: psycopg.Connection[Any], slot: str) -> int:
    query = "select confirmed_flush_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"
    row = connection.execute(query, [slot]).fetchone()
    assert row is not None
    return int(row[0])


def _versions(store: str) -> list[tuple[str, int, str | None]]:
    return [(version.key, version.version, version.body) for version in journal.versions(store)]
