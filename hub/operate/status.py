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
from hub.store.database import Store

HEALTHY = ("reserved", "extended")  # wal_status of a slot that has lost nothing

delivery = tables.delivery


@dataclass(frozen=True, slots=True)
class LogEnd:
    """Where a source's log is, and how its slot stands. `unreachable`: why nothing of it is known."""

    lsn: int = 0
    slot: str = ""  # active, inactive, missing
    wal_status: str = ""  # pg_replication_slots.wal_status: reserved, extended, unreserved, lost
    unreachable: str = ""
    confirmed: int = 0  # up to where its slot has been read; 0 when that is not known


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


@dataclass(frozen=True, slots=True)
class Status:
    streams: tuple[StreamStatus, ...]
    subscriptions: tuple[SubscriptionStatus, ...]
    destinations: tuple[DestinationStatus, ...]
    made_at: int  # microseconds since 1970, when the newest version was made; 0: there is none
    dispatch: str  # who runs it; "" when nobody does

    def problems(self) -> list[str]:
        """What an operator has to look at, one sentence each; [] when all is well."""
        found = [problem for stream in self.streams for problem in _stream_problems(stream)]
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
    elif stream.state == "not started":
        return
    elif stream.log.slot == "missing":
        yield f"Stream {stream.name} has no replication slot at the source: `hub source resnapshot`."
    elif stream.log.wal_status not in HEALTHY:
        yield f"The replication slot of {stream.name} is {stream.log.wal_status}: `hub doctor` says what to do."


Owner = Callable[[str], str | None]  # of a role: who holds its lock


def read_status(
    store: Store, project: Project, streams: Iterable[str], log_end: Callable[[str], LogEnd], owner: Owner
) -> Status:
    """`log_end` asks the source of a stream, which is named "source/stream"."""
    with store.read() as connection:
        made_at = connection.execute(
            sa.select(tables.document.c.made_at).order_by(tables.document.c.seq.desc()).limit(1)
        ).scalar()
    return Status(
        streams=tuple(_stream(store, name, log_end(name), owner(f"capture {name}") or "") for name in streams),
        subscriptions=_subscriptions(store, project),
        destinations=_destinations(store, project),
        made_at=made_at or 0,
        dispatch=owner("dispatch") or "",
    )


def ask_log_end(connect: Callable[[], psycopg.Connection[Any]], slot: str) -> LogEnd:
    """One short query on the server's own views; no application table is touched."""
    query = (
        "SELECT pg_current_wal_lsn()::text, s.active, s.wal_status, s.confirmed_flush_lsn::text FROM (SELECT 1) AS one "
        "LEFT JOIN pg_replication_slots s ON s.slot_name = %s"
    )
    try:
        with connect() as connection:
            row = connection.execute(query, (slot,)).fetchone()
    except (OutsideError, psycopg.Error) as error:
        return LogEnd(unreachable=str(error).strip().splitlines()[0])
    assert row is not None
    lsn, active, wal_status, confirmed = row
    state = "missing" if active is None else "active" if active else "inactive"
    return LogEnd(parse_lsn(lsn), state, wal_status or "", confirmed=parse_lsn(confirmed or "0/0"))


def _stream(store: Store, name: str, log: LogEnd, owner: str) -> StreamStatus:
    id = store.find_name("stream", name) or 0
    columns = (tables.stream.c.state, tables.stream.c.position, tables.stream.c.problem, tables.stream.c.seen_at)
    with store.read() as connection:
        row = connection.execute(sa.select(*columns).where(tables.stream.c.stream_id == id)).first()
        fan_outs = _fan_outs(connection, id)
        drift = _drift(connection, name)
    state, position, problem, seen_at = row if row else ("not started", 0, "", 0)
    return StreamStatus(name, state, position, problem, seen_at, log, drift, fan_outs, owner)


def _fan_outs(connection: sa.Connection, stream_id: int) -> tuple[FanOutStatus, ...]:
    fan_out, item = tables.fan_out, tables.fan_out_item
    items = sa.select(sa.func.count()).where(item.c.fan_out_id == fan_out.c.id).scalar_subquery()
    query = (
        sa.select(fan_out.c.transaction, fan_out.c.made, items)
        .where(fan_out.c.stream_id == stream_id)
        .order_by(fan_out.c.id)
    )
    return tuple(FanOutStatus(*row) for row in connection.execute(query))


def _drift(connection: sa.Connection, stream: str) -> tuple[tuple[str, str], ...]:
    name, state = tables.name, tables.table_state
    query = (
        sa.select(name.c.name, state.c.drift)
        .join(state, state.c.table_id == name.c.id)
        .where(name.c.kind == "table", name.c.name.startswith(f"{stream}/", autoescape=True), state.c.drift != "")
        .order_by(name.c.name)
    )
    return tuple((row.name.removeprefix(f"{stream}/"), row.drift) for row in connection.execute(query))


def _subscriptions(store: Store, project: Project) -> tuple[SubscriptionStatus, ...]:
    counts = sa.select(
        delivery.c.subscription_id, delivery.c.state, sa.func.count(), sa.func.min(delivery.c.created_at)
    ).group_by(delivery.c.subscription_id, delivery.c.state)
    table = tables.subscription_state
    with store.read() as connection:
        queued = {(id, state): (count, oldest) for id, state, count, oldest in connection.execute(counts)}
        query = sa.select(table.c.subscription_id, table.c.state, table.c.reason)
        states = {id: (state, reason) for id, state, reason in connection.execute(query)}
    found = []
    for name in sorted(project.subscriptions):
        id = store.find_name("subscription", name) or 0
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


def _destinations(store: Store, project: Project) -> tuple[DestinationStatus, ...]:
    table = tables.destination_state
    query = sa.select(table.c.destination, table.c.held_since, table.c.reason)
    with store.read() as connection:
        held = {name: (since, reason) for name, since, reason in connection.execute(query)}
    return tuple(DestinationStatus(name, *held.get(name, (0, ""))) for name in sorted(project.destinations))
