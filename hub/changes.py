"""The nouns of the way in: row changes, and the transactions that commit them.

`cdc` makes them, `hub.capture.capture` applies them. Values are in document form already (the value table in
docs/values.md), with one exception: a json, jsonb or hstore column, and an array of them, is its JSON text.
"""

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from hub.errors import OutsideError


class Operation(enum.Enum):
    """What happened to a row, by Debezium's letter."""

    INSERT = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"  # every row of the table
    READ = "r"  # a snapshot read the row


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """One row's change. An update of a key arrives as a DELETE of the old and an INSERT of the new, next to each other.

    What such an INSERT lacks is unchanged TOAST: it is in the image of the row that the DELETE has just removed.
    """

    table: str  # "schema.table", as in the catalogue; of a partitioned table its root
    operation: Operation
    values: dict[str, Any]  # by column; a column whose value is unchanged TOAST is absent; of a DELETE the key only


class Commit(msgspec.Struct, frozen=True, gc=False):
    """Which source transaction, and when."""

    lsn: int  # WAL position of the commit: the order of transactions, never twice
    transaction: int  # the source's transaction id; wraps around, so it names but never identifies
    committed_at: int  # microseconds since 1970, UTC


class Transaction(msgspec.Struct, frozen=True, gc=False):
    """A committed source transaction, complete: its changes in the order in which they were made."""

    commit: Commit
    changes: Sequence[RowChange]
    spooled: int = 0  # how many changes came before these in TransactionParts


class TransactionPart(msgspec.Struct, frozen=True):
    """A piece of a transaction too long for memory, whose end has not been seen yet."""

    transaction: int
    first: int  # the number of changes in the parts before this one
    changes: Sequence[RowChange]


class Progress(msgspec.Struct, frozen=True, gc=False):
    """All transactions up to here have been handed over; nothing of ours was in what followed the last one."""

    lsn: int


class SnapshotBegun(msgspec.Struct, frozen=True, gc=False):
    """The source has begun a snapshot by itself: rows of one that came before and did not end are void."""


class SnapshotRows(msgspec.Struct, frozen=True):
    """Rows as a snapshot read them."""

    changes: Sequence[RowChange]


class SnapshotCompleted(msgspec.Struct, frozen=True, gc=False):
    """All rows of the snapshot have been handed over; it shows the source as of `commit`."""

    commit: Commit


class SchemaDrift(msgspec.Struct, frozen=True, gc=False):
    """A captured table no longer has the columns that the stream was started with."""

    table: str
    gone: tuple[str, ...]  # columns that row changes no longer hold
    added: tuple[str, ...]  # columns that were not there


Arrival = Transaction | TransactionPart | Progress | SnapshotBegun | SnapshotRows | SnapshotCompleted | SchemaDrift


NO_CURSOR = -1  # the position alone says where reading goes on: the embedded engine follows the source


class Batch(msgspec.Struct, frozen=True):
    """What came in together, in order. A SchemaDrift stands before the transaction in which it was seen."""

    arrivals: Sequence[Arrival]
    stored: Callable[[], None]  # call it once all of the batch is durable: it lets the source forget it
    cursor: int = NO_CURSOR  # where to go on in a topic, stored with the position


class FeedPlan(msgspec.Struct, frozen=True):
    """How a feed shall begin."""

    snapshot: bool  # take a snapshot first, on a new slot; otherwise go on from the slot
    position: int = 0  # commit LSN of the last transaction that the store holds
    columns: Mapping[str, Sequence[str]] = {}  # by table: the columns to capture, catalogue order
    cursor: int = NO_CURSOR  # of the last batch that the store holds whole


class Missed(OutsideError):
    """Changes are gone for good: the stream has to begin anew, with a snapshot that is compared."""


class TakenOver(OutsideError):
    """Another process has the stream, or an entity of it: this one must not write any more."""

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"Another process follows {stream} now, or an entity of it.", "This one ends, and leaves it to the other."
        )


class Feed(Protocol):
    """The way in of one stream.

    Batches come in the source's commit order. A transaction may come again after a restart: the store's position
    tells. `take` is called from one thread; it returns None after `timeout` seconds without arrivals, and raises
    OutsideError once the source is lost, after which the process ends.
    """

    def start(self, plan: FeedPlan) -> None: ...

    def take(self, timeout: float) -> Batch | None: ...

    def trouble(self) -> OutsideError | None:
        """Why nothing can arrive by now, as far as that is known and may pass by itself; None when nothing is wrong."""
        ...

    def close(self) -> None: ...


def lsn_text(lsn: int) -> str:
    """As Postgres writes it: 0x16B3748 is "0/16B3748"."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The inverse of `lsn_text`. ValueError when it is not of that form."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)
