"""The capture role's work: arrivals of one stream become row images, documents and deliveries.

    transactions in hand → one group → view → touched rows → reached documents → versions → one store transaction

A group's reads and computing happen outside of the store's write lock; that is safe because a stream has one capture
process, and nobody else writes its rows or the newest versions of its documents.

Three kinds of commit do not fit a group: one with more changes than memory should hold, one that
reaches more documents than `fan_out`, and one that truncates. They are stored with a durable pending fan-out, whose
documents follow in pieces (`hub.capture.fan_out`).
"""

import logging
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby

import sqlalchemy as sa

from hub.capture.assemble import Assembler, Reached
from hub.capture.fan_out import FanOuts, is_past
from hub.capture.images import TooMany, Touched, View
from hub.capture.late_images import LateImages
from hub.capture.layout import Layout, Row, make_layout
from hub.capture.sweep import Sweep
from hub.capture.versions import Heads, Published, Versions
from hub.changes import (
    NO_CURSOR,
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
    lsn_text,
)
from hub.documents import Cause
from hub.entities import Entity
from hub.store import streams
from hub.store.database import Store, now
from hub.store.images import StoredImages, view_rows, write_documents, write_view
from hub.store.streams import EVERY, FanOut, StreamState
from hub.subscriptions import Subscription

log = logging.getLogger(__name__)

GROUP = 1000  # row changes that share a store transaction, to begin with
LARGEST_GROUP = 2000
WRITE_TARGET = 0.038  # seconds that a store transaction should take on SQLite
PROGRESS_EVERY = 1.0  # seconds between stores of a position that nothing but heartbeats moved

_TRUNCATE, _DELETE = Operation.TRUNCATE, Operation.DELETE

Item = tuple[int, int, str]  # (entity id, node, key) of a fan-out


