from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from hub.catalogue import Kind
from hub.delivery import State
from hub.documents import Field, Shape
from hub.errors import FaultError, InputError
from hub.operate.replay import Filters
from hub.operate.replayer import Replayer
from hub.project import DeliveryPolicy, SubscriptionConfig
from hub.store import tables
from hub.store.database import Store
from hub.store.ledger import OPEN
from hub.store.pieces import Pieces
from hub.store.replays import Replay, Replays, Send
from hub.subscriptions import Subscription

SHAPE = Shape({"status": Field(Kind.TEXT)})
BOTH = Filters(entity="order")


class Killed(BaseException):
    """Stands for the end of the process between two store transactions."""


def _subscription(name: str, entity: str = "order", **settings: Any) -> Subscription:
    return Subscription.compile(SubscriptionConfig(name, entity, name, **settings), SHAPE)


def _replayer(store: Store, *subscriptions: Subscription) -> Replayer:
    return Replayer(Replays(store), {one.name: one for one in subscriptions})


def _queue(store: Store) -> list[tuple[str, str, int, int, int]]:
    """(subscription, key, version, before, turn) of every delivery, in the order of the queue."""
    with store.read() as connection:
        rows = connection.execute(sa.select(tables.delivery).order_by(tables.delivery.c.seq)).all()
    return [(store.name(r.subscription_id), r.key, r.version, r.before_version, r.turn) for r in rows]


def _begin(store: Store, worker: Replayer, filters: Filters, kind: str = "replay") -> Replay:
    return Replays(store).begin(kind, filters, worker.plan(kind, filters).total)


def _run(store: Store, worker: Replayer, filters: Filters, kind: str = "replay") -> Replay:
    return worker.run(_begin(store, worker, filters, kind), None, lambda written: None)


def _every(count: int) -> Callable[[int], None]:
    """Progress that is killed after so many pieces."""
    left = [count]

    def progress(written: int) -> None:
        left[0] -= 1
        if not left[0]:
            raise Killed

    return progress


def test_a_replay_is_planned_and_written(store: Store, rows: Any) -> None:
    """Every chosen version to every subscription, in order, each document ending with its newest."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"}, {"status": "c"})
    rows.versions("order", "2", {"status": "a"})
    rows.versions("other", "1", {"status": "a"})
    worker = _replayer(store, _subscription("crm"), _subscription("mail", match={"status": ["c"]}))
    filters = Filters(entity="order", to_lsn=0x200)

    plan = worker.plan("replay", filters)
    done = _run(store, worker, filters)

    assert (plan.documents, plan.versions, dict(plan.deliveries)) == (2, 4, {"crm": 4})
    assert (done.planned, done.written, done.finished_at > 0) == (4, 4, True)
    assert _queue(store) == [("crm", "1", 1, 0, 0), ("crm", "1", 2, 1, 0), ("crm", "1", 3, 2, 0), ("crm", "2", 1, 0, 0)]


def test_a_replay_killed_at_any_point_goes_on(store: Store, rows: Any) -> None:
    """No delivery is twice in the queue and none is missing, wherever it was cut off."""
    for number in range(250):
        rows.versions("order", f"{number:03}", {"status": "a"}, {"status": "b"})
    worker = _replayer(store, _subscription("crm"), _subscription("mail"))
    begun = _begin(store, worker, BOTH)

    kills = 0
    while True:
        try:
            done = worker.run(Replays(store).unfinished(), None, _every(2))
            break
        except Killed:
            kills += 1

    expected = [(name, f"{n:03}", v, v - 1, 0) for n in range(250) for name in ("crm", "mail") for v in (1, 2)]
    assert kills > 1
    assert _queue(store) == expected
    assert (begun.id, done.written) == (done.id, 1000)


def test_a_version_made_meanwhile_comes_last(store: Store, rows: Any) -> None:
    """Capture's own delivery of it gets its place behind the replay's older versions."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"})
    replays, worker = Replays(store), _replayer(store, _subscription("crm"))
    begun = _begin(store, worker, Filters(entity="order", to_lsn=0x100))
    planned = next(worker.pages("replay", begun.filters, begun.cursor, begun.id, lambda: 100))
    rows.versions("order", "1", {"status": "c"}, first=3)
    rows.delivery("crm", "order", "1", 3)

    assert replays.write(begun, begun.cursor, planned, Pieces()) == 0
    worker.run(begun, None, lambda written: None)

    assert [entry[2] for entry in _queue(store)] == [1, 3]


