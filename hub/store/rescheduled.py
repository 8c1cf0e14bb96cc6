"""Statements on rescheduled deliveries: those whose receivers asked for the document again at a later time.

One waits for each document and subscription, the last that was asked for. When it is due it goes, and a pending
delivery of the document as it is by then takes its place, with a turn that no delivery of that version had.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from hub.delivery import Delivery, State
from hub.dispatch.rescheduling import plan_again
from hub.store import tables
from hub.store.database import Store, now
from hub.store.forwards import hold_forwards
from hub.store.images import StoredImages, write_documents
from hub.store.replays import known_turns
from hub.store.streams import hold_captures
from hub.store.tables import CAUSES, EVENTS
from hub.subscriptions import Planned, Subscription

PIECE = 200  # planned in one store transaction

delivery = tables.delivery
_RESCHEDULED = sa.and_(sa.text("delivery.state <> 0"), delivery.c.state == int(State.RESCHEDULED))

Head = tuple[int, bytes | None]  # a document's newest version, and its body


def forget_others(connection: sa.Connection, rescheduled: Sequence[Delivery]) -> None:
    """What was asked for earlier of these documents, in the transaction that has just rescheduled them, in order."""
    last = {(one.subscription_id, one.entity_id, one.key): one for one in rescheduled}
    for one in last.values():
        others = sa.select(delivery.c.seq).where(
            _RESCHEDULED,
            delivery.c.entity_id == one.entity_id,
            delivery.c.key == one.key,
            delivery.c.subscription_id == one.subscription_id,
            delivery.c.seq != one.seq,
        )
        # One that is being planned or given up at this moment goes without us: nobody waits for anybody.
        connection.execute(delivery.delete().where(delivery.c.seq.in_(others.with_for_update(skip_locked=True))))


class Rescheduled:
    def __init__(self, store: Store, subscriptions: Mapping[int, Subscription], derived: Collection[int]) -> None:
        """`subscriptions`: by id; `derived`: ids of entities whose versions dispatch makes."""
        self.store = store
        self._subscriptions = subscriptions
        self._derived = derived

    def first(self) -> int | None:
        """When the first one is due, microseconds since 1970."""
        query = sa.select(sa.func.min(delivery.c.due_at)).where(_RESCHEDULED, self._known)
        with self.store.read() as connection:
            return connection.execute(query).scalar()

    @property
    def _known(self) -> sa.ColumnElement[bool]:
        return delivery.c.subscription_id.in_(list(self._subscriptions))

    def plan(self, moment: int) -> int:
        """Plan those that are due, PIECE at most; how many there were."""
        due = sa.select(delivery).where(_RESCHEDULED, self._known, delivery.c.due_at <= moment)
        with self.store.read() as connection:
            if connection.execute(due.limit(1)).first() is None:
                return 0
        with self.store.write() as connection:
            # A version that is being made would get in before what is planned here, and be overtaken by an older one.
            hold_captures(connection)
            hold_forwards(connection, self._derived)
            chosen = due.order_by(delivery.c.seq).limit(PIECE).with_for_update(skip_locked=True)
            rows = connection.execute(chosen).all()
            if rows:
                planned = self._planned(connection, rows)
                connection.execute(delivery.delete().where(delivery.c.seq.in_([row.seq for row in rows])))
                write_documents(connection, [], planned)
                self.store.ring("dispatch", connection)
        return len(rows)

    def _planned(self, connection: sa.Connection, rows: Sequence[Any]) -> list[tuple[Any, ...]]:
        keys: dict[int, list[str]] = defaultdict(list)
        for row in rows:
            keys[row.entity_id].append(row.key)
        heads = {
            (entity_id, key): (version, body)
            for entity_id, some in keys.items()
            for key, version, body in StoredImages(connection).heads(entity_id, list(dict.fromkeys(some)))
        }
        turns = {entity_id: known_turns(connection, entity_id, some) for entity_id, some in keys.items()}
        waiting = {entity_id: _waiting(connection, entity_id, some) for entity_id, some in keys.items()}
        planned = []
        for row in rows:
            head = heads.get((row.entity_id, row.key))  # none: it was erased
            if head and (row.subscription_id, row.key, head[0]) not in waiting[row.entity_id]:
                turn = max(row.turn, turns[row.entity_id].get((row.subscription_id, row.key, head[0]), 0)) + 1
                planned += self._delivery(row, head, turn)
        return planned

    def _delivery(self, row: Any, head: Head, turn: int) -> list[tuple[Any, ...]]:
        """The row of the new delivery, as `write_documents` takes it; none when nothing is to be sent."""
        earlier = Planned(EVENTS[row.event], CAUSES[row.cause], row.before_version)
        found = plan_again(self._subscriptions[row.subscription_id], earlier, head[1])
        if found is None:
            return []
        return [
            (
                row.subscription_id,
                row.entity_id,
                row.key,
                head[0],
                found.before_version,
                turn,
                EVENTS.index(found.event),
                CAUSES.index(found.cause),
                int(State.PARKED if found.failure else State.PENDING),
                0,
                0,
                now(),
                found.failure or f"Rescheduled: {row.reason}",  # it is not as new: its receiver has had the document
            )
        ]


def _waiting(connection: sa.Connection, entity_id: int, keys: Sequence[str]) -> set[tuple[int, str, int]]:
    """Subscription id, key and version of what is on its way anyhow."""
    query = sa.select(delivery.c.subscription_id, delivery.c.key, delivery.c.version).where(
        delivery.c.entity_id == entity_id,
        delivery.c.key.in_(keys),
        delivery.c.state.in_([int(State.PENDING), int(State.RELEASED)]),
    )
    return {(row[0], row[1], row[2]) for row in connection.execute(query)}
