"""What leaves the store: versions and attempts that are old enough, and a person's document when it has to go.

Both work in pieces of one store transaction each, short enough that capture and dispatch hardly wait.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from hub.delivery import State
from hub.documents import Event
from hub.errors import FaultError, InputError
from hub.locks import hold
from hub.project import Retention
from hub.store import ledger, tables
from hub.store.database import Store
from hub.store.journal import Journal
from hub.store.pieces import Pieces, delete_rows
from hub.store.tables import EVENTS

WINDOW = 5000  # journal entries looked at in one view

document, delivery, attempt, lineage = tables.document, tables.delivery, tables.attempt, tables.lineage
_DELETED = EVENTS.index(Event.DELETED)


@dataclass(frozen=True, slots=True)
class Pruned:
    versions: int
    attempts: int
    superseded: int  # deliveries that a newer one had overtaken


def prune(store: Store, retention: Retention, now: int, *, dry_run: bool = False) -> Pruned:
    """Remove what retention no longer covers. `now` in microseconds since 1970.

    A version goes once its successor has been there for `retention.documents`: time travel within that time finds
    what was current. Never an entity's newest version, nor one that a delivery needs as its document or as before.
    OutsideError while another process is at it.
    """
    if dry_run:
        return _prune(store, retention, now, dry_run)
    lock = hold(store, "retention")
    try:
        return _prune(store, retention, now, dry_run)
    finally:
        lock.release()


def _prune(store: Store, retention: Retention, now: int, dry_run: bool) -> Pruned:
    documents = now - int(retention.documents * 1e6)
    attempts = now - int(retention.attempts * 1e6)
    versions = _prune_versions(store, documents, dry_run)
    _prune_rows(store, lineage, _is_without_version(), dry_run)
    return Pruned(
        versions=versions,
        attempts=_prune_rows(store, attempt, attempt.c.started_at < attempts, dry_run),
        superseded=_prune_rows(
            store,
            delivery,
            sa.and_(delivery.c.state == int(State.SUPERSEDED), delivery.c.created_at < documents),
            dry_run,
        ),
    )


def _prune_versions(store: Store, before: int, dry_run: bool) -> int:
    removable = sa.and_(document.c.made_at < before, _has_successor(before), ~_is_needed())
    total, low, pieces = 0, 0, Pieces()
    while True:
        with store.read() as connection:
            window = sa.select(document.c.seq).where(document.c.seq > low).order_by(document.c.seq).limit(WINDOW)
            high = connection.execute(sa.select(sa.func.max(window.subquery().c.seq))).scalar()
            if high is None:
                return total
            inside = document.c.seq.between(low + 1, high)
            found = connection.scalars(sa.select(document.c.seq).where(inside, removable)).all()
        if dry_run:
            total += len(found)
        else:
            total += delete_rows(store, document, found, ~_is_needed(), pieces)
        low = high


def _has_successor(before: int) -> sa.ColumnElement[bool]:
    later = document.alias("later")
    return sa.exists().where(
        later.c.entity_id == document.c.entity_id,
        later.c.key == document.c.key,
        later.c.version > document.c.version,
        later.c.made_at < before,
    )


def _is_needed() -> sa.ColumnElement[bool]:
    return sa.exists().where(
        delivery.c.entity_id == document.c.entity_id,
        delivery.c.key == document.c.key,
        sa.or_(delivery.c.version == document.c.version, delivery.c.before_version == document.c.version),
    )


def _is_without_version() -> sa.ColumnElement[bool]:
    return ~sa.exists().where(
        document.c.entity_id == lineage.c.entity_id,
        document.c.key == lineage.c.key,
        document.c.version == lineage.c.version,
    )


def _prune_rows(store: Store, table: sa.Table, old: sa.ColumnElement[bool], dry_run: bool) -> int:
    """Rows in the order of their `seq`, which is that of their age."""
    total, low, pieces = 0, 0, Pieces()
    while True:
        query = sa.select(table.c.seq).where(old, table.c.seq > low).order_by(table.c.seq).limit(WINDOW)
        with store.read() as connection:
            found = connection.scalars(query).all()
        if not found:
            return total
        total += len(found) if dry_run else delete_rows(store, table, found, old, pieces)
        low = found[-1]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is there to be removed of one document."""

    entity: str
    key: str
    version: int  # the newest, a delete, which stays without content so that numbers never restart
    versions: int  # older ones, which go
    deliveries: int
    attempts: int
    untold: tuple[str, ...]  # subscriptions whose receivers have not accepted the delete yet


def plan_erasure(store: Store, entity: str, key: str) -> Erasure:
    """Raises InputError when there is no such document, FaultError while its row still exists."""
    newest = Journal(store).newest(entity, key)
    if newest is None:
        raise InputError(f"There is no {entity} {key} in the journal.", "`hub documents list` shows what there is.")
    if newest.event is not Event.DELETED:
        raise FaultError(
            f"{entity} {key} still exists, so its document stays.",
            "Delete its row in the application first, or of a derived entity let its service forward `data: null`; "
            "the hub follows by itself.",
        )
    entity_id = Journal(store).entity_id(entity)
    with store.read() as connection:
        versions = _count(connection, document, entity_id, key, document.c.version < newest.version)
        deliveries = _count(connection, delivery, entity_id, key)
        attempts = _count(connection, attempt, entity_id, key)
        untold = _untold(connection, entity_id, key)
    names = tuple(sorted(store.name(subscription) for subscription in untold))
    return Erasure(entity, key, newest.version, versions, deliveries, attempts, names)


def _count(
    connection: sa.Connection, table: sa.Table, entity_id: int, key: str, *conditions: sa.ColumnElement[bool]
) -> int:
    query = sa.select(sa.func.count()).where(table.c.entity_id == entity_id, table.c.key == key, *conditions)
    return int(connection.execute(query).scalar_one())


def _untold(connection: sa.Connection, entity_id: int, key: str) -> set[int]:
    query = sa.select(delivery.c.subscription_id).where(
        delivery.c.entity_id == entity_id, delivery.c.key == key, delivery.c.event == _DELETED
    )
    return set(connection.scalars(query))


def erase(store: Store, erasure: Erasure) -> None:
    """Remove it, also from the free pages of a SQLite file and its log.

    Deliveries go first: one that is under way finds nothing to complete. What begins again meanwhile, because the
    row is inserted anew, has a higher version and stays.
    """
    entity_id = Journal(store).entity_id(erasure.entity)
    for table, newest in ((delivery, erasure.version), (attempt, erasure.version), (document, erasure.version - 1)):
        query = sa.select(table.c.seq).where(
            table.c.entity_id == entity_id, table.c.key == erasure.key, table.c.version <= newest
        )
        with store.read() as connection:
            found = connection.scalars(query).all()
        delete_rows(store, table, found, sa.true(), Pieces())
    _erase_lineage(store, entity_id, erasure.key)
    with store.write() as connection:
        ledger.erase(connection, entity_id, erasure.key, erasure.version)
    if store.is_sqlite:
        with store.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _erase_lineage(store: Store, entity_id: int, key: str) -> None:
    """Where it came from, and what came of it: keys of this document stand in both."""
    itself = sa.and_(lineage.c.entity_id == entity_id, lineage.c.key == key)
    issued = sa.and_(lineage.c.from_entity_id == entity_id, lineage.c.from_key == key)
    with store.read() as connection:
        found = connection.scalars(sa.select(lineage.c.seq).where(sa.or_(itself, issued))).all()
    delete_rows(store, lineage, found, sa.true(), Pieces())
