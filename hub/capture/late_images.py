"""Row images that follow the journal, where a document is its row.

An entity of one table with all of its columns under their own names has documents that are its rows, value by value.
Writing both with each change would be half of its cost. So images of such rows are written later, from the newest
documents: when nothing arrives, when there are many, and before anything that reads them, which a fan-out does and a
change that leaves out unchanged values. Rows that are deleted lose their images at once.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hub.capture.piece import PieceSize
from hub.changes import Operation, RowChange
from hub.store import streams

if TYPE_CHECKING:
    from hub.capture.capture import Capture

FIRST, SMALLEST, LARGEST = 500, 50, 5000  # documents that a piece looks at
MOST = 200_000  # documents whose images wait while changes arrive: about two seconds of work

_DELETE = Operation.DELETE


class LateImages:
    """One capture's images that wait. While a fan-out is pending there are none."""

    def __init__(self, capture: "Capture", since: int | None) -> None:
        self._capture = capture
        self._size = PieceSize(FIRST, SMALLEST, LARGEST)
        self._tables = dict(capture.layout.journaled)  # those whose images may wait
        self._since = since  # the images are as of this document; None: as of now
        self._waiting = 0  # documents past it, about
        if since is not None:
            with capture.store.read() as connection:
                self._waiting = (streams.last_document(connection) or 0) - since

    def may_wait(self, changes: Sequence[RowChange]) -> set[str]:
        """The tables among those of a group's changes whose images may wait.

        A row that came without some of its values has to be read as it was: its table's images are written at once
        from then on.
        """
        found: set[str] = set()
        if self._capture.pending or not self._tables:
            return found
        for table in {change.table for change in changes} & self._tables.keys():
            width = len(self._capture.layout.tables[table].columns)
            if all(len(c.values) == width or c.table != table or c.operation is _DELETE for c in changes):
                found.add(table)
            else:
                self.catch_up()
                del self._tables[table]
        return found

    def begin(self, connection: sa.Connection) -> int:
        """Note in the store, ahead of a group's documents, where the images stand: the argument of `wait`."""
        if self._since is not None:
            return self._since
        since = streams.last_document(connection) or 0
        streams.save_imaged(connection, self._capture.state.id, since)
        return since

    def wait(self, since: int, documents: int) -> None:
        """So many documents have been stored whose images have not."""
        self._since = since
        self._waiting += documents

    def piece(self, idle: bool) -> bool:
        """Write some of them. False when there is nothing to write, or it can wait since changes arrive."""
        while self._since is not None and self._waiting > MOST:
            self._piece(self._since)
        if self._since is None or not idle:
            return False
        self._piece(self._since)
        return self._since is not None

    def catch_up(self) -> None:
        """Write all of them."""
        while self._since is not None:
            self._piece(self._since)

    def _piece(self, since: int) -> None:
        capture, size = self._capture, self._size.value
        with capture.store.read() as connection:
            last = streams.last_document(connection, since, size)
        with capture.write(durable=False) as connection:  # lost, they are written again
            started = time.monotonic()
            if last is not None:
                for table, entity in capture.layout.journaled.items():
                    ids = capture.layout.tables[table].id, capture.published[entity].id
                    streams.images_from_documents(connection, *ids, capture.run, since, last)
            streams.save_imaged(connection, capture.state.id, last)
        self._size.took(time.monotonic() - started)
        self._since = last
        self._waiting = 0 if last is None else max(0, self._waiting - size)
