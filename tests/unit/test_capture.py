"""Capture against brute force: random transactions over rows in a dict, and documents assembled by nested loops.

This is the fast check of the core by itself; the oracle in tests/oracle holds the whole hub against SQL.
"""

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.capture.capture import Capture
from hub.capture.versions import Heads
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.changes import (
    NO_CURSOR,
    Arrival,
    Commit,
    Operation,
    RowChange,
    SnapshotBegun,
    SnapshotCompleted,
    SnapshotRows,
    TakenOver,
    Transaction,
    TransactionPart,
)
from hub.documents import Cause, decode
from hub.entities import compile_entity, key_text
from hub.project import EntityConfig, Relation
from hub.store import streams, tables
from hub.store.database import Store
from hub.store.streams import StreamState

Rows = dict[str, dict[tuple[Any, ...], dict[str, Any]]]
Document = dict[str, Any] | None


def table(name: str, key: tuple[str, ...], *columns: str) -> Table:
    kinds = {"name": Kind.TEXT, "sku": Kind.TEXT, "gone": Kind.TEXT}
    made = tuple(Column(c, "x", "x", kinds.get(c, Kind.INTEGER)) for c in columns)
    return Table(name, "r", "p", made, key)


TABLES = {
    t.name: t
    for t in (
        table("customers", ("id",), "id", "name", "country_id"),
        table("countries", ("id",), "id", "name"),
        table("orders", ("id",), "id", "customer_id", "total", "gone"),
        table("lines", ("order_id", "n"), "order_id", "n", "product_id", "quantity"),
        table("products", ("id",), "id", "sku"),
        table("order_tags", ("order_id", "tag_id"), "order_id", "tag_id"),
        table("tags", ("id",), "id", "name", "parent_id"),
        table("visits", ("id",), "id", "name", "gone"),
        table("notes", ("id",), "id", "name"),
        table("memos", ("id",), "id", "name", "quantity"),
    )
}
ORDER = EntityConfig(
    "order",
    "main",
    "orders",
    soft_delete="gone",
    relations=(
        Relation(
            "customer",
            "belongs_to",
            "customers",
            ("customer_id",),
            relations=(Relation("country", "belongs_to", "countries", ("country_id",)),),
        ),
        Relation(
            "lines",
            "has_many",
            "lines",
            ("order_id",),
            order_by=("quantity",),
            relations=(Relation("product", "belongs_to", "products", ("product_id",)),),
        ),
        Relation("tags", "many_to_many", "tags", ("order_id",), through="order_tags", related_key=("tag_id",)),
        Relation("first", "has_one", "lines", ("order_id",), order_by=("product_id",)),
    ),
)
TAG = EntityConfig(
    "tag",
    "main",
    "tags",
    relations=(
        Relation("parent", "belongs_to", "tags", ("parent_id",)),
        Relation("below", "has_many", "tags", ("parent_id",)),
    ),
)
VISIT = EntityConfig("visit", "main", "visits", soft_delete="gone")
# Documents that are their rows, whose images may be written later: a memo only until values are left out.
NOTE, MEMO = EntityConfig("note", "main", "notes"), EntityConfig("memo", "main", "memos")
ENTITIES = (ORDER, TAG, VISIT, NOTE, MEMO)
WHOLE = ("notes",)  # tables whose changes come with all values
CATALOGUE = Catalogue(TABLES, 150000)


def own(row: dict[str, Any]) -> dict[str, Any]:
    return dict(row)


def last(value: Any) -> tuple[bool, Any]:
    return value is None, value


def order_of(rows: Rows, id: Any) -> Document:
    row = rows["orders"].get((id,))
    if row is None or row["gone"] is not None:
        return None
    customer = rows["customers"].get((row["customer_id"],))
    lines = [line for line in rows["lines"].values() if line["order_id"] == id]
    between = [(t["tag_id"],) for t in rows["order_tags"].values() if t["order_id"] == id]
    tags = [rows["tags"][key] for key in between if key in rows["tags"]]
    by_quantity = sorted(lines, key=lambda x: (last(x["quantity"]), x["order_id"], x["n"]))
    by_product = sorted(lines, key=lambda x: (last(x["product_id"]), x["order_id"], x["n"]))
    return {
        **row,
        "customer": customer and {**customer, "country": rows["countries"].get((customer["country_id"],))},
        "lines": [{**line, "product": rows["products"].get((line["product_id"],))} for line in by_quantity],
        "tags": sorted(tags, key=lambda tag: tag["id"]),
        "first": by_product[0] if by_product else None,
    }


