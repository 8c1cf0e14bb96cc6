"""Which capture worker follows which topic, decided by a real broker."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove, NewTopic

from cdc.group import HEARTBEAT_SECONDS, SESSION_SECONDS, Group
from hub.errors import OutsideError
from stack.kafka import Broker

pytestmark = pytest.mark.integration

LOOK = 0.2  # seconds that a member waits for news
SETTLED = 40.0  # seconds until the members have to agree
STEADY = 3 * HEARTBEAT_SECONDS  # seconds for which they then have to stay as they are


class Members:
    """Of one group: they take turns, or are all called at once."""

    def __init__(self, broker: Broker, count: int) -> None:
        """`count`: topics."""
        self.bootstrap = broker.bootstrap
        self.name = f"group.{uuid.uuid4().hex[:8]}"
        self.names = frozenset(f"{self.name}.{number}" for number in range(count))
        self.groups: list[Group] = []
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_topics([NewTopic(name, 1, 1) for name in self.names])

    def join(self) -> Group:
        """A new member."""
        self.groups.append(Group(self.bootstrap, self.name, self.names))
        return self.groups[-1]

    def evict(self) -> None:
        """The broker forgets all of them, as after a session without heartbeats."""
        with closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            members = admin.describe_groups([self.name])[self.name]["members"]
            admin.remove_group_members(self.name, [MemberToRemove(one["member_id"]) for one in members])

    @contextmanager
    def called(self, *groups: Group) -> Iterator[list[frozenset[str]]]:
        """Each by a thread of its own; what each of them has, as of now."""
        has = [frozenset[str]()] * len(groups)
        over = threading.Event()
        failed: list[OutsideError] = []

        def call(index: int) -> None:
            try:
                while not over.is_set():
                    has[index] = groups[index].topics(LOOK)
            except OutsideError as error:
                failed.append(error)

        threads = [threading.Thread(target=call, args=(index,)) for index in range(len(groups))]
        for thread in threads:
            thread.start()
        try:
            yield has
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failed


@pytest.fixture
def make(broker: Broker) -> Iterator[Callable[[int], Members]]:
    made: list[Members] = []

    def one(count: int) -> Members:
        made.append(Members(broker, count))
        return made[-1]

    yield one
    for members in made:
        for group in members.groups:
            group.close()


def wait(group: Group, topics: frozenset[str]) -> None:
    end = time.monotonic() + SETTLED
    while group.topics(LOOK) != topics:
        assert time.monotonic() < end


def settle(enough: Callable[[], bool]) -> None:
    """It comes about, and stays so."""
    end, since = time.monotonic() + SETTLED, None
    while since is None or time.monotonic() - since < STEADY:
        assert time.monotonic() < end
        time.sleep(LOOK)
        since = (since or time.monotonic()) if enough() else None


def test_members_that_have_all_been_forgotten_share_the_topics_again(make: Callable[[int], Members]) -> None:
    """Each has been the owner of all of them, and has slept since."""
    members = make(4)
    first, second = members.join(), members.join()
    for owner in (first, second):
        wait(owner, members.names)
        members.evict()

    with members.called(first, second) as has:
        settle(lambda: sorted([*has[0], *has[1]]) == sorted(members.names))


def test_a_member_keeps_its_topics_while_kafka_is_away(make: Callable[[int], Members], broker: Broker) -> None:
    """It does not end, nor does one that has not met the others yet; they share once Kafka is back."""
    members = make(2)
    owner, fresh = members.join(), members.join()
    wait(owner, members.names)

    broker.kill()
    try:
        with members.called(owner, fresh) as has:
            time.sleep(2 * LOOK)
            end = time.monotonic() + 1.5 * SESSION_SECONDS
            while time.monotonic() < end:
                assert has[0] == members.names
                time.sleep(LOOK)
    finally:
        broker.start()
    with members.called(owner, fresh) as has:
        settle(lambda: len(has[0]) == len(has[1]) == 1 and has[0] | has[1] == members.names)
