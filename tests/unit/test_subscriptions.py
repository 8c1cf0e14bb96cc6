"""A subscription is a live filtered set: the event follows from who was in it and who is."""

from typing import Any

import pytest

from hub.catalogue import Kind
from hub.documents import Cause, Event, Field, Shape, encode
from hub.errors import InputError
from hub.project import SubscriptionConfig
from hub.subscriptions import DocumentChange, Planned, Subscription, delivery_id

SHAPE = Shape({"id": Field(Kind.INTEGER), "status": Field(Kind.TEXT), "total": Field(Kind.NUMERIC)}, key=("id",))


def change(before: Any, after: Any, root_row: bool = False) -> DocumentChange:
    def body(tree: Any) -> bytes | None:
        return None if tree is None else encode(tree)

    return DocumentChange(SHAPE, "order", "42", 8, 7, body(before), body(after), root_row)


def subscription(**settings: Any) -> Subscription:
    return Subscription.compile(SubscriptionConfig("crm", "order", "crm", **settings), SHAPE)


OPEN, PAID = {"id": 42, "status": "open", "total": "5"}, {"id": 42, "status": "paid", "total": "10"}
CREATED_ROW = Planned(Event.CREATED, Cause.ROW, 0)
UPDATED_ROW = Planned(Event.UPDATED, Cause.ROW, 7)
DELETED_ROW = Planned(Event.DELETED, Cause.ROW, 7)


@pytest.mark.parametrize(
    ("before", "after", "planned"),
    [(None, PAID, CREATED_ROW), (OPEN, PAID, UPDATED_ROW), (PAID, None, DELETED_ROW), (None, None, None)],
)
def test_everything(before: Any, after: Any, planned: Planned | None) -> None:
    """Without a condition, the events are the document's own, and nothing is decoded."""

    step = change(before, after)
    assert subscription().plan(step) == planned
    assert not {"before_tree", "after_tree", "paths"} & step.__dict__.keys()


@pytest.mark.parametrize("settings", [{"match": {"status": "paid"}}, {"where": "doc.status == 'paid'"}])
@pytest.mark.parametrize(
    ("before", "after", "root_row", "planned"),
    [
        (None, PAID, False, CREATED_ROW),
        (None, OPEN, False, None),
        (OPEN, PAID, False, Planned(Event.CREATED, Cause.FILTER, 0)),
        (OPEN, PAID, True, Planned(Event.CREATED, Cause.ROW, 0)),
        (PAID, {**PAID, "total": "11"}, False, UPDATED_ROW),
        (PAID, OPEN, False, Planned(Event.DELETED, Cause.FILTER, 7)),
        (PAID, None, False, DELETED_ROW),
        (OPEN, None, False, None),
        (OPEN, {**OPEN, "total": "6"}, False, None),
    ],
)
def test_set(settings: dict[str, Any], before: Any, after: Any, root_row: bool, planned: Planned | None) -> None:
    """Entering the set is created, leaving it deleted; the cause says whether the row or the filter did it."""

    assert subscription(**settings).plan(change(before, after, root_row)) == planned


def test_on_says_what_is_sent_not_who_is_in() -> None:
    """An event that `on` leaves out is not sent, and the next one follows from the same set."""

    deletes = subscription(match={"status": "paid"}, on=("deleted",))
    assert deletes.plan(change(OPEN, PAID)) is None
    assert deletes.plan(change(PAID, OPEN)) == Planned(Event.DELETED, Cause.FILTER, 7)


def test_snapshot() -> None:
    """The initial load is sent with `on: snapshot` alone, as created."""

    load = change(None, PAID)
    assert subscription().plan(load, Cause.SNAPSHOT) is None
    for on in (("snapshot",), ("created", "snapshot")):
        assert subscription(on=on).plan(load, Cause.SNAPSHOT) == Planned(Event.CREATED, Cause.SNAPSHOT, 0)
    assert subscription(on=("snapshot",)).plan(load) is None
    assert subscription(on=("snapshot",), match={"status": "open"}).plan(load, Cause.SNAPSHOT) is None


