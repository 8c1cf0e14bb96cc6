"""Statements of replays and backfills: what they choose from, and the pieces in which they write their deliveries.

A piece is one store transaction: its deliveries and the cursor past them. So a replay that is killed at any point
goes on where it was, with no delivery twice in the queue and none missing.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any

import msgspec
import sqlalchemy as sa

from hub.delivery import OutcomeKind, State
from hub.documents import Cause, Version
from hub.errors import FaultError, InputError
from hub.operate.replay import Earlier, Filters, Past, Step
from hub.store import tables
from hub.store.database import Store, now
from hub.store.forwards import hold_forwards
from hub.store.images import append, statements, write_many
from hub.store.journal import newest_number, version_of
from hub.store.ledger import OPEN
from hub.store.pieces import Pieces
from hub.store.streams import hold_captures
from hub.store.tables import CAUSES, DELETED, EVENTS

document, delivery, attempt, replay = tables.document, tables.delivery, tables.attempt, tables.replay
ledger = tables.ledger
# Whether the receiver has what was attempted: no, may be, yes.
_TAKEN = (False, None, True)
_YES = (int(OutcomeKind.DELIVERED), int(OutcomeKind.RESCHEDULE))
_MAY_BE = (int(OutcomeKind.RETRY), int(OutcomeKind.HELD))
STREAMED = 100  # versions in memory at one time
PAST = "\uffff"  # in place of a subscription: past all of a document's


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far the deliveries have been written: up to this one, included. Documents go by entity, then key."""

    entity: str = ""
    key: str = ""
    subscription: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class Replay:
    """A replay or backfill that was begun: a row of `replay`."""

    id: int
    kind: str  # replay, backfill
    filters: Filters
    cursor: Cursor
    planned: int  # deliveries, when it began
    written: int
    created_at: int
    finished_at: int  # 0: not yet


@dataclass(frozen=True, slots=True)
class Send:
    """One step, and what it is of."""

    entity: str
    key: str
    subscription: str
    step: Step
    newest: int  # the document's newest version when this was planned

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.entity, self.key, self.subscription, self.step.version)


