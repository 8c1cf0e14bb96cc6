"""Entities that move from one stream to another: nothing is lost, nothing doubled, whoever still has the old project.

The legacy application is that of test_capture: a database in a dict, whose truth is known after each transaction.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa

from hub.bootstrap import retired_streams
from hub.capture.capture import Capture
from hub.capture.role import Outside, begin
from hub.catalogue import Catalogue
from hub.changes import (
    NO_CURSOR,
    Commit,
    FeedPlan,
    Operation,
    RowChange,
    SnapshotCompleted,
    TakenOver,
    Transaction,
    TransactionPart,
)
from hub.documents import Cause
from hub.errors import InputError, OutsideError
from hub.project import EntityConfig, Project, Source
from hub.store import streams, tables
from hub.store.database import Store
from hub.store.tables import CAUSES
from tests.unit.test_capture import (
    CATALOGUE,
    ENTITIES,
    MEMO,
    NOTE,
    Legacy,
    check_journal,
    commits,
    documents,
    heads,
    images,
    journal,
    note,
    rows_of,
    settle,
)

MAIN, SALES = "main/main", "main/sales"
IMAGES, REFERENCES = tables.row_image.c, tables.row_reference.c


class Shared(Store):
    """A store that each process opens for itself."""

    def __init__(self, url: str) -> None:
        super().__init__(url, durable=False)
        self._opened: list[Store] = []

    def opened(self) -> Store:
        self._opened.append(Store(self.url.render_as_string(), durable=False))
        return self._opened[-1]

    def close(self) -> None:
        for one in self._opened:
            one.close()
        super().close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Shared]:
    store = Shared(f"sqlite:///{tmp_path}/hub.db")
    tables.metadata.create_all(store.engine)
    yield store
    store.close()


class Memory(Outside):
    """A source whose every stream can be followed."""

    def __init__(self, *, ready: bool = True, keeps: bool = False) -> None:
        self.ready = ready
        self.keeps = keeps  # snapshots, as a topic does
        self.renewals: list[bool] = []  # whether the stream's first snapshot would have done

    def read_catalogue(self) -> Catalogue:
        return CATALOGUE

    def refuse_foreign_slot(self) -> None:
        return None

    def missed(self, position: int, cursor: int) -> str:
        return ""

    def require_ready(self, catalogue: Catalogue, plan: FeedPlan) -> None:
        if not self.ready:
            raise OutsideError("There is no publication.")

    @property
    def keeps_snapshots(self) -> bool:
        return self.keeps

    def renew(self, *, first: bool) -> int:
        self.renewals.append(first)
        return len(self.renewals) if self.keeps else NO_CURSOR

    def mark(self) -> int:
        return 0


def project(sales: Sequence[str] = (), entities: Sequence[EntityConfig] = ENTITIES) -> Project:
    source = Source("main", "", "hub", streams={"sales": tuple(sales)} if sales else {})
    return Project("hub", Path(), {"main": source}, {one.name: one for one in entities}, {}, {}, "")


def start(store: Shared, project: Project, stream: str, outside: Outside | None = None) -> Capture:
    """As `hub run --role capture --stream` does."""
    own = store.opened()
    state, entities, plan = begin(own, project, stream, outside or Memory())
    assert plan.snapshot == (state.state == streams.SNAPSHOT and plan.cursor == NO_CURSOR)
    return Capture(own, state, entities, [], project.fan_out)


def snapshot(capture: Capture, legacy: Legacy, number: int) -> None:
    """Rows of the stream's own tables, as of the transaction of this number."""
    rows = legacy.read()
    mine = [change for change in rows.changes if change.table in capture.layout.tables]
    capture.apply([type(rows)(mine), SnapshotCompleted(Commit(number * 10, number, number))])


def commit(captures: Sequence[Capture], transaction: Transaction) -> None:
    """Each stream sees the changes of its own tables alone."""
    for one in captures:
        mine = [change for change in transaction.changes if change.table in one.layout.tables]
        one.apply([Transaction(transaction.commit, mine)])


def loaded(store: Shared, legacy: Legacy, at: Project | None = None) -> Capture:
    """All of it in one stream."""
    for _ in range(30):
        legacy.transaction()
    main = start(store, at or project(), MAIN)
    snapshot(main, legacy, 1)
    settle(main)
    return main


def expect_whole(store: Shared) -> None:
    """Of each document versions 1, 2, 3 …, each unlike the one before."""
    before: dict[tuple[str, str], tuple[int, bytes | None]] = {}
    for row in journal(store):
        key = row["entity"], row["key"]
        version, body = before.get(key, (0, None))
        assert row["version"] == version + 1
        assert row["body"] != body
        before[key] = row["version"], row["body"]