def test_resync() -> None:
    """What a later snapshot found is planned as any change, with its cause."""

    found = subscription(match={"status": "paid"}).plan(change(PAID, OPEN), Cause.RESYNC)
    assert found == Planned(Event.DELETED, Cause.RESYNC, 7)
    assert subscription().plan(change(OPEN, PAID), Cause.RESYNC) == Planned(Event.UPDATED, Cause.RESYNC, 7)


def test_changed_filters_updates_alone() -> None:
    """An update without a selected path is not sent; creating and deleting are."""

    totals = subscription(changed=("total",))
    assert totals.plan(change(PAID, {**PAID, "status": "x"})) is None
    assert totals.plan(change(PAID, {**PAID, "total": "10.0"})) == UPDATED_ROW
    assert totals.plan(change(None, PAID)) == CREATED_ROW
    assert totals.plan(change(PAID, None)) == DELETED_ROW


def test_when_filters_updates_alone() -> None:
    """`when` sees both versions."""

    grown = subscription(when="doc.total | decimal > before.total | decimal and 'total' in changed")
    assert grown.plan(change(OPEN, PAID)) == UPDATED_ROW
    assert grown.plan(change(PAID, OPEN)) is None
    assert grown.plan(change(None, PAID)) == CREATED_ROW


def test_a_failing_when_parks_its_delivery() -> None:
    """What `when` can't decide is planned with the reason."""

    planned = subscription(when="doc.status > 5").plan(change(OPEN, PAID))
    assert planned is not None
    assert planned.event is Event.UPDATED
    assert planned.failure.startswith("when: ")
    assert "compares a text with a number" in planned.failure


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [(None, PAID, Event.CREATED), (OPEN, PAID, Event.UPDATED), (PAID, None, Event.DELETED)],
)
def test_a_failing_where_parks_its_delivery(before: Any, after: Any, event: Event) -> None:
    """What `where` can't decide is not dropped."""

    planned = subscription(where="doc.total > 5").plan(change(before, after))
    assert planned is not None
    assert (planned.event, planned.cause) == (event, Cause.ROW)
    assert planned.failure.startswith("where: ")


def test_a_failing_where_parks_only_what_could_be_sent() -> None:
    """Nothing is parked for an event that `on` leaves out, nor for an initial load that is not sent."""

    created = subscription(where="doc.total > 5", on=("created",))
    planned = created.plan(change(OPEN, PAID))
    assert planned is not None
    assert (planned.event, planned.before_version) == (Event.CREATED, 0)
    assert created.plan(change(PAID, None)) is None
    assert created.plan(change(None, PAID), Cause.SNAPSHOT) is None


def test_where_is_asked_only_of_what_matches() -> None:
    """`match` comes first, so that `where` may rely on it."""

    safe = subscription(match={"total": {">": 0}}, where="doc.total | decimal > 5")
    assert safe.plan(change(None, {"id": 1, "total": None})) is None
    assert safe.selects(PAID)
    assert not safe.selects(OPEN)


@pytest.mark.parametrize(
    "settings", [{"where": "before.x"}, {"when": "meta.hub"}, {"changed": ("a..b",)}, {"body": "{{ x }}"}]
)
def test_mistakes(settings: dict[str, Any]) -> None:
    """What is not well formed is an input error."""

    with pytest.raises(InputError):
        subscription(**settings)


def test_delivery_id_is_for_ever() -> None:
    """These ids are at receivers: they may never change."""

    assert delivery_id("store-1", "crm-orders", "order", "42", 7, 0) == ID_SINGLE
    assert delivery_id("store-1", "crm-orders", "order", '[12,"FR"]', 7, 1) == ID_COMPOSITE


def test_delivery_id_tells_all_apart() -> None:
    """Each argument counts, and none runs into its neighbour."""

    named = [
        ("s", "a", "b", "c", 1, 0),
        ("s", "ab", "", "c", 1, 0),
        ("s", "a", "bc", "", 1, 0),
        ("s", "a", "b", "c", 10, 0),
        ("s", "a", "b", "c", 1, 1),
        ("t", "a", "b", "c", 1, 0),
    ]
    assert len({delivery_id(*arguments) for arguments in named}) == len(named)


ID_SINGLE = "msg_949b983f483f143e204af5cde7fd572b8b8d4b6b"
ID_COMPOSITE = "msg_f3fc0e69027b9742826cf450cf22a0d343ef000e"
