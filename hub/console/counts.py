"""What happens, counted since this process began: attempts, their latency, versions.

The store has no counters, for capture and dispatch would have to write them. Each look counts the rows that were added
to a table since the last one, by `seq`, and never what was there before.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from hub.delivery import OutcomeKind
from hub.documents import Cause
from hub.store import tables
from hub.store.database import Store
from hub.store.tables import CAUSES

# Seconds from a commit to the receiver's acceptance, upper edges; the last bucket is without one.
LATENCIES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)

WINDOW = 50_000  # rows that one view of the store counts, a tenth of a second
BUDGET = 1.0  # seconds that one look counts at most; what is left follows with the next
GAPS = 1000  # seqs that were not there when later ones were: on Postgres their commit may come after

attempt, document = tables.attempt, tables.document

Add = Callable[[sa.Connection, sa.ColumnElement[bool]], int]  # counts the rows that fit; how many they were


@dataclass
class Tail:
    """The rows that are added to a table."""

    seq: sa.Column[int]
    position: int  # counted up to here
    window: int = WINDOW
    gaps: dict[int, None] = field(default_factory=dict)  # but for these, the newest last

    def count(self, store: Store, add: Add) -> None:
        """Hand each new row to `add` once, until `BUDGET` is spent."""
        deadline = time.monotonic() + BUDGET
        while self._window(store, add) and time.monotonic() < deadline:
            pass

    def _window(self, store: Store, add: Add) -> bool:
        """One view of the store. True when there is more."""
        with store.read() as connection:
            head = connection.execute(sa.select(sa.func.max(self.seq))).scalar() or 0
            if self.gaps:
                self._late(connection, add)
            last = min(head, self.position + self.window)
            if last <= self.position:
                return False
            seqs, inside = range(self.position + 1, last + 1), self.seq.between(self.position + 1, last)
            added = add(connection, inside)
            self.position = last
            if added < len(seqs) and not store.is_sqlite:
                self._note(seqs, connection.scalars(sa.select(self.seq).where(inside)))
            return last < head

    def _late(self, connection: sa.Connection, add: Add) -> None:
        """Those whose transaction has ended by now."""
        there = list(connection.scalars(sa.select(self.seq).where(self.seq.in_(self.gaps))))
        if there:
            add(connection, self.seq.in_(there))
            for seq in there:
                del self.gaps[seq]

    def _note(self, seqs: range, there: Iterable[int]) -> None:
        missing = sorted(set(seqs).difference(there))[-GAPS:]
        self.gaps.update(dict.fromkeys(missing))
        while len(self.gaps) > GAPS:
            del self.gaps[next(iter(self.gaps))]


@dataclass
class Latency:
    """A histogram of seconds."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCIES) + 1))
    total: float = 0.0

    def add(self, bucket: int, count: int, seconds: float) -> None:
        self.buckets[bucket] += count
        self.total += seconds


@dataclass
class Counts:
    """They only rise."""

    attempts: Counter[tuple[str, OutcomeKind]] = field(default_factory=Counter)  # by subscription and outcome
    durations: Counter[str] = field(default_factory=Counter)  # by subscription: microseconds of all attempts
    latencies: dict[str, Latency] = field(default_factory=dict)  # by subscription
    versions: Counter[tuple[str, Cause]] = field(default_factory=Counter)  # by entity and cause


class Tally:
    """Counts what is added to one store. For one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        with store.read() as connection:
            self._attempts = Tail(attempt.c.seq, _head(connection, attempt))
            self._versions = Tail(document.c.seq, _head(connection, document))
        self.counts = Counts()

    def look(self) -> None:
        """Count what was added since the last look."""
        self._attempts.count(self._store, self._add_attempts)
        self._versions.count(self._store, self._add_versions)

    def _add_attempts(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        counted = 0
        for subscription, outcome, bucket, count, duration, latency in self._named(connection, _attempts(which)):
            self.counts.attempts[subscription, OutcomeKind(outcome)] += count
            self.counts.durations[subscription] += int(duration)
            if bucket >= 0:
                self.counts.latencies.setdefault(subscription, Latency()).add(bucket, count, float(latency) / 1e6)
            counted += count
        return counted

    def _add_versions(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        query = sa.select(document.c.entity_id, document.c.cause, sa.func.count()).where(which)
        counted = 0
        for entity, cause, count in self._named(connection, query.group_by(document.c.entity_id, document.c.cause)):
            self.counts.versions[entity, CAUSES[cause]] += count
            counted += count
        return counted

    def _named(self, connection: sa.Connection, query: sa.Select[Any]) -> list[tuple[Any, ...]]:
        """All rows, their first column by its name: what fails here has counted nothing."""
        return [(self._store.name(id), *rest) for id, *rest in connection.execute(query)]


def _head(connection: sa.Connection, table: sa.Table) -> int:
    return connection.execute(sa.select(sa.func.max(table.c.seq))).scalar() or 0


def _attempts(which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """By subscription, outcome and bucket: how many, and the sums of their durations and latencies.

    The latency is that of changes as they come: of a replay, a backfill or the initial load it would say nothing.
    Those and what was not accepted are in bucket -1.
    """
    passed = attempt.c.started_at + attempt.c.duration - document.c.committed_at
    latency = sa.case((passed > 0, passed), else_=0)  # the source's clock may be ahead of ours
    edges = [(latency <= round(edge * 1e6), number) for number, edge in enumerate(LATENCIES)]
    bucket = sa.case((document.c.seq.is_(None), -1), *edges, else_=len(LATENCIES))
    version = sa.and_(
        attempt.c.outcome == int(OutcomeKind.DELIVERED),
        attempt.c.replay_id.is_(None),
        attempt.c.turn == 0,
        document.c.entity_id == attempt.c.entity_id,
        document.c.key == attempt.c.key,
        document.c.version == attempt.c.version,
        document.c.cause == CAUSES.index(Cause.ROW),
    )
    grouped = sa.select(
        attempt.c.subscription_id, attempt.c.outcome, bucket.label("bucket"), attempt.c.duration, latency.label("late")
    )
    rows = grouped.select_from(attempt.outerjoin(document, version)).where(which).subquery()
    return sa.select(
        rows.c.subscription_id,
        rows.c.outcome,
        rows.c.bucket,
        sa.func.count(),
        sa.func.sum(rows.c.duration),
        sa.func.sum(rows.c.late),
    ).group_by(rows.c.subscription_id, rows.c.outcome, rows.c.bucket)
