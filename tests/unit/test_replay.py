from typing import Any

import pytest

from hub.catalogue import Kind
from hub.documents import Cause, Event, Field, Shape, Version, encode
from hub.errors import InputError
from hub.operate.replay import (
    DocumentReplay,
    Earlier,
    Filters,
    Past,
    Step,
    plan_backfill,
    plan_leave,
    refuse_empty,
    renew,
)
from hub.project import DeliveryPolicy, SubscriptionConfig
from hub.subscriptions import Subscription

SHAPE = Shape({"status": Field(Kind.TEXT), "note": Field(Kind.TEXT)})
C, U, D = Event.CREATED, Event.UPDATED, Event.DELETED


def _version(number: int, tree: Any, before: Any) -> Version:
    event = D if tree is None else C if before is None else U
    return Version(
        entity="order",
        key="42",
        version=number,
        event=event,
        cause=Cause.ROW,
        lsn=number * 0x100,
        transaction=700 + number,
        committed_at=number * 1000,
        body=None if tree is None else encode(tree),
    )


def _versions(*statuses: str | None, first: int = 1) -> list[Version]:
    """One version for each status; None is a delete. Before the first there is none unless it is not number 1."""
    trees: list[Any] = [None if status is None else {"status": status, "note": "x"} for status in statuses]
    before = [None if first == 1 else {}, *trees]
    return [_version(first + place, tree, before[place]) for place, tree in enumerate(trees)]


def _subscription(**settings: Any) -> Subscription:
    return Subscription.compile(SubscriptionConfig("crm", "order", "crm", **settings), SHAPE)


def _steps(subscription: Subscription, versions: list[Version], *chosen: int) -> list[Step]:
    plan = DocumentReplay(subscription, lambda version: version.version in chosen)
    for version in versions:
        plan.add(version)
    return plan.steps()


def test_the_chosen_versions_come_in_order_and_end_with_the_newest() -> None:
    """Each with the event and the before that it had."""
    versions = _versions("new", "paid", "sent", "done")

    assert [Step(2, 1, U), Step(4, 3, U)] == _steps(_subscription(), versions, 2)


def test_nothing_is_added_when_the_newest_is_chosen() -> None:
    """The whole history is replayed as it was."""
    versions = _versions("new", "paid", None, "new")

    assert [Step(1, 0, C), Step(2, 1, U), Step(3, 2, D), Step(4, 0, C)] == _steps(_subscription(), versions, 1, 2, 3, 4)


def test_latest_sends_only_the_newest() -> None:
    """However many versions were chosen."""
    latest = _subscription(delivery=DeliveryPolicy(mode="latest"))

    assert [Step(4, 3, U)] == _steps(latest, _versions("new", "paid", "sent", "done"), 1, 2)


def test_a_document_that_left_the_set_ends_with_its_leave() -> None:
    """Version 3 left the set, version 4 is outside too: the receiver ends without the document."""
    paid = _subscription(match={"status": ["paid"]})

    assert [Step(2, 0, C), Step(3, 2, D)] == _steps(paid, _versions("new", "paid", "sent", "done"), 2)


def test_versions_outside_the_set_are_not_sent() -> None:
    """Nor does a chosen one outside bring the newest along."""
    paid = _subscription(match={"status": ["paid"]})

    assert _steps(paid, _versions("new", "open", "paid"), 1, 2) == []


def test_a_deleted_document_ends_deleted() -> None:
    """The receiver does not keep what no longer exists."""
    assert [Step(1, 0, C), Step(3, 2, D)] == _steps(_subscription(), _versions("new", "paid", None), 1)


def test_the_newest_ends_it_though_its_own_change_was_not_sent() -> None:
    """Version 3 was sent, 4 changed nothing that the subscription asks for: 4 is whole, so it is sent for both."""
    changed = _subscription(changed=("status",))
    versions = _versions("new", "paid", "sent", "sent")

    assert [Step(1, 0, C), Step(4, 3, U)] == _steps(changed, versions, 1)


def test_a_receiver_that_got_nothing_later_is_sent_nothing_later() -> None:
    """After the chosen one no version was for this subscription."""
    changed = _subscription(changed=("status",))

    assert [Step(2, 1, U)] == _steps(changed, _versions("new", "paid", "paid"), 2)


def test_a_version_whose_before_was_pruned_is_still_sent() -> None:
    """As an update without before, if it is in the set."""
    assert [Step(7, 0, U), Step(8, 7, U)] == _steps(_subscription(), _versions("paid", "sent", first=7), 7)
    assert _steps(_subscription(match={"status": ["open"]}), _versions("paid", first=7), 7) == []


def test_on_keeps_out_what_is_not_asked_for() -> None:
    """A subscription without `deleted` ends with the last version that it was sent."""
    keeps = _subscription(on=("created", "updated"))

    assert [Step(1, 0, C), Step(2, 1, U)] == _steps(keeps, _versions("new", "paid", None), 1)


def test_a_backfill_creates_what_is_in_the_set() -> None:
    """And passes over what is outside or deleted."""
    paid = _subscription(match={"status": ["paid"]})
    new, now_paid, gone = _versions("new", "paid", None)

    assert [None, Step(2, 0, C), None] == [plan_backfill(paid, version) for version in (new, now_paid, gone)]


