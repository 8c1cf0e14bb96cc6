"""`mode: latest` and `delay` on a real store: what waits is merged there, and what arrives is the newest."""

import asyncio
import os
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from hub.capture.versions import Heads, Published, Versions
from hub.changes import Commit
from hub.delivery import Message, Outcome, OutcomeKind, State
from hub.dispatch.dispatcher import Dispatcher
from hub.operate.replay import Filters
from hub.operate.replayer import Replayer
from hub.project import Destination, Limits
from hub.store import tables
from hub.store.database import Store
from hub.store.deliveries import set_subscription_state
from hub.store.images import StoredImages, write_documents
from hub.store.operators import Choice, Operators
from hub.store.replays import Replays
from hub.subscriptions import Subscription
from tests.integration.dispatching import SHAPE, Bench, MovableClock, reached

pytestmark = pytest.mark.integration

SEEDS = int(os.environ.get("HUB_SETS", "2"))


class Crm:
    """A receiver in memory that drops what comes under an id that it has taken.

    `down`: nobody is let in, for this reason. `gate`: it answers once that is set.
    """

    batch = 50

    def __init__(self) -> None:
        self.down = ""
        self.gate: asyncio.Event | None = None
        self.fault = OutcomeKind.HELD  # what comes of an attempt then
        self.lost = False  # it accepts, and its answers get lost
        self.calls = 0
        self.received: list[tuple[str, int, str]] = []  # key, version, event
        self.sets: dict[str, dict[str, Any]] = {}  # by subscription what a receiver has that does as it is told
        self.deleted: list[tuple[str, dict[str, Any]]] = []  # subscription, and what was shown
        self._ids: set[str] = set()

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        self.calls += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.down:
            return [Outcome(self.fault, self.down)] * len(messages)
        for message in messages:
            self._take(message)
        if self.lost:
            return [Outcome(OutcomeKind.RETRY, "reset")] * len(messages)
        return [Outcome(OutcomeKind.DELIVERED)] * len(messages)

    def _take(self, message: Message) -> None:
        if message.id in self._ids:
            return
        self._ids.add(message.id)
        self.received.append((message.key, message.version, message.event))
        mine, data = self.sets.setdefault(message.subscription, {}), msgspec.json.decode(message.content)["data"]
        if message.event == "deleted":
            mine.pop(message.key, None)
            self.deleted += [(message.subscription, data["before"])] if data["before"] else []
        else:
            mine[message.key] = data["document"]

    async def close(self) -> None: ...