class Capture:
    """One stream's capture. Not thread-safe; `apply` and `work` are called in turn."""

    def __init__(
        self,
        store: Store,
        state: StreamState,
        entities: Sequence[Entity],
        subscriptions: Iterable[Subscription],
        fan_out: int,
    ) -> None:
        self.store = store
        self.state = state
        self.position = state.position
        self.cursor = self._stored_cursor = state.cursor
        self._in_snapshot = state.state == streams.SNAPSHOT
        self.run = state.run
        self.fan_out = fan_out
        self.layout: Layout = make_layout(entities, store.name_id, state.name)
        self.drifted: set[str] = set()  # tables that lost a column
        with self.write() as connection:
            used = self.layout.tables.values(), self.layout.lookups.values()
            streams.drop_unused(connection, state.name, *([one.id for one in some] for some in used))
        self.assemblers = {entity.name: Assembler(entity, self.layout) for entity in entities}
        self.published = _published(store, entities, subscriptions)
        tables = streams.load_tables(store)
        self.floors = {kept.name: tables.get(kept.id, (0, 0, ""))[0] for kept in self.layout.tables.values()}
        self.drifted |= {
            kept.name for kept in self.layout.tables.values() if _holds(tables.get(kept.id, (0, 0, ""))[2])
        }
        with store.read() as connection:
            self.pending = streams.load_fan_outs(connection, state.id)
        self._fan_outs = FanOuts(self)
        self._sweep = Sweep(self)
        self._late = LateImages(self, state.imaged)
        self._entity_names = {published.id: name for name, published in self.published.items()}
        self._heads = Heads()
        self._group = GROUP if store.is_sqlite else LARGEST_GROUP
        self._progress_at = 0.0
        self._reached_lsn = 0  # all up to here has been handed over, which need not be stored yet
        if self.pending:  # others asked for it meanwhile
            self._late.catch_up()
        if any(fan_out.spooled for fan_out in self.pending):
            self.apply_spool()
        else:
            self._clear_spool()

    def work(self, idle: bool = True) -> bool:
        """Do one piece of what is pending. False when there is nothing to do but to wait for arrivals.

        `idle`: nothing arrives, so that what can wait may be done too.
        """
        return self._fan_outs.piece() or self._sweep.piece() or self._late.piece(idle) or (idle and self._rest())

    def look_again(self) -> None:
        """Take up the fan-outs that others asked for, as `hub verify --repair` does: the store is believed alone."""
        self._heads = Heads()
        self._late.catch_up()
        with self.store.read() as connection:
            self.pending = streams.load_fan_outs(connection, self.state.id)

    @contextmanager
    def write(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A store transaction of this process while it has the stream. TakenOver when it has not."""
        with self.store.write(durable=durable) as connection:
            streams.require_epoch(connection, self.state)
            yield connection

    def entity_by_id(self, id: int) -> str:
        return self._entity_names[id]

    # arrivals

    def apply(self, arrivals: Sequence[Arrival], cursor: int = NO_CURSOR) -> bool:
        """Store what arrived. False when the last of it, mere progress, is not stored yet.

        `cursor`: where reading would go on after all of it; until then it is where it stands.
        """
        durable = True
        if arrivals and isinstance(arrivals[-1], SnapshotCompleted):
            self.cursor = cursor  # stored with the snapshot's end: its rows must not come again over newer ones
        for kind, some in groupby(arrivals, type):
            several = list(some)
            if kind is Transaction:
                self._transactions(several)  # type: ignore[arg-type]
                durable = True
            elif kind is Progress:
                durable = self._progress(several[-1].lsn) and durable  # type: ignore[union-attr]
            else:
                for arrival in several:
                    self._other(arrival)
                durable = True
        if not self._in_snapshot:  # one that is cut off is read again from its beginning
            self.cursor = cursor
        return durable

    def _other(self, arrival: Arrival) -> None:
        if isinstance(arrival, SnapshotRows):
            self._snapshot_rows(arrival.changes)
        elif isinstance(arrival, SnapshotCompleted):
            self._snapshot_completed(arrival.commit)
        elif isinstance(arrival, SnapshotBegun):
            self._snapshot_begun()
        elif isinstance(arrival, TransactionPart):
            self._part(arrival)
        elif isinstance(arrival, SchemaDrift):
            self._drift(arrival)

    def _transactions(self, transactions: Iterable[Transaction]) -> None:
        group: list[Transaction] = []
        size = 0
        reached = self.position
        for transaction in transactions:
            if transaction.commit.lsn <= reached:
                if transaction.spooled:
                    self._clear_spool()
                continue  # it came again after a restart, ours or the source's
            reached = transaction.commit.lsn
            large = _is_large(transaction)
            if group and (large or self._loads() or size + len(transaction.changes) > self._group):
                self._apply_group(group, durable=bool(self.pending))  # what follows takes it to the disk too
                group, size = [], 0
                if self._loads():
                    self._fan_outs.piece()
            if large:
                self._apply_large(transaction)
            else:
                group.append(transaction)
                size += len(transaction.changes)
        if group:
            self._apply_group(group)

    def _loads(self) -> bool:
        """A snapshot's documents are being made. Commits go one by one meanwhile: each may have to make some first."""
        return bool(self.pending) and any(fan_out.cause is not Cause.ROW for fan_out in self.pending)

    # a group of transactions

    def _apply_group(self, transactions: Sequence[Transaction], durable: bool = True) -> None:
        while transactions:
            transactions = transactions[self._apply_some(transactions, durable) :]

    def _apply_some(self, transactions: Sequence[Transaction], durable: bool) -> int:
        """Apply the transactions up to the first that begins a fan-out, which those after it have to know of."""
        wide: Reached | None = None
        carried: list[tuple[int, Item]] = []
        commit = transactions[-1].commit
        changes = [c for transaction in transactions for c in transaction.changes if c.table not in self.drifted]
        late = self._late.may_wait(changes)
        with self.store.read() as connection:
            view, versions = self.open(connection)
            self._warm(view, versions, changes, late)
            for applied, transaction in enumerate(transactions, 1):
                if self._make_alone(view, versions, transaction, late):
                    continue
                touched = self._overlay(view, transaction.changes)
                named, reached = self._reached(touched)
                documents = self._climb(view, reached, named)
                if documents is None and late and applied > 1:
                    return self._apply_some(transactions[: applied - 1], durable)  # images have to be there before it
                if documents is None:
                    self._late.catch_up()
                    late = set()
                    wide, commit = _merged(named, reached), transaction.commit
                    carried = self._carried(connection, view, touched)
                    break
                self._make(connection, view, versions, transaction.commit, documents)
        rows = view_rows(view, self.run, late)  # before the lock is held
        with self.write(durable=durable) as connection:
            started = time.monotonic()
            late = late if versions.documents else set()
            since = self._late.begin(connection) if late else 0
            write_view(connection, rows)
            self.write_versions(connection, versions)
            begun = [self._begin_fan_out(connection, commit, wide)] if wide is not None else []
            self._save_carried(connection, carried)
            streams.save_position(connection, self.state.id, commit.lsn, self.cursor)
        self._adapt(time.monotonic() - started)
        if late:
            self._late.wait(since, len(versions.documents))
        self.position = commit.lsn
        self.pending += begun
        return applied

    def _make_alone(self, view: View, versions: Versions, transaction: Transaction, late: Collection[str]) -> bool:
        """The short way of one row that is one document; False when the transaction is not that."""
        changes = transaction.changes
        if len(changes) != 1 or self.pending:
            return False
        change = changes[0]
        table = change.table
        entity = self.layout.alone.get(table)
        if entity is None or table in self.drifted:
            return False
        row: Row | None = change.values
        if table in late and change.operation is not _DELETE:
            key = self.layout.tables[table].key(change.values)  # no image of it is written now
        else:
            _, key, _, row = view.apply(change)
        versions.make(entity, key, self.assemblers[entity].alone(row), transaction.commit)
        return True

    def _adapt(self, took: float) -> None:
        """Keep the time that a store transaction holds SQLite's one write lock near its target.

        On Postgres nobody waits for it. There a busy machine would make groups small, and small ones are dear.
        """
        if not self.store.is_sqlite:
            return
        if took > 1.2 * WRITE_TARGET:
            self._group = max(50, self._group * 3 // 4)
        elif took < 0.8 * WRITE_TARGET:
            self._group = min(LARGEST_GROUP, self._group * 5 // 4)

    def write_versions(self, connection: sa.Connection, versions: Versions) -> None:
        write_documents(connection, versions.documents, versions.deliveries)
        versions.written()
        if versions.deliveries:
            self.store.ring("dispatch", connection)

    def open(self, connection: sa.Connection) -> tuple[View, Versions]:
        images = StoredImages(connection)
        view = View(self.layout, images, dict(self.floors))
        return view, Versions(self.published, images, self._heads, now())

    def _overlay(self, view: View, changes: Iterable[RowChange]) -> Collection[Touched]:
        """Overlay the changes of one transaction; each row once, as it was before and as it is after."""
        touched: dict[tuple[str, str], Touched] = {}
        for change in changes:
            if change.table in self.drifted:
                continue
            one = view.apply(change)
            before = touched.get((one.table, one.key))
            touched[one.table, one.key] = one if before is None else one._replace(old=before.old)
        return touched.values()

    def _reached(self, touched: Iterable[Touched]) -> tuple[dict[str, set[str]], Reached]:
        """By entity the keys of the documents that are named at once, and what leads to others."""
        documents: dict[str, set[str]] = {}
        reached: Reached = {}
        plain, nodes = self.layout.plain, self.layout.nodes
        for one in touched:
            entity_name = plain.get(one.table)
            if entity_name is not None:
                documents.setdefault(entity_name, set()).add(one.key)
                continue
            for entity, node in nodes[one.table]:
                self.assemblers[entity.name].reach(one, node, reached)
        return documents, reached

    def _climb(
        self, view: View, reached: Reached, named: Mapping[str, Collection[str]]
    ) -> Mapping[str, Collection[str]] | None:
        """What is named and what is reached; None when these are too many documents to make at once."""
        documents = named
        if reached:
            climbed = {entity: set(keys) for entity, keys in named.items()}
            try:
                for (entity, node), values in reached.items():
                    keys = self.assemblers[entity].climb(view, node, values, self.fan_out)
                    climbed.setdefault(entity, set()).update(keys)
            except TooMany:
                return None
            documents = climbed
        return None if sum(map(len, documents.values())) > self.fan_out else documents

    def _make(
        self,
        connection: sa.Connection,
        view: View,
        versions: Versions,
        commit: Commit,
        documents: Mapping[str, Collection[str]],
    ) -> None:
        for entity, keys in documents.items():
            if self.is_held(entity):
                continue
            assembler = self.assemblers[entity]
            for key in keys:
                merged = self._settle(connection, versions, entity, key) if self.pending else ()
                versions.make(entity, key, assembler.assemble(view, key), commit, merged=merged)

    def is_held(self, entity: str) -> bool:
        """A document with a drifted table in it would be wrong: it waits for the next snapshot."""
        return bool(self.drifted) and not self.drifted.isdisjoint(self.published[entity].entity.tables())

    def _settle(self, connection: sa.Connection, versions: Versions, entity: str, key: str) -> tuple[int, ...]:
        """The earlier commits that this document still waits for, which its next version stands for too.

        Where it waits for a snapshot's first version, that one is made now, from the rows before this commit: the
        initial load and what happened after it stay two things.
        """
        before = View(self.layout, StoredImages(connection), dict(self.floors))
        waits_for = self.waits_for(connection, before, entity, key)
        transactions = tuple(fan_out.commit.transaction for fan_out in waits_for)
        if all(fan_out.cause is Cause.ROW for fan_out in waits_for):
            return transactions
        newest = waits_for[-1]
        tree = self.assemblers[entity].assemble(before, key)
        versions.make(entity, key, tree, newest.commit, newest.cause, transactions[:-1])
        return ()

    def waits_for(self, connection: sa.Connection, view: View, entity: str, key: str) -> list[FanOut]:
        """The pending fan-outs that will make this document, oldest first."""
        assembler = self.assemblers[entity]
        visited = assembler.visits(view, key)
        found = streams.items_among(connection, self.published[entity].id, visited)
        ids = {
            id
            for id, node, value, cursor in found
            if (node, value) in visited or ((node, value) == EVERY and not is_past(cursor, key, assembler, view))
        }
        return [fan_out for fan_out in self.pending if fan_out.id in ids]

    # reading ahead

    def _warm(self, view: View, versions: Versions, changes: Sequence[RowChange], late: Collection[str]) -> None:
        """Read in a few statements what the group will need; what this misses is read one by one.

        `late`: tables of which no row is needed as it was.
        """
        by_table: dict[str, list[RowChange]] = {}
        for change in changes:
            by_table.setdefault(change.table, []).append(change)
        touched: list[Touched] = []
        for table, several in by_table.items():
            kept = self.layout.tables[table]
            keys = [kept.key(change.values) for change in several]
            if table in late:
                versions.load(self.layout.alone[table], keys)
                view.assume_absent(table, keys)
                continue
            partial = [k for k, c in zip(keys, several, strict=True) if len(c.values) < len(kept.columns)]
            view.load(table, keys if kept.needs_old else partial)
            if table in self.layout.alone:
                versions.load(self.layout.alone[table], dict.fromkeys(keys))
                continue
            for key, change in zip(keys, several, strict=True):
                old = view.row(table, key) if kept.needs_old else None
                touched.append(Touched(table, key, old, _expected(change, old, len(kept.columns))))
        named, reached = self._reached(touched)
        whole = {(one.table, one.key) for one in touched if one.new is not None}
        for entity, assembler in self.assemblers.items():
            documents = named.get(entity, set()) | self._keys(view, entity, reached)
            if documents:
                self._warm_entity(view, versions, assembler, documents, touched, whole)

    def _keys(self, view: View, entity: str, reached: Reached) -> set[str]:
        """The documents of an entity that are reached, without those that too many rows lead to."""
        keys: set[str] = set()
        for (name, node), values in reached.items():
            if name == entity:
                with suppress(TooMany):
                    keys.update(self.assemblers[entity].climb(view, node, values, self.fan_out))
        return keys

    def _warm_entity(
        self,
        view: View,
        versions: Versions,
        assembler: Assembler,
        keys: set[str],
        touched: Sequence[Touched],
        whole: set[tuple[str, str]],
    ) -> None:
        versions.load(assembler.entity.name, keys)
        nodes = assembler.entity.nodes
        table = nodes[0].table.name
        if len(nodes) == 1:
            assembler.warm(view, [key for key in keys if (table, key) not in whole])
            return
        rows: dict[int, list[Row]] = {}
        for one in touched:
            for place in nodes:
                if place.table.name == one.table and one.new is not None:
                    rows.setdefault(place.index, []).append(one.new)
        assembler.warm(view, keys, rows)

    # commits that do not fit a group

    def _apply_large(self, transaction: Transaction) -> None:
        """Store a long transaction whole, then apply it part by part; its documents follow as a fan-out."""
        self._late.catch_up()
        part = transaction.spooled
        rest = transaction.changes
        for start in range(0, len(rest), LARGEST_GROUP):
            self._part(
                TransactionPart(transaction.commit.transaction, part + start, rest[start : start + LARGEST_GROUP])
            )
        with self.write() as connection:
            fan_out = streams.save_fan_out(connection, self.state.id, transaction.commit, Cause.ROW, spooled=True)
            streams.save_position(connection, self.state.id, transaction.commit.lsn, self.cursor)
        self.position = transaction.commit.lsn
        self.pending.append(fan_out)
        self.apply_spool()

    def _part(self, part: TransactionPart) -> None:
        if part.first == 0:
            self._clear_spool()
        with self.write() as connection:
            streams.save_part(connection, self.state.id, part.first, part.transaction, part.changes)

    def _clear_spool(self) -> None:
        """Forget a transaction whose end was not seen: it comes again from its beginning."""
        for part in streams.spool_parts(self.store, self.state.id):
            with self.write() as connection:
                streams.delete_part(connection, self.state.id, part)

    def apply_spool(self) -> None:
        """Apply what is left of a spooled transaction. Nothing later is applied before; nothing shows it half."""
        fan_out = next((pending for pending in self.pending if pending.spooled), None)
        if fan_out is None:
            return
        for part in streams.spool_parts(self.store, self.state.id):
            self._apply_part(fan_out, part)
        with self.write() as connection:
            streams.spool_applied(connection, fan_out.id)
        with self.store.read() as connection:
            self.pending = streams.load_fan_outs(connection, self.state.id)

    def _apply_part(self, fan_out: FanOut, part: int) -> None:
        with self.store.read() as connection:
            changes = self._captured(streams.load_part(connection, self.state.id, part))
            view, _ = self.open(connection)
            items: set[Item] = set()
            carried: list[tuple[int, Item]] = []
            run = self.run
            for truncates, several in groupby(changes, lambda change: change.operation is Operation.TRUNCATE):
                if truncates:
                    run += 1
                    items |= self._truncate(view, {change.table for change in several}, run)
                else:
                    touched = self._overlay(view, self._loaded(view, several))
                    items |= self._items(_merged(*self._reached(touched)))
                    carried += self._carried(connection, view, touched)
        rows = view_rows(view, run)
        with self.write() as connection:
            write_view(connection, rows)
            streams.save_items(connection, fan_out.id, items)
            self._save_carried(connection, carried)
            streams.delete_part(connection, self.state.id, part)
            self._save_run(connection, view, run)
        self.run = run
        self.floors = view.floors

    def _captured(self, changes: Iterable[RowChange]) -> list[RowChange]:
        """Those of a spooled transaction, without what only an entity has used that has moved away since."""
        found = []
        for change in changes:
            kept = self.layout.tables.get(change.table)
            if kept is not None:
                values = {column: value for column, value in change.values.items() if column in kept.columns}
                found.append(RowChange(change.table, change.operation, values))
        return found

    def _loaded(self, view: View, changes: Iterable[RowChange]) -> Sequence[RowChange]:
        """The changes, once the rows as they were have been read in one statement a table."""
        several = [change for change in changes if change.table not in self.drifted]
        for table in {change.table for change in several}:
            key = self.layout.tables[table].key
            view.load(table, [key(change.values) for change in several if change.table == table])
        return several

    def _truncate(self, view: View, tables: Collection[str], run: int) -> set[Item]:
        """Every document that could embed a row of these tables is to be made again."""
        for table in tables:
            view.truncate(table, run)
        entities = {entity.name for table in tables for entity, _ in self.layout.nodes[table]}
        return {(self.published[entity].id, *EVERY) for entity in entities}

    def _save_run(self, connection: sa.Connection, view: View, run: int) -> None:
        if run == self.run:
            return
        streams.save_run(connection, self.state.id, run)
        for table, floor in view.floors.items():
            if floor > self.floors.get(table, 0):
                streams.save_floor(connection, self.layout.tables[table].id, floor)

    def _items(self, reached: Reached) -> set[Item]:
        """What is joined to its root by the document's key is that document: it is made once for both."""
        return {
            (self.published[entity].id, 0 if self.assemblers[entity].names_document(node) else node, value)
            for (entity, node), values in reached.items()
            for value in values
        }

    def _begin_fan_out(self, connection: sa.Connection, commit: Commit, reached: Reached) -> FanOut:
        fan_out = streams.save_fan_out(connection, self.state.id, commit, Cause.ROW)
        streams.save_items(connection, fan_out.id, self._items(reached))
        return fan_out

    def _carried(self, connection: sa.Connection, view: View, touched: Collection[Touched]) -> list[tuple[int, Item]]:
        """For the fan-outs that wait below a row which has parted from it: an item where the row was.

        The documents that embedded it do not lead to them any more, and are still to be named after them.
        """
        if not self.pending:
            return []
        places = [
            (entity, node, one)
            for one in touched
            for entity, node in self.layout.nodes[one.table]
            if node.refresh and node.children  # below others nothing can wait
        ]
        carried: list[tuple[int, Item]] = []
        known: dict[tuple[str, int, str], set[int]] = {}
        for entity, node, one in sorted(places, key=lambda place: -place[1].index):
            assembler = self.assemblers[entity.name]
            was = assembler.parted(one, node)
            if was is None or one.old is None:
                continue
            visited = assembler.below(view, node.index, one.old)
            id = self.published[entity.name].id
            found = streams.items_among(connection, id, visited)
            waiting = {fan_out for fan_out, n, value, _ in found if (n, value) in visited}
            waiting |= {fan_out for n, value in visited for fan_out in known.get((entity.name, n, value), ())}
            known.setdefault((entity.name, node.index, was), set()).update(waiting)
            carried += [(fan_out, (id, node.index, was)) for fan_out in waiting]
        return carried

    def _save_carried(self, connection: sa.Connection, carried: Iterable[tuple[int, Item]]) -> None:
        for fan_out, item in carried:
            streams.save_items(connection, fan_out, [item])

    # snapshots, progress and drift

    def _snapshot_rows(self, changes: Sequence[RowChange]) -> None:
        for start in range(0, len(changes), GROUP):
            some = changes[start : start + GROUP]
            with self.store.read() as connection:
                view, _ = self.open(connection)
                for table in {change.table for change in some}:
                    kept = self.layout.tables[table]
                    if kept.needs_old and self.run > 1:
                        view.load(table, [kept.key(change.values) for change in some if change.table == table])
                    elif kept.needs_old:
                        view.assume_absent(table, [kept.key(c.values) for c in some if c.table == table])
                for change in some:
                    view.apply(change)
            rows = view_rows(view, self.run)
            with self.write() as connection:
                write_view(connection, rows)

    def _snapshot_begun(self) -> None:
        """What a run that did not end has read, or an earlier one, is absent once this one is complete."""
        with self.write() as connection:
            streams.restart_snapshot(connection, self.state.id, self.run + 1)
        self.run += 1
        self._in_snapshot = True
        self.pending = []
        self._late = LateImages(self, None)
        log.info("snapshot begins", extra={"stream": self.state.name, "run": self.run})

    def _snapshot_completed(self, commit: Commit) -> None:
        """The rows are whole: every document is compared with what the journal has, as a fan-out."""
        tables = self.layout.tables.values()
        with self.write() as connection:
            ids = [kept.id for kept in tables]
            made = streams.complete_snapshot(connection, self.state, self.run, commit.lsn, self.cursor, ids)
            begun = [
                self._begin_load(connection, commit, cause, [self.published[name].id for name in names])
                for cause, names in (
                    (Cause.SNAPSHOT, self.published.keys() - made),
                    (Cause.RESYNC, self.published.keys() & made),
                )
                if names
            ]
        self._late.catch_up()
        self.position = commit.lsn
        self._in_snapshot = False
        self.floors = {kept.name: self.run for kept in tables}
        self.drifted = set()
        self.pending += begun
        log.info("snapshot complete", extra={"stream": self.state.name, "lsn": lsn_text(commit.lsn), "run": self.run})

    def _begin_load(self, connection: sa.Connection, commit: Commit, cause: Cause, entity_ids: Iterable[int]) -> FanOut:
        fan_out = streams.save_fan_out(connection, self.state.id, commit, cause)
        streams.save_items(connection, fan_out.id, [(id, *EVERY) for id in entity_ids])
        return fan_out

    def _progress(self, lsn: int) -> bool:
        """Store that there was nothing up to `lsn`, now and then. False while that waits."""
        if lsn <= self.position:
            return True
        self._reached_lsn = lsn
        if time.monotonic() - self._progress_at < PROGRESS_EVERY:
            return False
        with self.write() as connection:
            streams.save_position(connection, self.state.id, lsn, self.cursor)
        self.position = lsn
        self._progress_at = time.monotonic()
        return True

    def _rest(self) -> bool:
        """Store how far reading has come, when nothing else does it: a topic forgets what is old. Always False."""
        position = max(self.position, self._reached_lsn)
        moved = (position > self.position or self.cursor != self._stored_cursor) and not self._in_snapshot
        if moved and time.monotonic() - self._progress_at >= PROGRESS_EVERY:
            with self.write() as connection:
                streams.save_position(connection, self.state.id, position, self.cursor)
            self.position, self._stored_cursor = position, self.cursor
            self._progress_at = time.monotonic()
        return False

    def _drift(self, drift: SchemaDrift) -> None:
        """Say it; where a column is gone, hold the documents that are made with it."""
        kept = self.layout.tables.get(drift.table)
        if kept is None:
            return
        gone = [column for column in drift.gone if column in kept.columns]
        open_to_new = any(node.takes_new for _, node in self.layout.nodes[drift.table])
        sentences = _drift_sentences(drift.table, gone, drift.added if open_to_new else ())
        with self.write() as connection:
            for sentence in sentences:
                streams.add_drift(connection, kept.id, sentence)
        if gone:
            self.drifted.add(drift.table)
        for sentence in sentences:
            log.warning("table changed", extra={"table": drift.table, "sentence": sentence})


def _published(store: Store, entities: Sequence[Entity], subscriptions: Iterable[Subscription]) -> dict[str, Published]:
    by_entity: dict[str, list[tuple[int, Subscription]]] = {entity.name: [] for entity in entities}
    for subscription in subscriptions:
        if subscription.config.entity in by_entity:
            id = store.name_id("subscription", subscription.name)
            by_entity[subscription.config.entity].append((id, subscription))
    return {
        entity.name: Published(store.name_id("entity", entity.name), entity, by_entity[entity.name])
        for entity in entities
    }


def _is_large(transaction: Transaction) -> bool:
    """Whether it goes by the spool: too long for one store transaction, or with a truncate in it."""
    if transaction.spooled or len(transaction.changes) > LARGEST_GROUP:
        return True
    for change in transaction.changes:  # noqa: SIM110 (any() costs five times as much, for each transaction)
        if change.operation is _TRUNCATE:
            return True
    return False


def _merged(documents: Mapping[str, set[str]], reached: Reached) -> Reached:
    """Documents that are named at once are what node 0 leads to."""
    merged = dict(reached)
    for entity, keys in documents.items():
        merged[entity, 0] = merged.get((entity, 0), set()) | keys
    return merged


def _expected(change: RowChange, old: Row | None, columns: int) -> Row | None:
    """The row after a change, as far as it is known without the changes before it."""
    if change.operation is Operation.DELETE:
        return None
    if len(change.values) == columns:
        return change.values
    return {**old, **change.values} if old is not None else None


def _drift_sentences(table: str, gone: Sequence[str], added: Sequence[str]) -> list[str]:
    found = []
    if gone:
        found.append(f"{table} no longer has {', '.join(gone)}: its documents are held as they were.")
    if added:
        found.append(f"{table} has {', '.join(added)} now, which no document shows yet.")
    return found


def _holds(drift: str) -> bool:
    return "no longer has" in drift