def test_a_backfill_deletes_what_the_receiver_has_and_is_outside() -> None:
    """With a new id, for its own may have said that it is there; not where no `deleted` is wanted."""
    paid = _subscription(match={"status": ["paid"]})
    new, _, gone = _versions("new", "paid", None)
    keeps = _subscription(match={"status": ["paid"]}, on=("created",))

    steps = [plan_leave(paid, version, 1) for version in (new, gone)]
    assert steps == [Step(1, 1, D), Step(3, 1, D)]
    assert plan_leave(paid, new, None) is None
    assert plan_leave(keeps, new, 1) is None


@pytest.mark.parametrize(
    ("statuses", "parked", "steps"),
    [
        (("paid", "new"), {1: 1}, [Step(1, 0, C), Step(2, 1, D)]),  # as it was planned
        (("new", "paid", "new"), {1: 1}, [Step(3, 1, D, settles=(1,))]),  # of a filter that let it in
        (("new", "open"), {1: 1, 2: 2}, [Step(2, 2, D, settles=(1,))]),
        (("open", "new"), {2: 1}, [Step(2, 1, D)]),  # of one that it left: what is shown is what was in it
        (("new", None), {2: 1}, [Step(2, 1, D)]),
        (("paid", "new", "open"), {1: 1, 3: 3}, [Step(1, 0, C), Step(2, 1, D), Step(3, 3, D)]),
        (("new", "paid"), {1: 1}, [Step(2, 0, C, settles=(1,))]),
    ],
)
def test_what_is_parked_by_an_earlier_filter_is_not_left_behind(
    statuses: tuple[str, ...], parked: dict[int, int], steps: list[Step]
) -> None:
    """The document is sent as by a backfill, unless what is sent anyhow comes after it."""
    plan = DocumentReplay(_subscription(match={"status": ["paid"]}), lambda one: one.version in parked, parked)
    for version in _versions(*statuses):
        plan.add(version)

    assert plan.steps() == steps


def test_the_newest_alone_settles_all_that_is_parked() -> None:
    """`mode: latest`: else those before it would go on holding their document."""
    newest_alone = _subscription(delivery=DeliveryPolicy(mode="latest"))
    plan = DocumentReplay(newest_alone, lambda one: one.version < 3, {1: 1, 2: 2})
    for version in _versions("new", "paid", "sent"):
        plan.add(version)

    assert plan.steps() == [Step(3, 2, U, settles=(1, 2))]


_TAKEN, _OPEN, _REFUSED = Earlier(False, True), Earlier(False, None), Earlier(False, False)
_DELETED = Earlier(True, True)


@pytest.mark.parametrize(
    ("sent", "certain", "renewed"),
    [
        ({}, None, []),
        ({1: _TAKEN, 2: _TAKEN, 3: _DELETED}, 3, []),  # it has taken all of them: all are dropped
        ({1: _REFUSED, 2: _TAKEN, 3: _DELETED}, 3, [3]),  # it may take 1, and must not end with it
        ({1: _OPEN, 2: _TAKEN, 3: _DELETED}, 3, [3]),
        ({1: _REFUSED, 2: _REFUSED, 3: Earlier(True, False)}, 0, []),
        ({1: _TAKEN, 2: _TAKEN, 3: Earlier(True, None)}, 0, []),  # as on a retry
        ({1: _TAKEN, 2: _TAKEN, 3: _REFUSED}, 2, [3]),  # it was an update: with another filter it is a delete
        ({1: _DELETED, 2: _TAKEN, 3: _DELETED}, 3, [1, 3]),
        ({1: _TAKEN, 2: _TAKEN, 3: _DELETED}, 1, [3]),  # 1 was forced upon it since
        ({1: _TAKEN, 2: _TAKEN, 3: _DELETED}, 0, [3]),  # what it has is open
    ],
)
def test_a_step_gets_a_new_id_where_its_own_would_be_dropped_wrongly(
    sent: dict[int, Earlier], certain: int | None, renewed: list[int]
) -> None:
    """Else it keeps it: a receiver that has it drops it."""
    steps = [Step(1, 0, C), Step(2, 1, U), Step(3, 2, D)]

    assert [step.version for step in renew(steps, Past(sent, certain)) if step.renewed] == renewed


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        (Filters(), [1, 2, 3, 4]),
        (Filters(since=2000), [2, 3, 4]),
        (Filters(until=2000), [1]),
        (Filters(since=2000, until=4000), [2, 3]),
        (Filters(from_lsn=0x300), [3, 4]),
        (Filters(to_lsn=0x300), [1, 2, 3]),
        (Filters(transaction=703), [3]),
    ],
)
def test_filters_choose_by_time_position_and_transaction(filters: Filters, chosen: list[int]) -> None:
    """`since` and both WAL positions are included, `until` is not."""
    versions = _versions("a", "b", "c", "d")

    assert chosen == [version.version for version in versions if filters.choose(version)]


def test_a_merged_transaction_chooses_its_version() -> None:
    """A version that stands for two commits is found by either."""
    merged = Version("order", "42", 1, C, Cause.ROW, 1, 700, 1, b"{}", merged=(699,))

    assert Filters(transaction=699).choose(merged)


def test_a_replay_of_nothing_in_particular_is_refused() -> None:
    """`--new-ids` alone chooses nothing."""
    with pytest.raises(InputError, match="what to send"):
        refuse_empty(Filters(new_ids=True))
