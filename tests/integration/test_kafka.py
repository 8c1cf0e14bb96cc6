"""Documents as records of a topic, on a real broker."""

import asyncio
import random
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic

from connectors.kafka import CONNECTOR, KafkaConnector
from hub.connector import System, read_settings
from hub.delivery import Message, Outcome, OutcomeKind
from hub.errors import ProjectError
from hub.project import Destination, Limits
from hub.store.workers import Evicted
from stack.kafka import Broker
from tests.integration.conftest import assert_kit_passes

pytestmark = pytest.mark.integration


@pytest.fixture
def topic(broker: Broker) -> Iterator[str]:
    """A compacted one of a single partition that takes records up to 100,000 bytes."""
    name = f"documents-{uuid.uuid4().hex[:8]}"
    settings = {"cleanup.policy": "compact", "max.message.bytes": "100000"}
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        admin.create_topics([NewTopic(name, 1, 1, topic_configs=settings)])
        yield name
        admin.delete_topics([name])


def message(key: str, version: int, *, event: str = "updated", content: bytes = b"{}") -> Message:
    return Message(f"msg_{key}_{version}", "all", "order", key, version, event, content, "application/json", 1)


def deliver(bootstrap: str, topic: str, *messages: Message, limits: Limits | None = None, **more: Any) -> list[Outcome]:
    settings = {"bootstrap": bootstrap, "topic": topic, **more}

    async def run() -> Sequence[Outcome]:
        kind = read_settings(CONNECTOR, Destination("bus", "kafka", settings=settings))
        connector = KafkaConnector(kind, limits or Limits())
        try:
            return await connector.deliver(messages)
        finally:
            await connector.close()

    return list(asyncio.run(run()))


def records(bootstrap: str, topic: str, count: int) -> list[Any]:
    with closing(KafkaConsumer(bootstrap_servers=bootstrap, consumer_timeout_ms=10_000)) as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        consumer.seek_to_beginning()
        return [record for record, _ in zip(consumer, range(count), strict=False)]


def test_a_document_is_a_record_and_a_delete_a_tombstone(broker: Broker, topic: str) -> None:
    """By key, with the id and version that a consumer drops duplicates by; where it is comes back."""
    sent = [message("1", 1, content=b'{"n": 1}'), message("2", 1), message("1", 2, event="deleted")]
    outcomes = deliver(broker.bootstrap, topic, *sent)

    assert outcomes == [Outcome(OutcomeKind.DELIVERED, receiver_id=f"{topic}/0/{place}") for place in range(3)]
    got = records(broker.bootstrap, topic, 3)
    assert [(one.key, one.value) for one in got] == [(b"1", b'{"n": 1}'), (b"2", b"{}"), (b"1", None)]
    assert dict(got[2].headers) == {
        "id": b"msg_1_2",
        "version": b"2",
        "event": b"deleted",
        "entity": b"order",
        "content-type": b"application/json",
    }


def test_the_conformance_kit_passes_on_a_broker(broker: Broker, topic: str) -> None:
    """What is delivered is read from the topic."""

    def has(key: str) -> bool:
        with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap, consumer_timeout_ms=3000)) as consumer:
            consumer.assign([TopicPartition(topic, 0)])
            consumer.seek_to_beginning()
            return any(record.key == key.encode() for record in consumer)

    system = System({"bootstrap": broker.bootstrap, "topic": topic}, has)

    assert_kit_passes("kafka", CONNECTOR, system)


def test_a_delete_may_have_a_body(broker: Broker, topic: str) -> None:
    """For a topic that is not compacted."""
    deliver(broker.bootstrap, topic, message("1", 2, event="deleted", content=b"bye"), deletes="body")

    assert records(broker.bootstrap, topic, 1)[0].value == b"bye"


def test_a_record_that_is_too_large_has_its_request_refused(broker: Broker, topic: str) -> None:
    """By the topic's own limit; nobody says which, so dispatch halves the batch. The others are written then."""
    large = message("2", 1, content=random.Random(1).randbytes(200_000))
    together = deliver(broker.bootstrap, topic, message("1", 1), large, message("3", 1))
    (alone,) = deliver(broker.bootstrap, topic, large)

    assert (together[1].kind, together[1].whole) == (OutcomeKind.REFUSED, True)
    assert (alone.kind, alone.whole) == (OutcomeKind.REFUSED, False)
    assert deliver(broker.bootstrap, topic, message("1", 1))[0].kind is OutcomeKind.DELIVERED


@pytest.mark.usefixtures("evicted")
def test_a_worker_that_may_not_send_any_more_sends_nothing(broker: Broker, topic: str) -> None:
    """Asked once there is a producer, which may take a while."""
    with pytest.raises(Evicted):
        deliver(broker.bootstrap, topic, message("1", 1))

    partition = TopicPartition(topic, 0)
    with closing(KafkaConsumer(bootstrap_servers=broker.bootstrap)) as consumer:
        assert consumer.end_offsets([partition]) == {partition: 0}


def test_a_topic_that_is_not_there_is_held(broker: Broker) -> None:
    """None is made by a slip of the pen."""
    outcome = deliver(broker.bootstrap, "no-such-topic", message("1", 1), limits=Limits(timeout=3.0))[0]

    assert outcome.kind is OutcomeKind.HELD
    with closing(KafkaAdminClient(bootstrap_servers=broker.bootstrap)) as admin:
        assert "no-such-topic" not in admin.list_topics()


def test_a_broker_that_is_not_there_is_held() -> None:
    """Within the attempt's time."""
    outcome = deliver("127.0.0.1:9", "documents", message("1", 1), limits=Limits(timeout=2.0))[0]

    assert outcome.kind is OutcomeKind.HELD


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"bootstrap": "kafka"}, "`bootstrap`"),
        ({"bootstrap": []}, "`bootstrap`"),
        ({"topic": ""}, "`topic`"),
        ({"username": "a"}, "belong together"),
        ({"username": "a", "password": "b"}, "in the clear"),
        ({"security": "tls", "ca_file": "/none.pem"}, "certificates"),
        ({"mechanism": "GSSAPI"}, "mechanism"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], what: str) -> None:
    """Before anything is sent."""
    settings = {"bootstrap": "kafka:9092", "topic": "documents"} | wrong

    with pytest.raises(ProjectError, match=what):
        read_settings(CONNECTOR, Destination("bus", "kafka", settings=settings))
