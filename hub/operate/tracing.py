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

delivery, attempt, document, lineage = tables.delivery, tables.attempt, tables.document, tables.lineage
ledger = tables.ledger


@dataclass(frozen=True, slots=True)
class AttemptTrace:
    number: int
    started_at: int  # microseconds since 1970
    duration: int  # microseconds
    outcome: str  # delivered, retry, reschedule, refused, dead, held, unchanged
    detail: str
    replay_id: int | None

    @property
    def ended_at(self) -> int:
        return self.started_at + self.duration


@dataclass(frozen=True, slots=True)
class Issued:
    """A derived entity's version that a delivery's receiver forwarded."""

    entity: str
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Issuer:
    """The delivery whose receiver forwarded a version."""

    id: str
    subscription: str
    entity: str
    key: str
    version: int
    turn: int


@dataclass(frozen=True, slots=True)
class DeliveryTrace:
    """One turn of a version's delivery to one subscription."""

    id: str
    subscription: str
    turn: int
    event: str
    # delivered, pending, parked, superseded, released, rescheduled; unchanged: its receiver had that already;
    # discarded: it left undelivered
    state: str
    reason: str
    planned_at: int  # microseconds since 1970; 0: not known any more
    due_at: int  # not before; 0: at once
    attempts: tuple[AttemptTrace, ...]
    forwarded: tuple[Issued, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What a subscription's receiver has of the document, of whichever version, as far as its answers say."""

    subscription: str
    version: int
    event: str  # that it accepted
    receiver_id: str  # its own name for the document; "" when it gave none
    accepted_at: int  # microseconds since 1970


@dataclass(frozen=True, slots=True)
class Trace:
    version: Version
    made_at: int  # microseconds since 1970
    deliveries: tuple[DeliveryTrace, ...]
    forwarded_by: Issuer | None = None  # of a derived entity's version, as far back as that is kept
    holdings: tuple[Holding, ...] = ()  # by subscription


def read_trace(store: Store, version: Version) -> Trace:
    """By subscription, then turn."""
    entity_id = store.find_name("entity", version.entity) or 0
    with store.read() as connection:
        made_at = connection.execute(sa.select(document.c.made_at).where(*_of(document, entity_id, version))).scalar()
        waiting = connection.execute(sa.select(delivery).where(*_of(delivery, entity_id, version))).all()
        tried = connection.execute(
            sa.select(attempt).where(*_of(attempt, entity_id, version)).order_by(attempt.c.seq)
        ).all()
        issued = connection.execute(sa.select(lineage).where(*_issued_by(entity_id, version))).all()
        issuer = connection.execute(sa.select(lineage).where(*_of(lineage, entity_id, version))).first()
        accepted = connection.execute(sa.select(ledger).where(*_accepted(entity_id, version.key))).all()
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
            [
                Issued(store.name(row.entity_id), row.key, row.version)
                for row in issued
                if (row.from_subscription_id, row.from_turn) == (subscription_id, turn)
            ],
        )
        for subscription_id, turn in turns
    ]
    deliveries = tuple(sorted(found, key=lambda one: (one.subscription, one.turn)))
    return Trace(
        version=version,
        made_at=made_at or 0,
        deliveries=deliveries,
        forwarded_by=_issuer(store, identity, issuer) if issuer else None,
        holdings=tuple(sorted((_holding(store, row) for row in accepted), key=lambda one: one.subscription)),
    )


def _accepted(entity_id: int, key: str) -> list[sa.ColumnElement[bool]]:
    return [ledger.c.entity_id == entity_id, ledger.c.key == key, ledger.c.version > 0]


def _holding(store: Store, row: Any) -> Holding:
    subscription, event = store.name(row.subscription_id), EVENTS[row.event].value
    return Holding(subscription, row.version, event, row.receiver_id, row.accepted_at)


def _issued_by(entity_id: int, version: Version) -> list[sa.ColumnElement[bool]]:
    table = lineage.c
    return [table.from_entity_id == entity_id, table.from_key == version.key, table.from_version == version.version]


def _issuer(store: Store, identity: str, row: Any) -> Issuer:
    subscription, entity = store.name(row.from_subscription_id), store.name(row.from_entity_id)
    id = delivery_id(identity, subscription, entity, row.from_key, row.from_version, row.from_turn)
    return Issuer(id, subscription, entity, row.from_key, row.from_version, row.from_turn)


def _of(table: sa.Table, entity_id: int, version: Version) -> list[sa.ColumnElement[bool]]:
    return [table.c.entity_id == entity_id, table.c.key == version.key, table.c.version == version.version]


def _delivery(
    version: Version,
    identity: str,
    subscription: str,
    turn: int,
    waiting: Sequence[Any],
    tried: Sequence[Any],
    issued: Sequence[Issued],
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
        forwarded=tuple(issued),
    )


def _state(row: Any, attempts: Sequence[AttemptTrace]) -> str:
    if row is not None:
        return State(row.state).name.lower()
    came_to = {one.outcome for one in attempts}
    if came_to & {"delivered", "reschedule"}:
        return "delivered"
    return "unchanged" if "unchanged" in came_to else "discarded"
