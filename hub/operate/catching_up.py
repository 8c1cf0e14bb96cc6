"""Waiting until the hub has stored all that was committed up to a position, whether it runs or not."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
import sqlalchemy as sa

from hub.changes import Feed, Progress, SnapshotBegun, Transaction, lsn_text
from hub.errors import OutsideError
from hub.store import tables
from hub.store.database import Store

LOOK = 0.1  # seconds between two looks at a hub that runs
MARK_AGAIN = 1.5  # seconds; capture stores mere progress once a second, so that the last mark may not be
PATIENCE = 60.0  # seconds in which it has to come further
PEEKED = 1000  # messages of the slot that are looked at, rounded up to a whole transaction
_ROW_MESSAGES = b"IUDT"  # insert, update, delete, truncate


@dataclass(frozen=True, slots=True)
class Stream:
    """What has to be known of a stream to wait for it."""

    name: str  # "source/stream"
    mark: Callable[[], int]  # write a mark into the source's log; its position
    runs: Callable[[], bool]  # whether its capture does
    unread: Callable[[int], bool]  # while it does not: whether a row change after this position waits to be read


def wait_for(store: Store, stream: Stream, position: int) -> None:
    """Return once all up to `position` is stored, pending fan-outs included.

    OutsideError when the hub does not run and is behind, or runs and does not get on.
    """
    if not stream.runs():
        _require_caught_up(store, stream)
        return
    goal = max(position, stream.mark())
    seen, since = (-1, -1), time.monotonic()
    marked = since
    while True:
        if time.monotonic() - marked > MARK_AGAIN:
            stream.mark()
            marked = time.monotonic()
        stored, pending = _progress(store, stream.name, position)
        if stored >= goal and not pending:
            return
        if (stored, pending) != seen:
            seen, since = (stored, pending), time.monotonic()
        elif time.monotonic() - since > PATIENCE:
            raise OutsideError(
                f"The hub has stopped at {lsn_text(stored)}, which is before {lsn_text(goal)}.",
                "`hub status` says why.",
            )
        time.sleep(LOOK)


def _progress(store: Store, stream: str, position: int) -> tuple[int, int]:
    """The stored position, and how many documents pending fan-outs up to `position` have made, plus one; 0: none."""
    id = store.find_name("stream", stream) or 0
    pending = sa.select(sa.func.sum(tables.fan_out.c.made + 1)).where(
        tables.fan_out.c.stream_id == id, tables.fan_out.c.lsn <= position
    )
    query = sa.select(tables.stream.c.position, pending.scalar_subquery()).where(tables.stream.c.stream_id == id)
    with store.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise OutsideError(f"The stream {stream} was never started.", "`hub run` starts it.")
    return row[0], int(row[1] or 0)


def _require_caught_up(store: Store, stream: Stream) -> None:
    """What waits for a hub that does not run can be looked into: it must hold no row change that is not stored."""
    stored, pending = _progress(store, stream.name, 1 << 62)
    behind = OutsideError(
        f"The hub does not run, and has not stored all that was committed in {stream.name.split('/')[0]}.",
        "Start `hub run`, or `hub run --until-idle`.",
    )
    if pending or stream.unread(stored):
        raise behind


def slot_holds(connect: Callable[[], psycopg.Connection[Any]], slot: str, stored: int) -> bool:
    """Whether a slot that nobody reads from holds a row change after `stored`. `connect`: to its source, autocommit."""
    query = (
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, %s, 'proto_version', '1', "
        "'publication_names', %s)"
    )
    try:
        with connect() as connection:
            messages = connection.execute(query, (slot, PEEKED, quoted(slot))).fetchall()
    except psycopg.Error as error:
        raise OutsideError(
            f"The replication slot {slot} cannot be looked into: {str(error).splitlines()[0]}.",
            "`hub doctor` says what to do.",
        ) from error
    return len(messages) >= PEEKED or _last_change([bytes(message) for (message,) in messages]) > stored


def feed_holds(feed: Feed, stored: int, mark: int) -> bool:
    """Whether a row change after `stored` comes from a feed that has been started, before it gets to `mark`.

    OutsideError when it does not get there.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        batch = feed.take(LOOK)
        for arrival in batch.arrivals if batch else ():
            if isinstance(arrival, SnapshotBegun) or (isinstance(arrival, Transaction) and arrival.commit.lsn > stored):
                return True
            if isinstance(arrival, Progress) and arrival.lsn >= mark:
                return False
    raise OutsideError(
        f"What was committed up to {lsn_text(mark)} has not come within {PATIENCE:.0f} s.", "`hub status` says why."
    )


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _last_change(messages: list[bytes]) -> int:
    """The commit position of the last transaction with a row change, in pgoutput's messages; 0 when there is none."""
    last, changed = 0, False
    for message in messages:
        if message[0] in _ROW_MESSAGES:
            changed = True
        elif message[:1] == b"C":
            if changed:
                last = int.from_bytes(message[2:10])
            changed = False
    return last
