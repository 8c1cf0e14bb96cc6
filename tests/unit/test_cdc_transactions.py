"""Row events into transactions, without a database."""

from typing import Any

import msgspec
import pytest

from cdc.envelope import decode, table_readers
from cdc.transactions import Assembler
from hub.catalogue import Catalogue, Column, Kind, Table
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

COLUMNS = {"public.t": ["id", "a"]}
TABLE = Table(
    "public.t", "r", "p", tuple(Column(name, "integer", "int4", Kind.INTEGER) for name in ("id", "a")), ("id",)
)


def assembler(part: int = 100, *, ends: bool = False) -> Assembler:
    return Assembler(table_readers(Catalogue({"public.t": TABLE}), COLUMNS), part, ends=ends)


def row(transaction: int, before: int | None, id: int, **values: Any) -> dict[str, Any]:
    sequence = msgspec.json.encode([None if before is None else str(before), "1"]).decode()
    source = {"schema": "public", "table": "t", "txId": transaction, "lsn": 1, "sequence": sequence, "ts_us": 5}
    return {"op": "c", "source": source, "after": {"id": id, **({"a": 1} | values)}}


def feed(assembler: Assembler, *records: Any, reached: int = 0, closing: int = 0) -> list[Arrival]:
    return assembler.batch(decode(msgspec.json.encode(records)), reached, closing)


def change(id: int) -> RowChange:
    return RowChange("public.t", Operation.INSERT, {"id": id, "a": 1})


def test_the_next_transaction_closes_the_open_one() -> None:
    """Its first event carries the commit LSN of the one before."""
    found = feed(assembler(), row(7, None, 1), row(7, None, 2), row(8, 100, 3))
    assert found == [Transaction(Commit(100, 7, 5), [change(1), change(2)])]


def test_a_transaction_stays_open_over_batches() -> None:
    """Nothing is handed over of a half, whatever heartbeats with an old commit LSN come between."""
    transactions = assembler()
    assert feed(transactions, row(7, 90, 1), reached=90) == []
    assert feed(transactions, {"ts_ms": 1}, None, reached=90) == []
    assert feed(transactions, row(7, 90, 2), {"ts_ms": 1}, reached=100) == [
        Transaction(Commit(100, 7, 5), [change(1), change(2)])
    ]


def test_the_first_heartbeat_after_a_transaction_holds_its_commit() -> None:
    """What committed later in the batch moves the progress, not the transaction."""
    found = feed(assembler(), row(7, 90, 1), {"ts_ms": 1}, {"ts_ms": 1}, reached=120, closing=100)
    assert found == [Transaction(Commit(100, 7, 5), [change(1)]), Progress(120)]


def test_an_end_record_closes_its_transaction() -> None:
    """Where the connector sends transaction metadata, as on Kafka Connect."""
    begin, end = ({"status": status, "id": f"7:{lsn}", "ts_ms": 1} for status, lsn in (("BEGIN", 99), ("END", 100)))
    assert feed(assembler(), begin, row(7, 90, 1), end) == [Transaction(Commit(100, 7, 5), [change(1)])]


def transaction(status: str, id: int, lsn: int) -> dict[str, Any]:
    return {"status": status, "id": f"{id}:{lsn}", "ts_ms": 1}


def test_in_a_topic_a_transaction_is_open_until_its_end_record() -> None:
    """Batches have no offset of the source's there; an END of a transaction that changed none of ours is progress."""
    transactions = assembler(ends=True)
    assert feed(transactions, transaction("BEGIN", 7, 99), row(7, 90, 1)) == []
    assert not transactions.between
    assert feed(transactions, row(7, 90, 2), transaction("END", 7, 100), transaction("BEGIN", 8, 105)) == [
        Transaction(Commit(100, 7, 5), [change(1), change(2)])
    ]
    assert transactions.between
    assert feed(transactions, transaction("END", 8, 110)) == [Progress(110)]
    message = row(9, 110, 1) | {"op": "m", "after": None}
    assert feed(transactions, transaction("BEGIN", 9, 115), message, transaction("END", 9, 120)) == [Progress(120)]


def test_in_a_topic_what_connect_sends_again_is_the_same_transaction() -> None:
    """Killed amid a transaction, it goes on with rows that came already."""
    again = [transaction("BEGIN", 7, 99), row(7, 90, 1), row(7, 90, 2), row(7, 90, 2), transaction("END", 7, 100)]
    (found,) = feed(assembler(ends=True), *again)
    assert isinstance(found, Transaction)
    assert found.commit == Commit(100, 7, 5)
    assert found.changes[-1] == change(2)


def test_in_a_topic_half_a_transaction_is_forgotten_when_connect_goes_back() -> None:
    """It was killed amid the second one, and begins again with the first: the half is not taken for a whole."""
    first = [row(7, 80, 1), transaction("END", 7, 90)]
    found = feed(
        assembler(ends=True), *first, row(8, 90, 2), *first, row(8, 90, 2), row(8, 90, 3), transaction("END", 8, 100)
    )
    assert [one for one in found if isinstance(one, Transaction)] == [
        Transaction(Commit(90, 7, 5), [change(1)]),
        Transaction(Commit(90, 7, 5), [change(1)]),
        Transaction(Commit(100, 8, 5), [change(2), change(3)]),
    ]


