"""Deliveries become messages, or are dealt with: no store is asked here."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.delivery import Held, Message, OutcomeKind, State
from hub.dispatch.lanes import Lane
from hub.dispatch.messages import Messages
from hub.dispatch.outcomes import SECOND
from hub.dispatch.steps import Steps
from hub.documents import Cause, Event
from hub.project import EntityConfig, Project
from hub.store.deliveries import Loaded, Update
from hub.subscriptions import delivery_id
from tests.unit.routing import NOW, Routing

LOADED = Loaded(True, Event.UPDATED, Cause.ROW, 16, 700, 1, b'{"n":2}', b'{"n":1}', hops=0)


def messages(routing: Routing, *lanes: Lane, held: Held | None = None, **loaded: Any) -> list[tuple[Lane, Message]]:
    """Of lanes that the store has, as LOADED but for `loaded`."""
    entities = {"order": EntityConfig("order", "main", "public.orders")}
    project = Project("conference", Path(), {}, entities, {}, {}, "sqlite:///hub.db")
    routes = {routing.route.queue: routing.route}
    found = {lane.head.seq: msgspec.structs.replace(LOADED, **loaded) for lane in lanes}
    has = {routing.route.receiver(lane): held for lane in lanes}
    return Messages("7f", project, routes, Steps(routing.results)).of(lanes, found, has, NOW)


def test_a_message_says_what_its_body_was_rendered_from() -> None:
    routing = Routing(body={"n": "{{ doc.n }}"})
    lane = routing.add(3, attempts=1)
    ((_, message),) = messages(routing, lane)

    assert message == Message(
        id=delivery_id("7f", "crm", "order", "a", 3, 0),
        subscription="crm",
        entity="order",
        key="a",
        version=3,
        event="updated",
        content=b'{"n":2}',
        content_type="application/json",
        attempt=2,
    )
    assert (lane.origin.lsn, lane.origin.transaction, len(lane.content)) == (16, 700, 16)


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        ({"found": False}, "The journal no longer has version 3."),
        (
            {"document": b'{"n":"x"}'},
            "body: body.n, line 1, column 1: A text is not a number. Use the filter decimal on it.",
        ),
    ],
)
def test_one_that_has_no_body_is_parked(loaded: dict[str, Any], reason: str) -> None:
    """No attempt is burnt."""
    routing = Routing(body={"n": "{{ 1 + doc.n }}"})
    bad = routing.add(3)
    assert messages(routing, bad, **loaded) == []

    assert routing.written().updates == [Update(3, State.PARKED, 0, 0, reason)]


def test_one_that_is_too_old_is_parked() -> None:
    routing = Routing(expire=86400.0)
    lane = routing.add(3, created_at=NOW - 86400 * SECOND)
    assert messages(routing, lane) == []

    assert [one.reason for one in routing.written().updates] == ["Not delivered within 1d."]


def test_one_that_is_gone_lets_its_next_go() -> None:
    """Discarded, or parked as too old, since it was read: nothing is stored of it."""
    routing = Routing()
    lane = routing.add(3)
    routing.add(4)
    steps = Steps(routing.results)
    project: Any = None
    assert Messages("7f", project, {routing.route.queue: routing.route}, steps).of([lane], {}, {}, NOW) == []

    assert lane.head.seq == 4
    assert not routing.results.writing


def test_what_the_receiver_has_is_not_sent() -> None:
    """It is settled as if it had been accepted, and the attempt says why nothing went."""
    routing = Routing(skip_unchanged=True)
    lane = routing.add(3)
    messages(routing, lane)
    has = Held(2, 1, lane.content, "77", NOW - SECOND)
    assert messages(routing, lane, held=has) == []

    written = routing.written()
    assert written.settled == [3]
    assert [one.outcome for one in written.attempts] == [OutcomeKind.UNCHANGED]
    assert written.ledger == {(1, "a", 1): msgspec.structs.replace(has, version=3)}


def test_what_the_receiver_has_is_sent_when_an_attempt_has_begun() -> None:
    routing = Routing(skip_unchanged=True)
    lane = routing.add(3)
    messages(routing, lane)
    routing.route.queue.begun.add(3)

    assert [one for one, _ in messages(routing, lane, held=Held(2, 1, lane.content, "77", NOW))] == [lane]


def test_one_whose_quiet_time_began_anew_waits() -> None:
    """It was merged with a newer one while it was ready to go."""
    routing = Routing(delay=30.0)
    lane = routing.add(3, created_at=NOW - 31 * SECOND)
    lane.items[0] = msgspec.structs.replace(lane.head, due_at=NOW + 20 * SECOND)

    assert messages(routing, lane) == []
    assert lane.due == NOW + 20 * SECOND


@pytest.mark.parametrize("standing", ["paused", "disabled"])
def test_nothing_is_rendered_for_one_that_stands_still(standing: str) -> None:
    routing = Routing()
    lane = routing.add(3)
    routing.route.standing = standing

    assert messages(routing, lane) == []
    assert not routing.results.writing