def tag_of(rows: Rows, id: Any) -> Document:
    row = rows["tags"].get((id,))
    if row is None:
        return None
    below = sorted((t for t in rows["tags"].values() if t["parent_id"] == id), key=lambda t: t["id"])
    return {**row, "parent": rows["tags"].get((row["parent_id"],)), "below": below}


def documents(rows: Rows) -> dict[tuple[str, str], Document]:
    found: dict[tuple[str, str], Document] = {("order", str(id)): order_of(rows, id) for (id,) in rows["orders"]}
    found |= {("tag", str(id)): tag_of(rows, id) for (id,) in rows["tags"]}
    found |= {(table[:-1], str(id)): row for table in ("notes", "memos") for (id,), row in rows[table].items()}
    found |= {("visit", str(id)): row for (id,), row in rows["visits"].items() if row["gone"] is None}
    return json.loads(json.dumps({f"{e}:{k}": d for (e, k), d in found.items() if d is not None}))


class Legacy:
    """A database in a dict, and the changes that each of its transactions would put into the log."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.rows: Rows = {name: {} for name in TABLES}

    def value(self, column: str) -> Any:
        if column == "gone":
            return self.random.choice([None, None, None, "yes"])
        if column in ("name", "sku"):
            return self.random.choice("abcde")
        if column == "quantity":
            return self.random.choice([None, 1, 2, 3])
        return self.random.choice([None, *range(1, 6)])

    def transaction(self) -> list[RowChange]:
        return [change for _ in range(self.random.choice([1, 1, 2, 5, 12])) for change in self.change()]

    def change(self) -> Iterator[RowChange]:
        table = TABLES[self.random.choice(list(TABLES))]
        new = {column.name: self.value(column.name) for column in table.columns}
        for column in table.primary_key:
            new[column] = self.random.randrange(1, 7)
        key = tuple(new[column] for column in table.primary_key)
        held = self.rows[table.name]
        what = self.random.random()
        if key not in held:
            held[key] = new
            yield RowChange(table.name, Operation.INSERT, dict(new))
        elif what < 0.25:
            old = held.pop(key)
            yield RowChange(table.name, Operation.DELETE, {c: old[c] for c in table.primary_key})
        elif what < 0.4:
            yield from self.change_key(table, key)
        else:
            kept = {c for c in new if c not in table.primary_key and self.random.random() < 0.4}
            kept = set() if table.name in WHOLE else kept
            held[key] = {c: held[key][c] if c in kept else v for c, v in new.items()}
            # As with unchanged TOAST: what is as it was may be left out.
            yield RowChange(table.name, Operation.UPDATE, {c: v for c, v in held[key].items() if c not in kept})

    def change_key(self, table: Table, key: tuple[Any, ...]) -> Iterator[RowChange]:
        moved = tuple(self.random.randrange(1, 7) for _ in key)
        held = self.rows[table.name]
        if moved in held:
            return
        old = held.pop(key)
        held[moved] = {**old, **dict(zip(table.primary_key, moved, strict=True))}
        yield RowChange(table.name, Operation.DELETE, {c: old[c] for c in table.primary_key})
        left_out = {c for c in old if c not in table.primary_key and self.random.random() < 0.5}
        left_out = set() if table.name in WHOLE else left_out
        yield RowChange(table.name, Operation.INSERT, {c: v for c, v in held[moved].items() if c not in left_out})

    def truncate(self) -> list[RowChange]:
        name = self.random.choice(["lines", "tags", "orders", "countries", "visits", "notes", "memos"])
        self.rows[name].clear()
        return [RowChange(name, Operation.TRUNCATE, {}), *self.transaction()]

    def read(self) -> SnapshotRows:
        rows = [RowChange(n, Operation.READ, dict(r)) for n, held in self.rows.items() for r in held.values()]
        return SnapshotRows(rows)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/hub.db", durable=False)
    tables.metadata.create_all(store.engine)
    yield store
    store.close()


def new_snapshot(store: Store) -> StreamState:
    return streams.begin_snapshot(store, "main/main", CATALOGUE, {config.name: {} for config in ENTITIES})


def capture(store: Store, fan_out: int = 1000) -> Capture:
    entities = [compile_entity(config, CATALOGUE) for config in ENTITIES]
    state = streams.load_stream(store, "main/main") or new_snapshot(store)
    return Capture(store, state, entities, [], fan_out)


def settle(capture: Capture) -> None:
    while capture.work():
        pass


def journal(store: Store) -> list[Any]:
    query = sa.select(tables.name.c.name.label("entity"), tables.document).join(
        tables.name, tables.name.c.id == tables.document.c.entity_id
    )
    with store.read() as connection:
        return list(connection.execute(query.order_by(tables.document.c.seq)).mappings())


def heads(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for row in journal(store):
        found[f"{row['entity']}:{row['key']}"] = decode(row["body"]) if row["body"] else None
    return {key: document for key, document in found.items() if document is not None}


def images(store: Store) -> dict[tuple[str, str], Any]:
    """By table and key: the rows that are there."""
    query = (
        sa.select(tables.name.c.name, tables.row_image.c.key, tables.row_image.c.image)
        .join(tables.name, tables.name.c.id == tables.row_image.c.table_id)
        .join(tables.table_state, tables.table_state.c.table_id == tables.row_image.c.table_id)
        .where(tables.row_image.c.run >= tables.table_state.c.floor)
    )
    with store.read() as connection:
        return {(n.rpartition("/")[2], key): json.loads(image) for n, key, image in connection.execute(query)}


def rows_of(legacy: Legacy) -> dict[tuple[str, str], Any]:
    return {
        (name, key_text([row[column] for column in TABLES[name].primary_key])): row
        for name, held in legacy.rows.items()
        for row in held.values()
    }


def commits(legacy: Legacy, count: int, first: int = 100) -> Iterator[tuple[Transaction, dict[str, Any]]]:
    """Transactions and the documents after each."""
    for number in range(first, first + count):
        changes = legacy.transaction()
        yield Transaction(Commit(number * 10, number, number), changes), documents(legacy.rows)


def begun(store: Store, legacy: Legacy, fan_out: int = 1000) -> Capture:
    for _ in range(30):
        legacy.transaction()
    under_test = capture(store, fan_out)
    under_test.apply([legacy.read(), SnapshotCompleted(Commit(10, 1, 1))])
    settle(under_test)
    assert heads(store) == documents(legacy.rows)
    return under_test


def check_journal(store: Store, before: dict[str, Any], truth: Sequence[tuple[Transaction, dict[str, Any]]]) -> None:
    """Each version equals the truth of its own commit, and a commit has a version just where the truth changed."""
    made = {(f"{r['entity']}:{r['key']}", r["transaction"]): r for r in journal(store) if r["transaction"] >= 100}
    for transaction, after in truth:
        number = transaction.commit.transaction
        changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        assert changed == {key for key, of in made if of == number}
        for key in changed:
            body = made[key, number]["body"]
            assert (decode(body) if body else None) == after.get(key)
        before = after


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_every_version_is_the_truth_of_its_commit(store: Store, seed: int, at_once: int) -> None:
    """However many transactions come in together, each has its own versions."""
    legacy = Legacy(seed)
    under_test = begun(store, legacy)
    before = documents(legacy.rows)
    truth = list(commits(legacy, 100))
    for start in range(0, len(truth), at_once):
        under_test.apply([transaction for transaction, _ in truth[start : start + at_once]])
    check_journal(store, before, truth)
    settle(under_test)
    assert images(store) == rows_of(legacy)


@pytest.mark.parametrize("seed", range(4))
def test_what_comes_again_after_a_restart_changes_nothing(store: Store, seed: int) -> None:
    """Transactions at or below the stored position are dropped."""
    legacy = Legacy(seed)
    under_test = begun(store, legacy)
    before = documents(legacy.rows)
    truth = list(commits(legacy, 60))
    under_test.apply([transaction for transaction, _ in truth[:40]])
    again = capture(store)
    again.apply([transaction for transaction, _ in truth[20:]])
    check_journal(store, before, truth)
    settle(again)
    assert images(store) == rows_of(legacy)


@pytest.mark.parametrize("seed", range(6))
def test_large_fan_outs_and_truncates_end_at_the_truth(store: Store, seed: int) -> None:
    """With pieces in between, restarts, truncates and long transactions, the end is the truth, versions count up."""
    legacy = Legacy(seed)
    under_test = begun(store, legacy, fan_out=2)
    number = 100
    for step in range(120):
        number += 1
        commit = Commit(number * 10, number, number)
        changes = legacy.truncate() if step % 17 == 0 else legacy.transaction()
        arrivals: list[Arrival] = [Transaction(commit, changes)]
        if step % 13 == 0:
            arrivals = [TransactionPart(number, 0, changes), Transaction(commit, [], len(changes))]
        under_test.apply(arrivals)
        if step % 3 == 0:
            under_test.work(idle=step % 2 == 0)
        if step % 29 == 0:
            under_test = capture(store, fan_out=2)
    settle(under_test)
    assert heads(store) == documents(legacy.rows)
    assert images(store) == rows_of(legacy)
    versions: dict[Any, int] = {}
    per_commit: set[Any] = set()
    for row in journal(store):
        key = row["entity"], row["key"]
        assert row["version"] == versions.get(key, 0) + 1
        versions[key] = row["version"]
        assert (*key, row["transaction"]) not in per_commit
        per_commit.add((*key, row["transaction"]))


@pytest.mark.parametrize("seed", range(4))
def test_a_later_snapshot_sends_only_differences(store: Store, seed: int) -> None:
    """Rows that the new snapshot does not hold are gone; documents that did not change have no new version."""
    legacy = Legacy(seed)
    begun(store, legacy)
    before, unseen = documents(legacy.rows), [legacy.transaction() for _ in range(20)]
    assert unseen
    after = documents(legacy.rows)
    new_snapshot(store)
    again = capture(store)
    again.apply([legacy.read(), SnapshotCompleted(Commit(5000, 500, 1))])
    settle(again)
    assert heads(store) == after
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert changed == {f"{r['entity']}:{r['key']}" for r in journal(store) if r["transaction"] == 500}


def note(id: int, name: str, operation: Operation = Operation.UPDATE) -> RowChange:
    return RowChange("notes", operation, {"id": id} if operation is Operation.DELETE else {"id": id, "name": name})


def test_images_of_rows_that_are_documents_follow_when_nothing_arrives(store: Store) -> None:
    """While changes arrive they wait, over a restart too; a deleted row's image goes at once."""
    under_test = begun(store, Legacy(0))
    changes = [note(1, "x"), note(2, "y"), note(1, "z"), note(3, "w"), note(3, "", Operation.DELETE)]
    for number, change in enumerate(changes, 100):
        under_test.apply([Transaction(Commit(number * 10, number, 1), [change])])
        under_test.work(idle=False)
    waiting = images(store)
    assert "x" not in waiting.get(("notes", "1"), {}).values()
    assert "z" not in waiting.get(("notes", "1"), {}).values()
    assert ("notes", "3") not in waiting

    settle(capture(store))

    found = images(store)
    assert [found.get(("notes", key)) for key in "123"] == [{"id": 1, "name": "z"}, {"id": 2, "name": "y"}, None]


