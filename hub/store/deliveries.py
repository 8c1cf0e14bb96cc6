"""Statements of dispatch and of operators on deliveries, attempts and the states of subscriptions and destinations.

Settled deliveries leave the table. On SQLite, dispatch reads pending ones in the order of `seq` from a position on: no
index is needed for that, and none is paid for at each insert. On Postgres, transactions that write deliveries end in
any order, and several workers read: each looks for what has become visible since its last look, in its own slices.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from hub.delivery import Attempt, Delivery, Forwarded, Held, Receiver, State
from hub.dispatch.health import WELL, DestinationState
from hub.dispatch.merging import Merged, Waiting, merge_documents
from hub.dispatch.slices import SLICES
from hub.documents import Cause, Event
from hub.project import DeliveryPolicy
from hub.store import ledger, tables
from hub.store.database import Store
from hub.store.forwards import Forwards
from hub.store.images import statements, write_many
from hub.store.rescheduled import forget_others
from hub.store.workers import Membership

PAGE = 500  # deliveries read at once
CHUNK = 1000  # deliveries that one store transaction settles, well below 50 ms
ATTEMPTS = 50  # rows of one INSERT

delivery, attempt, document = tables.delivery, tables.attempt, tables.document
_previous = document.alias("previous")
_EVENTS, _CAUSES = tuple(Event), tuple(Cause)

_COLUMNS = (
    delivery.c.seq,
    delivery.c.subscription_id,
    delivery.c.entity_id,
    delivery.c.key,
    delivery.c.version,
    delivery.c.turn,
    delivery.c.event,
    delivery.c.attempts,
    delivery.c.due_at,
    delivery.c.created_at,
    delivery.c.replay_id,
)

Share = Mapping[int, int]  # what is read: by subscription id, the destination's slices as bits
Runs = Mapping[int, int]  # by stream id, the number of its snapshot: with each, entities may have other columns
Mark = int | str  # up to where deliveries have been looked at: a seq, or a snapshot of the server's

_ATTEMPT = (
    "subscription_id", "entity_id", "key", "version", "turn", "event", "number", "started_at", "duration", "outcome",
    "detail", "replay_id",
)  # fmt: skip


class Loaded(msgspec.Struct, frozen=True, gc=False):
    """What a body is rendered from: the journal version, and the last one before it that was in the set."""

    found: bool  # False: the journal no longer has the version
    event: Event
    cause: Cause
    lsn: int
    transaction: int
    committed_at: int
    document: bytes | None
    before: bytes | None
    hops: int  # forwards between the source's commit and the document


class Released(msgspec.Struct, frozen=True):
    """A delivery that an operator wants sent."""

    delivery: Delivery
    forced: bool  # also when the receiver has a newer version
    outdated: bool  # the receiver has accepted a newer version


class Look(msgspec.Struct, frozen=True):
    """What a ring may have been about."""

    standing: dict[int, str]  # by subscription id: paused or disabled
    released: list[Released]
    fresh: list[Delivery]  # in order: those that have come since the mark
    parked: set[int]  # the subscriptions of those that have come parked, because capture could not decide on them
    mark: Mark  # the next look's
    whole: bool  # they are all; else the rest is found by going through the backlog
    destinations: dict[str, DestinationState]  # where other workers change them too


class Mergeable(msgspec.Struct, frozen=True):
    """Documents whose pending deliveries to one subscription are to be merged."""

    subscription_id: int
    keys: Collection[tuple[int, str]]
    policy: DeliveryPolicy
    fixed: Set[int]  # seqs that stay as they are
    begun: Callable[[int], bool]  # by seq, whether an attempt may have begun


class Update(msgspec.Struct, frozen=True, gc=False):
    """A delivery that stays."""

    seq: int
    state: State
    attempts: int
    due_at: int
    reason: str


class Changes:
    """What dispatch has to write: collected in memory, written together."""

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.settled: list[int] = []  # seqs
        self.updates: list[Update] = []
        self.accepted: list[Delivery] = []  # of subscriptions that have parked ones: older ones are superseded
        self.rescheduled: list[Delivery] = []  # of `updates`: others that waited for the same documents go
        self.forwarded: list[Forwarded] = []  # by the answers to `settled` and `rescheduled` ones
        self.ledger: dict[Receiver, Held | None] = {}  # what receivers have by these attempts; None: that is open
        self.disabled: dict[int, str] = {}  # by subscription id: the reason
        self.destinations: dict[str, DestinationState] = {}

    def __bool__(self) -> bool:
        return bool(self.attempts or self.settled or self.updates or self.disabled or self.destinations)

    def __len__(self) -> int:
        issued = sum(len(one.documents) for one in self.forwarded)
        return len(self.attempts) + len(self.settled) + len(self.updates) + issued


class Deliveries:
    def __init__(self, store: Store, membership: Membership | None = None) -> None:
        """`membership`: on whose behalf, where several workers share the store; what a lost one writes is refused."""
        self.store = store
        self.forwards = Forwards({})  # dispatch's own, once it knows the derived entities
        self._membership = membership
        mark = "?" if store.is_sqlite else "%s"
        # One statement for many rows: the driver lets go of Python's lock at each, and would get it back late.
        # Not as a join on Postgres: planned while the table is small, it would read all of it for good.
        among = "IN (SELECT value FROM json_each(?))" if store.is_sqlite else "= ANY(%s::bigint[])"
        self._delete = f"DELETE FROM delivery WHERE seq {among}"
        self._update = (
            f"UPDATE delivery SET state = {mark}, attempts = {mark}, due_at = {mark}, reason = {mark}"
            f" WHERE seq = {mark} AND state <> {int(State.RELEASED)}"
        )
        older = (
            f"state <> 0 AND state = {int(State.PARKED)}"
            f" AND entity_id = {mark} AND key = {mark} AND version < {mark} AND subscription_id = {mark}"
        )
        if not store.is_sqlite:
            # One that is being replayed or given up at this moment goes without us: nobody waits for anybody.
            older = f"seq = ANY(ARRAY(SELECT seq FROM delivery WHERE {older} FOR UPDATE SKIP LOCKED))"
        self._supersede = f"UPDATE delivery SET state = {int(State.SUPERSEDED)} WHERE {older}"
        self._merge = (
            f"UPDATE delivery SET event = {mark}, cause = {mark}, before_version = {mark}, attempts = {mark},"
            f" due_at = {mark}, created_at = {mark}, reason = {mark} WHERE seq = {mark}"
        )
        self._attempt_row = f"({', '.join([mark] * len(_ATTEMPT))})"
        number = "0" if store.is_sqlite else _OF_SLICE
        self._rows = sa.select(*_COLUMNS, sa.literal_column(number).label("slice"), delivery.c.reason)
        if not store.is_sqlite:
            self._rows = self._rows.join(_SHARE, sa.and_(_SHARE.c.subscription_id == delivery.c.subscription_id, _HELD))
        self._pending = self._rows.where(_PENDING)
        of_capture = delivery.c.state.in_([int(State.PENDING), int(State.PARKED)])
        self._come = self._rows.add_columns(delivery.c.state).where(of_capture)
        # One look-up in the index for each document; see hub.store.images.
        columns = ", ".join(f"delivery.{column.name}" for column in _COLUMNS)
        waiting = f"{columns}, {number} AS slice, delivery.before_version, delivery.cause, delivery.reason"
        self._waiting = f"SELECT {waiting} FROM {_of_keys(mark, f'= {int(State.PENDING)}', sqlite=store.is_sqlite)}"
        held = _of_keys(mark, f"IN ({int(State.PARKED)}, {int(State.RELEASED)})", sqlite=store.is_sqlite)
        self._held_keys = f"SELECT delivery.entity_id, delivery.key, delivery.seq FROM {held}"

    @staticmethod
    def _of(share: Share) -> dict[str, Any]:
        return {"subscriptions": list(share), "masks": list(share.values())}

    # What dispatch reads

    def mark(self) -> Mark:
        """Where a look begins that is to find nothing that is there already."""
        with self.store.read() as connection:
            return self._mark(connection)

    def _mark(self, connection: sa.Connection) -> Mark:
        if not self.store.is_sqlite:
            return str(connection.exec_driver_sql("SELECT pg_current_snapshot()::text").scalar())
        return int(connection.execute(sa.select(sa.func.max(delivery.c.seq))).scalar() or 0)

    def look(self, mark: Mark, share: Share, room: int) -> Look:
        """One consistent view: who stands, at most `room` released ones, and a page of those since the mark."""
        with self.store.read() as connection:
            since = delivery.c.seq > mark if self.store.is_sqlite else _since(str(mark))
            query = self._come.where(since).order_by(delivery.c.seq).limit(PAGE)
            rows = connection.execute(query, self._of(share)).all()
            whole = len(rows) < PAGE
            last = rows[-1].seq if self.store.is_sqlite and not whole else self._mark(connection)
            return Look(
                standing={id: state for id, state in connection.execute(_standing_query)},  # noqa: C416
                released=self._released(connection, share, room),
                fresh=[Delivery(*row[:-2]) for row in rows if row[-1] == State.PENDING],
                parked={row.subscription_id for row in rows if row[-1] == State.PARKED},
                mark=last,
                whole=whole,
                destinations={} if self.store.is_sqlite else self._destinations(connection),
            )

    def _released(self, connection: sa.Connection, share: Share, room: int) -> list[Released]:
        query = self._rows.where(_RELEASED).order_by(delivery.c.seq).limit(room)
        return [
            Released(one := Delivery(*row[:-1]), row[-1] == FORCED, ledger.has_newer(connection, one))
            for row in connection.execute(query, self._of(share))
        ]

    def backlog(self, subscription_id: int, mask: int, position: int) -> list[Delivery]:
        """A page of one subscription's pending deliveries past `position`; a short one is the last."""
        query = self._pending.where(delivery.c.seq > position, delivery.c.subscription_id == subscription_id)
        with self.store.read() as connection:
            rows = connection.execute(query.order_by(delivery.c.seq).limit(PAGE), self._of({subscription_id: mask}))
            return _deliveries(rows)

    def last(self) -> int:
        """No delivery that is in the store now has a higher `seq`, whatever its transaction does."""
        with self.store.read() as connection:
            if self.store.is_sqlite:
                return int(connection.execute(sa.select(sa.func.max(delivery.c.seq))).scalar() or 0)
            sequence = "pg_sequence_last_value(pg_get_serial_sequence('delivery', 'seq'))"
            return int(connection.exec_driver_sql(f"SELECT {sequence}").scalar() or 0)

    def any_pending(self, share: Share) -> bool:
        with self.store.read() as connection:
            return connection.execute(self._pending.limit(1), self._of(share)).first() is not None

    def lane(self, subscription_id: int, key: tuple[int, str], position: int, limit: int) -> list[Delivery]:
        """The pending deliveries of one document to one subscription past `position`, in order."""
        query = self._pending.where(
            delivery.c.entity_id == key[0],
            delivery.c.key == key[1],
            delivery.c.subscription_id == subscription_id,
            delivery.c.seq > position,
        )
        with self.store.read() as connection:
            rows = connection.execute(query.order_by(delivery.c.seq).limit(limit), self._of({subscription_id: ALL}))
            return _deliveries(rows)

    def runs(self) -> Runs:
        with self.store.read() as connection:
            return self._runs(connection)

    @staticmethod
    def _runs(connection: sa.Connection) -> Runs:
        return {id: run for id, run in connection.exec_driver_sql("SELECT stream_id, run FROM stream")}  # noqa: C416

    def load(self, seqs: Sequence[int]) -> tuple[Runs, dict[int, Loaded]]:
        """By seq, what to render; one that is no longer pending (discarded, expired) is absent.

        With the runs that the documents were made in at the latest.
        """
        wanted = {"seqs": list(seqs), "derived": self.forwards.entity_ids}
        with self.store.read() as connection:
            runs = self._runs(connection)
            return runs, {row[0]: _loaded(row) for row in connection.execute(_load_query, wanted)}

    def held(self, receivers: Collection[Receiver]) -> dict[Receiver, Held]:
        """What receivers have, where the store knows."""
        with self.store.read() as connection:
            return ledger.read(connection, receivers)

    def parked_subscriptions(self) -> set[int]:
        with self.store.read() as connection:
            query = sa.select(delivery.c.subscription_id).where(_PARKED).distinct()
            return set(connection.execute(query).scalars())

    def parked_lanes(self, subscription_id: int, mask: int) -> dict[tuple[int, str], int]:
        """The documents that have a parked delivery to the subscription, with the first one's seq.

        Those that an operator has just released too: a look shows them, in their turn.
        """
        holds = (sa.or_(_PARKED, _RELEASED), delivery.c.subscription_id == subscription_id)
        query = self._rows.where(*holds).order_by(delivery.c.seq.desc())
        with self.store.read() as connection:
            rows = _deliveries(connection.execute(query, self._of({subscription_id: mask})))
            return {(one.entity_id, one.key): one.seq for one in rows}

    def oldest(self, subscription_id: int) -> int | None:
        """When the oldest pending delivery of a subscription was made, microseconds since 1970."""
        query = sa.select(sa.func.min(delivery.c.created_at)).where(
            _PENDING, delivery.c.subscription_id == subscription_id
        )
        with self.store.read() as connection:
            return connection.execute(query).scalar()

    def expired(self, subscription_id: int, before: int) -> list[int]:
        """The seqs of pending deliveries that were made at a moment or before, CHUNK at most."""
        query = (
            sa.select(delivery.c.seq)
            .where(_PENDING, delivery.c.subscription_id == subscription_id, delivery.c.created_at <= before)
            .order_by(delivery.c.seq)
            .limit(CHUNK)
        )
        with self.store.read() as connection:
            return list(connection.execute(query).scalars())

    def destinations(self) -> dict[str, DestinationState]:
        with self.store.read() as connection:
            return self._destinations(connection)

    @staticmethod
    def _destinations(connection: sa.Connection) -> dict[str, DestinationState]:
        table = tables.destination_state
        query = sa.select(table.c.destination, table.c.held_since, table.c.reason, table.c.probe_at, table.c.failures)
        return {row[0]: DestinationState(*row[1:]) for row in connection.execute(query)}

    # What dispatch writes

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        """Evicted when other workers have this one's deliveries by now."""
        with self.store.write() as connection:
            if self._membership:
                self._membership.require(connection)
            yield connection

    def write(self, changes: Changes) -> None:
        """All of it in one store transaction: an attempt goes with what came of it."""
        with self._writing() as connection:
            if changes.forwarded:
                self.forwards.hold(connection, changes.forwarded)
            self._lock(connection, [*changes.settled, *(update.seq for update in changes.updates)])
            self._write_attempts(connection, changes.attempts)
            if changes.settled:
                connection.exec_driver_sql(self._delete, (statements(connection).keys(changes.settled),))
            self._many(connection, self._update, [_updated(update) for update in changes.updates])
            self._many(
                connection,
                self._supersede,
                [(one.entity_id, one.key, one.version, one.subscription_id) for one in changes.accepted],
            )
            ledger.write(connection, changes.ledger)
            forget_others(connection, changes.rescheduled)
            if changes.forwarded and self.forwards.write(connection, changes.forwarded):
                self.store.ring("dispatch", connection)
            self._write_states(connection, changes)

    def would_merge(self, documents: Mergeable) -> Merged:
        """What `merge` would leave. Most often nothing goes, and nothing needs to be written."""
        with self.store.read() as connection:
            return self._read_merged(connection, documents)

    def merge(self, documents: Mergeable, expected: Merged) -> Merged:
        """Merge what waits of these documents, in one store transaction; `expected`: as of `would_merge`."""
        with self._writing() as connection:
            left = (one.delivery.seq for one in (*expected.waiting, *expected.changed))
            self._lock(connection, sorted({*expected.gone, *left}))
            merged = self._read_merged(connection, documents)  # an operator may have taken one out meanwhile
            if merged.gone:
                connection.exec_driver_sql(self._delete, (statements(connection).keys(merged.gone),))
            self._many(connection, self._merge, [_merged(one) for one in merged.changed])
        return merged

    def _read_merged(self, connection: sa.Connection, documents: Mergeable) -> Merged:
        waiting = [_waiting(row, documents) for row in self._read_of_keys(connection, self._waiting, documents)]
        by_document = groupby(waiting, lambda one: one.document)
        parked: dict[tuple[int, str], list[int]] = {}
        if documents.policy.on_park == "hold":
            for row in self._read_of_keys(connection, self._held_keys, documents):
                parked.setdefault((row.entity_id, row.key), []).append(row.seq)
        return merge_documents((document for _, document in by_document), documents.policy, parked)

    @staticmethod
    def _read_of_keys(connection: sa.Connection, query: str, documents: Mergeable) -> list[Any]:
        """By document and `seq`."""
        rows: list[Any] = []
        for entity_id in {entity_id for entity_id, _ in documents.keys}:
            names = statements(connection).keys([key for entity, key in documents.keys if entity == entity_id])
            rows += connection.exec_driver_sql(query, (names, entity_id, documents.subscription_id))
        return sorted(rows, key=lambda row: (row.entity_id, row.key, row.seq))

    @staticmethod
    def _lock(connection: sa.Connection, seqs: Sequence[int]) -> None:
        """In the order in which operators and replays lock them too, so that nobody waits in a circle."""
        sql = statements(connection)
        if not sql.sqlite:
            write_many(connection, sql.lock("delivery", ("seq",)), [(seq,) for seq in seqs])

    @staticmethod
    def _many(connection: sa.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            connection.exec_driver_sql(statement, rows)

    def _write_attempts(self, connection: sa.Connection, attempts: Iterable[Attempt]) -> None:
        rows = [
            (
                one.delivery.subscription_id,
                one.delivery.entity_id,
                one.delivery.key,
                one.delivery.version,
                one.delivery.turn,
                one.delivery.event,
                one.number,
                one.started_at,
                one.duration,
                int(one.outcome),
                one.detail,
                one.delivery.replay_id,
            )
            for one in attempts
        ]
        for start in range(0, len(rows), ATTEMPTS):
            some = rows[start : start + ATTEMPTS]
            values = ", ".join([self._attempt_row] * len(some))
            flat = tuple(value for row in some for value in row)
            connection.exec_driver_sql(f"INSERT INTO attempt ({', '.join(_ATTEMPT)}) VALUES {values}", flat)

    def _write_states(self, connection: sa.Connection, changes: Changes) -> None:
        for subscription_id, reason in changes.disabled.items():
            set_subscription_state(self.store, connection, subscription_id, "disabled", reason)
        for name, state in changes.destinations.items():
            values = {"held_since": state.held_since, "reason": state.reason, "probe_at": state.probe_at}
            values["failures"] = state.failures
            upsert(self.store, connection, tables.destination_state, {"destination": name}, values)
        if self._membership and (changes.disabled or changes.destinations):
            self.store.ring("dispatch", connection)

    def expire(self, seqs: Sequence[int], reason: str) -> None:
        """Park those that are still pending."""
        update = delivery.update().where(delivery.c.seq.in_(seqs), _PENDING)
        with self.store.write() as connection:
            connection.execute(update.values(state=int(State.PARKED), reason=reason))
            ledger.leave_open(connection, seqs)

    def take_released(self, seqs: Sequence[int], outdated: Sequence[int]) -> None:
        """Dispatch has them in memory now, and a crash leaves them pending; outdated ones are superseded.

        Not what another worker has taken, tried and parked again, to which its slice has gone meanwhile.
        """
        with self._writing() as connection:
            for chosen, state in ((seqs, State.PENDING), (outdated, State.SUPERSEDED)):
                if chosen:
                    update = delivery.update().where(delivery.c.seq.in_(chosen), _RELEASED)
                    connection.execute(update.values(state=int(state), reason=None))

    def claim_probe(self, destination: str, now: int, until: int) -> DestinationState | None:
        """Have the next attempt at a held destination until a moment, where several workers might try it.

        None when it is this worker's; else how the destination stands.
        """
        table = tables.destination_state
        held = (table.c.destination == destination, table.c.held_since > 0)
        with self._writing() as connection:
            claimed = connection.execute(table.update().where(*held, table.c.probe_at <= now).values(probe_at=until))
            return None if claimed.rowcount else self._destinations(connection).get(destination, WELL)


FORCED = "forced"  # the reason of a released one that is sent although the receiver has a newer version

_PENDING = delivery.c.state == sa.literal_column(str(int(State.PENDING)))
_NOT_PENDING = sa.text("delivery.state <> 0")  # as the partial index has it, or SQLite would not use that
_PARKED = sa.and_(_NOT_PENDING, delivery.c.state == sa.literal_column(str(int(State.PARKED))))
_RELEASED = sa.and_(_NOT_PENDING, delivery.c.state == sa.literal_column(str(int(State.RELEASED))))


ALL = (1 << SLICES) - 1  # every slice
_SHARE = (
    sa.func.unnest(
        sa.cast(sa.bindparam("subscriptions"), ARRAY(sa.Integer)), sa.cast(sa.bindparam("masks"), ARRAY(sa.BigInteger))
    )
    .table_valued("subscription_id", "mask")
    .render_derived(name="share")
)
_OF_SLICE = f"(hashtextextended(delivery.key, delivery.entity_id) & {SLICES - 1})::integer"
_HELD = sa.text(f"(share.mask >> {_OF_SLICE}) & 1 = 1")


def _since(snapshot: str) -> sa.ColumnElement[bool]:
    """Those whose transaction a snapshot of the server's did not see yet."""
    bound = sa.bindparam("snapshot", snapshot, sa.Text)
    seen = sa.text(
        "delivery.born >= pg_snapshot_xmin(CAST(:snapshot AS pg_snapshot))"
        " AND NOT pg_visible_in_snapshot(delivery.born, CAST(:snapshot AS pg_snapshot))"
    )
    return seen.bindparams(bound)  # type: ignore[return-value]


_standing_query = sa.select(tables.subscription_state.c.subscription_id, tables.subscription_state.c.state).where(
    tables.subscription_state.c.state != "active"
)
_hops = (
    sa.select(tables.lineage.c.hops)
    .where(
        tables.lineage.c.entity_id == delivery.c.entity_id,
        tables.lineage.c.key == delivery.c.key,
        tables.lineage.c.version == delivery.c.version,
    )
    .correlate(delivery)
    .scalar_subquery()
)
_load_query = (
    sa.select(
        delivery.c.seq,
        document.c.version,
        delivery.c.event,
        delivery.c.cause,
        document.c.lsn,
        document.c.transaction,
        document.c.committed_at,
        document.c.body,
        _previous.c.body,
        sa.case((delivery.c.entity_id.in_(sa.bindparam("derived", expanding=True)), _hops), else_=0),
    )
    .select_from(
        delivery.outerjoin(
            document,
            sa.and_(
                document.c.entity_id == delivery.c.entity_id,
                document.c.key == delivery.c.key,
                document.c.version == delivery.c.version,
            ),
        ).outerjoin(
            _previous,
            sa.and_(
                _previous.c.entity_id == delivery.c.entity_id,
                _previous.c.key == delivery.c.key,
                _previous.c.version == delivery.c.before_version,
            ),
        )
    )
    .where(delivery.c.seq.in_(sa.bindparam("seqs", expanding=True)), _PENDING)
)


def _deliveries(rows: Iterable[Any]) -> list[Delivery]:
    return [Delivery(*row[:-1]) for row in rows]


def _loaded(row: Any) -> Loaded:
    _, version, event, cause, lsn, transaction, committed_at, body, before, hops = row
    found, event, cause = version is not None, _EVENTS[event], _CAUSES[cause]
    return Loaded(found, event, cause, lsn or 0, transaction or 0, committed_at or 0, body, before, hops or 0)


def _of_keys(mark: str, state: str, *, sqlite: bool) -> str:
    """What stands behind FROM: one subscription's deliveries of some documents of an entity, with that state."""
    where = (
        f"delivery.entity_id = {mark} AND delivery.key = w.value AND delivery.subscription_id = {mark}"
        f" AND delivery.state {state}"
    )
    if sqlite:
        return f"json_each(?) w CROSS JOIN delivery WHERE {where}"
    lateral = f"(SELECT * FROM delivery WHERE {where} OFFSET 0)"
    return f"unnest(%b::text[]) AS w(value) CROSS JOIN LATERAL {lateral} AS delivery"


def _waiting(row: Any, documents: Mergeable) -> Waiting:
    *columns, before_version, cause, reason = row
    one = Delivery(*columns)
    tried = one.attempts > 0 or bool(reason) or documents.begun(one.seq)
    return Waiting(one, before_version, cause, reason, begun=tried, fixed=one.seq in documents.fixed)


def _merged(one: Waiting) -> tuple[Any, ...]:
    sent = one.delivery
    return (
        sent.event, one.cause, one.before_version, sent.attempts, sent.due_at, sent.created_at, one.reason, sent.seq,
    )  # fmt: skip


def _updated(update: Update) -> tuple[Any, ...]:
    return (int(update.state), update.attempts, update.due_at, update.reason, update.seq)


def upsert(
    store: Store,
    connection: sa.Connection,
    table: sa.Table,
    key: dict[str, Any],
    values: dict[str, Any],
    new: Mapping[str, Any] | None = None,
) -> None:
    """One row by its primary key; columns that are not given stay as they are. `new`: what only a new row gets."""
    from sqlalchemy.dialects import postgresql, sqlite

    insert = (sqlite.insert if store.is_sqlite else postgresql.insert)(table).values(**key, **values, **(new or {}))
    connection.execute(insert.on_conflict_do_update(index_elements=list(key), set_=values))


def set_subscription_state(
    store: Store, connection: sa.Connection, subscription_id: int, state: str, reason: str
) -> None:
    """active, paused or disabled."""
    from hub.store.database import now

    values = {"state": state, "reason": reason, "since": now()}
    key = {"subscription_id": subscription_id}
    upsert(store, connection, tables.subscription_state, key, values, new={"definition": ""})
