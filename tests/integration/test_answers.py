"""What receivers ask for in their answers, on a real store: documents again later, documents of derived entities."""

import asyncio
import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from hub.capture.versions import Published
from hub.delivery import Delivery, Forward, Forwarded, Origin, State
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.outcomes import SECOND
from hub.documents import Shape
from hub.entities import Entity
from hub.operate.replay import Filters
from hub.operate.replayer import Replayer
from hub.operate.tracing import read_trace
from hub.project import Limits, Retention
from hub.store import tables
from hub.store.database import Store, now
from hub.store.deliveries import Changes, Deliveries, Update
from hub.store.forwards import Forwards
from hub.store.journal import Journal
from hub.store.replays import Replays
from hub.store.rescheduled import Rescheduled
from hub.store.retention import prune
from hub.subscriptions import Subscription
from tests.integration.dispatching import Bench, MovableClock, reached, start_worker
from tests.receiver import Receiver

pytestmark = pytest.mark.integration

BOTH = ("reschedule", "forward")
HOUR = 3600


@pytest.fixture
def bench(volatile_store: Store) -> Bench:
    return Bench(volatile_store)


def told(receiver: Receiver) -> list[tuple[str, str, int, str]]:
    """Type, subject, version and id of what came."""
    return [
        (entry.json["type"], entry.json["subject"], entry.json["hubversion"], entry.headers["webhook-id"])
        for entry in receiver.log()
    ]


def forwarding(*documents: tuple[str, str, Any]) -> dict[str, Any]:
    """An answer that forwards documents: entity, key, data."""
    return {"body": json.dumps({"forward": [{"entity": e, "key": k, "data": d} for e, k, d in documents]})}


def journal(bench: Bench, entity: str, key: str) -> list[tuple[int, str, Any]]:
    """Version, event and document."""
    found = Journal(bench.store).history(entity, key)
    return [(one.version, one.event.value, json.loads(one.body) if one.body else None) for one in found]


# A document again later


def test_a_rescheduled_document_comes_again_as_it_is_then(bench: Bench, receiver: Receiver) -> None:
    """Not before its time, with the version of that moment and a new id; others go meanwhile."""
    clock = MovableClock()
    bench.subscribe("crm", {"url": receiver.url}, answers=("reschedule",))
    receiver.behave(headers={"hub-reschedule": "3600"})
    bench.commit("1")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        await reached(lambda: [row.state for row in bench.rows()] == [State.RESCHEDULED])
        receiver.behave()
        await asyncio.to_thread(bench.commit, "1")
        await reached(lambda: len(bench.rows(tables.attempt)) == 2)
        clock.advance(HOUR - 60)
        await asyncio.sleep(0.2)
        assert len(receiver.log()) == 2
        clock.advance(61)
        await asyncio.to_thread(receiver.wait_for, 3)

    bench.run(script, clock=clock)

    first, second, again = told(receiver)
    assert [first[:3], second[:3], again[:3]] == [
        ("order.created", "1", 1),
        ("order.updated", "1", 2),
        ("order.created", "1", 2),
    ]
    assert len({first[3], second[3], again[3]}) == 3
    assert bench.rows() == []
    assert [(row.version, row.turn) for row in bench.rows(tables.attempt)] == [(1, 0), (2, 0), (2, 1)]


def test_an_answer_that_comes_twice_plans_once(bench: Bench, receiver: Receiver) -> None:
    """The same delivery again, by a replay here, and a later one of the same document: one waits, the last."""
    clock = MovableClock()
    bench.subscribe("crm", {"url": receiver.url}, answers=("reschedule",))
    receiver.behave(body='{"reschedule": {"after": "1h", "reason": "quota"}}')
    bench.commit("1")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 1)
        await reached(lambda: [row.state for row in bench.rows()] == [State.RESCHEDULED])
        await asyncio.to_thread(replay, bench, "crm")
        await asyncio.to_thread(receiver.wait_for, 2)
        await asyncio.to_thread(bench.commit, "1")
        await asyncio.to_thread(receiver.wait_for, 3)
        await reached(lambda: [(row.state, row.version) for row in bench.rows()] == [(State.RESCHEDULED, 2)])
        assert bench.rows()[0].reason == "quota"
        receiver.behave()
        clock.advance(HOUR + 1)
        await asyncio.to_thread(receiver.wait_for, 4)

    bench.run(script, clock=clock)

    assert [version for _, _, version, _ in told(receiver)] == [1, 1, 2, 2]
    assert bench.rows() == []


