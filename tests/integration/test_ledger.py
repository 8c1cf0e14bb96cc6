"""What receivers have, on a real store: what is unchanged is skipped, and nothing older goes out by itself."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from hub.delivery import Message, Outcome, OutcomeKind, State
from hub.dispatch.dispatcher import Dispatcher
from hub.operate.tracing import Trace, read_trace
from hub.project import Destination
from hub.store import tables
from hub.store.database import Store, now
from hub.store.journal import Journal
from hub.store.migrate import upgrade
from hub.store.operators import Choice, Operators
from tests.integration.dispatching import Bench, reached

pytestmark = pytest.mark.integration

DELIVERED, REFUSED = Outcome(OutcomeKind.DELIVERED, receiver_id="crm-1"), Outcome(OutcomeKind.REFUSED, "400")
BODY = {"a": "{{ doc.a }}"}
OPEN = b"\0"  # the content of what is not known to be unchanged
ONE_STORE = pytest.mark.parametrize("empty_store", ["sqlite"], indirect=True)  # nothing here is about its SQL


class LedgerBench(Bench):
    """One receiver in memory, and documents that a test chooses."""

    batch = 1

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.document: dict[str, Any] = {}
        self.outcomes: dict[int, Outcome] = {}  # by version; else it is delivered
        self.received: list[int] = []  # versions
        self.ids: list[str] = []  # that came with them
        self.remembers = False

    def _document(self, key: str, version: int) -> dict[str, Any]:
        return super()._document(key, version) | {"body": msgspec.json.encode(self.document)}

    def _opener(self, destination: Destination) -> Callable[[], Any]:
        return lambda: self

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        (message,) = messages
        self.received.append(message.version)
        self.ids.append(message.receiver_id)
        return [self.outcomes.get(message.version, DELIVERED)]

    async def close(self) -> None: ...

    async def send(self, **document: Any) -> None:
        """A version, until it is settled or parked."""
        self.document = document
        await self.act(lambda: self.commit("1", deleted=not document))

    async def act(self, change: Callable[[], Any]) -> None:
        await asyncio.to_thread(change)
        await reached(lambda: all(row.state not in (State.PENDING, State.RELEASED) for row in self.rows()))

    def during(self, script: Callable[[], Awaitable[None]]) -> None:
        """Run the role, and the script once what waited before has been read."""

        async def begin(dispatcher: Dispatcher) -> None:
            await reached(dispatcher.settled)
            await script()

        self.run(begin)

    def trace(self, version: int) -> Trace:
        found = Journal(self.store).version("order", "1", version)
        assert found
        return read_trace(self.store, found)

    def states(self) -> dict[int, State]:
        return {row.version: State(row.state) for row in self.rows()}


@pytest.fixture
def bench(empty_store: Store) -> Iterator[LedgerBench]:
    bench = LedgerBench(empty_store)
    bench.subscribe("crm", {"url": "http://crm.test"}, body=BODY, skip_unchanged=True)
    yield bench


def test_what_is_unchanged_is_not_sent(bench: LedgerBench) -> None:
    """It is settled, and the trace says so and what the receiver has: as of the newest version, by its own name."""

    async def script() -> None:
        await bench.send(a=1, unseen=1)
        bench.outcomes = dict.fromkeys(range(9), Outcome(OutcomeKind.DELIVERED))  # it names its id once
        await bench.send(a=1, unseen=2)
        await bench.send(a=1, unseen=3)
        await bench.send(a=2, unseen=3)
        await bench.send(a=2, unseen=4)

    bench.during(script)

    assert bench.received == [1, 4]
    (delivery,) = bench.trace(3).deliveries
    assert (delivery.state, delivery.attempts[0].outcome) == ("unchanged", "unchanged")
    assert delivery.attempts[0].detail == "Not sent: it says the same as version 2, which the receiver has."
    (holding,) = bench.trace(3).holdings
    accepted = bench.trace(4).deliveries[0].attempts[0].ended_at
    assert (holding.subscription, holding.version, holding.receiver_id) == ("crm", 5, "crm-1")
    assert holding.accepted_at == accepted


@ONE_STORE
def test_all_is_sent_where_nothing_else_is_asked_for(bench: LedgerBench) -> None:
    """skip_unchanged is off by default; the ledger is kept all the same."""
    bench.subscribe("crm", {"url": "http://crm.test"}, body=BODY)

    async def script() -> None:
        await bench.send(a=1)
        await bench.send(a=1)

    bench.during(script)

    assert bench.received == [1, 2]
    assert [holding.version for holding in bench.trace(2).holdings] == [2]


def test_a_document_that_comes_again_is_sent(bench: LedgerBench) -> None:
    """The receiver has deleted it; what it called it is nothing any more."""
    bench.outcomes = {2: Outcome(OutcomeKind.DELIVERED), 3: Outcome(OutcomeKind.DELIVERED)}

    async def script() -> None:
        await bench.send(a=1)
        await bench.send()
        await bench.send(a=1)

    bench.during(script)

    assert bench.received == [1, 2, 3]
    assert [(one.version, one.receiver_id) for one in bench.trace(3).holdings] == [(3, "")]


def test_an_attempt_that_failed_leaves_open_what_the_receiver_has(bench: LedgerBench) -> None:
    """It may have taken version 2 and answered wrongly: 3 says what 1 said, and is sent."""
    bench.outcomes = {2: REFUSED}

    async def script() -> None:
        await bench.send(a=1)
        await bench.send(a=2)
        await bench.send(a=1)
        await bench.send(a=1)

    bench.during(script)

    assert bench.received == [1, 2, 3]
    assert bench.states() == {2: State.SUPERSEDED}


@ONE_STORE
def test_what_is_not_stored_yet_counts(bench: LedgerBench) -> None:
    """Version 2 was accepted, and 3 follows before the store knows: the store alone would say that 3 is as 1 was."""

    def commits() -> None:
        for a in (2, 1, 1, 2):
            bench.document = {"a": a}
            bench.commit("1")

    async def script() -> None:
        await bench.send(a=1)
        await bench.act(commits)

    bench.during(script)

    assert bench.received == [1, 2, 3, 5]


@ONE_STORE
@pytest.mark.parametrize(
    ("mode", "waiting", "received"),
    [
        ("every", (2, 1), [1, 2, 3]),
        ("latest", (2, 1), [1, 3]),
        ("every", (1,), [1, 2]),  # it may have gone out with another body, before the subscription was edited
    ],
)
def test_what_an_earlier_process_may_have_begun_is_sent(
    bench: LedgerBench, mode: str, waiting: Sequence[int], received: list[int]
) -> None:
    """Killed after the receiver accepted version 2, before the store knew: what waits is sent."""
    bench.subscribe("crm", {"url": "http://crm.test"}, body=BODY, mode=mode, skip_unchanged=True)

    async def script() -> None:
        await bench.send(a=1)

    bench.during(script)
    for a in waiting:
        bench.document = {"a": a}
        bench.commit("1")
    bench.run()

    assert bench.received == received
    assert bench.rows() == []


@ONE_STORE
def test_what_an_operator_or_a_replay_asks_for_is_sent(bench: LedgerBench) -> None:
    """Version 2, which is as 1 is, was parked by capture and is retried; then it is replayed."""

    def again(**values: Any) -> None:
        row = bench._delivery("crm", "1", 2, now()) | values
        with bench.store.write() as connection:
            connection.execute(tables.delivery.insert().values(**row))
        bench.store.ring("dispatch")

    async def script() -> None:
        await bench.send(a=1)
        bench.commit("1", to=[])
        await bench.act(lambda: again(state=int(State.PARKED)))
        await bench.act(lambda: Operators(bench.store).release(Choice(), force=False))
        await bench.act(lambda: again(replay_id=1))

    bench.during(script)

    assert bench.received == [1, 2, 2]
    assert bench.rows() == []


@ONE_STORE
@pytest.mark.parametrize("retargeted", [False, True])
def test_a_changed_subscription_skips_nothing_that_its_receiver_lacks(bench: LedgerBench, retargeted: bool) -> None:
    """Another body, or another destination."""

    async def script() -> None:
        await bench.send(a=1)

    bench.during(script)
    if retargeted:
        bench.destinations["other"] = bench.destinations["crm"]
        bench.configs["crm"] = dataclasses.replace(bench.configs["crm"], to="other")
    else:
        bench.configs["crm"] = dataclasses.replace(bench.configs["crm"], body={"b": "{{ doc.a }}"})
    bench.during(script)

    assert bench.received == [1, 2]


@pytest.mark.parametrize("remembers", [True, False])
def test_what_a_receiver_calls_a_document_comes_with_the_next(bench: LedgerBench, remembers: bool) -> None:
    """Until it has deleted it. It names it once; what the store does not know yet counts; a connector may not ask."""
    bench.subscribe("crm", {"url": "http://crm.test"}, body=BODY)
    bench.remembers = remembers
    bench.outcomes = {2: Outcome(OutcomeKind.DELIVERED), 3: REFUSED}

    def commits() -> None:
        for a in (2, 3, 4):
            bench.document = {"a": a}
            bench.commit("1")

    async def script() -> None:
        await bench.send(a=1)
        await bench.act(commits)
        await bench.send()
        await bench.send(a=6)
        await bench.send(a=7)

    bench.during(script)

    assert bench.received == [1, 2, 3, 4, 5, 6, 7]
    named = ["", "crm-1", "crm-1", "crm-1", "crm-1", "", "crm-1"]
    assert bench.ids == (named if remembers else [""] * 7)


def test_what_one_receiver_calls_a_document_is_not_said_to_another(bench: LedgerBench) -> None:
    """Only a key is other: it may be another account's, whose ids are those of other documents."""
    bench.remembers = True

    async def script() -> None:
        await bench.send(a=bench.versions.get("1", 0))

    for token in ("one", "two", "two", "one"):
        bench.subscribe("crm", {"url": "http://crm.test", "headers": {"x-token": token}}, body=BODY)
        bench.during(script)

    assert bench.ids == ["", "", "crm-1", ""]


