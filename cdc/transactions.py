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
    Missed,
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
from hub.errors import OutsideError

PART = 2_000  # changes of one transaction held in memory before they go on as a part
COMPARED = "A new snapshot is taken and compared."


class Numbers:
    """Whether all records of a transaction have come to a topic, by the numbers that Debezium gives them.

    A connector that is started again amid a transaction goes on after the last record whose offset it had stored, with
    the next number and the next LSN. But the rows of a COPY share an LSN, and so do both halves of a changed key: what
    had not been sent of them is skipped, and neither the numbers nor the END record's count show it. So where it goes
    on after a record that need not have been the last of its LSN, nothing is known for sure.
    """

    def __init__(self) -> None:
        self._last = 0  # the number of the last record
        self._alike = 1  # the number of the first record with its LSN
        self._lsn = 0
        self._alone = False  # nothing else can have its LSN
        self._restarted = False  # since then
        self.gap = ""  # what is missing, or may be; "" when nothing is

    def restart(self) -> None:
        """The connector has been started again."""
        self._restarted = True

    def take(self, number: int, lsn: int, alone: bool) -> None:
        """The next record. `alone`: no other one has its LSN."""
        if self._restarted or number != self._last + 1:
            self._go_on(number)
        if lsn != self._lsn:
            self._lsn, self._alike = lsn, number
        self._last, self._alone = number, alone

    def end(self, count: int) -> None:
        """The transaction's end; `count` is the number of its last record."""
        if self._restarted or count != self._last:
            self._go_on(count + 1)

    def _go_on(self, number: int) -> None:
        """After a restart, with this number; or after a gap."""
        if number > self._last + 1:
            self.gap = f"lacks the records {self._last + 1} to {number - 1}"
        elif number > self._alike and not self._alone:
            self.gap = "may lack rows, since Kafka Connect was interrupted amid it"
        self._restarted = False


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
        self._numbers = Numbers()
        self.reached = 0  # commit LSN of the last arrival; before the first, what the store has
        self.broken: OutsideError | None = None  # why nothing can be made of what follows what was handed over
        self._arrivals: list[Arrival] = []

    def batch(
        self, envelopes: Sequence[Envelope | None], reached: int, closing: int = 0, unavailable: bool = True
    ) -> list[Arrival]:
        """What is complete now; nothing more once `broken` is set.

        `reached`: the commit LSN in the offset of the batch's last record, 0 for none. `closing`: the first commit LSN
        that the heartbeats after the last row hold, where it differs. `unavailable`: some may be unchanged TOAST.
        """
        for envelope in envelopes:
            if envelope is None:
                continue
            operation = OPERATIONS.get(envelope.op)
            if operation is None:
                self._other(envelope)
                if self.broken:
                    break
            elif operation is Operation.READ:
                self._snapshot_row(envelope, unavailable)
            else:
                self._row(operation, envelope, unavailable)
        self._flush_snapshot()
        if not self.broken:
            self._close_by_offset(reached, closing or reached)
        arrivals, self._arrivals = self._arrivals, []
        return arrivals

    def _row(self, operation: Operation, envelope: Envelope, unavailable: bool) -> None:
        source = envelope.source
        assert source is not None
        if source.txId != self._open:
            self._begin(source)
        if envelope.transaction:
            self._numbers.take(envelope.transaction.total_order, source.lsn or 0, operation is Operation.UPDATE)
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
            self._end(envelope)
        elif envelope.op == "m" and envelope.source:
            self._message(envelope, envelope.source)

    def _end(self, envelope: Envelope) -> None:
        transaction, _, lsn = envelope.id.partition(":")
        if self._open == int(transaction):
            self._numbers.end(envelope.event_count or 0)
            if self._ends and self._numbers.gap and int(lsn) > self.reached:
                self.broken = Missed(f"Transaction {transaction} {self._numbers.gap}.", COMPARED)
                return
            self._close(int(lsn))
        if self._ends:
            self._progress(int(lsn))

    def _message(self, envelope: Envelope, source: Source) -> None:
        if source.txId not in (None, self._open):
            self._begin(source)
        elif self._ends and self._open is None:
            self._progress(source.lsn or 0)  # all that committed before it has been handed over
        if envelope.transaction:
            self._numbers.take(envelope.transaction.total_order, source.lsn or 0, alone=False)

    def _snapshot_event(self, what: str) -> None:
        if what == "COMPLETED":
            self._complete_snapshot()
        elif what == "STARTED" and self._ends:
            self._snapshot = []
            self._forget_open()
            self._arrivals.append(SnapshotBegun())
        elif what == "SKIPPED":
            self._restarted()

    def _restarted(self) -> None:
        """The connector has been started again, by Kafka Connect, or by the engine after it had lost the source.

        The engine's goes on as `Numbers` tells, but has no numbers; a new one begins where the slot stands.
        """
        if self._ends:
            self._numbers.restart()
        elif self._open is not None:
            self.broken = OutsideError(
                "The connection to the source was lost amid a transaction.",
                "Capture begins again with the whole of it.",
            )

    @property
    def between(self) -> bool:
        """No transaction is open: reading can begin again here."""
        return self._open is None

    def _complete_snapshot(self) -> None:
        self._flush_snapshot()
        source = self._snapshot_commit
        commit = Commit(source.lsn or 0, source.txId or 0, source.ts_us)
        self._arrivals.append(SnapshotCompleted(commit))
        self.reached = max(self.reached, commit.lsn)

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
            self.reached = lsn
        self._forget_open()

    def _forget_open(self) -> None:
        self._open, self._changes, self._spooled, self._numbers = None, [], 0, Numbers()

    def _close_by_offset(self, reached: int, closing: int) -> None:
        if self._open is not None:
            if reached <= self._before:
                return
            self._close(closing if closing > self._before else reached)
        self._progress(reached)

    def _progress(self, reached: int) -> None:
        if reached > self.reached:
            self.reached = reached
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
