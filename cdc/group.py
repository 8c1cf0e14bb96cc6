"""The group of capture workers: Kafka decides which of them follows which stream's topic, the others stand by.

A worker is told its topics and reads none here: reading goes on from the store's cursor, in a process for each stream.
A worker that stops answering loses its topics to another one after SESSION_SECONDS; what it still tries to write, the
store refuses (hub.store.streams.take_over). So it keeps its topics while Kafka is away.
"""

import logging
import time
from collections.abc import Collection, Iterable
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.errors import KafkaError, RetriableError

from hub.errors import OutsideError

log = logging.getLogger(__name__)

SESSION_SECONDS = 10.0  # without a heartbeat, after which a worker's topics go to another one
HEARTBEAT_SECONDS = 2.0
TELL_SECONDS = 60.0  # between two lines that say that Kafka is away
METADATA_SECONDS = 10.0  # after which a topic that has been made is noticed


class Group:
    """One worker's membership. Not thread-safe: call `topics` every second or so."""

    def __init__(self, bootstrap: str, group: str, topics: Collection[str], worker: str = "") -> None:
        """`worker`: a name that stays over restarts; a worker that comes back within SESSION_SECONDS moves nothing."""
        self._bootstrap = bootstrap
        self._tell_at = 0.0  # time.monotonic
        self._listener = _Listener()
        try:
            self._consumer = KafkaConsumer(
                bootstrap_servers=bootstrap,
                group_id=group,
                group_instance_id=worker or None,
                enable_auto_commit=False,
                auto_offset_reset="latest",  # nothing is read
                partition_assignment_strategy=(self._listener.assignor,),
                session_timeout_ms=int(SESSION_SECONDS * 1000),
                heartbeat_interval_ms=int(HEARTBEAT_SECONDS * 1000),
                metadata_max_age_ms=int(METADATA_SECONDS * 1000),
                allow_auto_create_topics=False,
            )
        except KafkaError as error:
            raise self._lost(error) from error
        self._listener.consumer = self._consumer
        self._consumer.subscribe(sorted(topics), listener=self._listener)

    def topics(self, timeout: float) -> frozenset[str]:
        """Those that are this worker's now; waits for news for `timeout` seconds.

        OutsideError when Kafka refuses this worker. One that does not answer is waited for.
        """
        end = time.monotonic() + timeout
        try:
            self._consumer.poll(timeout_ms=int(timeout * 1000))
        except RetriableError as error:
            if time.monotonic() >= self._tell_at:
                log.warning("Kafka is away", extra={"bootstrap": self._bootstrap, "reason": type(error).__name__})
                self._tell_at = time.monotonic() + TELL_SECONDS
            time.sleep(max(0.0, end - time.monotonic()))
        except KafkaError as error:
            raise self._lost(error) from error
        return frozenset(self._listener.topics)

    def close(self) -> None:
        """Leave: the others take over at once."""
        self._consumer.close()

    def _lost(self, error: KafkaError) -> OutsideError:
        return OutsideError(
            f"Kafka at {self._bootstrap} does not answer: {type(error).__name__}.",
            "Check `bootstrap:`, and that it runs.",
        )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self) -> None:
        self.topics: set[str] = set()
        self.consumer: Any = None
        self.assignor = CooperativeStickyAssignor()

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        partitions = list(assigned)
        self.topics.update(partition.topic for partition in partitions)
        if partitions:
            self.consumer.pause(*partitions)

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        self.topics.difference_update(partition.topic for partition in revoked)

    def on_partitions_lost(self, lost: Iterable[Any]) -> None:
        self.on_partitions_revoked(lost)
        # kafka-python 3.0.12 goes on claiming what was lost, and a topic that two claim may be given to neither.
        self.assignor.member_assignment = None
