"""What the subscriptions were when the hub last ran, so that a start, and a backfill, can say what changed."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict

import msgspec
import sqlalchemy as sa

from hub.project import Project, SubscriptionConfig
from hub.store.database import Store, now
from hub.store.deliveries import upsert
from hub.store.tables import name, subscription_state


def remember(store: Store, project: Project) -> list[str]:
    """Keep the subscriptions' definitions; what differs from those kept before, a sentence each."""
    before = _kept(store)
    current = {n: _define(project, one) for n, one in project.subscriptions.items()}
    ids = {n: store.name_id("subscription", n) for n in current}
    with store.write() as connection:
        for n, definition in current.items():  # several workers may start at once
            new = {"state": "active", "reason": "", "since": now()}
            upsert(store, connection, subscription_state, {"subscription_id": ids[n]}, {"definition": definition}, new)
    return _said(before, current) if before else []


def differs(store: Store, project: Project, subscription: str) -> bool:
    """Whether the hub last ran with another definition of the subscription, or without it."""
    before = _kept(store)
    return bool(before) and before.get(subscription) != _define(project, project.subscriptions[subscription])


def _define(project: Project, subscription: SubscriptionConfig) -> str:
    plain = asdict(subscription)
    plain.pop("place")
    plain.pop("places")
    destination = repr(sorted(project.destinations[subscription.to].settings.items()))
    limits = repr(project.destinations[subscription.to].limits)
    plain["destination"] = hashlib.sha256((destination + limits).encode()).hexdigest()  # it may hold secrets
    return msgspec.json.encode(plain).decode()


def _kept(store: Store) -> dict[str, str]:
    """By subscription; "" of one that has only been paused so far."""
    query = sa.select(name.c.name, subscription_state.c.definition).join(
        subscription_state, subscription_state.c.subscription_id == name.c.id
    )
    with store.read() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def _said(before: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    said = [f"Subscription {n} is new." for n in current if n not in before]
    changed = [n for n in current if before.get(n) not in (None, "", current[n])]
    said += [_change(n, before[n], current[n]) for n in changed]
    gone = [n for n in before if n not in current]
    return said + [f"Subscription {n} is gone; what waits for it stays until it comes back." for n in gone]


def _change(subscription: str, before: str, current: str) -> str:
    was, now_is = msgspec.json.decode(before), msgspec.json.decode(current)
    if was.get("entity") != now_is["entity"]:
        return (
            f"Subscription {subscription} has another entity: it takes effect now. `hub backfill {subscription}` sends "
            f"what is in its set; what its receiver has of {was.get('entity')} stays there."
        )
    if all(was.get(field) == now_is[field] for field in ("match", "where")):
        return f"Subscription {subscription} or its destination has changed: it takes effect now."
    said = f"The set of subscription {subscription} has changed: it takes effect now. `hub backfill {subscription}`"
    if "deleted" not in now_is["on"]:
        return f"{said} sends what is in it; what its receiver has and is outside stays: `on` has no deleted."
    return f"{said} sends what is in it, and deletes what its receiver has from before and is outside."