class Replays:
    def __init__(self, store: Store) -> None:
        self.store = store

    # the replays themselves

    def begin(self, kind: str, filters: Filters, planned: int) -> Replay:
        values = {
            "created_at": now(),
            "kind": kind,
            "request": msgspec.json.encode(filters).decode(),
            "cursor": msgspec.json.encode(Cursor()).decode(),
            "planned": planned,
            "written": 0,
            "finished_at": 0,
        }
        with self.store.write() as connection:
            id = connection.execute(replay.insert().values(**values).returning(replay.c.id)).scalar_one()
        return self.get(id)

    def all(self) -> list[Replay]:
        """The newest first."""
        with self.store.read() as connection:
            return [_replay(row) for row in connection.execute(sa.select(replay).order_by(replay.c.id.desc()))]

    def get(self, id: int) -> Replay:
        with self.store.read() as connection:
            row = connection.execute(sa.select(replay).where(replay.c.id == id)).first()
        if row is None:
            raise InputError(f"There is no replay {id}.", "`hub replay --list` shows them.")
        return _replay(row)

    def unfinished(self) -> Replay:
        """The newest one that was cut off."""
        found = next((one for one in self.all() if not one.finished_at), None)
        if found is None:
            raise InputError("No replay was cut off.", "`hub replay --list` shows them all.")
        return found

    def finish(self, id: int) -> None:
        with self.store.write() as connection:
            connection.execute(replay.update().where(replay.c.id == id).values(finished_at=now()))

    # what they choose from

    def chosen(
        self, entity: str, filters: Filters, cursor: Cursor, limit: int, replay_id: int
    ) -> Iterator[tuple[str, Iterator[Version]]]:
        """Of at most `limit` documents at and past the cursor, by key: the version before the first chosen, and on.

        A key's versions have to be read before the next key is asked for.
        """
        entity_id = self._entity_id(entity)
        first = (
            sa.select(document.c.key, sa.func.min(document.c.version).label("version"))
            .where(
                document.c.entity_id == entity_id, *_conditions(filters, self._ids(filters.subscriptions), replay_id)
            )
            .where(_from(cursor, entity))
            .group_by(document.c.key)
            .order_by(document.c.key)
            .limit(limit)
            .subquery()
        )
        versions = document.alias("kept")
        query = (
            sa.select(versions)
            .join(first, versions.c.key == first.c.key)
            .where(versions.c.entity_id == entity_id, versions.c.version >= first.c.version - 1)
            .order_by(versions.c.key, versions.c.version)
        )
        with self.store.read() as connection:
            rows = connection.execution_options(yield_per=STREAMED).execute(query)
            for key, group in groupby(rows, key=lambda row: row.key):
                yield key, (version_of(row, entity) for row in group)

    def newest(self, entity: str, cursor: Cursor, limit: int) -> list[Version]:
        """Each document's newest version, of those that are gone too, at and past the cursor, by key."""
        query = (
            sa.select(document)
            .where(
                document.c.entity_id == self._entity_id(entity),
                document.c.version == newest_number(document.c.entity_id, document.c.key),
                _from(cursor, entity),
            )
            .order_by(document.c.key)
            .limit(limit)
        )
        with self.store.read() as connection:
            return [version_of(row, entity) for row in connection.execute(query)]

    def held(self, subscription: str, entity: str, keys: Sequence[str]) -> dict[str, int]:
        """By key, where the receiver has the document or may have it: the last version that it was sent of it.

        0 where that is not known or not kept any more. A version that was never sent may be outside the set.
        """
        if not keys:
            return {}
        mine = _of(self._entity_id(entity), self._ids([subscription]), keys)
        may_have = sa.and_(*mine(ledger), ledger.c.content != b"")
        open_ = sa.select(ledger.c.key).where(*mine(ledger), ledger.c.content == OPEN)
        there = sa.case((ledger.c.event != DELETED, ledger.c.version), else_=0)
        waits = delivery.c.state != int(State.SUPERSEDED)
        # In one statement: a delivery may be settled between two.
        each = sa.union_all(
            sa.select(ledger.c.key, there.label("version")).where(may_have),
            sa.select(delivery.c.key, _shown).where(*mine(delivery), waits, delivery.c.event != DELETED),
            sa.select(delivery.c.key, _shown).where(*mine(delivery), delivery.c.state == int(State.PARKED)),
            sa.select(attempt.c.key, attempt.c.version).where(
                *mine(attempt), attempt.c.event != DELETED, attempt.c.key.in_(open_)
            ),
        ).subquery()
        held = sa.select(each.c.key, sa.func.max(each.c.version).label("version")).group_by(each.c.key).subquery()
        kept = sa.and_(
            document.c.entity_id == self._entity_id(entity),
            document.c.key == held.c.key,
            document.c.version == held.c.version,
            document.c.body.is_not(None),
        )
        query = sa.select(held.c.key, sa.func.coalesce(document.c.version, 0)).outerjoin_from(held, document, kept)
        with self.store.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def past(
        self, entity: str, subscriptions: Collection[str], keys: Sequence[str], first: int, replay_id: int
    ) -> dict[tuple[str, str], Past]:
        """By subscription and key: what was sent of the versions from `first` on, this replay's own aside."""
        found: dict[tuple[str, str], Past] = defaultdict(Past)
        mine = _of(self._entity_id(entity), self._ids(subscriptions), keys)
        columns = (ledger.c.subscription_id, ledger.c.key, ledger.c.version, ledger.c.event, ledger.c.content)
        with self.store.read() as connection:
            sent = connection.execute(_sent_last(mine, first, replay_id)).all()
            held = connection.execute(sa.select(*columns).where(*mine(ledger))).all()
        for row in held:  # attempts are kept for a while only
            past = found[self.store.name(row.subscription_id), row.key]
            past.certain = row.version if row.content != OPEN else 0
            past.sent[row.version] = Earlier(row.event == DELETED, True)
        for row in sent:
            past = found[self.store.name(row.subscription_id), row.key]
            past.sent[row.version] = Earlier(row.event == DELETED, _TAKEN[row.taken])
        return found

    def failed(self, subscription: str, entity: str, key: str, replay_id: int) -> dict[int, int]:
        """The versions of a document that are parked, or were until this replay queued them.

        By each the last version that was in the set: itself, unless it is the one that left.
        """
        mine = _of(self._entity_id(entity), self._ids([subscription]), [key])
        query = sa.select(delivery.c.version, _shown).where(*mine(delivery), _failed(replay_id))
        with self.store.read() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def turns(self, entity: str, keys: Sequence[str]) -> dict[tuple[int, str, int], int]:
        """By subscription id, key and version: the turn that was last planned, where it is known."""
        with self.store.read() as connection:
            return known_turns(connection, self._entity_id(entity), keys)

    # what they write

    def write(self, begun: Replay, cursor: Cursor, sends: Sequence[Send], pieces: Pieces) -> int:
        """Put the deliveries of one entity in the queue, and the cursor from `cursor` past them.

        How many of them: what follows a document that has got a newer version meanwhile is to be planned again.
        FaultError when another process has moved the cursor.
        """
        entity_id = self._entity_id(sends[0].entity)
        keys = list(dict.fromkeys(send.key for send in sends))
        turns = self.turns(sends[0].entity, keys)
        ids = {name: self.store.name_id("subscription", name) for name in {send.subscription for send in sends}}
        rows = [_row(send, ids[send.subscription], entity_id, turns, begun) for send in sends]
        with pieces.write(self.store, len(rows)) as connection:
            # A version that is being made would get in before these, and be overtaken.
            hold_captures(connection)
            hold_forwards(connection, [entity_id])
            newest = _newest(connection, entity_id, keys)
            fresh = list(takewhile(lambda send: newest.get(send.key) == send.newest, sends))
            if fresh:
                self._move_cursor(connection, begun.id, cursor, fresh)
                outdated = [
                    (entity_id, send.key, version, ids[send.subscription])
                    for send in fresh
                    for version in send.step.settles
                ]
                _replace(connection, rows[: len(fresh)], outdated)
        self.store.ring("dispatch")
        return len(fresh)

    def _move_cursor(self, connection: sa.Connection, id: int, cursor: Cursor, sends: Sequence[Send]) -> None:
        moved = connection.execute(
            replay.update()
            .where(replay.c.id == id, replay.c.cursor == msgspec.json.encode(cursor).decode())
            .values(cursor=msgspec.json.encode(sends[-1].cursor).decode(), written=replay.c.written + len(sends))
        ).rowcount
        if not moved:
            raise FaultError(f"Replay {id} is running in another process.", "Wait for it, or end it first.")

    def _entity_id(self, entity: str) -> int:
        return self.store.find_name("entity", entity) or 0

    def _ids(self, subscriptions: Collection[str]) -> list[int]:
        """0 of one that the store does not know: it has nothing."""
        return [self.store.find_name("subscription", name) or 0 for name in subscriptions]