def test_nothing_older_goes_out_by_a_retry(bench: LedgerBench) -> None:
    """Though the attempts that say what was accepted were pruned. --force sends it; then the receiver has that."""
    operators = Operators(bench.store)
    bench.document = {"a": 0}
    bench.commit("1")
    with bench.store.write() as connection:  # as capture does, where `where` fails
        connection.execute(tables.delivery.update().values(state=int(State.PARKED)))

    async def script() -> None:
        await bench.send(a=1)
        with bench.store.write() as connection:
            connection.execute(sa.delete(tables.attempt))
        await bench.act(lambda: operators.release(Choice(), force=False))
        assert (bench.received, bench.states()) == ([2], {1: State.SUPERSEDED})
        await bench.act(lambda: operators.release(Choice(), force=True))

    bench.during(script)

    assert bench.received == [2, 1]
    assert [holding.version for holding in bench.trace(2).holdings] == [1]


def test_a_discarded_one_leaves_open_what_the_receiver_has(bench: LedgerBench) -> None:
    """Its attempt may have begun in a process that was killed."""

    async def script() -> None:
        await bench.send(a=1)

    bench.during(script)
    bench.document = {"a": 2}
    bench.commit("1")
    Operators(bench.store).discard(Choice(), "not wanted")
    bench.during(script)

    assert bench.received == [1, 3]


def test_a_store_of_an_earlier_version_has_what_its_attempts_say(store: Store, rows: Any) -> None:
    """By document and subscription the last that was accepted, whatever was refused later."""
    rows.attempt("crm", "order", "42", 1)
    rows.attempt("crm", "order", "42", 2, outcome=2)
    rows.attempt("crm", "order", "42", 3, outcome=3)
    rows.attempt("mail", "order", "42", 1)
    rows.attempt("mail", "order", "43", 1, outcome=1)
    with store.write() as connection:
        connection.execute(sa.DDL("DROP TABLE ledger"))
        connection.execute(sa.DDL("UPDATE alembic_version SET version_num = '0005'"))

    upgrade(store)

    with store.read() as connection:
        held = connection.execute(sa.select(tables.ledger)).all()
    assert [(store.name(row.subscription_id), row.key, row.version, row.content) for row in held] == [
        ("crm", "42", 2, OPEN),
        ("mail", "42", 1, OPEN),
    ]
    assert held[0].accepted_at == rows.epoch + 2_000_000 + 5000 + 3000
