"""Pending fan-outs, piece by piece: each piece is one store transaction, and the stream goes on between them.

A fan-out is a set of items, each (entity, node, key): "the documents that reach, at this node, rows joined by this
key". An item of node 0 is a document; any other is exchanged for its parents' items, page by page, until these are
documents. An item EVERY stands for all documents of the entity, those without a root row included.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hub.capture.assemble import Assembler
from hub.capture.images import View
from hub.documents import Cause
from hub.store import streams
from hub.store.images import StoredImages
from hub.store.streams import EVERY, FanOut, FanOutItem

if TYPE_CHECKING:
    from hub.capture.capture import Capture

PIECE = 500  # documents, or rows on the way to them

ROWS, KEYS = "r", "k"  # an EVERY item goes through root rows first, then through the journal's keys


def make_piece(capture: "Capture") -> bool:
    """Make one piece of the oldest pending fan-out. False when none is left."""
    if not capture.pending:
        return False
    fan_out = capture.pending[0]
    with capture.store.read() as connection:
        items = streams.next_items(connection, fan_out.id, PIECE)
    if not items:
        with capture.store.write() as connection:
            streams.finish_fan_out(connection, fan_out.id)
        capture.pending.pop(0)
    elif items[0].node == 0:
        _documents(capture, fan_out, items, [item.key for item in items], cursor=None)
    elif items[0].node == EVERY[0]:
        _every(capture, fan_out, items[0])
    else:
        _parents(capture, fan_out, items[0])
    return bool(capture.pending)


def _every(capture: "Capture", fan_out: FanOut, item: FanOutItem) -> None:
    entity = capture.entity_by_id(item.entity_id)
    cursor = item.cursor or ROWS
    phase, after = cursor[0], cursor[1:]
    with capture.store.read() as connection:
        if phase == ROWS:
            assembler = capture.assemblers[entity]
            table = capture.layout.tables[assembler.entity.root.table.name]
            page = [key for key, _, _ in streams.page_of_images(connection, table.id, after, PIECE)]
            view = View(capture.layout, StoredImages(connection), dict(capture.floors))
            keys = _document_keys(assembler, view, table.name, page)
        else:
            page = list(streams.page_of_keys(connection, item.entity_id, after, PIECE))
            keys = page
    if len(page) == PIECE:
        following: str | None = phase + page[-1]
    else:
        # Nothing had a document before the first snapshot, so there is none without a row.
        following = KEYS if phase == ROWS and fan_out.cause is not Cause.SNAPSHOT else None
    _documents(capture, fan_out, [item], keys, following)


def _parents(capture: "Capture", fan_out: FanOut, item: FanOutItem) -> None:
    """Exchange an item for a page of its parents': documents where the parent is the root, items otherwise."""
    assembler = capture.assemblers[capture.entity_by_id(item.entity_id)]
    step = assembler.steps[item.node]
    parent = assembler.steps[step.node.parent]
    lookup = step.up
    assert lookup is not None
    with capture.store.read() as connection:
        if lookup.direct:
            page: Sequence[str] = [item.key]
        else:
            page = streams.page_of_references(connection, lookup.id, item.key, item.cursor or "", PIECE)
        view = View(capture.layout, StoredImages(connection), dict(capture.floors))
        view.load(lookup.table, page)
        rows = [row for key in page if (row := view.row(lookup.table, key)) is not None]
    cursor = page[-1] if len(page) == PIECE else None
    if parent.node.index == 0:
        _documents(capture, fan_out, [item], [assembler.key_of(row) for row in rows], cursor)
        return
    assert parent.up_value is not None
    values = {value for row in rows if (value := parent.up_value(row)) is not None}
    with capture.store.write() as connection:
        streams.save_items(connection, fan_out.id, [(item.entity_id, parent.node.index, value) for value in values])
        _advance(connection, fan_out, [item], cursor, 0)


def _documents(
    capture: "Capture", fan_out: FanOut, items: Sequence[FanOutItem], keys: Collection[str], cursor: str | None
) -> None:
    """Make the documents of `keys` that are not what they should be, and go on from `cursor`; None: that was all."""
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
    with capture.store.write() as connection:
        capture.write_versions(connection, versions)
        _advance(connection, fan_out, items, cursor, len(versions.documents))


def _advance(
    connection: sa.Connection, fan_out: FanOut, items: Iterable[FanOutItem], cursor: str | None, made: int
) -> None:
    for item in items:
        if cursor is None:
            streams.finish_item(connection, fan_out.id, item)
        else:
            streams.save_cursor(connection, fan_out.id, item, cursor)
    if made:
        streams.count_made(connection, fan_out.id, made)


def _document_keys(assembler: Assembler, view: View, table: str, page: Sequence[str]) -> list[str]:
    view.load(table, page)
    return [assembler.key_of(row) for key in page if (row := view.row(table, key)) is not None]


def is_past(cursor: str | None, key: str, assembler: Assembler, view: View) -> bool:
    """Whether an EVERY item with this cursor has made the document of `key`."""
    if cursor is None:
        return False
    phase, after = cursor[0], cursor[1:]
    row_keys = assembler.root_row_keys(view, key)
    if not row_keys:
        return phase == KEYS and key <= after
    return phase == KEYS or max(row_keys) <= after