def test_a_parked_delivery_gets_a_new_place(store: Store, rows: Any) -> None:
    """`failed` chooses what is parked, takes it out of its old place, and ends with the newest."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"}, {"status": "c"})
    rows.versions("order", "2", {"status": "a"})
    rows.delivery("crm", "order", "1", 2, state=int(State.PARKED), reason="Refused: 400", attempts=3)
    rows.delivery("mail", "order", "2", 1, state=int(State.PENDING))
    worker = _replayer(store, _subscription("crm"), _subscription("mail"))

    _run(store, worker, Filters(failed=True))

    assert _queue(store) == [("mail", "2", 1, 0, 0), ("crm", "1", 2, 1, 0), ("crm", "1", 3, 2, 0)]
    with store.read() as connection:
        states = connection.scalars(sa.select(tables.delivery.c.state)).all()
    assert set(states) == {int(State.PENDING)}


def test_a_replay_of_failed_ones_killed_half_way_still_ends_with_the_newest(store: Store, rows: Any) -> None:
    """What it queued itself still counts as chosen."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"}, {"status": "c"})
    rows.delivery("crm", "order", "1", 2, state=int(State.PARKED))
    worker = _replayer(store, _subscription("crm"))
    begun = _begin(store, worker, Filters(failed=True))
    first = next(worker.pages("replay", begun.filters, begun.cursor, begun.id, lambda: 100))[:1]
    Replays(store).write(begun, begun.cursor, first, Pieces())

    worker.run(Replays(store).unfinished(), None, lambda written: None)

    assert [entry[2] for entry in _queue(store)] == [2, 3]


def test_ids_stay_unless_new_ones_are_asked_for(store: Store, rows: Any) -> None:
    """The turn is the last known one; with `new_ids` it is one that no replay has given before."""
    rows.versions("order", "1", {"status": "a"})
    rows.attempt("crm", "order", "1", 1, turn=1)
    worker = _replayer(store, _subscription("crm"))

    turns = []
    for new_ids in (False, True, False, True):
        _run(store, worker, Filters(entity="order", new_ids=new_ids))
        turns.append(_queue(store)[0][4])

    assert turns == [1, 2, 2, 4]


def test_two_processes_do_not_write_one_replay(store: Store, rows: Any) -> None:
    """The second one finds the cursor moved."""
    rows.versions("order", "1", {"status": "a"})
    replays, worker = Replays(store), _replayer(store, _subscription("crm"))
    begun = _begin(store, worker, BOTH)
    worker.run(begun, None, lambda written: None)

    with pytest.raises(FaultError, match="another process"):
        replays.write(begun, begun.cursor, [_only(worker, begun)], Pieces())


def _only(worker: Replayer, begun: Replay) -> Send:
    return next(worker.pages("replay", begun.filters, begun.cursor, begun.id, lambda: 100))[0]


def test_latest_queues_the_newest_alone(store: Store, rows: Any) -> None:
    """One delivery a document."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"}, {"status": "c"})
    worker = _replayer(store, _subscription("crm", delivery=DeliveryPolicy(mode="latest")))

    _run(store, worker, Filters(entity="order", to_lsn=0x100))

    assert _queue(store) == [("crm", "1", 3, 2, 0)]


def test_a_backfill_queues_the_current_documents_of_the_set(store: Store, rows: Any) -> None:
    """Over several pages, as created, deleted ones and those outside left out."""
    for number in range(250):
        rows.versions("order", f"{number:03}", {"status": "a"}, {"status": "b" if number % 2 else "c"})
    rows.versions("order", "gone", {"status": "b"}, None)
    worker = _replayer(store, _subscription("crm", match={"status": ["b"]}))

    done = _run(store, worker, Filters(subscriptions=("crm",)), "backfill")

    assert done.written == 125
    assert _queue(store) == [("crm", f"{n:03}", 2, 0, 0) for n in range(1, 250, 2)]
    with store.read() as connection:
        found = connection.execute(sa.select(tables.delivery.c.event, tables.delivery.c.cause).distinct()).all()
    assert [tuple(row) for row in found] == [(0, 4)]


def test_a_backfill_deletes_what_the_receiver_may_have_outside_the_set(store: Store, rows: Any) -> None:
    """What it accepted, what an attempt may have left there and what waits; not what it has deleted or never had.

    What is shown of it was in a set once: version 2 is in none, and nobody was ever sent it.
    """
    for key in "abcdefghik":
        rows.versions("order", key, {"status": "in"}, {"status": "never"}, {"status": "out"})
    rows.holding("crm", "order", "a", 1)
    rows.holding("crm", "order", "b", 3, content=b"", event=2)
    rows.holding("crm", "order", "c", 0, content=OPEN)
    rows.attempt("crm", "order", "c", 1, event=0, outcome=3)
    rows.delivery("crm", "order", "d", 1)
    rows.delivery("crm", "order", "e", 1, state=int(State.SUPERSEDED))
    rows.holding("crm", "order", "f", 3, content=OPEN, event=2)
    rows.attempt("crm", "order", "f", 1, event=0, outcome=1)
    rows.attempt("crm", "order", "f", 3, event=2)
    rows.holding("crm", "order", "g", 0, content=OPEN)
    rows.delivery("crm", "order", "h", 3, event=2, before_version=1, state=int(State.PARKED))
    rows.holding("crm", "order", "i", 3)
    rows.holding("mail", "order", "k", 1)
    worker = _replayer(store, _subscription("crm", match={"status": ["in"]}))
    filters = Filters(subscriptions=("crm",))

    plan = worker.plan("backfill", filters)
    begun = _run(store, worker, filters, "backfill")

    shown = {"a": 1, "c": 1, "d": 1, "f": 1, "g": 0, "h": 1, "i": 3}
    assert (plan.deleted, begun.written) == (len(shown), len(shown))
    found = [(key, version, before, turn) for _, key, version, before, turn in _queue(store) if version == 3]
    assert found == [(key, 3, before, begun.id if key in "fi" else 0) for key, before in shown.items()]


def test_a_backfill_shows_no_version_that_is_not_kept(store: Store, rows: Any) -> None:
    """The next one that is may have been outside the set."""
    rows.versions("order", "a", {"status": "in"}, {"status": "out"}, first=7)
    rows.holding("crm", "order", "a", 3)
    worker = _replayer(store, _subscription("crm", match={"status": ["in"]}))

    _run(store, worker, Filters(subscriptions=("crm",)), "backfill")

    assert [(version, before) for _, _, version, before, _ in _queue(store)] == [(8, 0)]


def test_what_was_forced_upon_a_receiver_is_put_right(store: Store, rows: Any) -> None:
    """It has taken the newest version, and then an older one: the newest comes with a new id."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"})
    rows.attempt("crm", "order", "1", 2)
    rows.attempt("crm", "order", "1", 1)
    rows.holding("crm", "order", "1", 1)
    worker = _replayer(store, _subscription("crm"))

    begun = _run(store, worker, Filters(subscriptions=("crm",)), "backfill")

    assert _queue(store) == [("crm", "1", 2, 0, begun.id)]


