"""Why a version did or did not reach a subscription, down to the condition that failed."""

from dataclasses import dataclass

from hub.documents import Cause, Event, Version, decode
from hub.operate.replay import plan_version
from hub.subscriptions import DocumentChange, Subscription
from hub.subscriptions.match import explain as explain_match
from hub.subscriptions.templates import TemplateFailure


@dataclass(frozen=True, slots=True)
class Explanation:
    subscription: str
    sent: bool  # whether the version is for this subscription
    event: str  # created, updated, deleted; "" when nothing is sent
    why: str  # one sentence


def explain(subscription: Subscription, previous: Version | None, version: Version) -> Explanation:
    """`previous`: the version before, where it is kept."""
    if version.cause is Cause.SNAPSHOT and not subscription.snapshots:
        return _not(subscription, "It is of the initial load, which is sent with `on: snapshot` alone.")
    planned = plan_version(subscription, previous, version)
    if planned is None:
        return _not(subscription, _why_not(subscription, previous, version))
    if planned.failure:
        return Explanation(subscription.name, True, planned.event.value, f"It is parked: {planned.failure}")
    return Explanation(subscription.name, True, planned.event.value, _SENT[planned.event])


_SENT = {
    Event.CREATED: "The document entered the set.",
    Event.UPDATED: "The document is in the set, and was before.",
    Event.DELETED: "The document left the set.",
}


def _not(subscription: Subscription, why: str) -> Explanation:
    return Explanation(subscription.name, False, "", why)


def _why_not(subscription: Subscription, previous: Version | None, version: Version) -> str:
    was_outside = "" if previous is None else _outside(subscription, previous.body)
    outside = _outside(subscription, version.body)
    if outside and (was_outside or previous is None):
        return f"The document is not in the set: {outside}"
    event = Event.DELETED if outside else Event.CREATED if was_outside or previous is None else Event.UPDATED
    if event not in subscription.sent:
        return f"It would be `{event.value}`, which `on` does not ask for."
    return _why_no_update(subscription, previous, version)


def _outside(subscription: Subscription, body: bytes | None) -> str:
    """Why a document is not in the set; "" when it is."""
    if body is None:
        return "it does not exist."
    tree = decode(body)
    if subscription.config.match and (why := explain_match(subscription.config.match, subscription.shape, tree)):
        return why
    try:
        return "" if subscription.selects(tree) else "`where` does not hold."
    except TemplateFailure as failure:
        return f"`where` fails: {failure}"


def _why_no_update(subscription: Subscription, previous: Version | None, version: Version) -> str:
    before = previous.body if previous else None
    change = DocumentChange(
        subscription.shape, version.entity, version.key, version.version, version.version - 1, before, version.body
    )
    asked = ", ".join(subscription.config.changed)
    if subscription.when is None:
        return f"It is sent when one of these changes: {asked}. Changed: {', '.join(change.changed) or 'nothing'}."
    return "`when` does not hold." if not asked else f"None of {asked} changed, or `when` does not hold."