def replay(bench: Bench, subscription: str) -> None:
    config = bench.configs[subscription]
    replays, compiled = Replays(bench.store), Subscription.compile(config, Shape({}))
    replayer = Replayer(replays, {subscription: compiled})
    replayer.run(replays.begin("replay", Filters(subscriptions=(subscription,)), 1), None, lambda _: None)


def test_what_left_the_set_or_is_deleted_is_not_planned_again(bench: Bench, receiver: Receiver) -> None:
    """Its `deleted` goes its own way; a delete that is put off comes again as a delete."""
    clock = MovableClock()
    bench.subscribe("crm", {"url": receiver.url}, match={"n": [{"<": 2}]}, answers=("reschedule",))
    receiver.behave(headers={"hub-reschedule": "3600"})
    bench.commit("left")  # version 1 is in the set, version 2 is not
    bench.commit("gone")

    async def script(_: Dispatcher) -> None:
        await asyncio.to_thread(receiver.wait_for, 2)
        await reached(lambda: [row.state for row in bench.rows()] == [State.RESCHEDULED] * 2)
        receiver.behave()
        await asyncio.to_thread(bench.commit, "left", to=[])
        receiver.behave(headers={"hub-reschedule": "3600"}, containing="order.deleted")
        await asyncio.to_thread(bench.commit, "gone", deleted=True)
        await asyncio.to_thread(receiver.wait_for, 3)
        await reached(lambda: [row.event for row in bench.rows() if row.key == "gone"] == [2])
        receiver.behave(containing="order.deleted")
        clock.advance(HOUR + 1)
        await asyncio.to_thread(receiver.wait_for, 4)

    bench.run(script, clock=clock)

    assert [entry[:3] for entry in told(receiver)[2:]] == [("order.deleted", "gone", 2)] * 2
    assert len({entry[3] for entry in told(receiver)[2:]}) == 2
    assert bench.rows() == []


def test_one_that_came_due_while_nothing_ran_is_planned_at_the_start(bench: Bench, receiver: Receiver) -> None:
    """What is put off is in the store, not in memory."""
    bench.subscribe("crm", {"url": receiver.url}, answers=("reschedule",))
    receiver.behave(headers={"hub-reschedule": "2"})
    bench.commit("1")
    bench.run()
    receiver.behave()
    with bench.store.write() as connection:
        connection.execute(tables.delivery.update().values(due_at=now() - 1))
    bench.run()

    assert len({id for _, _, _, id in told(receiver)}) == 2
    assert bench.rows() == []


def test_what_is_planned_again_is_known_to_be_no_first(bench: Bench, receiver: Receiver) -> None:
    """Its receiver has the document: what follows may not be merged with it as if it had never been sent."""
    bench.subscribe("crm", {"url": receiver.url}, answers=("reschedule",))
    receiver.behave(body='{"reschedule": {"after": 2, "reason": "quota"}}')
    bench.commit("1")
    bench.run()
    id = bench.store.name_id("subscription", "crm")
    subscription = Subscription.compile(bench.configs["crm"], Shape({}))
    rescheduled = Rescheduled(bench.store, {id: subscription}, [])
    counts = [rescheduled.plan(now() + moment * SECOND) for moment in (0, 3, 3)]

    assert counts == [0, 1, 0]
    (row,) = bench.rows()
    assert (row.state, row.version, row.turn, row.reason) == (State.PENDING, 1, 1, "Rescheduled: quota")