def test_a_parked_one_of_another_filter_gives_way_to_what_settles_it(store: Store, rows: Any) -> None:
    """With `on_park: hold` it would hold that too. The others of its document stay."""
    rows.versions("order", "1", {"status": "old"}, {"status": "old"}, {"status": "new"})
    for subscription in ("crm", "mail"):
        rows.delivery(subscription, "order", "1", 1, event=0, state=int(State.PARKED))
    worker = _replayer(store, _subscription("crm", match={"status": ["none"]}))

    _run(store, worker, Filters(subscriptions=("crm",), failed=True))

    assert _queue(store) == [("mail", "1", 1, 0, 0), ("crm", "1", 3, 1, 0)]


def test_a_version_that_was_accepted_gets_a_new_id_behind_one_that_was_not(store: Store, rows: Any) -> None:
    """Also when the replay was cut off between the two, and the first has been delivered meanwhile."""
    rows.versions("order", "1", {"status": "a"}, {"status": "b"}, {"status": "c"})
    rows.attempt("crm", "order", "1", 1)
    rows.attempt("crm", "order", "1", 2, outcome=3)
    rows.attempt("crm", "order", "1", 3)
    worker = _replayer(store, _subscription("crm"))
    begun = _begin(store, worker, BOTH)
    first = next(worker.pages("replay", begun.filters, begun.cursor, begun.id, lambda: 100))[:2]
    Replays(store).write(begun, begun.cursor, first, Pieces())
    with store.write() as connection:
        connection.execute(tables.delivery.delete())
    rows.attempt("crm", "order", "1", 2, number=2, replay_id=begun.id)

    worker.run(Replays(store).unfinished(), None, lambda written: None)

    assert [step.step.version for step in first] == [1, 2]
    assert _queue(store) == [("crm", "1", 3, 2, begun.id)]


def test_a_template_that_fails_parks_its_delivery(store: Store, rows: Any) -> None:
    """Nothing is left out in silence: the plan counts it, the queue names the reason."""
    rows.versions("order", "1", {"status": "a"})
    worker = _replayer(store, _subscription("crm", where="doc.nowhere.deeper"))

    assert worker.plan("replay", BOTH).undecided == 1
    _run(store, worker, BOTH)

    with store.read() as connection:
        row = connection.execute(sa.select(tables.delivery)).one()
    assert (row.state, "where:" in row.reason) == (int(State.PARKED), True)


def test_only_an_unfinished_replay_can_be_resumed(store: Store, rows: Any) -> None:
    """The newest one that was cut off is found by itself."""
    with pytest.raises(InputError, match="cut off"):
        Replays(store).unfinished()
    with pytest.raises(InputError, match="no replay 7"):
        Replays(store).get(7)