@pytest.mark.parametrize("between", ["nothing", "a long transaction", "a wide commit"])
def test_a_value_that_was_left_out_is_that_of_the_newest_document(store: Store, between: str) -> None:
    """Its row's image waits, and is written before it is read: by the change itself, or by what a fan-out begins."""
    under_test = begun(store, Legacy(0), fan_out=2)
    whole = RowChange("memos", Operation.UPDATE, {"id": 1, "name": "long", "quantity": 1})
    partly = RowChange("memos", Operation.UPDATE, {"id": 1, "quantity": 2})
    wide = [note(id, "wide") for id in range(1, 6)]
    arrivals: dict[str, list[Arrival]] = {
        "nothing": [Transaction(Commit(1020, 102, 1), [partly])],
        "a long transaction": [TransactionPart(102, 0, [partly]), Transaction(Commit(1020, 102, 1), [], 1)],
        "a wide commit": [Transaction(Commit(1010, 101, 1), wide), Transaction(Commit(1020, 102, 1), [partly])],
    }

    under_test.apply([Transaction(Commit(1000, 100, 1), [whole])])
    for arrival in arrivals[between]:
        under_test.apply([arrival])
    settle(under_test)

    assert heads(store)["memo:1"] == {"id": 1, "name": "long", "quantity": 2}