def test_of_two_answers_that_are_written_together_the_last_one_waits(bench: Bench) -> None:
    """Neither takes the other away."""
    bench.subscribe("crm", {"path": "-"}, answers=("reschedule",))
    bench.commit("1")
    bench.commit("1")
    deliveries = Deliveries(bench.store)
    changes = Changes()
    for row in bench.rows():
        one = Delivery(
            row.seq, row.subscription_id, row.entity_id, row.key, row.version, row.turn, row.event, 0, 0, row.created_at
        )
        changes.updates.append(Update(one.seq, State.RESCHEDULED, 0, now(), "quota"))
        changes.rescheduled.append(one)
    deliveries.write(changes)

    assert [(row.state, row.version) for row in bench.rows()] == [(State.RESCHEDULED, 2)]


# Documents of derived entities


def test_forwarded_documents_are_documents_like_others(bench: Bench, receiver: Receiver, tmp_path: Path) -> None:
    """Versions go on, also after a delete; what is the same gives none; each goes to who subscribes, with lineage."""
    bench.derive("lead_score", "crm")
    bench.subscribe("crm", {"url": receiver.url}, answers=BOTH)
    bench.subscribe("scores", {"path": str(tmp_path / "scores.jsonl")}, entity="lead_score", match={"points": [9, 7]})
    answers = [
        {"points": 9, "name": "Ada"},
        {"name": "Ada", "points": 9},
        {"points": 5},
        None,
        {"points": 7},
    ]
    for version, data in enumerate(answers, start=1):
        receiver.behave(containing=f'"hubversion":{version},', **forwarding(("lead_score", "42", data)))
        bench.commit("1")
    bench.run()

    assert journal(bench, "lead_score", "42") == [
        (1, "created", {"points": 9, "name": "Ada"}),
        (2, "updated", {"points": 5}),
        (3, "deleted", None),
        (4, "created", {"points": 7}),
    ]
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [(line["event"], line["version"]) for line in lines] == [("created", 1), ("deleted", 2), ("created", 4)]
    newest = Journal(bench.store).newest("lead_score", "42")
    assert newest
    assert newest.transaction == 705  # of the order's commit
    trace = read_trace(bench.store, newest)
    assert trace.forwarded_by
    assert (trace.forwarded_by.subscription, trace.forwarded_by.entity, trace.forwarded_by.version) == (
        "crm",
        "order",
        5,
    )
    order = Journal(bench.store).version("order", "1", 5)
    assert order
    (delivery,) = read_trace(bench.store, order).deliveries
    assert delivery.id == trace.forwarded_by.id
    assert [(one.entity, one.key, one.version) for one in delivery.forwarded] == [("lead_score", "42", 4)]


@pytest.mark.parametrize(
    ("answers", "document", "reason"),
    [
        (BOTH, ("order", "1", {}), "only derived entities can be forwarded"),
        (BOTH, ("lead_scores", "1", {}), "there is no such entity"),
        (BOTH, ("other", "1", {}), "whose `from` does not name crm"),
        (BOTH, ("lead_score", "", {}), "a key that is empty"),
        (BOTH, ("lead_score", "a\0b", {}), "a NUL character"),
        (BOTH, ("lead_score", "1", [1]), "data that is no JSON object"),
    ],
)
def test_what_may_not_be_forwarded_parks_the_delivery(
    tmp_path: Path, receiver: Receiver, answers: tuple[str, ...], document: tuple[str, str, Any], reason: str
) -> None:
    """With the reason; nothing of the answer is followed, and once mended a retry follows all of it."""
    bench = Bench(Store(f"sqlite:///{tmp_path}/hub.db", durable=False))
    bench.derive("lead_score", "crm")
    bench.derive("other", "shop")
    bench.subscribe("crm", {"url": receiver.url}, answers=answers)
    receiver.behave(**forwarding(("lead_score", "42", {"points": 1}), document))
    bench.commit("1")
    bench.run()

    (row,) = bench.rows()
    assert row.state == State.PARKED
    assert reason in row.reason
    assert journal(bench, "lead_score", "42") == []
    bench.store.close()


