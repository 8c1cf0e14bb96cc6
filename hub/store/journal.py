"""Statements on the journal: document versions read one by one, or in pages so that no table is ever in memory."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from hub.documents import Version
from hub.store import tables
from hub.store.database import Store
from hub.store.tables import CAUSES, EVENTS

PAGE = 200  # versions in memory at one time

document = tables.document


def version_of(row: Any, entity: str) -> Version:
    """The noun of a `document` row."""
    return Version(
        entity=entity,
        key=row.key,
        version=row.version,
        event=EVENTS[row.event],
        cause=CAUSES[row.cause],
        lsn=row.lsn,
        transaction=row.transaction,
        committed_at=row.committed_at,
        body=row.body,
        merged=tuple(json.loads(row.merged)) if row.merged else (),
    )


def newest_number(entity_id: Any, key: Any, *conditions: sa.ColumnElement[bool]) -> sa.ScalarSelect[int]:
    """The scalar query for the newest version's number of a document, among those that fit the conditions.

    The conditions are on `Newest.c`, an alias of the document table.
    """
    return (
        sa.select(sa.func.max(Newest.c.version))
        .where(Newest.c.entity_id == entity_id, Newest.c.key == key, *conditions)
        .correlate(document)
        .scalar_subquery()
    )


Newest = document.alias("newest")


class Journal:
    """Every method is a view of its own; a page of an iterator too."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def entity_id(self, entity: str) -> int:
        """0, which no row has, for an entity that the store has never met."""
        return self.store.find_name("entity", entity) or 0

    def newest(self, entity: str, key: str) -> Version | None:
        return self._one(entity, key)

    def version(self, entity: str, key: str, number: int) -> Version | None:
        return self._one(entity, key, document.c.version == number)

    def at(self, entity: str, key: str, time: int) -> Version | None:
        """The version that was current at `time`, microseconds since 1970."""
        return self._one(entity, key, document.c.committed_at <= time)

    def previous(self, entity: str, key: str, number: int) -> Version | None:
        """The newest kept version before `number`."""
        return self._one(entity, key, document.c.version < number)

    def _one(self, entity: str, key: str, *conditions: sa.ColumnElement[bool]) -> Version | None:
        query = (
            sa.select(document)
            .where(document.c.entity_id == self.entity_id(entity), document.c.key == key, *conditions)
            .order_by(document.c.version.desc())
            .limit(1)
        )
        with self.store.read() as connection:
            row = connection.execute(query).first()
        return version_of(row, entity) if row else None

    def kept(self, entity: str, key: str) -> tuple[int, int] | None:
        """The lowest and the highest version number that are kept."""
        query = sa.select(sa.func.min(document.c.version), sa.func.max(document.c.version)).where(
            document.c.entity_id == self.entity_id(entity), document.c.key == key
        )
        with self.store.read() as connection:
            low, high = connection.execute(query).one()
        return (low, high) if low is not None else None

    def history(self, entity: str, key: str) -> Iterator[Version]:
        """All kept versions of a document, oldest first."""
        entity_id, last = self.entity_id(entity), 0
        while True:
            query = (
                sa.select(document)
                .where(document.c.entity_id == entity_id, document.c.key == key, document.c.version > last)
                .order_by(document.c.version)
                .limit(PAGE)
            )
            with self.store.read() as connection:
                rows = connection.execute(query).all()
            yield from (version_of(row, entity) for row in rows)
            if len(rows) < PAGE:
                return
            last = rows[-1].version

    def current(
        self, entity: str, *, key: str | None = None, since: int | None = None, until: int | None = None
    ) -> Iterator[Version]:
        """The newest version of each document that exists, by key.

        `since` and `until` (excluded) are on its commit time, microseconds since 1970.
        """
        conditions = [
            document.c.entity_id == self.entity_id(entity),
            document.c.version == newest_number(document.c.entity_id, document.c.key),
            document.c.body.is_not(None),
        ]
        if key is not None:
            conditions.append(document.c.key == key)
        if since is not None:
            conditions.append(document.c.committed_at >= since)
        if until is not None:
            conditions.append(document.c.committed_at < until)
        query = sa.select(document).where(*conditions).order_by(document.c.key).limit(PAGE)
        page = query
        while True:
            with self.store.read() as connection:
                rows = connection.execute(page).all()
            yield from (version_of(row, entity) for row in rows)
            if len(rows) < PAGE:
                return
            page = query.where(document.c.key > rows[-1].key)

    def key(self, entity: str, text: str) -> str:
        """The key as it is stored, of one that a user typed: a composite one may have blanks, `[12, "FR"]`."""
        if not text.startswith("[") or self.kept(entity, text):
            return text
        try:
            parts = json.loads(text)
        except ValueError:
            return text
        return json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