def moved(store: Shared, legacy: Legacy, after: Project, number: int = 120) -> tuple[Capture, Capture]:
    """Both streams as the new project has them; the one that has got entities takes its snapshot."""
    main, sales = start(store, after, MAIN), start(store, after, SALES)
    snapshot(sales, legacy, number)
    settle(main)
    settle(sales)
    return main, sales


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("entities", [["order"], ["tag", "note"]])
def test_a_moved_entity_goes_on_where_it_was(store: Shared, seed: int, entities: list[str]) -> None:
    """What happened around the move is one difference; after it each commit has its own versions, in both streams."""
    legacy = Legacy(seed)
    old = loaded(store, legacy)
    (seen, before), *unseen = commits(legacy, 20)
    commit([old], seen)
    after = project(entities)

    main = start(store, after, MAIN)
    for transaction, _ in unseen:
        commit([main], transaction)
    main, sales = moved(store, legacy, after)
    truth = documents(legacy.rows)
    compared = [row for row in journal(store) if row["transaction"] == 120]
    differing = {key for key in before.keys() | truth.keys() if before.get(key) != truth.get(key)}
    assert heads(store) == truth
    assert {f"{row['entity']}:{row['key']}" for row in compared} == {
        key for key in differing if key.partition(":")[0] in entities
    }
    assert {CAUSES[row["cause"]] for row in compared} <= {Cause.RESYNC}

    later = list(commits(legacy, 40, first=200))
    for transaction, _ in later:
        commit([main, sales], transaction)
    settle(main)
    settle(sales)
    check_journal(store, truth, later)
    expect_whole(store)


def test_an_entity_comes_back_where_a_snapshot_was_asked_for(store: Shared) -> None:
    """Without, the project is taken for an old one: that of a machine which was forgotten."""
    legacy = Legacy(1)
    loaded(store, legacy)
    moved(store, legacy, project(["order"]))
    for stream in (MAIN, SALES):
        with pytest.raises(InputError, match="order has moved from main/main to main/sales"):
            start(store, project(["memo"]), stream)

    list(commits(legacy, 10))
    streams.ask_resnapshot(store, MAIN)
    back = project(["memo"])
    sales, main = start(store, back, SALES), start(store, back, MAIN)
    snapshot(main, legacy, 200)
    snapshot(sales, legacy, 200)
    settle(main)
    settle(sales)

    assert heads(store) == documents(legacy.rows)
    assert images(store) == rows_of(legacy)
    expect_whole(store)


def test_rows_that_no_entity_of_the_old_stream_uses_are_removed(store: Shared) -> None:
    """So are the references to them. A table that both streams use is kept by each."""
    legacy = Legacy(3)
    loaded(store, legacy)
    main, sales = moved(store, legacy, project(["order", "memo"]))

    layouts = (main.layout, sales.layout)
    query = sa.union_all(*(sa.select(column) for column in (IMAGES.table_id, REFERENCES.lookup_id)))
    used = {table.id for layout in layouts for table in layout.tables.values()}
    used |= {lookup.id for layout in layouts for lookup in layout.lookups.values()}
    with store.read() as connection:
        assert {*connection.execute(query).scalars()} <= used
    assert main.layout.tables.keys() & sales.layout.tables.keys() == {"tags"}
    assert images(store) == rows_of(legacy)


def test_a_process_with_the_old_project_writes_no_more(store: Shared) -> None:
    """It runs on while the entity is taken, and is refused when it starts again."""
    legacy = Legacy(0)
    old = loaded(store, legacy)
    sales = start(store, project(["note"]), SALES)
    written = journal(store)

    with pytest.raises(TakenOver):
        old.apply([Transaction(Commit(1000, 100, 1), [note(1, "old")])])
    with pytest.raises(InputError, match="note has moved from main/main to main/sales"):
        start(store, project(), MAIN)
    assert journal(store) == written

    legacy.rows["notes"][1,] = {"id": 1, "name": "new"}
    snapshot(sales, legacy, 120)
    settle(sales)
    assert heads(store)["note:1"] == {"id": 1, "name": "new"}


def test_an_entity_is_left_where_it_is_until_its_new_stream_can_run(store: Shared) -> None:
    """The publication is missing still: what runs goes on."""
    legacy = Legacy(0)
    old = loaded(store, legacy)
    with pytest.raises(OutsideError):
        start(store, project(["note"]), SALES, Memory(ready=False))
    old.apply([Transaction(Commit(1000, 100, 1), [note(1, "old")])])

    assert heads(store)["note:1"]["name"] == "old"


