"""Whether sending a delivery would change nothing at its receiver."""

from typing import Any

import msgspec
import pytest

from hub.delivery import Delivery, Held
from hub.dispatch.unchanged import content_of, is_unchanged
from hub.documents import Cause, Event, Shape
from hub.project import SubscriptionConfig
from hub.subscriptions import Subscription
from hub.subscriptions.bodies import Body, BodyInputs, render_body

DELIVERY = Delivery(9, 1, 1, "42", version=7, turn=0, event=1, attempts=0, due_at=0, created_at=0)
CONTENT = b"sixteen bytes..."
HELD = Held(version=6, event=1, content=CONTENT, receiver_id="", accepted_at=0)
INPUTS = BodyInputs(
    hub="conference", source="main", delivery_id="msg_1", entity="order", key="42", version=7, event=Event.UPDATED,
    cause=Cause.ROW, lsn="0/10", transaction=700, committed_at=1, document=b'{"n":1}', before=b'{"n":0}',
)  # fmt: skip


def rendered(body: Any, **inputs: Any) -> Body:
    return render_body(
        Subscription.compile(SubscriptionConfig("s", "order", "crm", body=body), Shape({})),
        msgspec.structs.replace(INPUTS, **inputs),
    )


@pytest.mark.parametrize(
    ("one", "content", "held", "begun", "unchanged"),
    [
        ({}, CONTENT, HELD, False, True),
        ({}, b"other", HELD, False, False),
        ({}, CONTENT, None, False, False),  # nothing was ever accepted
        ({}, CONTENT, msgspec.structs.replace(HELD, content=b""), False, False),  # deleted, or open
        ({}, b"", msgspec.structs.replace(HELD, content=b""), False, False),  # deleted twice
        ({}, CONTENT, HELD, True, False),
        ({"turn": 1}, CONTENT, HELD, False, False),  # the receiver asked for it again
        ({"replay_id": 3}, CONTENT, HELD, False, False),
    ],
)
def test_only_what_is_the_same_is_unchanged(
    one: dict[str, Any], content: bytes, held: Held | None, begun: bool, unchanged: bool
) -> None:
    """And nothing that somebody asked for."""
    assert is_unchanged(msgspec.structs.replace(DELIVERY, **one), content, held, begun=begun) is unchanged


@pytest.mark.parametrize(
    ("body", "inputs", "same"),
    [
        (None, {"delivery_id": "msg_2", "version": 8, "committed_at": 2, "before": b"{}"}, True),
        (None, {"event": Event.CREATED}, True),
        (None, {"document": b'{"n":2}'}, False),
        ({"a": "{{ doc.n }}"}, {"delivery_id": "msg_2", "version": 8, "before": b"{}"}, True),
        ({"a": "{{ doc.n }}"}, {"document": b'{"n":1,"unseen":1}'}, True),
        ({"a": "{{ doc.n }}"}, {"document": b'{"n":2}'}, False),
        ({"a": "{{ version }}"}, {"version": 8}, False),
    ],
)
def test_content_is_what_a_receiver_keeps(body: Any, inputs: dict[str, Any], same: bool) -> None:
    """Of a CloudEvent the document, of a body of the subscription's own all that it says."""
    first, second = rendered(body), rendered(body, **inputs)

    assert (content_of("crm", Event.UPDATED, first) == content_of("crm", Event.UPDATED, second)) is same


def test_content_is_a_destinations() -> None:
    """A subscription that goes elsewhere has sent nothing there; and another kind of body is another content."""
    body = rendered(None)
    contents = {
        content_of("crm", Event.UPDATED, body),
        content_of("mail", Event.UPDATED, body),
        content_of("crm", Event.UPDATED, rendered("{{ doc }}")),
    }

    assert len(contents) == 3
    assert content_of("crm", Event.DELETED, body) == b""
