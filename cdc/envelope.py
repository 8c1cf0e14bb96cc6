"""Debezium's envelopes: one batch of JSON, decoded at once into typed structs, and each row turned into a RowChange.

This is the hot path: a row costs a few microseconds, so what can be prepared for a table is prepared once.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cdc.settings import UNAVAILABLE
from cdc.values import Converter, converter
from hub.catalogue import Catalogue, Table
from hub.changes import Operation, RowChange, SchemaDrift


class Source(msgspec.Struct, gc=False):
    """Where a row event comes from."""

    schema: str = ""
    table: str = ""
    txId: int | None = None
    lsn: int | None = None
    sequence: str | None = None  # '["<commit LSN of the transaction before>","<LSN of this event>"]'
    ts_us: int = 0  # the commit's time; of a snapshot row the snapshot's
    snapshot: str | None = None


class Numbered(msgspec.Struct, gc=False):
    """A record's place in its transaction, where Debezium is asked for it."""

    total_order: int  # 1, 2, 3 …


class Envelope(msgspec.Struct, gc=False):
    """Any record of the stream: a row, a message, a heartbeat, a notification, a transaction's end."""

    op: str = ""
    source: Source | None = None
    after: dict[str, Any] | None = None
    before: dict[str, Any] | None = None
    aggregate_type: str = ""  # of a notification: "Initial Snapshot"
    type: str = ""  # of a notification: STARTED, COMPLETED …
    status: str = ""  # of a transaction record: BEGIN, END
    id: str = ""  # of a transaction record: "<transaction id>:<LSN>"
    event_count: int | None = None  # of a transaction's END record: the number of its last record
    transaction: Numbered | None = None
    ts_ms: int = 0


_decoder = msgspec.json.Decoder(list[Envelope | None])


def decode(payload: bytes) -> list[Envelope | None]:
    """A JSON array of records; null is a tombstone."""
    return _decoder.decode(payload)


OPERATIONS = {operation.value: operation for operation in Operation}
_MARK = b"u0000unavailable"
# An hstore comes as JSON text, its placeholder too.
_UNAVAILABLE = (UNAVAILABLE, json.dumps({UNAVAILABLE: UNAVAILABLE}, separators=(",", ":")))


def holds_unavailable(payload: bytes) -> bool:
    """Whether any value of the batch may be an unchanged TOAST value, so that its rows are worth a look."""
    return _MARK in payload


class TableReader:
    """How one table's rows become RowChanges."""

    def __init__(self, table: Table, columns: Sequence[str]) -> None:
        self.name = table.name
        self.columns = frozenset(columns)
        self.width = len(self.columns)
        self.key = tuple(table.primary_key)
        known = [column for name in columns if (column := table.column(name))]
        self.conversions: list[tuple[str, Converter]] = [
            (column.name, convert) for column in known if (convert := converter(column))
        ]
        self.drift: SchemaDrift | None = None

    def change(self, operation: Operation, envelope: Envelope, unavailable: bool) -> RowChange:
        """The envelope as a RowChange. `unavailable`: its batch holds unchanged TOAST values."""
        values = envelope.after
        if values is None:
            return RowChange(self.name, operation, self._key(envelope.before or {}))
        if len(values) != self.width:
            values = self._drifted(values)
        if unavailable:
            values = {name: value for name, value in values.items() if value not in _UNAVAILABLE}
        if self.conversions:
            self._convert(values)
        return RowChange(self.name, operation, values)

    def _convert(self, values: dict[str, Any]) -> None:
        for name, convert in self.conversions:
            value = values.get(name)
            if value is not None:
                values[name] = convert(value)

    def _key(self, before: dict[str, Any]) -> dict[str, Any]:
        """Only the key is sure to be there; without a primary key, what replica identity sends is not null."""
        # A truncate has neither image.
        names = self.key or [name for name, value in before.items() if value is not None]
        values = {name: before[name] for name in names if name in before}
        if self.conversions:
            self._convert(values)
        return values

    def _drifted(self, values: dict[str, Any]) -> dict[str, Any]:
        if self.drift is None:
            gone = tuple(sorted(self.columns - values.keys()))
            self.drift = SchemaDrift(self.name, gone, tuple(sorted(values.keys() - self.columns)))
        return {name: value for name, value in values.items() if name in self.columns}


def table_readers(catalogue: Catalogue, columns: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], TableReader]:
    """By (schema, table): how the captured tables are read."""
    readers = {}
    for name, names in columns.items():
        schema, _, table = name.partition(".")
        readers[schema, table] = TableReader(catalogue.tables[name], names)
    return readers
