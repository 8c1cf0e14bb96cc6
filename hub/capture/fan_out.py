"""Pending fan-outs, piece by piece: each piece is one store transaction, and the stream goes on between them.

A fan-out is a set of items, each (entity, node, key): "the documents that reach, at this node, rows joined by this
key". An item of node 0 is a document; any other is exchanged for its parents' items, page by page, until these are
documents. An item EVERY stands for all documents of the entity, those without a root row included.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hub.capture.assemble import Assembler
from hub.capture.images import View
from hub.capture.layout import Lookup
from hub.capture.piece import PieceSize
from hub.documents import Cause
from hub.store import streams
from hub.store.images import StoredImages
from hub.store.streams import EVERY, FanOut, FanOutItem, Place

if TYPE_CHECKING:
    from hub.capture.capture import Capture

FIRST, SMALLEST, LARGEST = 500, 20, 2000  # documents of a piece, or rows on the way to them

ROWS, KEYS = "r", "k"  # an EVERY item goes through root rows first, then through keys that have no row any more


class FanOuts:
    """One capture's work on its pending fan-outs."""

    def __init__(self, capture: "Capture") -> None:
        self._capture = capture
        self._size = PieceSize(FIRST, SMALLEST, LARGEST)
        self._places: dict[int, Place] = {}  # by fan-out; after a restart found anew

    def piece(self) -> bool:
        """Make one piece of the oldest pending fan-out. False when none is left."""
        pending = self._capture.pending
        if not pending:
            return False
        fan_out = pending[0]
        with self._capture.store.read() as connection:
            items = streams.next_items(connection, fan_out.id, self._size.value, self._places.get(fan_out.id))
        if items:
            self._items(fan_out, items)
        else:
            with self._capture.write() as connection:
                streams.finish_fan_out(connection, fan_out.id)
            self._places.pop(fan_out.id, None)
            pending.pop(0)
        return bool(pending)

    def _items(self, fan_out: FanOut, items: Sequence[FanOutItem]) -> None:
        if items[0].node == 0:
            self._documents(fan_out, items, [item.key for item in items])
        elif items[0].node == EVERY[0]:
            self._every(fan_out, items[0])
        else:
            self._parents(fan_out, items)

    def _every(self, fan_out: FanOut, item: FanOutItem) -> None:
        capture = self._capture
        assembler = capture.assemblers[capture.entity_by_id(item.entity_id)]
        cursor = item.cursor or ROWS
        phase, after = cursor[0], cursor[1:] or None
        with capture.store.read() as connection:
            view = View(capture.layout, StoredImages(connection), dict(capture.floors))
            if phase == ROWS:
                table = capture.layout.tables[assembler.entity.root.table.name]
                page = [key for key, _, _ in streams.page_of_images(connection, table.id, after, self._size.value)]
                keys = _document_keys(assembler, view, table.name, page)
            else:
                page = list(streams.page_of_keys(connection, item.entity_id, after, self._size.value))
                keys = assembler.without_row(view, page)
        if len(page) == self._size.value:
            following: str | None = phase + page[-1]
        else:
            # Nothing had a document before the first snapshot, so there is none without a row.
            following = KEYS if phase == ROWS and fan_out.cause is not Cause.SNAPSHOT else None
        self._documents(fan_out, [item], keys, following)

    def _parents(self, fan_out: FanOut, items: Sequence[FanOutItem]) -> None:
        """Exchange items for their parents': documents where the parent is the root, items otherwise."""
        assembler = self._capture.assemblers[self._capture.entity_by_id(items[0].entity_id)]
        step = assembler.steps[items[0].node]
        parent = assembler.steps[step.node.parent]
        assert step.up is not None
        with self._capture.store.read() as connection:
            items, keys, cursor = self._page(connection, step.up, items)
            view = View(self._capture.layout, StoredImages(connection), dict(self._capture.floors))
            view.load(step.up.table, keys)
            rows = [row for key in keys if (row := view.row(step.up.table, key)) is not None]
        if parent.node.index == 0:
            self._documents(fan_out, items, {assembler.key_of(row): None for row in rows}, cursor)
            return
        assert parent.up_value is not None
        values = {value for row in rows if (value := parent.up_value(row)) is not None}
        with self._write() as connection:
            streams.save_items(connection, fan_out.id, [(items[0].entity_id, parent.node.index, v) for v in values])
            self._advance(connection, fan_out, items, cursor)

    def _page(
        self, connection: sa.Connection, lookup: Lookup, items: Sequence[FanOutItem]
    ) -> tuple[Sequence[FanOutItem], Sequence[str], str | None]:
        """As many of the items as lead to a page of rows at most, and these; of one that leads to more, its next page.

        The cursor is where to go on in that one; None: the items are done.
        """
        if lookup.direct:
            return items, [item.key for item in items], None
        images = StoredImages(connection)
        while len(items) > 1 and items[0].cursor is None:
            pairs = images.references(lookup.id, [item.key for item in items], self._size.value + 1)
            if len(pairs) <= self._size.value:
                return items, sorted({key for _, key in pairs}), None
            items = items[: len(items) // 4 or 1]
        item = items[0]
        page = streams.page_of_references(connection, lookup.id, item.key, item.cursor, self._size.value)
        return [item], page, page[-1] if len(page) == self._size.value else None

    def _documents(
        self, fan_out: FanOut, items: Sequence[FanOutItem], keys: Collection[str], cursor: str | None = None
    ) -> None:
        """Make the documents of `keys` that are not what they should be; go on from `cursor`, None: that was all."""
        capture = self._capture
        entity = capture.entity_by_id(items[0].entity_id)
        assembler = capture.assemblers[entity]
        with capture.store.read() as connection:
            view, versions = capture.open(connection)
            if not capture.is_held(entity):
                assembler.warm(view, keys)
                versions.load(entity, keys)
                for key in keys:
                    waits_for = [fan_out]
                    if len(capture.pending) > 1:
                        waits_for = capture.waits_for(connection, view, entity, key) or waits_for
                    newest, merged = waits_for[-1], [older.commit.transaction for older in waits_for[:-1]]
                    versions.make(entity, key, assembler.assemble(view, key), newest.commit, newest.cause, merged)
        with self._write() as connection:
            capture.write_versions(connection, versions)
            self._advance(connection, fan_out, items, cursor)
            if versions.documents:
                streams.count_made(connection, fan_out.id, len(versions.documents))

    def _advance(
        self, connection: sa.Connection, fan_out: FanOut, items: Sequence[FanOutItem], cursor: str | None
    ) -> None:
        if cursor is None:
            streams.finish_items(connection, fan_out.id, items)
            last = items[-1]
            self._places[fan_out.id] = Place(last.entity_id, last.node, last.key)
        else:
            streams.save_cursor(connection, fan_out.id, items[0], cursor)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """A store transaction, by whose time the next pieces are sized."""
        with self._capture.write() as connection:
            started = time.monotonic()
            yield connection
        self._size.took(time.monotonic() - started)


def _document_keys(assembler: Assembler, view: View, table: str, page: Sequence[str]) -> list[str]:
    view.load(table, page)
    return [assembler.key_of(row) for key in page if (row := view.row(table, key)) is not None]


def is_past(cursor: str | None, key: str, assembler: Assembler, view: View) -> bool:
    """Whether an EVERY item with this cursor has made the document of `key`."""
    if cursor is None:
        return False
    phase, after = cursor[0], cursor[1:]
    if not after:
        return phase == KEYS and bool(assembler.root_row_keys(view, key))
    row_keys = assembler.root_row_keys(view, key)
    if not row_keys:
        return phase == KEYS and key <= after
    return phase == KEYS or max(row_keys) <= after
