"""The way in by Kafka: a stream's topic, which Kafka Connect fills, read from where the store stands.

A topic has one partition, so its records keep the order of commits. END records close transactions. Who reads is
decided by the group of workers (cdc.group); where to read from is in the store, and Kafka keeps no offset of
ours. A topic that no longer holds what follows the store's cursor has a gap: the stream begins anew with a snapshot
that is compared, never silently at another place.
"""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError, OffsetOutOfRangeError, TopicAlreadyExistsError

from cdc.connect import Connect, Keeper, standstill
from cdc.envelope import decode, holds_unavailable, table_readers
from cdc.settings import LARGEST_RECORD, NO_SNAPSHOT, StreamSettings, connect_settings
from cdc.source import Watch, check_start, drop_slot, send_message
from cdc.transactions import COMPARED, PART, Assembler
from hub.changes import Arrival, Batch, FeedPlan, Missed
from hub.errors import OutsideError

log = logging.getLogger(__name__)

RECORDS = 2000  # of one batch
FETCH = 8 << 20  # bytes that the broker sends at once
REQUEST_SECONDS = 30.0
LOOK_SECONDS = 2.0  # that Kafka has to answer who only looks

RETENTION = 7 * 24 * 3600  # seconds that a topic keeps records: a hub that was away for longer takes a new snapshot

_SNAPSHOT, _COMPLETED = b'"Initial Snapshot"', b'"COMPLETED"'