def test_a_truncate_takes_rows_whose_images_wait(store: Store) -> None:
    under_test = begun(store, Legacy(0))
    under_test.apply([Transaction(Commit(1000, 100, 1), [note(7, "x")])])
    under_test.apply([Transaction(Commit(1010, 101, 1), [RowChange("notes", Operation.TRUNCATE, {})])])
    settle(under_test)

    assert not [key for key in heads(store) if key.startswith("note:")]
    assert not [place for place in images(store) if place[0] == "notes"]


def test_a_repair_compares_with_the_store_and_not_with_what_capture_remembers(store: Store) -> None:
    """A stored document that was changed by hand gets a version that is right again."""
    legacy = Legacy(2)
    under_test = begun(store, legacy)
    visit = {"id": 1, "name": "a", "gone": None}
    legacy.rows["visits"][1,] = visit
    under_test.apply([Transaction(Commit(1000, 100, 1), [RowChange("visits", Operation.UPDATE, visit)])])
    entity = store.name_id("entity", "visit")
    with store.write() as connection:
        connection.execute(sa.update(tables.document).where(tables.document.c.key == "1").values(body=b"{}"))
        fan_out = streams.save_fan_out(connection, under_test.state.id, Commit(1000, 0, 1), Cause.RESYNC)
        streams.save_items(connection, fan_out.id, [(entity, 0, "1")])

    under_test.look_again()
    settle(under_test)

    assert visit == heads(store)["visit:1"]