def test_in_a_topic_a_snapshot_says_that_it_begins() -> None:
    """What an interrupted one has read is void from there on."""
    started, completed = ({"aggregate_type": "Initial Snapshot", "type": what} for what in ("STARTED", "COMPLETED"))
    read = row(7, None, 1) | {"op": "r"}
    found = feed(assembler(ends=True), started, read, started, read, completed)
    assert [type(one) for one in found] == [SnapshotBegun, SnapshotBegun, SnapshotRows, SnapshotCompleted]
    assert feed(assembler(), started) == []


def test_a_changed_key_is_not_cut_in_two_by_the_parts_of_a_long_transaction() -> None:
    """The insert takes its unchanged values from the row that the delete before it removes."""
    delete = row(7, 90, 2) | {"op": "d", "after": None, "before": {"id": 2}}
    found = feed(assembler(part=2), row(7, 90, 1), delete, row(7, 90, 3), reached=100)
    gone = RowChange("public.t", Operation.DELETE, {"id": 2})
    assert found == [
        TransactionPart(7, 0, [change(1)]),
        TransactionPart(7, 1, [gone, change(3)]),
        Transaction(Commit(100, 7, 5), [], 3),
    ]


def test_a_message_of_a_transaction_of_its_own_gives_progress_alone() -> None:
    """A fence changes no row."""
    message = row(9, 100, 1) | {"op": "m", "after": None}
    found = feed(assembler(), row(7, 90, 1), message, reached=130)
    assert found == [Transaction(Commit(100, 7, 5), [change(1)]), Progress(130)]


def test_a_drift_is_told_once_and_before_its_transaction() -> None:
    """More columns than were captured are dropped and named."""
    found = feed(assembler(), row(7, 90, 1, b=2), row(7, 90, 2, b=2), reached=100)
    assert found == [SchemaDrift("public.t", (), ("b",)), Transaction(Commit(100, 7, 5), [change(1), change(2)])]


def numbered(number: int, lsn: int, op: str = "c") -> dict[str, Any]:
    """A row of the transaction 7; `number` is the row's id too, unless the connector has lost count."""
    made = row(7, 90, number)
    return made | {"op": op, "source": made["source"] | {"lsn": lsn}, "transaction": {"total_order": number}}


END = transaction("END", 7, 200)
RESTARTED = {"aggregate_type": "Initial Snapshot", "type": "SKIPPED"}


def broken(*records: dict[str, Any], count: int, stored: int = 0) -> str:
    """Why the transaction of these records is not to be trusted; "" when it is."""
    transactions = assembler(ends=True)
    transactions.reached = stored
    found = feed(transactions, *records, END | {"event_count": count}, transaction("BEGIN", 8, 205))
    assert transactions.between == (transactions.broken is None)
    assert bool(found) == transactions.between
    return transactions.broken.what if transactions.broken else ""


def test_in_a_topic_a_transaction_whose_records_all_came_is_whole() -> None:
    """A COPY's rows share an LSN; a message inside of a transaction is a record of its own."""
    copied = [numbered(1, 10), numbered(2, 10), numbered(3, 20)]
    message = numbered(4, 30) | {"op": "m", "after": None}
    assert broken(*copied, message, count=4) == ""


@pytest.mark.parametrize(
    ("records", "count", "said"),
    [
        # As measured: a COPY of five rows, of which the third to the fifth share an LSN; the fifth is never sent.
        ([numbered(1, 10), numbered(2, 10), numbered(3, 20), numbered(4, 20), RESTARTED, numbered(5, 30)], 5, "may"),
        ([numbered(1, 10), numbered(2, 20), RESTARTED], 2, "may"),  # then the rest of it is all that was left
        ([numbered(1, 10), numbered(2, 20), numbered(3, 20), RESTARTED, numbered(3, 30)], 3, "may"),
        ([numbered(1, 10, "d"), RESTARTED, numbered(2, 20)], 2, "may"),  # perhaps a changed key's first half
        ([numbered(1, 10), numbered(3, 30)], 3, "lacks the records 2 to 2"),
        ([numbered(1, 10)], 4, "lacks the records 2 to 4"),
        # It went back to before what shares an LSN, all of which had come; an update's LSN is its alone.
        ([numbered(1, 10), numbered(2, 10), numbered(3, 20), RESTARTED, numbered(2, 10), numbered(3, 20)], 3, ""),
        ([numbered(1, 10), numbered(2, 20, "u"), RESTARTED, numbered(3, 30)], 3, ""),
        ([RESTARTED, numbered(1, 10), RESTARTED, numbered(1, 10), numbered(2, 20)], 2, ""),
    ],
)
def test_in_a_topic_a_transaction_that_may_lack_rows_is_not_made(
    records: list[dict[str, Any]], count: int, said: str
) -> None:
    """Nothing after it is made either, nor is the cursor past it: a new snapshot is compared."""
    found = broken(*records, count=count)
    assert said in found
    assert bool(said) == bool(found)


def test_in_a_topic_the_end_of_a_transaction_that_is_stored_may_come_again() -> None:
    """Kafka Connect went back into it after all of it had come."""
    assert broken(numbered(5, 30), numbered(6, 40), count=6, stored=200) == ""
    assert "lacks the records 1 to 4" in broken(numbered(5, 30), numbered(6, 40), count=6, stored=199)


def test_a_source_that_the_engine_loses_amid_a_transaction_ends_it() -> None:
    """It would go on after the last record that was confirmed, and leave out rows with the same LSN."""
    transactions = assembler()
    assert feed(transactions, RESTARTED, row(7, 90, 1), row(8, 100, 2), RESTARTED, row(8, 100, 3), reached=120) == [
        Transaction(Commit(100, 7, 5), [change(1)])
    ]
    assert transactions.broken is not None
