from typing import Any

import pytest

from hub.catalogue import Kind
from hub.documents import Cause, Event, Field, Shape, Version, encode
from hub.operate.explaining import explain
from hub.project import SubscriptionConfig
from hub.subscriptions import Subscription

SHAPE = Shape({"status": Field(Kind.TEXT), "note": Field(Kind.TEXT)})


def _version(number: int, status: str | None, event: Event, cause: Cause = Cause.ROW) -> Version:
    body = None if status is None else encode({"status": status, "note": "x"})
    return Version("order", "42", number, event, cause, 1, 1, 1, body)


NEW = _version(1, "new", Event.CREATED)
PAID = _version(2, "paid", Event.UPDATED)
PAID_AGAIN = _version(3, "paid", Event.UPDATED)
GONE = _version(4, None, Event.DELETED)


@pytest.mark.parametrize(
    ("settings", "previous", "version", "event", "why"),
    [
        ({}, NEW, PAID, "updated", "is in the set"),
        ({}, PAID, GONE, "deleted", "left the set"),
        ({"match": {"status": ["paid"]}}, NEW, PAID, "created", "entered the set"),
        ({"match": {"status": ["open"]}}, NEW, PAID, "", "status"),
        ({"where": "doc.status == 'open'"}, NEW, PAID, "", "`where` does not hold"),
        ({"match": {"status": ["open"]}}, PAID, GONE, "", "does not exist"),
        ({"on": ("created",)}, NEW, PAID, "", "`updated`, which `on` does not ask for"),
        ({"changed": ("note",)}, NEW, PAID, "", "Changed: status"),
        ({"when": "doc.note == 'y'"}, NEW, PAID, "", "`when` does not hold"),
        ({"where": "doc.nowhere.deeper"}, NEW, PAID, "updated", "parked"),
        ({}, None, _version(1, "new", Event.CREATED, Cause.SNAPSHOT), "", "initial load"),
    ],
)
def test_the_reason_names_the_condition(
    settings: dict[str, Any], previous: Version | None, version: Version, event: str, why: str
) -> None:
    """Whether a version is sent, as what, and otherwise which condition fails."""
    subscription = Subscription.compile(SubscriptionConfig("crm", "order", "crm", **settings), SHAPE)

    found = explain(subscription, previous, version)

    assert (found.sent, found.event) == (bool(event), event)
    assert why in found.why
