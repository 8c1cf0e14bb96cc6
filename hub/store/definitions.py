"""What the subscriptions were when the hub last ran, so that a start can say what changed."""

from collections.abc import Mapping

import sqlalchemy as sa

from hub.store.database import Store, now
from hub.store.tables import name, subscription_state


def remember(store: Store, current: Mapping[str, str]) -> list[str]:
    """Keep the subscriptions' definitions; what differs from those kept before, a sentence each."""
    query = sa.select(name.c.name, subscription_state.c.definition).join(
        subscription_state, subscription_state.c.subscription_id == name.c.id
    )
    with store.read() as connection:
        before = dict(connection.execute(query).tuples().all())
    said = _said(before, current) if before else []
    ids = {n: store.name_id("subscription", n) for n in current}
    with store.write() as connection:
        for n, definition in current.items():
            _keep(connection, ids[n], definition)
    return said


def _keep(connection: sa.Connection, id: int, definition: str) -> None:
    mine = subscription_state.c.subscription_id == id
    found = connection.execute(subscription_state.update().where(mine).values(definition=definition)).rowcount
    if not found:
        new = {"state": "active", "reason": "", "since": now(), "definition": definition}
        connection.execute(subscription_state.insert().values(subscription_id=id, **new))


def _said(before: Mapping[str, str], current: Mapping[str, str]) -> list[str]:
    said = [f"Subscription {n} is new." for n in current if n not in before]
    changed = [n for n in current if before.get(n) not in (None, "", current[n])]
    said += [f"Subscription {n} or its destination has changed: it takes effect now." for n in changed]
    gone = [n for n in before if n not in current]
    return said + [f"Subscription {n} is gone; what waits for it stays until it comes back." for n in gone]
