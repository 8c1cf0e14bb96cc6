"""What a subscription gets of a document that its receiver asked for again: a pure function of set and version."""

from hub.documents import Event, decode
from hub.subscriptions import Planned, Subscription
from hub.subscriptions.templates import TemplateFailure


def plan_again(subscription: Subscription, earlier: Planned, newest: bytes | None) -> Planned | None:
    """The delivery of the newest version, `earlier` being the one that was answered; None when there is none.

        earlier             in the set now                  not in it, or deleted
        created, updated    the same event                  nothing: its `deleted` has gone its own way
        deleted             created                         deleted

    Neither `on`, `changed` nor `when` is asked: the receiver asked itself.
    """
    try:
        inside = newest is not None and (subscription.everything or subscription.selects(decode(newest)))
    except TemplateFailure as failure:
        return Planned(earlier.event, earlier.cause, earlier.before_version, f"where: {failure}")
    if inside and earlier.event is Event.DELETED:
        return Planned(Event.CREATED, earlier.cause, 0)
    return earlier if inside is (earlier.event is not Event.DELETED) else None
