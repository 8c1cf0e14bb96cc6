"""Kafka and Kafka Connect as local processes: what the tests of the distributed mode stand on."""

import json
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

from cdc.settings import StreamSettings, connector_settings, parse_url
from hub.bootstrap import read_catalogue
from hub.project import Source
from stack import local
from stack.connect import Connect
from stack.kafka import Broker
from stack.settings import versions

pytestmark = pytest.mark.integration

SECONDS = 60.0
POSTGRES_CONNECTOR = "io.debezium.connector.postgresql.PostgresConnector"


def until(holds: Callable[[], Any]) -> Any:
    """What `holds` returns, once that is something."""
    end = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.1)
    return found


@pytest.fixture
def topic(broker: Broker) -> Iterator[str]:
    """A topic of its own with one partition."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    admin.create_topics([NewTopic(name, num_partitions=1, replication_factor=1)])
    yield name
    admin.close()


def values(broker: Broker, topic: str, count: int) -> list[bytes]:
    """The first records of a topic, from its beginning."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None
    )
    found: list[bytes] = []
    try:
        until(lambda: found.extend(_polled(consumer)) or len(found) >= count)
    finally:
        consumer.close()
    return found


def _polled(consumer: KafkaConsumer) -> list[bytes]:
    return [record.value for records in consumer.poll(timeout_ms=500).values() for record in records]


def send(broker: Broker, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    producer.send(topic, value).get(timeout=SECONDS)
    producer.close()


def test_a_record_outlives_the_broker(broker: Broker, topic: str) -> None:
    """Killed with -9 and started again on the same data and port, it has what it has acknowledged."""
    send(broker, topic, b"before")
    assert values(broker, topic, 1) == [b"before"]
    address, process = broker.bootstrap, broker.process()

    broker.kill()
    assert broker.process() is None
    broker.restart()

    assert broker.bootstrap == address
    assert broker.process() != process
    send(broker, topic, b"after")
    assert values(broker, topic, 2) == [b"before", b"after"]


def test_topics_are_made_on_purpose(broker: Broker) -> None:
    """A name with a slip in it does not become a topic with the broker's defaults."""
    name = f"slip-{uuid.uuid4().hex[:12]}"
    consumer = KafkaConsumer(name, bootstrap_servers=broker.bootstrap, group_id=None)
    consumer.poll(timeout_ms=2000)
    consumer.close()
    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    topics = admin.list_topics()
    admin.close()

    assert name not in topics


def test_connect_has_the_connector(connect: Connect) -> None:
    """Debezium's for Postgres, of the version that is asked for."""
    plugins = {one["class"]: one["version"] for one in httpx.get(f"{connect.url}/connector-plugins").json()}

    assert plugins[POSTGRES_CONNECTOR] == versions()["DEBEZIUM_VERSION"]


@pytest.fixture
def followed(database: str) -> str:
    """A database with a table whose values need the hub's converter, and a publication of it."""
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE TABLE price (id int PRIMARY KEY, amount money, at timestamptz)")
        owner.execute("CREATE PUBLICATION stack FOR TABLE price")
    return database


def test_a_change_comes_through_with_the_hubs_values_and_no_password_in_clear(
    broker: Broker, connect: Connect, followed: str
) -> None:
    """The connector finds the converter beside it and its password in a file; a worker that is killed goes on."""
    name = f"stack-{uuid.uuid4().hex[:12]}"
    (connect.secrets / name).write_text(parse_url(followed)["password"])
    config = _config(followed, name) | {"database.password": f"${{dir:{connect.secrets}:{name}}}"}
    httpx.put(f"{connect.url}/connectors/{name}/config", json=config, timeout=SECONDS).raise_for_status()
    try:
        until(lambda: _streams(connect, name))
        with psycopg.connect(followed, autocommit=True) as owner:
            owner.execute("INSERT INTO price VALUES (1, '12.50', '2026-01-02 03:04:05+02')")
            (record,) = values(broker, f"{name}.public.price", 1)
            address = connect.url
            connect.kill()
            owner.execute("INSERT INTO price VALUES (2, '-1', 'infinity')")
            connect.restart()
        assert connect.url == address
        records = until(lambda: _of_two(broker, f"{name}.public.price"))
        shown = httpx.get(f"{connect.url}/connectors/{name}/config").json()
    finally:
        httpx.delete(f"{connect.url}/connectors/{name}", timeout=SECONDS).raise_for_status()

    assert json.loads(record)["after"] == {"id": 1, "amount": "12.50", "at": "2026-01-02T01:04:05Z"}
    assert records[2] == {"id": 2, "amount": "-1.00", "at": "infinity"}
    assert shown["database.password"] == config["database.password"]


def _config(url: str, name: str) -> dict[str, str]:
    """Of a connector that makes its own topics."""
    catalogue = read_catalogue(Source("main", url, "stack"), ["public.price"])
    settings = StreamSettings(url, "stack", {"public.price": ["id", "amount", "at"]}, catalogue)
    return connector_settings(settings, snapshot=True) | {
        "topic.prefix": name,
        "slot.name": name.replace("-", "_"),
        "notification.enabled.channels": "",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


def _of_two(broker: Broker, topic: str) -> dict[int, Any]:
    """Both rows by their key; nothing while the second is not there. After a crash the first may have come again."""
    rows = {row["id"]: row for record in values(broker, topic, 1) if (row := json.loads(record)["after"])}
    return rows if 2 in rows else {}


def _streams(connect: Connect, name: str) -> bool:
    """Whether the connector's one task runs. A failed one fails the test with its trace."""
    answer = httpx.get(f"{connect.url}/connectors/{name}/status")
    tasks = answer.json().get("tasks", []) if answer.is_success else []
    assert not [task for task in tasks if task["state"] == "FAILED"], tasks
    return [task["state"] for task in tasks] == ["RUNNING"]


@pytest.fixture
def elsewhere(broker: Broker) -> Iterator[Path]:
    """A folder that the server's system user may enter too, emptied of processes and files at the end."""
    directory = Path(tempfile.mkdtemp(prefix="hub-test-stack-"))
    directory.chmod(0o755)
    yield directory
    local.down(directory)
    shutil.rmtree(directory)


def test_the_whole_stack_comes_up_and_goes_down(elsewhere: Path) -> None:
    """One call to the first delivered document. Called again it starts nothing anew; each process is ended by who did
    not start it; addresses are kept.
    """
    stack = local.up(elsewhere)
    servers = (stack.broker.process(), stack.connect.process())
    roles = [psutil.Process(int((elsewhere / f"{name}.pid").read_text())) for name in ("receiver", *local.ROLES)]
    delivered = json.loads((elsewhere / "archive.jsonl").read_text().splitlines()[0])
    environ = stack.environ.read_text()
    again = local.up(elsewhere)

    assert None not in servers
    assert all(role.is_running() for role in roles)
    assert delivered["event"] == "created"
    assert (again.broker.process(), again.connect.process()) == servers
    assert again.environ.read_text() == environ
    assert stack.environ.stat().st_mode & 0o077 == 0
    with psycopg.connect(stack.postgres.url(local.LEGACY)) as owner:
        assert owner.execute("SELECT pubname FROM pg_publication").fetchall() == [("hub",)]

    local.down(elsewhere)
    assert (stack.broker.process(), stack.connect.process()) == (None, None)
    assert not any(role.is_running() for role in roles)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(stack.postgres.url())
