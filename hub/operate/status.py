"""How everything stands, as one frozen picture: what the store says, and where each source's log is by now."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from hub.changes import parse_lsn
from hub.delivery import State
from hub.errors import OutsideError
from hub.project import Project
from hub.store import tables
from hub.store.database import Store, now

HEALTHY = ("reserved", "extended")  # wal_status of a slot that has lost nothing
NOT_STARTED = "not started"

delivery = tables.delivery


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a source's log is, and how its slot stands. `unreachable`: why nothing of it is known."""

    lsn: int = 0
    slot: str = ""  # active, inactive, missing
    wal_status: str = ""  # pg_replication_slots.wal_status: reserved, extended, unreserved, lost
    kept: int | None = None  # bytes of log that the slot holds back; None: there is no slot, or it is lost
    room: int | None = None  # bytes until the slot is lost (max_slot_wal_keep_size); None: no bound, or it is lost
    unreachable: str = ""
    confirmed: int = 0  # up to where its slot has been read; 0 when that is not known
    way: str = ""  # what keeps the changes from coming by Kafka; "" when nothing does, and without Kafka


@dataclass(frozen=True, slots=True)
class FanOutStatus:
    transaction: int
    made: int  # documents so far
    items: int  # what is left to go through, where it is known; an item may stand for many documents


@dataclass(frozen=True, slots=True)
class StreamStatus:
    name: str  # "source/stream"
    state: str  # snapshot, streaming, resnapshot; "not started"
    position: int
    problem: str
    seen_at: int  # microseconds since 1970, when something last arrived
    log: LogEnd
    drift: tuple[tuple[str, str], ...]  # table and what changed in its columns
    fan_outs: tuple[FanOutStatus, ...]
    owner: str  # who runs its capture; "" when nobody does

    @property
    def lag(self) -> int | None:
        """Bytes of log that the hub has not stored yet; None when the source is not reached."""
        return None if self.log.unreachable else max(0, self.log.lsn - self.position)

    @property
    def standstill(self) -> str:
        """Why no change of it is stored, as the store and the locks say; "" while they are, however late."""
        if self.problem:
            return f"Stream {self.name} stands still: {self.problem}"
        if not self.owner:
            return f"Stream {self.name} stands still: its capture does not run. Start `hub run`."
        return ""


@dataclass(frozen=True, slots=True)
class RetiredStream:
    """One that the store knows, and that has no entity in the project any more."""

    name: str
    slot: str  # the name of its replication slot
    log: LogEnd

    @property
    def problem(self) -> str:
        """What an operator should do about its slot; "" when that is gone, or nothing is known of it."""
        if self.log.slot in ("", "missing"):
            return ""
        kept = "" if self.log.kept is None else f" of {self.log.kept} bytes"
        return (
            f"Stream {self.name} has no entity any more, and its slot {self.slot} keeps the source's log{kept} for "
            "nobody: `hub source sql` says how to drop it."
        )


@dataclass(frozen=True, slots=True)
class SubscriptionStatus:
    name: str
    state: str  # active, paused, disabled
    reason: str
    waiting: int
    oldest: int  # microseconds since 1970, when the one that waits longest was made; 0: none waits
    parked: int


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    name: str
    held_since: int  # microseconds since 1970; 0: well
    reason: str
    paused_until: int = 0  # the receiver asked for time; microseconds since 1970, 0: it did not


@dataclass(frozen=True, slots=True)
class Status:
    streams: tuple[StreamStatus, ...]
    subscriptions: tuple[SubscriptionStatus, ...]
    destinations: tuple[DestinationStatus, ...]
    made_at: int  # microseconds since 1970, when the newest version was made; 0: there is none
    dispatch: str  # who runs it; "" when nobody does
    retired: tuple[RetiredStream, ...] = ()

    def problems(self) -> list[str]:
        """What an operator has to look at, one sentence each; [] when all is well."""
        found = [problem for stream in self.streams for problem in _stream_problems(stream)]
        found += [stream.problem for stream in self.retired if stream.problem]
        for subscription in self.subscriptions:
            if subscription.parked:
                found.append(f"{subscription.name}: {subscription.parked} parked; see `hub deliveries list`.")
            if subscription.state == "disabled":
                found.append(
                    f"{subscription.name} is disabled: {subscription.reason} `hub resume {subscription.name}`."
                )
        found += [f"Destination {one.name} is held: {one.reason}" for one in self.destinations if one.held_since]
        return found


