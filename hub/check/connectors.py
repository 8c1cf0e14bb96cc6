"""A subscription held against the connector that it delivers by: what it must give, and what has no effect there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hub.connector import ConnectorKind
from hub.documents import Event
from hub.project import SubscriptionConfig
from hub.project.problems import Problems
from hub.subscriptions.bodies import CLOUD_EVENT_FIELDS, EVENT_NAMES

SNAPSHOT = "snapshot"  # of `on`: sent as created


def check_connection(
    subscription: SubscriptionConfig, kind: ConnectorKind[Any], batch: int | None, problems: Problems
) -> None:
    """`batch`: documents that the destination takes in one call; None when that is not known."""
    if kind.required:
        _check_required(subscription, kind.required, problems)
    else:
        _check_fields(subscription, kind.sends_body, problems)
    if batch == 1 and "delivery.batch" in subscription.places:
        what = f"'batch' has no effect: {subscription.to!r} takes one document at a time."
        problems.note(subscription.places["delivery.batch"], what, "Delete it.")


def _check_required(subscription: SubscriptionConfig, required: Sequence[str], problems: Problems) -> None:
    """`required`: fields that the connector wants in a body. A body that is a template may have them or not."""
    for path, body in {path: body for _, path, body in _bodies(subscription)}.items():
        if body is not None and not isinstance(body, Mapping):
            continue
        given = CLOUD_EVENT_FIELDS if body is None else {name for name in body if body[name] not in (None, "")}
        missing = [name for name in required if name not in given]
        if missing:
            what = f"{subscription.to!r} refuses a delivery without {', '.join(missing)}, which 'body' does not give."
            place = subscription.places.get(path) or subscription.place
            problems.add(place, what, f"Write '{missing[0]}: …' into the body of this subscription.")


def _check_fields(subscription: SubscriptionConfig, events: Sequence[str], problems: Problems) -> None:
    """`events`: those whose delivery sends what the body gives. Without one that would be the CloudEvent's fields."""
    bare = [event for event, _, body in _bodies(subscription) if body is None and event in events]
    if bare:
        what = f"{subscription.to!r} sends the fields of 'body', and there is none for {', '.join(bare)}"
        place = subscription.places.get("body") or subscription.place
        problems.note(place, f"{what}: it would send the whole CloudEvent.", "Write 'body: {FIELD: …}'.")


def _bodies(subscription: SubscriptionConfig) -> Iterator[tuple[str, str, Any]]:
    """Each event that is sent, the path of its body, and that body as it is written; None for a CloudEvent."""
    body = subscription.body
    by_event = isinstance(body, Mapping) and body and EVENT_NAMES.issuperset(body)
    for event in dict.fromkeys(Event.CREATED.value if one == SNAPSHOT else one for one in subscription.on):
        if by_event:
            name = event if event in body else "default"
            yield event, f"body.{name}" if name in body else "body", body.get(name)
        else:
            yield event, "body", body