def test_a_repair_of_a_row_whose_image_waits_finds_it_right(store: Store) -> None:
    under_test = begun(store, Legacy(0))
    under_test.apply([Transaction(Commit(1000, 100, 1), [note(1, "x")])])
    with store.write() as connection:
        fan_out = streams.save_fan_out(connection, under_test.state.id, Commit(1000, 0, 1), Cause.RESYNC)
        streams.save_items(connection, fan_out.id, [(store.name_id("entity", "note"), 0, "1")])

    under_test.look_again()
    settle(under_test)

    assert [row["transaction"] for row in journal(store) if row["entity"] == "note" and row["key"] == "1"][-1] == 100


def test_a_process_that_lost_its_stream_cannot_write(store: Store) -> None:
    """It was stopped while another one took the stream, and wakes up with work in hand."""
    legacy = Legacy(0)
    sleeper = begun(store, legacy)
    state = streams.load_stream(store, "main/main")
    assert state is not None
    other = Capture(store, streams.take_over(store, state), sleeper.layout.entities, [], 1000)
    other.apply([Transaction(Commit(1000, 100, 1), [note(1, "other")])])
    written = journal(store)

    with pytest.raises(TakenOver):
        sleeper.apply([Transaction(Commit(1000, 100, 1), [note(1, "sleeper")])])
    with pytest.raises(TakenOver):
        streams.take_over(store, state)

    assert journal(store) == written
    assert heads(store)["note:1"]["name"] == "other"


def test_an_engine_whose_stream_was_handed_over_cannot_write(store: Store) -> None:
    """From then on the topic is read, from where its connector began."""
    engine = begun(store, Legacy(0))
    state = streams.load_stream(store, "main/main")
    assert state is not None and state.cursor == NO_CURSOR
    streams.follow_topic(store, state, 7)

    with pytest.raises(TakenOver):
        engine.apply([Transaction(Commit(1000, 100, 1), [note(1, "x")])])
    with pytest.raises(TakenOver):
        streams.follow_topic(store, state, 8)
    after = streams.load_stream(store, "main/main")
    assert after is not None and (after.position, after.cursor) == (state.position, 7)


