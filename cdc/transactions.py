"""From row events to transactions: what has arrived whole, and up to where the source may forget.

Debezium can send BEGIN and END records, but they cost a quarter of the rate. Without them a transaction's end shows
itself in two ways. Each row event carries the commit LSN of the transaction that was completed before its own; so the
first event of another transaction gives the commit LSN of the one that was open. And each batch's last record has the
last commit LSN in its offset: when that is greater than what the open transaction's events carry, it has committed.
Heartbeats follow every commit, so this comes within milliseconds. END records, where there are some, close one too.
"""

from collections.abc import Mapping, Sequence

from cdc.envelope import OPERATIONS, Envelope, Source, TableReader
from hub.changes import (
    Arrival,
    Commit,
    Operation,
    Progress,
    RowChange,
    SchemaDrift,
    SnapshotBegun,
    SnapshotCompleted,
    SnapshotRows,
    Transaction,
    TransactionPart,
)

PART = 2_000  # changes of one transaction held in memory before they go on as a part


class Assembler:
    """Keeps the one transaction that is open at the end of a batch. Not thread-safe."""

    def __init__(self, readers: Mapping[tuple[str, str], TableReader], part: int = PART, *, ends: bool = False) -> None:
        """`ends`: transactions are closed by END records alone, and snapshots announce themselves: a topic's are."""
        self._readers = readers
        self._part = part
        self._ends = ends
        self._open: int | None = None  # transaction id
        self._before = 0  # commit LSN of the transaction before the open one
        self._committed_at = 0
        self._changes: list[RowChange] = []
        self._spooled = 0
        self._snapshot: list[RowChange] = []
        self._snapshot_commit = Source()  # of the last snapshot row
        self._reached = 0  # commit LSN of the last arrival
        self._arrivals: list[Arrival] = []

    def batch(
        self, envelopes: Sequence[Envelope | None], reached: int, closing: int = 0, unavailable: bool = True
    ) -> list[Arrival]:
        """What is complete now.

        `reached`: the commit LSN in the offset of the batch's last record, 0 for none. `closing`: the first commit LSN
        that the heartbeats after the last row hold, where it differs. `unavailable`: some may be unchanged TOAST.
        """
        for envelope in envelopes:
            if envelope is None:
                continue
            operation = OPERATIONS.get(envelope.op)
            if operation is None:
                self._other(envelope)
            elif operation is Operation.READ:
                self._snapshot_row(envelope, unavailable)
            else:
                self._row(operation, envelope, unavailable)
        self._flush_snapshot()
        self._close_by_offset(reached, closing or reached)
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def _row(self, operation: Operation, envelope: Envelope, unavailable: bool) -> None:
        source = envelope.source
        assert source is not None
        if source.txId != self._open:
            self._begin(source)
        reader = self._readers.get((source.schema, source.table))
        if reader is None:
            return
        change = reader.change(operation, envelope, unavailable)
        if reader.drift is not None:
            self._report(reader)
        changes = self._changes
        changes.append(change)
        if len(changes) >= self._part:
            self._spool()

    def _report(self, reader: TableReader) -> None:
        """Once a table, ahead of the transaction in which it was seen."""
        drift = reader.drift
        if drift is not None and (drift.gone or drift.added):
            self._arrivals.append(drift)
            reader.drift = SchemaDrift(drift.table, (), ())

    def _snapshot_row(self, envelope: Envelope, unavailable: bool) -> None:
        source = envelope.source
        assert source is not None
        reader = self._readers.get((source.schema, source.table))
        if reader is None:
            return
        self._snapshot.append(reader.change(Operation.READ, envelope, unavailable))
        self._snapshot_commit = source
        if reader.drift is not None:
            self._report(reader)
        if len(self._snapshot) >= self._part:
            self._flush_snapshot()

    def _flush_snapshot(self) -> None:
        if self._snapshot:
            self._arrivals.append(SnapshotRows(self._snapshot))
            self._snapshot = []

    def _other(self, envelope: Envelope) -> None:
        if envelope.aggregate_type:
            if envelope.aggregate_type == "Initial Snapshot":
                self._snapshot_event(envelope.type)
        elif envelope.status == "END":
            transaction, _, lsn = envelope.id.partition(":")
            if self._open == int(transaction):
                self._close(int(lsn))
            if self._ends:
                self._progress(int(lsn))
        elif envelope.op == "m" and envelope.source and envelope.source.txId not in (None, self._open):
            self._begin(envelope.source)
        elif envelope.op == "m" and envelope.source and self._ends and self._open is None:
            self._progress(envelope.source.lsn or 0)  # all that committed before it has been handed over

    def _snapshot_event(self, what: str) -> None:
        if what == "COMPLETED":
            self._complete_snapshot()
        elif what == "STARTED" and self._ends:
            self._snapshot = []
            self._forget_open()
            self._arrivals.append(SnapshotBegun())

    @property
    def between(self) -> bool:
        """No transaction is open: reading can begin again here."""
        return self._open is None

    def _complete_snapshot(self) -> None:
        self._flush_snapshot()
        source = self._snapshot_commit
        commit = Commit(source.lsn or 0, source.txId or 0, source.ts_us)
        self._arrivals.append(SnapshotCompleted(commit))
        self._reached = max(self._reached, commit.lsn)

    def _begin(self, source: Source) -> None:
        before = _lsn_before(source.sequence)
        if self._open is not None and self._ends and before <= self._before:
            self._forget_open()  # Kafka Connect went back to before it, and sends it again whole
        if self._open is not None:
            self._close(before)
        self._open, self._before, self._committed_at = source.txId, before, source.ts_us

    def _close(self, lsn: int) -> None:
        assert self._open is not None
        if self._changes or self._spooled:
            commit = Commit(lsn, self._open, self._committed_at)
            self._arrivals.append(Transaction(commit, self._changes, self._spooled))
            self._reached = lsn
        self._forget_open()

    def _forget_open(self) -> None:
        self._open, self._changes, self._spooled = None, [], 0

    def _close_by_offset(self, reached: int, closing: int) -> None:
        if self._open is not None:
            if reached <= self._before:
                return
            self._close(closing if closing > self._before else reached)
        self._progress(reached)

    def _progress(self, reached: int) -> None:
        if reached > self._reached:
            self._reached = reached
            self._arrivals.append(Progress(reached))

    def _spool(self) -> None:
        """A delete stays with what follows: of a changed key, the insert takes its unchanged values from there."""
        assert self._open is not None
        kept = self._changes[-1:] if self._changes[-1].operation is Operation.DELETE else []
        part = self._changes[: len(self._changes) - len(kept)]
        self._arrivals.append(TransactionPart(self._open, self._spooled, part))
        self._spooled += len(part)
        self._changes = kept


def _lsn_before(sequence: str | None) -> int:
    """The commit LSN of the transaction before this event's; 0 when the stream has seen none yet.

    `sequence` is '["<that LSN>","<the event's>"]', or '[null,"<the event's>"]'.
    """
    if sequence is None or not sequence.startswith('["'):
        return 0
    return int(sequence[2 : sequence.index('"', 2)])
