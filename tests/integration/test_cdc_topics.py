"""What a topic's feed notices of Kafka Connect, with real Debezium."""

import time
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from cdc import connect as rest
from cdc.topics import Topic
from hub.changes import Missed
from stack.connect import Connect
from stack.kafka import Broker
from tests.contracts.test_feed import SECONDS, Taker, TopicSource

pytestmark = pytest.mark.integration

ROWS = 60_000  # of the COPY; Debezium takes seconds for them


@pytest.fixture
def source(database: str, broker: Broker, connect: Connect) -> Iterator[TopicSource]:
    made = TopicSource(database, broker.bootstrap, connect.url)
    yield made
    made.close()


def test_a_connector_that_is_restarted_amid_a_copy_may_have_left_out_rows(
    source: TopicSource, database: str, broker: Broker, connect: Connect
) -> None:
    """It goes on at the next LSN, which rows of a COPY share, and counts as if none were missing."""
    source.insert(0)
    taker = Taker(source, snapshot=True).snapshot()
    slot = "hub_" + database.rpartition("/")[2]
    topic = Topic(broker.bootstrap, f"hub.{slot}", rest.Connect(connect.url), f"hub-{slot}")
    with psycopg.connect(database) as connection, connection.cursor().copy("COPY t FROM STDIN") as copy:
        for id in range(1, ROWS + 1):
            copy.write_row((id,))

    with closing(topic.consumer()) as consumer:
        end = time.monotonic() + SECONDS
        while topic.bounds(consumer)[1] < ROWS / 10:
            assert time.monotonic() < end
            time.sleep(0.02)
    topic.connect.stop(topic.connector)
    topic.connect.resume(topic.connector)
    topic.connect.close()

    with pytest.raises(Missed, match="may lack rows, since Kafka Connect was interrupted amid it"):
        taker.until(lambda: False)
    assert max(batch.cursor for batch in taker.batches) < ROWS / 100  # before the COPY