def test_a_circle_ends_at_the_hop_limit(bench: Bench, receiver: Receiver) -> None:
    """Two services that answer each other for ever: the ninth forward is parked, with the reason."""
    bench.derive("ping", "crm", "echo")
    bench.subscribe("crm", {"url": receiver.url}, answers=BOTH)
    bench.subscribe("echo", {"url": receiver.url + "/echo"}, entity="ping", answers=BOTH)
    receiver.behave("/hooks", **forwarding(("ping", "1", {"n": 0})))
    for n in range(20):
        receiver.behave("/hooks/echo", containing=f'"document":{{"n":{n}}}', **forwarding(("ping", "1", {"n": n + 1})))
    bench.commit("1")
    bench.run()

    assert [version for version, _, _ in journal(bench, "ping", "1")] == list(range(1, 9))
    (row,) = bench.rows()
    assert (row.state, row.version) == (State.PARKED, 8)
    assert "8 forwards from the source" in row.reason


def test_workers_that_forward_to_one_document_at_once_follow_each_other(bench: Bench) -> None:
    """Numbers go on without a gap or a double, and deliveries come in the order of versions."""
    bench.derive("lead_score", "crm")
    bench.subscribe("scores", {"path": "-"}, entity="lead_score")
    entity = Entity("lead_score", "", (), (), Shape({}))
    compiled = Subscription.compile(bench.configs["scores"], Shape({}))
    id = bench.store.name_id("entity", "lead_score")
    published = {"lead_score": Published(id, entity, [(bench.store.name_id("subscription", "scores"), compiled)])}
    stores = [Store(bench.store.url.render_as_string(hide_password=False), durable=False) for _ in range(3)]

    def forward(store: Store, worker: int) -> None:
        forwards = Forwards(published)
        for number in range(15):
            delivery = Delivery(1, 1, bench.entity_id, str(worker), number + 1, 0, 0, 0, 0, 0)
            document = Forward("lead_score", "42", json.dumps({"from": [worker, number]}).encode())
            forwarded = [Forwarded(delivery, Origin(1, 1, 0), (document,))]
            with store.write() as connection:
                forwards.hold(connection, forwarded)
                forwards.write(connection, forwarded)

    threads = [threading.Thread(target=forward, args=(store, worker)) for worker, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for store in stores:
        store.close()

    assert [version for version, _, _ in journal(bench, "lead_score", "42")] == list(range(1, 46))
    assert [row.version for row in bench.rows()] == list(range(1, 46))
    assert [row.version for row in bench.rows(tables.lineage)] == list(range(1, 46))


def test_a_killed_worker_forwards_and_reschedules_once(tmp_path: Path, receiver: Receiver) -> None:
    """Killed again and again after receivers answered: each document is forwarded once, and waits once."""
    bench = Bench(Store(f"sqlite:///{tmp_path}/hub.db", durable=False))
    bench.derive("lead_score", "crm")
    bench.subscribe("crm", {"url": receiver.url}, limits=Limits(concurrency=4), answers=BOTH)
    keys = [f"k{number:02}" for number in range(40)]
    for key in keys:
        answer = json.loads(forwarding(("lead_score", key, {"of": key}))["body"]) | {"reschedule": {"after": "1h"}}
        receiver.behave(containing=f'"subject":"{key}"', body=json.dumps(answer), delay=0.02)
    bench.commit(*keys)
    for count in (3, 6, 9):
        worker = start_worker(bench.store, receiver.url, 4)
        try:
            receiver.wait_for(count)
        finally:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
    killed_at = len(receiver.log())
    bench.run()

    rows = bench.rows()
    assert sorted(row.key for row in rows) == keys
    assert {row.state for row in rows} == {State.RESCHEDULED}
    assert all(journal(bench, "lead_score", key) == [(1, "created", {"of": key})] for key in keys)
    assert killed_at < len(receiver.log())
    bench.store.close()


def test_lineage_goes_with_its_version(bench: Bench, receiver: Receiver) -> None:
    """Retention leaves no more of it than of documents."""
    bench.derive("lead_score", "crm")
    bench.subscribe("crm", {"url": receiver.url}, answers=BOTH)
    for version in (1, 2):
        receiver.behave(containing=f'"hubversion":{version},', **forwarding(("lead_score", "42", {"points": version})))
        bench.commit("1")
    bench.run()
    prune(bench.store, Retention(documents=0, attempts=0), now() + 10)

    assert [row.version for row in bench.rows(tables.lineage)] == [2]