def test_what_comes_again_in_the_same_batch_changes_nothing(store: Store) -> None:
    """Kafka Connect was killed, and its topic has the last transactions twice, one after the other."""
    under_test = begun(store, Legacy(0))
    truth = [Transaction(Commit(number * 10, number, 1), [note(1, str(number))]) for number in range(100, 104)]
    under_test.apply([*truth[:3], *truth[1:]])
    state = streams.load_stream(store, "main/main")

    made = [row["transaction"] for row in journal(store) if row["entity"] == "note" and row["transaction"] >= 100]
    assert made == [100, 101, 102, 103]
    assert state is not None and state.position == 1030


def test_a_snapshot_in_a_topic_is_read_again_from_its_beginning_or_not_at_all(store: Store) -> None:
    """Until its end the cursor stays where it was; with its end it is past it."""
    legacy = Legacy(0)
    under_test = begun(store, legacy)
    under_test.apply([Transaction(Commit(1000, 100, 1), [note(1, "x")])], cursor=50)
    under_test.apply([Transaction(Commit(1010, 101, 1), [note(1, "y")])], cursor=60)
    under_test.apply([SnapshotBegun(), legacy.read()], cursor=70)
    settle(under_test)
    during = streams.load_stream(store, "main/main")
    under_test.apply([legacy.read(), SnapshotCompleted(Commit(5000, 500, 1))], cursor=80)
    after = streams.load_stream(store, "main/main")

    assert during is not None and (during.state, during.cursor) == ("snapshot", 50)
    assert after is not None and (after.state, after.cursor) == ("streaming", 80)


def test_reading_goes_on_where_all_before_is_stored(store: Store) -> None:
    """The cursor of a batch is stored once something after it is, or nothing arrives: never before its changes."""
    under_test = begun(store, Legacy(0))
    stored = []
    for number in range(100, 103):
        under_test.apply([Transaction(Commit(number * 10, number, 1), [note(1, str(number))])], cursor=number)
        state = streams.load_stream(store, "main/main")
        assert state is not None
        stored.append((state.position, state.cursor))
    settle(under_test)
    state = streams.load_stream(store, "main/main")

    assert stored == [(1000, NO_CURSOR), (1010, 100), (1020, 101)]
    assert state is not None and (state.position, state.cursor) == (1020, 102)


@pytest.mark.parametrize("seed", range(3))
def test_a_snapshot_that_the_source_begins_by_itself_is_compared(store: Store, seed: int) -> None:
    """What an interrupted one has read, and is gone by now, is absent; no document is made of a half."""
    legacy = Legacy(seed)
    under_test = begun(store, legacy)
    half = legacy.read()
    for table in ("notes", "orders", "visits"):
        legacy.rows[table].clear()
    legacy.rows["notes"][9,] = {"id": 9, "name": "new"}
    before = heads(store)

    under_test.apply([SnapshotBegun(), half])
    settle(under_test)
    assert heads(store) == before

    under_test = capture(store)
    under_test.apply([SnapshotBegun(), legacy.read(), SnapshotCompleted(Commit(5000, 500, 1))])
    settle(under_test)
    assert heads(store) == documents(legacy.rows)
    assert images(store) == rows_of(legacy)


def test_newest_versions_in_memory_are_bounded() -> None:
    """Of many only the later ones are known, and a known one is the newest."""
    known = Heads(limit=10_000)
    for number in range(100):
        known.keep("order", {str(number): (1, b"x" * 100), "again": (number, b"")})

    found: dict[str, Any] = {}
    missing = known.find("order", ["0", "99", "again"], found)

    assert found == {"99": (1, b"x" * 100), "again": (99, b"")}
    assert missing == ["0"]


def test_commits_during_the_initial_load_have_versions_of_their_own(store: Store) -> None:
    """A document's first version is the snapshot's, even where a commit reaches it before the load does."""
    legacy = Legacy(1)
    for _ in range(40):
        legacy.transaction()
    loaded = documents(legacy.rows)
    under_test = capture(store)
    under_test.apply([legacy.read(), SnapshotCompleted(Commit(10, 1, 1))])
    truth = list(commits(legacy, 20))
    for transaction, _ in truth:
        under_test.apply([transaction])
    settle(under_test)
    first = {f"{r['entity']}:{r['key']}": decode(r["body"]) for r in journal(store) if r["transaction"] == 1}
    assert first == loaded
    check_journal(store, loaded, truth)
