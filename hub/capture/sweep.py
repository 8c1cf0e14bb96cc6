"""Removing rows that a newer snapshot or a truncate has made absent, or whose table no entity uses any more.

Absent they are from the moment the table's floor rose or it was dropped; sweeping, piece by piece, only gives back the
room.
"""

import time
from typing import TYPE_CHECKING

from hub.capture.images import decode_image
from hub.capture.piece import PieceSize
from hub.store import streams

if TYPE_CHECKING:
    from hub.capture.capture import Capture

FIRST, SMALLEST, LARGEST = 500, 50, 2000  # rows that a piece looks at


class Sweep:
    """One capture's sweeping. After a restart a table is begun again, which does no harm."""

    def __init__(self, capture: "Capture") -> None:
        self._capture = capture
        self._size = PieceSize(FIRST, SMALLEST, LARGEST)
        self._after: dict[tuple[str, int], str] = {}  # by table and floor: the last key looked at
        tables = streams.load_tables(capture.store)
        with capture.store.read() as connection:
            self._dropped = streams.dropped(connection)
        self._swept = {kept.name: tables.get(kept.id, (0, 0, ""))[1] for kept in capture.layout.tables.values()}

    def piece(self) -> bool:
        """Sweep one piece. False when nothing is left to sweep."""
        for name, floor in self._capture.floors.items():
            if self._swept.get(name, 0) < floor:
                self._piece(name, floor)
                return True
        if self._dropped:
            self._remove(self._dropped[-1])
        return bool(self._dropped)

    def _remove(self, id: int) -> None:
        with self._capture.write() as connection:
            started = time.monotonic()
            last = streams.remove_dropped(connection, id, self._size.value)
        self._size.took(time.monotonic() - started)
        if last:
            self._dropped.pop()

    def _piece(self, name: str, floor: int) -> None:
        kept = self._capture.layout.tables[name]
        size = self._size.value
        with self._capture.store.read() as connection:
            page = streams.page_of_images(connection, kept.id, self._after.get((name, floor)), size)
        stale = {key: decode_image(image) for key, run, image in page if run < floor}
        references = [
            (lookup.id, value, key)
            for key, row in stale.items()
            for lookup in kept.lookups
            if (value := lookup.value(row)) is not None
        ]
        last = len(page) < size
        with self._capture.write() as connection:
            started = time.monotonic()
            streams.delete_images(connection, kept.id, list(stale), references)
            if last:
                streams.save_swept(connection, kept.id, floor)
        self._size.took(time.monotonic() - started)
        if last:
            self._swept[name] = floor
            self._after.pop((name, floor), None)
        else:
            self._after[name, floor] = page[-1][0]