_shown = sa.case((delivery.c.event == DELETED, delivery.c.before_version), else_=delivery.c.version)


def _of(
    entity_id: int, subscriptions: Sequence[int], keys: Sequence[str]
) -> Callable[[sa.Table], list[sa.ColumnElement[bool]]]:
    """The rows of these documents to these subscriptions."""

    def of(table: sa.Table) -> list[sa.ColumnElement[bool]]:
        return [table.c.entity_id == entity_id, table.c.key.in_(keys), table.c.subscription_id.in_(subscriptions)]

    return of


def _sent_last(mine: Callable[[sa.Table], list[sa.ColumnElement[bool]]], first: int, replay_id: int) -> sa.Select[Any]:
    """Attempts and what waits, each version's oldest turn first."""
    place = ("subscription_id", "key", "version", "turn", "event")

    def chosen(table: sa.Table) -> list[sa.ColumnElement[bool]]:
        return [*mine(table), table.c.version >= first, table.c.replay_id.is_distinct_from(replay_id)]

    taken = sa.case((attempt.c.outcome.in_(_YES), 2), (attempt.c.outcome.in_(_MAY_BE), 1), else_=0)
    attempts = sa.select(*(attempt.c[name] for name in place), sa.func.max(taken).label("taken"))
    attempts = attempts.where(*chosen(attempt)).group_by(*(attempt.c[name] for name in place))
    on_its_way = sa.case((delivery.c.state == int(State.PENDING), 1), else_=0)
    waiting = sa.select(*(delivery.c[name] for name in place), on_its_way).where(*chosen(delivery))
    every = attempts.union_all(waiting).subquery()
    return sa.select(every).order_by(every.c.turn, every.c.taken)


def known_turns(connection: sa.Connection, entity_id: int, keys: Sequence[str]) -> dict[tuple[int, str, int], int]:
    """As `Replays.turns`."""
    found: dict[tuple[int, str, int], int] = {}
    for table in (attempt, delivery):
        query = (
            sa.select(table.c.subscription_id, table.c.key, table.c.version, sa.func.max(table.c.turn))
            .where(table.c.entity_id == entity_id, table.c.key.in_(keys))
            .group_by(table.c.subscription_id, table.c.key, table.c.version)
        )
        for subscription_id, key, version, turn in connection.execute(query):
            place = (subscription_id, key, version)
            found[place] = max(turn, found.get(place, 0))
    return found