class MergingBench(Bench):
    """With the one receiver, and versions and deliveries as capture plans them."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.crm = Crm()
        self.clock = MovableClock()
        self.documents: dict[str, dict[str, Any]] = {}  # the source
        self._heads = Heads()
        self.transactions = 0

    def _opener(self, destination: Destination) -> Callable[[], Any]:
        return lambda: self.crm

    def change(self, key: str, *documents: dict[str, Any] | None) -> None:
        """A commit for each document; None: it is deleted."""
        for document in documents:
            self.write([(key, document)])

    def write(self, changes: Sequence[tuple[str, dict[str, Any] | None]]) -> None:
        """The versions and deliveries of one store transaction."""
        subscribed = [
            (self.store.name_id("subscription", name), Subscription.compile(config, SHAPE))
            for name, config in self.configs.items()
        ]
        entity: Any = SimpleNamespace(shape=SHAPE)
        published = {"order": Published(self.entity_id, entity, subscribed)}
        with self.store.write() as connection:
            versions = Versions(published, StoredImages(connection), self._heads, self.clock.now())
            for key, document in changes:
                self.transactions += 1
                self.documents.pop(key, None) if document is None else self.documents.update({key: document})
                versions.make("order", key, document, Commit(self.transactions, self.transactions, self.clock.now()))
            write_documents(connection, versions.documents, versions.deliveries)
            versions.written()
            self.store.ring("dispatch", connection)

    def alter(self, subscription: str, *, match: Any, policy: dict[str, Any]) -> None:
        """As an integrator changes the YAML; the next run goes by it."""
        before = self.configs[subscription]
        delivery = replace(before.delivery, **policy)
        self.configs[subscription] = replace(before, match=match, delivery=delivery)

    def replay(self, filters: Filters, kind: str = "replay") -> None:
        subscriptions = {name: Subscription.compile(config, SHAPE) for name, config in self.configs.items()}
        replays = Replays(self.store)
        worker = Replayer(replays, subscriptions)
        begun = replays.begin(kind, filters, worker.plan(kind, filters).total)
        worker.run(begun, None, lambda _: None)

    def set_state(self, subscription: str, state: str) -> None:
        with self.store.write() as connection:
            id = self.store.name_id("subscription", subscription)
            set_subscription_state(self.store, connection, id, state, "")
            self.store.ring("dispatch", connection)

    async def settle(self, but: str = "") -> None:
        """Past every hold and delay, until nothing waits; `but`: for this subscription."""
        for _ in range(200):
            if not self.waiting(but):
                return
            self.clock.advance(5)
            await asyncio.sleep(0.05)
        raise AssertionError(self.rows())

    def waiting(self, but: str = "") -> int:
        pending = (tables.delivery.c.state == int(State.PENDING), tables.delivery.c.subscription_id != self._id(but))
        with self.store.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).where(*pending)).scalar_one())

    def _id(self, subscription: str) -> int:
        return self.store.find_name("subscription", subscription) or 0


@pytest.fixture
def bench(volatile_store: Store) -> MergingBench:
    return MergingBench(volatile_store)


def subscribe(bench: MergingBench, **policy: Any) -> None:
    bench.subscribe("crm", {"url": "http://crm.test"}, limits=Limits(concurrency=1), **policy)


def test_the_newest_of_what_waits_is_sent_alone(bench: MergingBench) -> None:
    """One is on its way, which is not overtaken; of the four behind it the last goes, as one change."""

    subscribe(bench, mode="latest")
    bench.crm.gate = gate = asyncio.Event()

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.change, "1", {"n": 1})
        await reached(lambda: bench.crm.calls == 1)
        await asyncio.to_thread(bench.change, "1", {"n": 2}, {"n": 3}, None, {"n": 4})
        await reached(lambda: bench.waiting() == 2)
        gate.set()

    bench.run(script)

    assert bench.crm.received == [("1", 1, "created"), ("1", 5, "updated")]
    assert bench.rows() == []


def test_what_came_and_went_while_it_waited_is_not_sent(bench: MergingBench) -> None:
    """2 came and went behind another's attempt; 1's own attempt has begun, so that its `deleted` goes out."""

    subscribe(bench, mode="latest")
    bench.crm.gate = gate = asyncio.Event()

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.change, "1", {"n": 1})
        await reached(lambda: bench.crm.calls == 1)
        await asyncio.to_thread(bench.change, "2", {"n": 1}, None)
        await asyncio.to_thread(bench.change, "1", None)
        await reached(lambda: bench.waiting() == 2)
        gate.set()

    bench.run(script)

    assert bench.crm.received == [("1", 1, "created"), ("1", 2, "deleted")]
    assert bench.rows() == []


def test_a_delete_is_sent_when_the_attempt_failed(bench: MergingBench) -> None:
    """Nobody knows what the receiver made of it: created, and held; then deleted, and merged with it."""

    subscribe(bench, mode="latest")
    bench.crm.down = "503"

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(bench.change, "1", {"n": 1})
        await reached(lambda: bench.crm.calls > 0)
        await asyncio.to_thread(bench.change, "1", {"n": 2}, None)
        await reached(lambda: bench.waiting() == 1)
        bench.crm.down = ""
        bench.clock.advance(2)
        await reached(lambda: bench.waiting() == 0)

    bench.run(script, clock=bench.clock)

    assert bench.crm.received == [("1", 3, "deleted")]


def test_what_is_merged_with_nothing_waits_for_no_write(bench: MergingBench) -> None:
    """A read tells that nothing waits behind it: it goes out while the thread that writes is at something long."""

    subscribe(bench, mode="latest")
    written = threading.Event()

    async def script(dispatcher: Dispatcher) -> None:
        await reached(dispatcher.settled)
        writing = asyncio.ensure_future(dispatcher._threads.write(written.wait))
        await asyncio.to_thread(bench.change, "1", {"n": 1})
        try:
            await reached(lambda: bench.crm.calls == 1)
        finally:
            written.set()
        await writing

    bench.run(script)

    assert bench.crm.received == [("1", 1, "created")]


def test_what_an_earlier_process_may_have_begun_counts_as_begun(bench: MergingBench) -> None:
    """It may have been killed after the receiver accepted."""

    subscribe(bench, mode="latest")
    bench.change("1", {"n": 1}, None)
    bench.run()

    assert bench.crm.received == [("1", 2, "deleted")]


def test_a_delay_sends_once_it_is_quiet(bench: MergingBench) -> None:
    """Each change within the delay restarts it, and joins the one before it, with every version wanted too."""

    subscribe(bench, delay=30.0)

    async def script(_: Dispatcher) -> None:
        for n in range(4):
            await asyncio.to_thread(bench.change, "1", {"n": n})
            await reached(lambda: bench.waiting() == 1 and bench.rows()[0].version == n + 1)  # noqa: B023
            bench.clock.advance(20)
        assert bench.crm.received == []
        bench.clock.advance(10.1)
        await reached(lambda: bench.waiting() == 0)
        await asyncio.to_thread(bench.change, "1", {"n": 9})
        await reached(lambda: bench.waiting() == 1)
        bench.clock.advance(31)

    bench.run(script, clock=bench.clock)

    assert bench.crm.received == [("1", 4, "created"), ("1", 5, "updated")]


def test_a_paused_subscription_does_not_grow_with_changes(bench: MergingBench) -> None:
    """The queue in the store is merged, though nothing of it is read."""

    subscribe(bench, mode="latest")
    bench.change("0", {"n": 0})
    bench.set_state("crm", "paused")

    async def script(_: Dispatcher) -> None:
        for n in range(5):
            await asyncio.to_thread(bench.write, [(str(key), {"n": n}) for key in range(50)])
        await reached(lambda: bench.waiting() == 50)

    bench.run(script)

    assert bench.crm.received == []
    assert {row.version for row in bench.rows()} == {5}


def test_a_backlog_of_an_earlier_run_is_merged(bench: MergingBench) -> None:
    """More than fits in memory, and of `mode: every` until now."""

    subscribe(bench, mode="latest")
    bench.crm.down = "nobody answers"
    for n in range(3):
        bench.write([(str(key), {"n": n}) for key in range(2600)])

    async def script(_: Dispatcher) -> None:
        await reached(lambda: bench.waiting() == 2600)
        bench.crm.down = ""
        bench.clock.advance(61)
        await reached(lambda: bench.waiting() == 0, 60)

    bench.run(script, clock=bench.clock)

    assert sorted(bench.crm.received) == sorted((str(key), 3, "created") for key in range(2600))


@pytest.mark.parametrize(
    ("volatile_store", "fault"),
    [("sqlite", "connect: refused"), ("postgres", "401 Unauthorized")],
    indirect=["volatile_store"],
)
def test_an_hour_of_outage(bench: MergingBench, fault: str) -> None:
    """100,000 changes of 5,000 documents meanwhile: at most 5,000 wait, nothing is parked, the last ones arrive."""

    subscribe(bench, mode="latest")
    bench.crm.down = fault

    async def script(_: Dispatcher) -> None:
        for n in range(20):
            await asyncio.to_thread(bench.write, [(str(key), {"n": n}) for key in range(5000)])
            await reached(lambda: bench.waiting() == 5000, 60, every=0.2)
            bench.clock.advance(180)
        assert not [row for row in bench.rows() if row.state != State.PENDING]
        bench.crm.down = ""
        bench.clock.advance(61)
        await reached(lambda: bench.waiting() == 0, 60)

    bench.run(script, clock=bench.clock)

    assert bench.rows() == []
    assert bench.crm.sets["crm"] == {str(key): {"n": 19} for key in range(5000)}
    assert len(bench.crm.received) == 5000


@pytest.mark.parametrize("seed", range(SEEDS))
def test_each_receiver_ends_with_its_set(bench: MergingBench, seed: int) -> None:
    """Moves in and out, deletes, outages, refusals, pauses, restarts, replays, changed policies and filters, by chance.

    Each subscriber's set is kept from its deliveries alone. In the end it has what the source has, once what was
    refused is replayed; where an operator has discarded and forced deliveries, after a backfill with new ids: what was
    forced may have come behind a version whose answer was lost, and which is sent again by its id. No delete shows
    what was never in a set.
    """
    chance = random.Random(seed)
    match, retry = at_least(5), (1.0,) * 1000
    bench.subscribe("all", {"url": "http://a.test"}, retry=retry, mode="latest")
    bench.subscribe("some", {"url": "http://b.test"}, match=match, retry=retry, mode="latest", delay=2.0)
    bench.subscribe("each", {"url": "http://c.test"}, match=match, retry=retry)
    bench.subscribe("calm", {"url": "http://d.test"}, match=match, retry=retry, delay=4.0)
    bench.subscribe("once", {"url": "http://e.test"}, match=match, retry=retry, mode="latest", skip_unchanged=True)
    bench.subscribe("kept", {"url": "http://f.test"}, match=match, retry=retry, on_park="hold")
    bench.subscribe("rough", {"url": "http://g.test"}, match=match, retry=retry)
    least = dict.fromkeys(bench.configs, 5) | {"all": 0}

    async def script(_: Dispatcher) -> None:
        for _ in range(20):
            changes = [
                (str(chance.randrange(12)), chance.choice([None, {"n": chance.randrange(10)}])) for _ in range(6)
            ]
            await asyncio.to_thread(bench.write, changes)
            # One that fails alone with HELD would be parked as its own fault; REFUSED parks it.
            bench.crm.fault = chance.choice([OutcomeKind.RETRY, OutcomeKind.RETRY, OutcomeKind.REFUSED])
            bench.crm.down = chance.choice(["", "", "503"])
            bench.crm.lost = chance.random() < 0.2
            state = chance.choice(["active", "active", "paused"])
            await asyncio.to_thread(bench.set_state, chance.choice(list(bench.configs)), state)
            if chance.random() < 0.2:
                await asyncio.to_thread(bench.replay, chosen_by(chance, bench))
            await asyncio.to_thread(handle_roughly, chance, bench)
            bench.clock.advance(chance.choice([0.0, 0.5, 3.0, 9.0]))
            await asyncio.sleep(0.02)

    async def recover(_: Dispatcher) -> None:
        bench.crm.down, bench.crm.lost = "", False
        for name in bench.configs:
            await asyncio.to_thread(bench.set_state, name, "active")
        await bench.settle(but="kept")  # where what is parked holds others
        await asyncio.to_thread(bench.replay, Filters(failed=True))
        await bench.settle()
        await asyncio.to_thread(bench.replay, Filters(subscriptions=("rough",), new_ids=True), kind="backfill")
        await bench.settle()

    for _ in range(4):
        bench.run(script, then="stop", clock=bench.clock)
        for name in chance.sample([name for name in bench.configs if name != "all"], 4):
            least[name] = chance.randrange(LEAST, 9)
            policy = chance.choice([{"mode": "latest"}, {"mode": "every"}, {"delay": 3.0}, {"delay": 0.0}])
            bench.alter(name, match=at_least(least[name]), policy=policy)
            bench.replay(Filters(subscriptions=(name,)), kind="backfill")
    bench.run(recover, clock=bench.clock)

    expected = {
        name: {key: document for key, document in bench.documents.items() if document["n"] >= at_least}
        for name, at_least in least.items()
    }
    assert [row for row in bench.rows() if row.state != State.SUPERSEDED] == []
    assert all(shown["n"] >= LEAST for name, shown in bench.crm.deleted if name != "all")
    assert {name: bench.crm.sets.get(name, {}) for name in expected} == expected


LEAST = 4  # of the filters


def at_least(n: int) -> Any:
    return {"n": [{">=": n}]}


def handle_roughly(chance: random.Random, bench: MergingBench) -> None:
    """As an operator who gives up on some of "rough", and forces others upon its receiver."""
    operators, key = Operators(bench.store), str(chance.randrange(12))
    if chance.random() < 0.3:
        operators.discard(Choice(subscription="rough", entity="order", key=key), "given up")
    if chance.random() < 0.3:
        states = (State.PARKED, State.SUPERSEDED)
        operators.release(Choice(subscription="rough", entity="order", key=key, states=states), force=True)


def chosen_by(chance: random.Random, bench: MergingBench) -> Filters:
    """A replay as an operator may ask for it."""
    first = chance.randrange(1, bench.transactions)
    filters = [
        Filters(keys=(str(chance.randrange(12)),), entity="order"),
        Filters(subscriptions=(chance.choice(list(bench.configs)),), from_lsn=first, to_lsn=first + 40),
        Filters(from_lsn=first, to_lsn=first + 3),
        Filters(failed=True),
        Filters(entity="order", from_lsn=first, new_ids=True),
    ]
    return chance.choice(filters)