def test_what_was_pending_of_a_moved_entity_is_in_the_comparison(store: Shared) -> None:
    """A long transaction and a wide commit had not made its documents yet; those of the others are made still."""
    legacy = Legacy(2)
    old = loaded(store, legacy)
    old.fan_out = 2
    (first, _), *_ = commits(legacy, 1)
    wide = [change for number in range(1, 6) for change in note_and_memo(legacy, number)]
    old.apply([first, Transaction(Commit(1010, 101, 1), wide)])
    waiting = [*old.pending]
    part = TransactionPart(102, 0, [note(1, "long"), *memo(legacy, 1)])
    with store.write() as connection:  # stored whole, and the process ended before it was applied
        streams.save_part(connection, old.state.id, 0, 102, part.changes)
        streams.save_fan_out(connection, old.state.id, Commit(1020, 102, 1), Cause.ROW, spooled=True)
        streams.save_position(connection, old.state.id, 1020, 0)
    legacy.rows["notes"][1,] = {"id": 1, "name": "long"}

    moved(store, legacy, project(["note"]))

    assert waiting
    assert heads(store) == documents(legacy.rows)
    with store.read() as connection:
        assert not connection.execute(sa.select(tables.fan_out_item)).all()
        assert not connection.execute(sa.select(tables.spool)).all()


def note_and_memo(legacy: Legacy, id: int) -> list[RowChange]:
    legacy.rows["notes"][id,] = {"id": id, "name": "wide"}
    return [note(id, "wide"), *memo(legacy, id)]


def memo(legacy: Legacy, id: int) -> list[RowChange]:
    row = {"id": id, "name": "wide", "quantity": id}
    legacy.rows["memos"][id,] = row
    return [RowChange("memos", Operation.UPDATE, dict(row))]


def test_what_came_into_an_empty_table_around_the_move_is_no_initial_load(store: Shared) -> None:
    """Its subscribers have had the initial load, of nothing: this is news to them."""
    only = [NOTE, MEMO]
    main = start(store, project(entities=only), MAIN)
    snapshot(main, Legacy(0), 1)
    settle(main)
    outside = Memory()
    sales = start(store, project(["note"], only), SALES, outside)
    legacy = Legacy(0)
    legacy.rows["notes"][1,] = {"id": 1, "name": "new"}
    snapshot(sales, legacy, 120)
    settle(sales)

    assert [CAUSES[row["cause"]] for row in journal(store)] == [Cause.RESYNC]
    assert outside.renewals == [False]  # a snapshot that the connector took before may be older than what was made


def test_a_snapshot_in_a_topic_is_read_on_until_another_entity_moves(store: Shared) -> None:
    """A process that begins again goes on with it; one more entity takes one more snapshot."""
    loaded(store, Legacy(0))
    outside = Memory(keeps=True)
    cursors = [
        start(store, project(entities), SALES, outside).state.cursor
        for entities in (["note"], ["note"], ["note", "memo"], ["note", "memo"])
    ]

    assert cursors == [1, 1, 2, 2]
    assert outside.renewals == [False, False]


def test_a_new_entity_is_loaded_for_the_first_time_beside_others(store: Shared) -> None:
    """Its documents have cause snapshot, where those of the others are compared."""
    legacy = Legacy(0)
    main = loaded(store, legacy, project(entities=[NOTE]))
    streams.ask_resnapshot(store, MAIN)
    main = start(store, project(entities=[NOTE, MEMO]), MAIN)
    legacy.rows["notes"][1,] = {"id": 1, "name": "new"}
    legacy.rows["memos"][1,] = {"id": 1, "name": "new", "quantity": 1}
    snapshot(main, legacy, 120)
    settle(main)

    causes = {(row["entity"], CAUSES[row["cause"]]) for row in journal(store) if row["transaction"] == 120}
    assert causes == {("note", Cause.RESYNC), ("memo", Cause.SNAPSHOT)}


def test_a_stream_without_entities_leaves_nothing_in_the_store(store: Shared) -> None:
    """All of them have moved; nobody runs it any more."""
    legacy = Legacy(0)
    loaded(store, legacy)
    after = project([one.name for one in ENTITIES])
    sales = start(store, after, SALES)
    snapshot(sales, legacy, 120)
    settle(sales)

    assert retired_streams(after, store) == [MAIN]
    assert heads(store) == documents(legacy.rows)
    with store.read() as connection:
        ids = {*connection.execute(sa.select(IMAGES.table_id)).scalars()}
    assert ids <= {table.id for table in sales.layout.tables.values()}
