"""Long work on the store in pieces: a writer holds the lock 50 ms at most."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa

from hub.store.database import Store

AIM = 0.02  # seconds that a piece is made to take; 0.05 is the promise
LARGEST = 2000  # rows


class Pieces:
    """How many rows one store transaction takes: as many as the last one's pace lets into AIM."""

    def __init__(self, size: int = 200) -> None:
        self.size = size

    def took(self, seconds: float, rows: int) -> None:
        """The last piece was so big and took so long. The next one is at most twice as big."""
        fitting = int(rows * AIM / seconds) if seconds > 0 else self.size * 2
        self.size = max(1, min(fitting, self.size * 2, LARGEST))

    @contextmanager
    def write(self, store: Store, rows: int) -> Iterator[sa.Connection]:
        """One store transaction, timed from when it has the lock."""
        with store.write() as connection:
            began = time.monotonic()
            yield connection
            self.took(time.monotonic() - began, rows)


def delete_rows(
    store: Store,
    table: sa.Table,
    seqs: Sequence[int],
    condition: sa.ColumnElement[bool],
    pieces: Pieces,
) -> int:
    """Delete those that still fit the condition; how many they were."""
    deleted = 0
    while seqs:
        piece, seqs = seqs[: pieces.size], seqs[pieces.size :]
        with pieces.write(store, len(piece)) as connection:
            deleted += connection.execute(sa.delete(table).where(table.c.seq.in_(piece), condition)).rowcount
    return deleted