def _stream_problems(stream: StreamStatus) -> Iterable[str]:
    if stream.problem:
        yield f"Stream {stream.name} stands still: {stream.problem}"
    for _, drift in stream.drift:
        yield f"{drift} Mend the entity, then `hub source resnapshot`."
    if stream.log.unreachable:
        yield f"Source of {stream.name} unreachable: {stream.log.unreachable} `hub doctor` looks closer."
    if stream.log.way and not stream.problem:  # which often says the same
        yield f"Nothing comes to {stream.name}: {stream.log.way} `hub source status` looks closer."
    if stream.log.unreachable or stream.state == NOT_STARTED:
        return
    if stream.log.slot == "missing":
        yield f"Stream {stream.name} has no replication slot at the source: `hub source resnapshot`."
    elif stream.log.wal_status not in HEALTHY:
        yield f"The replication slot of {stream.name} is {stream.log.wal_status}: `hub doctor` says what to do."


Owner = Callable[[str], str | None]  # of a role: who holds its lock


def read_status(
    store: Store,
    project: Project,
    streams: Iterable[str],
    log_end: Callable[[str], LogEnd],
    owner: Owner,
    retired: Iterable[tuple[str, str]] = (),
) -> Status:
    """One consistent view of the store. `log_end` asks the source of a stream, which is named "source/stream".

    `retired`: streams without entities, and the names of their slots.
    """
    outside = [(name, log_end(name), owner(f"capture {name}") or "") for name in streams]
    dispatch = owner("dispatch") or ""
    with store.read() as connection:
        made_at = connection.execute(
            sa.select(tables.document.c.made_at).order_by(tables.document.c.seq.desc()).limit(1)
        ).scalar()
        return Status(
            streams=_streams(connection, outside),
            subscriptions=_subscriptions(connection, project),
            destinations=_destinations(connection, project),
            made_at=made_at or 0,
            dispatch=dispatch,
            retired=tuple(RetiredStream(name, slot, log_end(name)) for name, slot in retired),
        )


def read_streams(
    store: Store, streams: Iterable[str], log_end: Callable[[str], LogEnd], owner: Owner
) -> tuple[StreamStatus, ...]:
    """As `read_status`, of the streams alone: no queue is counted."""
    outside = [(name, log_end(name), owner(f"capture {name}") or "") for name in streams]
    with store.read() as connection:
        return _streams(connection, outside)


def ask_log_end(connect: Callable[[], psycopg.Connection[Any]], slot: str) -> LogEnd:
    """One short query on the server's own views; no application table is touched."""
    query = (
        "SELECT pg_current_wal_lsn()::text, s.active, s.wal_status, "
        "pg_wal_lsn_diff(pg_current_wal_lsn(), s.restart_lsn)::bigint, s.safe_wal_size, "
        "s.confirmed_flush_lsn::text FROM (SELECT 1) AS one "
        "LEFT JOIN pg_replication_slots s ON s.slot_name = %s"
    )
    try:
        with connect() as connection:
            row = connection.execute(query, (slot,)).fetchone()
    except (OutsideError, psycopg.Error) as error:
        return LogEnd(unreachable=next(iter(str(error).strip().splitlines()), type(error).__name__))
    assert row is not None
    lsn, active, wal_status, kept, room, confirmed = row
    state = "missing" if active is None else "active" if active else "inactive"
    return LogEnd(parse_lsn(lsn), state, wal_status or "", kept, room, confirmed=parse_lsn(confirmed or "0/0"))


Outside = tuple[str, LogEnd, str]  # a stream's name, the end of its source's log, who captures it