def _from(cursor: Cursor, entity: str) -> sa.ColumnElement[bool]:
    if cursor.entity != entity:
        return sa.true()
    return document.c.key > cursor.key if cursor.subscription == PAST else document.c.key >= cursor.key


def _conditions(filters: Filters, subscriptions: Sequence[int], replay_id: int) -> list[sa.ColumnElement[bool]]:
    """`Filters.choose` as SQL, and what it leaves aside; a little wide for merged versions and `failed`."""
    found: list[sa.ColumnElement[bool]] = []
    if filters.keys:
        found.append(document.c.key.in_(filters.keys))
    if filters.since is not None:
        found.append(document.c.committed_at >= filters.since)
    if filters.until is not None:
        found.append(document.c.committed_at < filters.until)
    if filters.from_lsn is not None:
        found.append(document.c.lsn >= filters.from_lsn)
    if filters.to_lsn is not None:
        found.append(document.c.lsn <= filters.to_lsn)
    if filters.transaction is not None:
        found.append(sa.or_(document.c.transaction == filters.transaction, document.c.merged.is_not(None)))
    if filters.failed:
        found.append(_is_failed(subscriptions, replay_id))
    return found


def _is_failed(subscriptions: Sequence[int], replay_id: int) -> sa.ColumnElement[bool]:
    return sa.exists().where(
        delivery.c.entity_id == document.c.entity_id,
        delivery.c.key == document.c.key,
        delivery.c.version == document.c.version,
        _failed(replay_id),
        delivery.c.subscription_id.in_(subscriptions) if subscriptions else sa.true(),
    )


def _failed(replay_id: int) -> sa.ColumnElement[bool]:
    return sa.or_(delivery.c.state == int(State.PARKED), delivery.c.replay_id == replay_id)


def _newest(connection: sa.Connection, entity_id: int, keys: Sequence[str]) -> dict[str, int]:
    query = (
        sa.select(document.c.key, sa.func.max(document.c.version))
        .where(document.c.entity_id == entity_id, document.c.key.in_(keys))
        .group_by(document.c.key)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def _row(
    send: Send,
    subscription_id: int,
    entity_id: int,
    turns: dict[tuple[int, str, int], int],
    begun: Replay,
) -> dict[str, Any]:
    turn = turns.get((subscription_id, send.key, send.step.version), 0)
    if begun.filters.new_ids or send.step.renewed:
        turn = max(turn + 1, begun.id)  # of two replays the later one's number is higher: never the same id again
    return {
        "subscription_id": subscription_id,
        "entity_id": entity_id,
        "key": send.key,
        "version": send.step.version,
        "before_version": send.step.before_version,
        "turn": turn,
        "event": EVENTS.index(send.step.event),
        "cause": CAUSES.index(Cause.BACKFILL if begun.kind == "backfill" else Cause.REPLAY),
        "state": int(State.PARKED if send.step.failure else State.PENDING),
        "due_at": 0,
        "attempts": 0,
        "created_at": now(),
        "replay_id": begun.id,
        "reason": send.step.failure or None,
    }


def _replace(connection: sa.Connection, rows: Sequence[dict[str, Any]], outdated: Sequence[tuple[Any, ...]]) -> None:
    """What waits or is parked of the same versions goes: its place in the queue is the replay's.

    What a receiver asked for at a later time stays: that is another delivery. `outdated`: the places of parked ones
    that nothing is sent of, but of a newer version; where they hold their document, they would hold that too.
    """
    sql, place, columns = statements(connection), ("entity_id", "key", "version", "subscription_id"), tuple(rows[0])
    places = [tuple(row[column] for column in place) for row in rows]
    if not sql.sqlite:
        write_many(connection, sql.lock("delivery", place), [*places, *outdated])
    write_many(connection, f"{sql.delete('delivery', place)} AND state <> {int(State.RESCHEDULED)}", places)
    write_many(connection, f"{sql.delete('delivery', place)} AND state = {int(State.PARKED)}", outdated)
    append(connection, "delivery", columns, [tuple(row.values()) for row in rows])


def _replay(row: Any) -> Replay:
    return Replay(
        id=row.id,
        kind=row.kind,
        filters=msgspec.json.decode(row.request, type=Filters),
        cursor=msgspec.json.decode(row.cursor, type=Cursor),
        planned=row.planned,
        written=row.written,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