@dataclass(frozen=True, slots=True)
class Topic:
    """A stream's topic and connector: what is made once, and looked at."""

    bootstrap: str
    name: str
    connect: Connect
    connector: str

    def make(self, replication: int = -1) -> None:
        """Make the topic, with one partition, where it is not there. OutsideError when it has several.

        `replication`: copies; -1: as many as the broker makes by itself.
        """
        with closing(self._ask(lambda: KafkaAdminClient(bootstrap_servers=self.bootstrap))) as admin:
            if partitions := self._ask(lambda: _partitions(admin, self.name)):
                self._require_one(partitions)
                return
            configs = {
                "retention.ms": str(RETENTION * 1000),
                "cleanup.policy": "delete",
                "max.message.bytes": str(LARGEST_RECORD),
            }
            new = NewTopic(self.name, num_partitions=1, replication_factor=replication, topic_configs=configs)
            with suppress(TopicAlreadyExistsError):  # somebody else was faster
                self._ask(lambda: admin.create_topics([new]))

    def problem(self) -> str:
        """What keeps the source's changes from the topic, or the topic from its readers; "" when nothing does."""
        try:
            with closing(self._ask(self._look)) as admin:
                partitions = self._ask(lambda: _partitions(admin, self.name))
            state = self.connect.state(self.connector)
        except OutsideError as error:
            return error.what
        if not partitions:
            return f"Kafka at {self.bootstrap} has no topic {self.name}."
        found = standstill(self.connector, state)
        return found.what if found else ""

    def _look(self) -> KafkaAdminClient:
        return KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=int(LOOK_SECONDS * 1000))

    def _ask(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except TopicAlreadyExistsError:
            raise
        except KafkaError as error:
            raise OutsideError(
                f"Kafka at {self.bootstrap} does not answer: {type(error).__name__}.",
                "Check `bootstrap:`, and that it runs.",
            ) from error

    def _require_one(self, partitions: int) -> None:
        if partitions != 1:
            raise OutsideError(
                f"The topic {self.name} has {partitions} partitions, which have no order between them.",
                "Give the stream a topic of its own: delete this one, or change `topic:`.",
            )

    def consumer(self) -> KafkaConsumer:
        """A consumer of this topic alone, outside of any group."""
        return self._ask(
            lambda: KafkaConsumer(
                bootstrap_servers=self.bootstrap,
                group_id=None,
                enable_auto_commit=False,
                auto_offset_reset="none",
                allow_auto_create_topics=False,
                max_poll_records=RECORDS,
                fetch_max_bytes=FETCH,
                max_partition_fetch_bytes=FETCH,
                request_timeout_ms=int(REQUEST_SECONDS * 1000),
            ),
        )

    def reach(self) -> None:
        """OutsideError when Kafka does not answer."""
        with closing(self.consumer()) as consumer:
            self._ask(lambda: consumer.partitions_for_topic(self.name))

    def require_one(self, consumer: KafkaConsumer) -> None:
        """Missed when the topic is gone, OutsideError when it has got more partitions."""
        partitions = self._ask(lambda: consumer.partitions_for_topic(self.name))
        if not partitions:
            raise Missed(f"There is no topic {self.name}.", COMPARED)
        self._require_one(len(partitions))

    def bounds(self, consumer: KafkaConsumer) -> tuple[int, int]:
        """The offsets of the first record that it holds, and after the last."""
        partition = TopicPartition(self.name, 0)
        first = self._ask(lambda: consumer.beginning_offsets([partition]))[partition]
        last = self._ask(lambda: consumer.end_offsets([partition]))[partition]
        return first, last


def _partitions(admin: KafkaAdminClient, topic: str) -> int:
    """How many the topic has; 0 when there is none of that name."""
    if topic not in admin.list_topics():  # asking for one that is missing could make it
        return 0
    return sum(len(one["partitions"]) for one in admin.describe_topics([topic]))


class TopicFeed:
    """hub.changes.Feed on a topic."""

    def __init__(self, settings: StreamSettings, topic: Topic, part: int = PART) -> None:
        self._settings = settings
        self._topic = topic
        self._assembler = Assembler(table_readers(settings.catalogue, settings.columns), part, ends=True)
        self._consumer: KafkaConsumer | None = None
        self._partition = TopicPartition(topic.name, 0)
        self._cursor = 0  # where reading would begin again
        self._watch: Watch | None = None
        self._held: Sequence[Any] = ()  # records that were read, for the next batch
        self._keeper = Keeper(topic.connect, topic.connector)

    def start(self, plan: FeedPlan) -> None:
        """Raises OutsideError when the topic cannot be read, Missed when it no longer holds what follows."""
        self._consumer = self._topic.consumer()
        self._topic.require_one(self._consumer)
        first, last = self._topic.bounds(self._consumer)
        if plan.cursor < first or plan.cursor > last:
            raise Missed(
                f"The topic {self._topic.name} holds offsets {first} to {last}, and the store stands at {plan.cursor}.",
                COMPARED,
            )
        self._consumer.assign([self._partition])
        self._consumer.seek(self._partition, plan.cursor)
        self._cursor = plan.cursor
        self._assembler.reached = plan.position
        self._watch = Watch(self._settings)

    def take(self, timeout: float) -> Batch | None:
        assert self._watch is not None
        end = time.monotonic() + timeout
        while True:
            records = self._poll(min(1.0, max(0.0, end - time.monotonic())))
            self._look_after(bool(records))
            arrivals = [*self._watch.take_drifts(), *self._arrivals(records)]
            if records and self._assembler.between:
                self._cursor = records[-1].offset + 1
            if arrivals:
                return Batch(arrivals, lambda: None, self._cursor)
            if time.monotonic() >= end:
                return None

    def _poll(self, timeout: float) -> Sequence[Any]:
        """The next records. A snapshot's end is the last of its batch, so that the cursor is stored with it."""
        records, self._held = self._held or self._read(timeout), ()
        for index, record in enumerate(records):
            if record.value and _COMPLETED in record.value and _SNAPSHOT in record.value:
                self._held = records[index + 1 :]
                return records[: index + 1]
        return records

    def _read(self, timeout: float) -> Sequence[Any]:
        assert self._consumer is not None
        try:
            found = self._consumer.poll(timeout_ms=int(timeout * 1000))
        except OffsetOutOfRangeError as error:
            raise Missed(
                f"The topic {self._topic.name} no longer holds what follows the store's cursor.",
                COMPARED,
            ) from error
        except KafkaError as error:
            raise OutsideError(
                f"Kafka at {self._topic.bootstrap} is lost: {type(error).__name__}.", "It is tried again."
            ) from error
        records: Sequence[Any] = found.get(self._partition, ())
        return records

    def _arrivals(self, records: Sequence[Any]) -> list[Arrival]:
        if self._assembler.broken:
            raise self._assembler.broken
        if not records:
            return []
        payload = b"[" + b",".join([record.value or b"null" for record in records]) + b"]"
        return self._assembler.batch(decode(payload), 0, unavailable=holds_unavailable(payload))

    def _look_after(self, arrived: bool) -> None:
        """In passing: the slot and the connector."""
        assert self._watch is not None
        if failure := self._watch.look(arrived):  # the slot is lost or gone, or a table is not published any more
            raise failure if isinstance(failure, Missed) else Missed(failure.what, COMPARED)
        self._keeper.look(arrived)

    def trouble(self) -> OutsideError | None:
        return self._keeper.trouble

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()
        if self._consumer is not None:
            self._consumer.close()


def take_slot(settings: StreamSettings, topic: Topic, password: str, replication: int, position: int) -> int:
    """Make topic and connector, stopped, to go on without a snapshot from a slot that the embedded engine followed.

    The offset from which the topic will have all that came after `position`, the store's: to be stored before
    `register` starts the connector, which lets go of the slot's log. OutsideError when the engine still reads from
    the slot, or the slot no longer has all of it.
    """
    check_start(settings, snapshot=False, position=position)
    topic.make(replication)
    topic.connect.put_stopped(topic.connector, connect_settings(settings, topic.name, password, snapshot=False))
    topic.connect.forget_offsets(topic.connector)  # a connector of this name may have left some
    with closing(topic.consumer()) as consumer:
        _, last = topic.bounds(consumer)
    return last


def register(settings: StreamSettings, topic: Topic, password: str, replication: int) -> bool:
    """Make topic and connector, or bring the connector's settings up to date, and wait until it runs.

    Raises OutsideError when the source is not ready for it, FaultError when it fails. True when the connector has gone
    on from an engine's slot (`take_slot`): once it has an offset of its own, it gets the settings of any other, with
    which a loss of its offsets leads to a snapshot.
    """
    known = topic.connect.settings(topic.connector)
    if known is None:
        check_start(settings, snapshot=True)
    topic.make(replication)
    takes_slot = known is not None and known.get("snapshot.mode") == NO_SNAPSHOT
    if takes_slot:
        topic.connect.start(topic.connector)
        send_message(settings.url)  # so that there is something to read
        topic.connect.wait(topic.connector, lambda _: topic.connect.has_offsets(topic.connector), "read from the slot")
    topic.connect.put(topic.connector, connect_settings(settings, topic.name, password))
    topic.connect.start(topic.connector)
    topic.connect.wait(topic.connector, lambda state: state.runs, "run")
    return takes_slot


def is_whole(settings: StreamSettings, topic: Topic, password: str) -> bool:
    """It holds, from its first record on, the snapshot that came with the registration, of these tables and columns."""
    known = topic.connect.settings(topic.connector) or {}
    if any(known.get(name) != value for name, value in connect_settings(settings, topic.name, password).items()):
        return False
    with closing(topic.consumer()) as consumer:
        topic.require_one(consumer)
        return topic.bounds(consumer)[0] == 0


def renew(settings: StreamSettings, topic: Topic, password: str) -> int:
    """Have the connector begin anew, with a snapshot on a new slot; the offset from which its records come."""
    topic.connect.stop(topic.connector)
    topic.connect.put(topic.connector, connect_settings(settings, topic.name, password))  # tables, columns may be new
    topic.connect.forget_offsets(topic.connector)
    drop_slot(settings.url, settings.slot)
    topic.make()
    with closing(topic.consumer()) as consumer:
        _, last = topic.bounds(consumer)
    topic.connect.resume(topic.connector)
    return last
