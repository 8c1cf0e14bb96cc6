"""One version's way from its commit to what each receiver answered, with times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from hub.delivery import OutcomeKind, State
from hub.documents import Version
from hub.store import tables
from hub.store.database import Store
from hub.store.tables import EVENTS
from hub.subscriptions import delivery_id

delivery, attempt, document = tables.delivery, tables.attempt, tables.document


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    number: int
    started_at: int  # microseconds since 1970
    duration: int  # microseconds
    outcome: str  # delivered, retry, reschedule, refused, dead, held
    detail: str
    replay_id: int | None

    @property
    def ended_at(self) -> int:
        return self.started_at + self.duration


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """One turn of a version's delivery to one subscription."""

    id: str
    subscription: str
    turn: int
    event: str
    state: str  # delivered, pending, parked, superseded, released; discarded: it left undelivered
    reason: str
    planned_at: int  # microseconds since 1970; 0: not known any more
    due_at: int  # not before; 0: at once
    attempts: tuple[AttemptTrace, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    version: Version
    made_at: int  # microseconds since 1970
    deliveries: tuple[DeliveryTrace, ...]


def read_trace(store: Store, version: Version) -> Trace:
    """By subscription, then turn."""
    entity_id = store.find_name("entity", version.entity) or 0
    with store.read() as connection:
        made_at = connection.execute(sa.select(document.c.made_at).where(*_of(document, entity_id, version))).scalar()
        waiting = connection.execute(sa.select(delivery).where(*_of(delivery, entity_id, version))).all()
        tried = connection.execute(
            sa.select(attempt).where(*_of(attempt, entity_id, version)).order_by(attempt.c.seq)
        ).all()
    identity = store.identity()
    turns = {(row.subscription_id, row.turn) for row in (*waiting, *tried)}
    found = [
        _delivery(
            version,
            identity,
            store.name(subscription_id),
            turn,
            [row for row in waiting if (row.subscription_id, row.turn) == (subscription_id, turn)],
            [row for row in tried if (row.subscription_id, row.turn) == (subscription_id, turn)],
        )
        for subscription_id, turn in turns
    ]
    return Trace(version, made_at or 0, tuple(sorted(found, key=lambda one: (one.subscription, one.turn))))


def _of(table: sa.Table, entity_id: int, version: Version) -> list[sa.ColumnElement[bool]]:
    return [table.c.entity_id == entity_id, table.c.key == version.key, table.c.version == version.version]


def _delivery(
    version: Version, identity: str, subscription: str, turn: int, waiting: Sequence[Any], tried: Sequence[Any]
) -> DeliveryTrace:
    row = waiting[-1] if waiting else None
    attempts = tuple(
        AttemptTrace(
            one.number,
            one.started_at,
            one.duration,
            OutcomeKind(one.outcome).name.lower(),
            one.detail or "",
            one.replay_id,
        )
        for one in tried
    )
    return DeliveryTrace(
        id=delivery_id(identity, subscription, version.entity, version.key, version.version, turn),
        subscription=subscription,
        turn=turn,
        event=EVENTS[(row or tried[-1]).event].value,
        state=_state(row, attempts),
        reason=(row.reason or "") if row else "",
        planned_at=row.created_at if row else 0,
        due_at=row.due_at if row else 0,
        attempts=attempts,
    )


def _state(row: Any, attempts: Sequence[AttemptTrace]) -> str:
    if row is not None:
        return State(row.state).name.lower()
    accepted = any(one.outcome in ("delivered", "reschedule") for one in attempts)
    return "delivered" if accepted else "discarded"
