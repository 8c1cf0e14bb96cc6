"""Statements of operators: what is not settled, listed; sent again, given up; subscriptions paused and resumed.

Nothing here sends: dispatch sees the change at the next ring.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from hub.delivery import OutcomeKind, State
from hub.documents import Cause, Event
from hub.store import ledger, tables
from hub.store.database import Store, now
from hub.store.deliveries import FORCED, set_subscription_state
from hub.subscriptions import delivery_id

PAGE = 500  # rows a statement
_EVENTS, _CAUSES = tuple(Event), tuple(Cause)

delivery, attempt = tables.delivery, tables.attempt


class Unsettled(msgspec.Struct, frozen=True):
    """A delivery as an operator sees it."""

    number: int  # its `seq`: what commands take
    id: str  # the delivery id: what the receiver sees
    state: str  # pending, parked, superseded, released
    subscription: str
    entity: str
    key: str
    version: int
    turn: int
    event: str
    cause: str
    attempts: int
    due_at: int  # microseconds since 1970; 0: at once
    created_at: int
    reason: str


class Tried(msgspec.Struct, frozen=True):
    """An attempt as an operator sees it."""

    number: int
    started_at: int  # microseconds since 1970
    duration: int  # microseconds
    outcome: str
    detail: str


class Choice(msgspec.Struct, frozen=True):
    """Which unsettled deliveries."""

    numbers: tuple[int, ...] = ()  # () means all that fit the rest
    subscription: str = ""
    entity: str = ""
    key: str = ""
    states: tuple[State, ...] = ()  # () means any


class Operators:
    def __init__(self, store: Store) -> None:
        self.store = store

    def chosen(self, choice: Choice, limit: int | None = None) -> Iterator[Unsettled]:
        """In the order in which they were made, read page by page."""
        identity = self.store.identity()
        last, left = 0, limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            query = sa.select(delivery).where(*self._conditions(choice), delivery.c.seq > last)
            with self.store.read() as connection:
                rows = connection.execute(query.order_by(delivery.c.seq).limit(size)).all()
            yield from (self._unsettled(row, identity) for row in rows)
            if len(rows) < size:
                return
            last = rows[-1].seq
            left = None if left is None else left - size

    def count(self, choice: Choice) -> int:
        with self.store.read() as connection:
            query = sa.select(sa.func.count()).select_from(delivery).where(*self._conditions(choice))
            return int(connection.execute(query).scalar_one())

    def find(self, id: str) -> Unsettled | None:
        """By the id that the receiver sees."""
        return next((one for one in self.chosen(Choice()) if one.id == id), None)

    def attempts(self, one: Unsettled) -> list[Tried]:
        query = (
            sa.select(attempt)
            .where(
                attempt.c.entity_id == (self.store.find_name("entity", one.entity) or 0),
                attempt.c.key == one.key,
                attempt.c.version == one.version,
                attempt.c.subscription_id == (self.store.find_name("subscription", one.subscription) or 0),
                attempt.c.turn == one.turn,
            )
            .order_by(attempt.c.seq)
        )
        with self.store.read() as connection:
            return [
                Tried(row.number, row.started_at, row.duration, OutcomeKind(row.outcome).name.lower(), row.detail or "")
                for row in connection.execute(query)
            ]

    def release(self, choice: Choice, *, force: bool) -> int:
        """Have them sent: attempts and age begin anew. How many. Superseded ones only with `force`.

        Of pending ones only those that wait for a retry: the others are in line already.
        """
        allowed = [State.PENDING, State.PARKED, *([State.SUPERSEDED] if force else [])]
        values = {
            "state": int(State.RELEASED),
            "attempts": 0,
            "due_at": 0,
            "created_at": now(),
            "reason": FORCED if force else None,
        }
        stands = sa.or_(delivery.c.state != int(State.PENDING), delivery.c.due_at > 0)

        def release(connection: sa.Connection, numbers: Sequence[int]) -> None:
            connection.execute(delivery.update().where(delivery.c.seq.in_(numbers)).values(**values))

        return self._in_pages(choice, allowed, release, stands)

    def discard(self, choice: Choice, reason: str) -> int:
        """Give them up: they go, an attempt that says who and why stays. How many.

        What the receiver has of their documents is open: an attempt may have begun.
        """
        with_reason = sa.select(
            delivery.c.subscription_id,
            delivery.c.entity_id,
            delivery.c.key,
            delivery.c.version,
            delivery.c.turn,
            delivery.c.event,
            delivery.c.attempts + 1,
            sa.literal(now()),
            sa.literal(0),
            sa.literal(int(OutcomeKind.REFUSED)),
            sa.literal(f"Discarded by an operator: {reason}"),
            delivery.c.replay_id,
        )
        columns = [column.name for column in attempt.columns if column.name != "seq"]

        def discard(connection: sa.Connection, numbers: Sequence[int]) -> None:
            chosen = delivery.c.seq.in_(numbers)
            ledger.leave_open(connection, numbers)
            connection.execute(attempt.insert().from_select(columns, with_reason.where(chosen)))
            connection.execute(delivery.delete().where(chosen))

        return self._in_pages(choice, list(State), discard)

    def _in_pages(
        self,
        choice: Choice,
        states: Sequence[State],
        act: Callable[[sa.Connection, Sequence[int]], None],
        *more: sa.ColumnElement[bool],
    ) -> int:
        """Act on PAGE deliveries (seqs) a store transaction, until none is left; how many there were."""
        done, last = 0, 0
        conditions = (*self._conditions(choice), delivery.c.state.in_([int(state) for state in states]), *more)
        while True:
            page = sa.select(delivery.c.seq).where(*conditions, delivery.c.seq > last).order_by(delivery.c.seq)
            with self.store.write() as connection:
                # Locked in the order of `seq`, as by all who change several deliveries in one transaction.
                numbers = list(connection.execute(page.limit(PAGE).with_for_update()).scalars())
                if numbers:
                    act(connection, numbers)
                    self.store.ring("dispatch", connection)
            if not numbers:
                return done
            done, last = done + len(numbers), numbers[-1]

    def set_state(self, subscription: str, state: str, reason: str) -> None:
        """active or paused."""
        id = self.store.name_id("subscription", subscription)
        with self.store.write() as connection:
            set_subscription_state(self.store, connection, id, state, reason)
            self.store.ring("dispatch", connection)

    def state(self, subscription: str) -> str:
        """active, paused or disabled."""
        table = tables.subscription_state
        id = self.store.find_name("subscription", subscription) or 0
        with self.store.read() as connection:
            found = connection.execute(sa.select(table.c.state).where(table.c.subscription_id == id)).scalar()
        return found or "active"

    def _conditions(self, choice: Choice) -> list[sa.ColumnElement[bool]]:
        conditions: list[sa.ColumnElement[bool]] = []
        if choice.numbers:
            conditions.append(delivery.c.seq.in_(choice.numbers))
        for kind, name, column in (
            ("subscription", choice.subscription, delivery.c.subscription_id),
            ("entity", choice.entity, delivery.c.entity_id),
        ):
            if name:
                conditions.append(column == (self.store.find_name(kind, name) or 0))
        if choice.key:
            conditions.append(delivery.c.key == choice.key)
        if choice.states:
            conditions.append(delivery.c.state.in_([int(state) for state in choice.states]))
            if State.PENDING not in choice.states:
                conditions.append(sa.text("delivery.state <> 0"))  # type: ignore[arg-type]
        return conditions

    def _unsettled(self, row: Any, identity: str) -> Unsettled:
        subscription, entity = self.store.name(row.subscription_id), self.store.name(row.entity_id)
        return Unsettled(
            number=row.seq,
            id=delivery_id(identity, subscription, entity, row.key, row.version, row.turn),
            state=State(row.state).name.lower(),
            subscription=subscription,
            entity=entity,
            key=row.key,
            version=row.version,
            turn=row.turn,
            event=_EVENTS[row.event].value,
            cause=_CAUSES[row.cause].value,
            attempts=row.attempts,
            due_at=row.due_at,
            created_at=row.created_at,
            reason=row.reason or "",
        )
