"""What each receiver has of a document: one row a subscription and document, in the transaction of the outcome.

Dispatch goes by it in two ways: a subscription that skips what is unchanged compares contents, and an operator's retry
of an older version than the receiver has is superseded. It says what was accepted last, a replay's older version too.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from hub.delivery import Delivery, Held, Receiver, State
from hub.store import tables
from hub.store.images import Statements, statements, write_many
from hub.store.tables import DELETED

ledger, delivery = tables.ledger, tables.delivery

OPEN = b"\0"  # in place of a content: an attempt may have changed what the receiver has
_OPEN = Held(0, 0, OPEN, "", 0)

_COLUMNS = (
    "entity_id",
    "key",
    "subscription_id",
    "version",
    "event",
    "content",
    "receiver_id",
    "accepted_at",
    "account",
)

# Of one that is open nothing is known to be accepted: all but its content stays as it was.
# A receiver that names its id once need not do so each time. What it has deleted has no id any more.
_STAYS = "WHEN excluded.version = 0 THEN ledger."
_NAMES_NONE = f"WHEN excluded.receiver_id = '' AND excluded.event <> {DELETED} THEN ledger."
_UPSERT = f"""ON CONFLICT (entity_id, key, subscription_id) DO UPDATE SET
    content = excluded.content,
    version = CASE {_STAYS}version ELSE excluded.version END,
    event = CASE {_STAYS}event ELSE excluded.event END,
    accepted_at = CASE {_STAYS}accepted_at ELSE excluded.accepted_at END,
    receiver_id = CASE {_STAYS}receiver_id {_NAMES_NONE}receiver_id ELSE excluded.receiver_id END,
    account = CASE {_STAYS}account {_NAMES_NONE}account ELSE excluded.account END"""


def write(connection: sa.Connection, held: Mapping[Receiver, Held | None]) -> None:
    """None: an attempt was not accepted, and may have changed what the receiver has all the same.

    In the order of the primary key and after the deliveries' own rows, so that no two who write the same ones wait for
    each other.
    """
    rows = [_row(receiver, held[receiver] or _OPEN) for receiver in sorted(held)]
    write_many(connection, statements(connection).insert("ledger", _COLUMNS, _UPSERT), rows)


def _row(receiver: Receiver, held: Held) -> tuple[object, ...]:
    # As a bytearray: SQLite's driver looks for an adapter for each value that is bytes.
    content, account = bytearray(held.content), bytearray(held.account) or None
    return (*receiver, held.version, held.event, content, held.receiver_id, held.accepted_at, account)


def merged(stored: Held | None, unwritten: Held | None) -> Held | None:
    """What `write` will have made of a row; `unwritten` as there."""
    if unwritten is None:
        return stored and msgspec.structs.replace(stored, content=OPEN)
    if stored is None or unwritten.receiver_id or unwritten.event == DELETED:
        return unwritten
    return msgspec.structs.replace(unwritten, receiver_id=stored.receiver_id, account=stored.account)


def leave_open(connection: sa.Connection, seqs: Sequence[int]) -> None:
    """These deliveries go no further, and an attempt of them may have begun. Of a superseded one that is long past."""
    query = sa.select(delivery.c.entity_id, delivery.c.key, delivery.c.subscription_id).where(
        delivery.c.seq.in_(seqs), delivery.c.state != int(State.SUPERSEDED)
    )
    write(connection, {(row[0], row[1], row[2]): None for row in connection.execute(query)})


def read(connection: sa.Connection, receivers: Collection[Receiver]) -> dict[Receiver, Held]:
    keys: dict[tuple[int, int], list[str]] = defaultdict(list)
    for entity_id, key, subscription_id in receivers:
        keys[entity_id, subscription_id].append(key)
    sql, found = statements(connection), {}
    for (entity_id, subscription_id), some in keys.items():
        rows = connection.exec_driver_sql(_look_up(sql), (sql.keys(some), entity_id, subscription_id))
        for key, version, event, content, id, at, account in rows:
            found[entity_id, key, subscription_id] = Held(version, event, content, id, at, account or b"")
    return found


def _look_up(sql: Statements) -> str:
    where = f"r.entity_id = {sql.mark} AND r.key = w.value AND r.subscription_id = {sql.mark}"
    return sql.look_up("r.key, r.version, r.event, r.content, r.receiver_id, r.accepted_at, r.account", "ledger", where)


def has_newer(connection: sa.Connection, one: Delivery) -> bool:
    """The receiver has accepted a newer version than this."""
    receiver = (one.entity_id, one.key, one.subscription_id)
    found = read(connection, [receiver]).get(receiver)
    return found is not None and found.version > one.version


def erase(connection: sa.Connection, entity_id: int, key: str, version: int) -> None:
    """What receivers have of a document up to a version: its key goes, and what they call it."""
    same = (ledger.c.entity_id == entity_id, ledger.c.key == key, ledger.c.version <= version)
    connection.execute(ledger.delete().where(*same))