def _streams(connection: sa.Connection, outside: Iterable[Outside]) -> tuple[StreamStatus, ...]:
    columns = (tables.stream.c.state, tables.stream.c.position, tables.stream.c.problem, tables.stream.c.seen_at)
    ids = _ids(connection, "stream")
    fan_outs = _fan_outs(connection)
    found = []
    for name, log, owner in outside:
        id = ids.get(name, 0)
        row = connection.execute(sa.select(*columns).where(tables.stream.c.stream_id == id)).first()
        state, position, problem, seen_at = row if row else (NOT_STARTED, 0, "", 0)
        drift = _drift(connection, name)
        found.append(
            StreamStatus(name, state, position, problem, seen_at, log, drift, tuple(fan_outs.get(id, ())), owner)
        )
    return tuple(found)


def _ids(connection: sa.Connection, kind: str) -> dict[str, int]:
    """By name: the numbers of what the store has met."""
    query = sa.select(tables.name.c.name, tables.name.c.id).where(tables.name.c.kind == kind)
    return {name: id for name, id in connection.execute(query)}  # noqa: C416


def _fan_outs(connection: sa.Connection) -> dict[int, list[FanOutStatus]]:
    """By stream id, in the order in which they began."""
    fan_out, item = tables.fan_out, tables.fan_out_item
    counted = sa.select(item.c.fan_out_id, sa.func.count()).group_by(item.c.fan_out_id)
    query = sa.select(fan_out.c.id, fan_out.c.stream_id, fan_out.c.transaction, fan_out.c.made).order_by(fan_out.c.id)
    pending = connection.execute(query).all()
    items = {id: count for id, count in connection.execute(counted)} if pending else {}  # noqa: C416
    found: dict[int, list[FanOutStatus]] = {}
    for id, stream_id, transaction, made in pending:
        found.setdefault(stream_id, []).append(FanOutStatus(transaction, made, items.get(id, 0)))
    return found


def _drift(connection: sa.Connection, stream: str) -> tuple[tuple[str, str], ...]:
    name, state = tables.name, tables.table_state
    query = (
        sa.select(name.c.name, state.c.drift)
        .join(state, state.c.table_id == name.c.id)
        .where(name.c.kind == "table", name.c.name.startswith(f"{stream}/", autoescape=True), state.c.drift != "")
        .order_by(name.c.name)
    )
    return tuple((row.name.removeprefix(f"{stream}/"), row.drift) for row in connection.execute(query))


def _subscriptions(connection: sa.Connection, project: Project) -> tuple[SubscriptionStatus, ...]:
    counts = sa.select(
        delivery.c.subscription_id, delivery.c.state, sa.func.count(), sa.func.min(delivery.c.created_at)
    ).group_by(delivery.c.subscription_id, delivery.c.state)
    table = tables.subscription_state
    queued = {(id, state): (count, oldest) for id, state, count, oldest in connection.execute(counts)}
    query = sa.select(table.c.subscription_id, table.c.state, table.c.reason)
    states = {id: (state, reason) for id, state, reason in connection.execute(query)}
    ids = _ids(connection, "subscription")
    found = []
    for name in sorted(project.subscriptions):
        id = ids.get(name, 0)
        waiting = [queued[id, state] for state in (State.PENDING, State.RELEASED) if (id, state) in queued]
        state, reason = states.get(id, ("active", ""))
        found.append(
            SubscriptionStatus(
                name=name,
                state=state,
                reason=reason,
                waiting=sum(count for count, _ in waiting),
                oldest=min((oldest for _, oldest in waiting), default=0),
                parked=queued.get((id, State.PARKED), (0, 0))[0],
            )
        )
    return tuple(found)


def _destinations(connection: sa.Connection, project: Project) -> tuple[DestinationStatus, ...]:
    table = tables.destination_state
    query = sa.select(table.c.destination, table.c.held_since, table.c.reason, table.c.probe_at)
    found = {name: _destination(name, *state) for name, *state in connection.execute(query)}
    return tuple(found.get(name, DestinationStatus(name, 0, "")) for name in sorted(project.destinations))


def _destination(name: str, held_since: int, reason: str, probe_at: int) -> DestinationStatus:
    if held_since or probe_at <= now():  # what was asked for is over
        return DestinationStatus(name, held_since, reason if held_since else "")
    return DestinationStatus(name, 0, reason, paused_until=probe_at)
