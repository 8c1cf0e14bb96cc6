"""A view of the row images: what the store holds, overlaid with the changes of the transactions in hand.

Everything that was read or changed stays in the view, so that a group of transactions costs a few statements,
however many there are. The view is thrown away once its changes are written.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from hub.capture.layout import KeptTable, Layout, Lookup, Row
from hub.changes import Operation, RowChange

decode_image = msgspec.json.Decoder(dict).decode
UNLIMITED = 1 << 31
encode_image = msgspec.json.Encoder().encode


class TooMany(Exception):
    """A lookup found more rows than may be held at once."""


class ImageReader(Protocol):
    """The store's row images. Each call is one statement; what is not there is left out."""

    def rows(self, table_id: int, keys: Collection[str]) -> Iterable[tuple[str, int, bytes]]:
        """(key, run, image)"""
        ...

    def references(self, lookup_id: int, values: Collection[str], limit: int) -> Sequence[tuple[str, str]]:
        """(value, row key), at most `limit`"""
        ...


class Touched(NamedTuple):
    """One row that changed. `old` is None also where the table never needs it."""

    table: str
    key: str
    old: Row | None
    new: Row | None


class View:
    def __init__(self, layout: Layout, reader: ImageReader, floors: dict[str, int]) -> None:
        """`floors`: by table the lowest run whose rows are there."""
        self.layout = layout
        self.changed: dict[str, dict[str, Row | None]] = {name: {} for name in layout.tables}
        self.moved: dict[int, dict[tuple[str, str], bool]] = {}  # by lookup: (value, row key): joined or parted
        self._reader = reader
        self.floors = floors
        self._rows: dict[str, dict[str, Row | None]] = {name: {} for name in layout.tables}
        self._ghosts: dict[tuple[str, str], Row] = {}  # rows below their table's floor: absent, but still referenced
        self._references: dict[int, dict[str, set[str]]] = {}
        self._deleted: Row | None = None  # by the change before: an insert that changes a key takes its TOAST values

    def load(self, table: str, keys: Iterable[str]) -> None:
        """Read the rows that the view does not have yet."""
        have = self._rows[table]
        missing = [key for key in keys if key not in have]
        if not missing:
            return
        have.update(dict.fromkeys(missing))
        floor = self.floors.get(table, 0)
        for key, run, image in self._reader.rows(self.layout.tables[table].id, missing):
            if run >= floor:
                have[key] = decode_image(image)
            else:
                self._ghosts[table, key] = decode_image(image)

    def assume_absent(self, table: str, keys: Iterable[str]) -> None:
        """The caller knows that the store has no such rows: a first snapshot."""
        have = self._rows[table]
        for key in keys:
            have.setdefault(key, None)

    def row(self, table: str, key: str) -> Row | None:
        have = self._rows[table]
        if key not in have:
            self.load(table, (key,))
        return have[key]

    def load_found(self, lookup: Lookup, values: Iterable[str], limit: int = UNLIMITED) -> None:
        """Read which rows `values` lead to, and the rows. TooMany where these are more than `limit`."""
        if lookup.direct:
            self.load(lookup.table, values)
            return
        have = self._references.setdefault(lookup.id, {})
        missing = [value for value in values if value not in have]
        if not missing:
            return
        found: dict[str, set[str]] = {value: set() for value in missing}
        pairs = self._reader.references(lookup.id, missing, limit + 1)
        if len(pairs) > limit:
            raise TooMany
        for value, key in pairs:
            found[value].add(key)
        for (value, key), joined in self.moved.get(lookup.id, {}).items():
            if value in found:
                (found[value].add if joined else found[value].discard)(key)
        have.update(found)
        self.load(lookup.table, {key for keys in found.values() for key in keys})

    def found(self, lookup: Lookup, value: str) -> list[Row]:
        """The rows that `value` leads to, in no order."""
        if lookup.direct:
            row = self.row(lookup.table, value)
            return [] if row is None else [row]
        have = self._references.get(lookup.id)
        if have is None or value not in have:
            self.load_found(lookup, (value,))
            have = self._references[lookup.id]
        return [row for key in have[value] if (row := self.row(lookup.table, key)) is not None]

    def apply(self, change: RowChange) -> Touched:
        """Overlay one change."""
        kept = self.layout.tables[change.table]
        key = kept.key(change.values)
        old = self._old(kept, change, key)
        new = None if change.operation is Operation.DELETE else self._new(kept, change, old)
        self._deleted = old if new is None else None
        self._rows[kept.name][key] = new
        self.changed[kept.name][key] = new
        ghost = self._ghosts.pop((kept.name, key), None)  # its references are the row's from now on, or gone
        for lookup in kept.lookups:
            self._move(lookup, key, old or ghost, new)
        return Touched(kept.name, key, old, new)

    def _old(self, kept: KeptTable, change: RowChange, key: str) -> Row | None:
        if kept.needs_old or len(change.values) < len(kept.columns):
            return self.row(kept.name, key)
        return self._rows[kept.name].get(key)

    def _new(self, kept: KeptTable, change: RowChange, old: Row | None) -> Row:
        """A value that did not come is as it was: of the row itself, or of the one whose key was changed into this."""
        values = change.values
        if len(values) == len(kept.columns):
            return values
        before = old if old is not None else (self._deleted or {})
        return {column: values[column] if column in values else before.get(column) for column in kept.columns}

    def _move(self, lookup: Lookup, key: str, old: Row | None, new: Row | None) -> None:
        left = lookup.value(old) if old is not None else None
        joins = lookup.value(new) if new is not None else None
        if left == joins:
            if joins is not None and (joins, key) in self.moved.get(lookup.id, {}):
                self.moved[lookup.id][joins, key] = True  # a truncate parted what now comes again
            return
        have = self._references.get(lookup.id, {})
        moved = self.moved.setdefault(lookup.id, {})
        if left is not None:
            moved[left, key] = False
            if left in have:
                have[left].discard(key)
        if joins is not None:
            moved[joins, key] = True
            if joins in have:
                have[joins].add(key)

    def truncate(self, table: str, run: int) -> None:
        """No row of a run below `run` is there any more."""
        self.floors[table] = run
        for key, row in self._rows[table].items():
            if row is not None:
                self._ghosts[table, key] = row
                self._rows[table][key] = None
        self.changed[table].clear()
        for lookup in self.layout.tables[table].lookups:
            self.moved[lookup.id] = dict.fromkeys(self.moved.get(lookup.id, {}), False)
