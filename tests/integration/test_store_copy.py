"""`hub store copy`: every row of every table, and what goes on from the copy."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from hub.capture.capture import Capture
from hub.catalogue import Catalogue, Column, Kind, Table
from hub.changes import Commit, Operation, RowChange, SnapshotCompleted, SnapshotRows, Transaction
from hub.commands import main
from hub.entities import compile_entity
from hub.errors import FaultError, InputError, OutsideError
from hub.locks import hold
from hub.project import EntityConfig
from hub.store import streams, tables
from hub.store.copying import PAGE, TABLES, copy_store, run_again
from hub.store.database import Store
from hub.store.migrate import require_current, stored_revision, upgrade
from tests.integration.conftest import sqlalchemy_url
from tests.integration.dispatching import Bench
from tests.oracle.command import Project
from tests.receiver import Receiver

pytestmark = pytest.mark.integration

MakeStore = Callable[[str], Store]
ROWS = PAGE + 30  # of each table: more than is in memory at once
TEXTS = ["", "x", "äöü €", "\U0001f600", "a\tb\nc\\N", "'quoted\"", '[12,"FR"]', "é" * 3000]
LARGEST: dict[Any, int] = {sa.BigInteger: 2**63 - 1, sa.Integer: 2**31 - 1, sa.SmallInteger: 2**15 - 1}


@pytest.fixture
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """A store without tables, of the kind asked for: one of each."""
    made: list[Store] = []

    def make(kind: str) -> Store:
        url = f"sqlite:///{tmp_path / 'hub.db'}"
        made.append(Store(sqlalchemy_url(request.getfixturevalue("database")) if kind == "postgres" else url))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def sqlite(make_store: MakeStore) -> Store:
    """A store as `hub run` makes it."""
    store = make_store("sqlite")
    upgrade(store)
    return store


def ignore(table: str, rows: int) -> None:
    """Who is told of each table."""


def value(column: sa.Column[Any], number: int, rng: random.Random) -> Any:
    """One that the column can hold; `number`, once a row, where it is a key."""
    kind = type(column.type)
    if column.primary_key and kind is not sa.Text:
        return number
    if column.nullable and rng.random() < 0.3:
        return None
    if kind is sa.Text:
        return f"{rng.choice(TEXTS)}{number if column.primary_key or column.name in ('key', 'name') else ''}"
    if kind is sa.LargeBinary:
        return rng.choice([b"", bytes(range(256)), rng.randbytes(5000)])
    return rng.choice([0, 1, LARGEST[kind], -LARGEST[kind] - 1, rng.randrange(1000)])


def fill(store: Store) -> None:
    """Rows in every table, the newest of which have left again."""
    rng = random.Random(7)
    with store.write() as connection:
        for table in TABLES:
            count = 1 if table.name == "identity" else ROWS
            rows = [{c.name: value(c, n, rng) for c in table.columns} for n in range(1, count + 1)]
            for row in rows:
                row.pop("moved_to", None)
                if (column := table.autoincrement_column) is not None:
                    row.pop(column.name)  # the store gives the number
            connection.execute(table.insert(), rows)
            if table.autoincrement_column is not None:
                connection.execute(table.delete().where(table.autoincrement_column > ROWS - 20))


def contents(store: Store) -> dict[str, list[Any]]:
    """By table: all of its rows, in the order of their keys."""
    with store.read() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=lambda row: str(row[:4]))
            for table in TABLES
        }


def next_numbers(store: Store) -> dict[str, int]:
    """By table: the number that its next row gets."""
    rng = random.Random(1)
    found = {}
    for table in TABLES:
        if (column := table.autoincrement_column) is not None:
            row = {c.name: value(c, -1, rng) for c in table.columns if c is not column}
            with store.write() as connection:
                found[table.name] = connection.execute(table.insert().values(row).returning(column)).scalar_one()
    return found


@pytest.mark.parametrize(("kind", "target_kind"), [("sqlite", "postgres"), ("postgres", "sqlite")])
def test_the_copy_holds_every_row_and_counts_on(kind: str, target_kind: str, make_store: MakeStore) -> None:
    """Numbers that were given once are not given again, though their rows have left."""
    source, target = make_store(kind), make_store(target_kind)
    upgrade(source)
    fill(source)
    before = contents(source)
    told: dict[str, int] = {}

    copy_store(source, target, told.__setitem__)

    assert contents(target) == before
    assert told == {name: len(rows) for name, rows in before.items()}
    assert stored_revision(target) == stored_revision(source)
    numbers = next_numbers(target)
    assert {name: n for name, n in numbers.items() if name not in ("name", "replay")} == dict.fromkeys(
        ("attempt", "delivery", "document", "fan_out", "lineage"), ROWS + 1
    )
    assert numbers["name"] > max(row[0] for row in before["name"])  # a SQLite store keeps no account of these
    assert numbers["replay"] > max(row[0] for row in before["replay"])


def test_the_old_store_refuses_to_run_and_the_new_one_does_not(sqlite: Store, make_store: MakeStore) -> None:
    """Until its copy is given up."""
    target = make_store("postgres")
    identity = sqlite.identity()
    copy_store(sqlite, target, ignore)

    require_current(target)
    assert target.identity() == identity
    with pytest.raises(OutsideError, match=r"hub\.db has moved to postgresql\+psycopg://postgres:\*\*\*@.*`store:`"):
        require_current(sqlite)
    assert run_again(sqlite) == target.place
    assert run_again(sqlite) is None
    require_current(sqlite)


@pytest.mark.parametrize("role", ["run", "dispatch", "capture main/main"])
@pytest.mark.parametrize("running", ["source", "target"])
def test_nothing_is_copied_while_a_role_runs(role: str, running: str, sqlite: Store, tmp_path: Path) -> None:
    """Whichever role, on either side."""
    target = Store(f"sqlite:///{tmp_path / 'copy.db'}")
    sqlite.name_id("stream", "main/main")
    lock = hold(sqlite if running == "source" else target, role)
    try:
        with pytest.raises(OutsideError, match=f"The {role} of this store is running already"):
            copy_store(sqlite, target, ignore)
    finally:
        lock.release()
    assert not any(contents(target).values())
    copy_store(sqlite, target, ignore)


def test_a_target_that_holds_anything_is_refused(sqlite: Store, make_store: MakeStore, tmp_path: Path) -> None:
    """A store with rows, the store itself, and a database of somebody else's."""
    copy, taken = Store(f"sqlite:///{tmp_path / 'copy.db'}"), make_store("postgres")
    file = Store(f"sqlite:///{tmp_path / 'other.db'}")
    for others in (taken, file):
        with others.write() as connection:
            connection.exec_driver_sql("CREATE TABLE customers (id int)")
    sqlite.name_id("stream", "main/main")
    copy_store(sqlite, copy, ignore)

    with pytest.raises(InputError, match=r"copy\.db is not empty, it holds rows: 1 of identity, 1 of name\."):
        copy_store(sqlite, copy, ignore)
    with pytest.raises(InputError, match="is not empty"):
        copy_store(sqlite, sqlite, ignore)
    for others in (taken, file):
        with pytest.raises(InputError, match="tables of somebody else's: customers"):
            copy_store(sqlite, others, ignore)


def test_a_text_that_postgres_cannot_hold_is_named_and_nothing_is_copied(sqlite: Store, make_store: MakeStore) -> None:
    target = make_store("postgres")
    attempt = {c.name: 0 for c in tables.attempt.columns} | {"seq": 17, "key": "4", "detail": "200: \0"}
    with sqlite.write() as connection:
        connection.execute(tables.attempt.insert().values(attempt))

    with pytest.raises(FaultError, match="row of attempt with seq 17 has a NUL character in its detail"):
        copy_store(sqlite, target, ignore)

    assert not any(contents(target).values())
    require_current(sqlite)


def test_a_copy_that_breaks_off_leaves_an_empty_target(sqlite: Store, make_store: MakeStore) -> None:
    """The next one begins anew."""
    target = make_store("postgres")
    fill(sqlite)

    def cut(table: str, rows: int) -> None:
        if table == "document":
            url = target.url.set(drivername="postgresql").render_as_string(hide_password=False)
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'"
                              " AND datname = current_database()")  # fmt: skip

    with pytest.raises((sa.exc.OperationalError, OutsideError)):
        copy_store(sqlite, target, cut)
    assert not any(contents(target).values())
    copy_store(sqlite, target, ignore)
    assert contents(target) == contents(sqlite) | {"identity": contents(target)["identity"]}


def test_the_command_says_what_to_do_next_and_what_is_wrong(tmp_path: Path, sqlite: Store) -> None:
    """A target that cannot be is refused before anything is done; a copy can be given up."""
    Project(tmp_path, "").write(
        {
            "hub.yaml": f"hub: shop\nsources: {{main: {{url: 'postgresql://u@h/d'}}}}\nstore: {sqlite.url}\n",
            "entities/order.yaml": "entity: order\ntable: orders\n",
        }
    )

    def hub(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["--project", str(tmp_path), *arguments])
        return done.exit_code, done.output

    missing, unknown, away = (hub("store", "copy", *given) for given in ([], ["mysql://u@h/d"], ["postgres://u@h:1/d"]))
    assert missing[0] == 2 and "The store to copy to is missing." in missing[1]
    assert unknown[0] == 2 and "is neither a SQLite nor a Postgres URL." in unknown[1]
    assert away[0] == 3 and "The store cannot be copied: " in away[1]

    code, said = hub("store", "copy", "sqlite:///copy.db")
    assert (code, said.splitlines()[0]) == (0, "attempt: 0 rows")
    assert "Now set `store:` in hub.yaml to it, and start the hub." in said
    assert hub("store", "prune")[0] == 3
    code, said = hub("store", "copy", "--undo")
    assert code == 0 and f"The store {sqlite.path} may run again." in said
    assert hub("store", "prune")[0] == 0
    require_current(Store(f"sqlite:///{tmp_path / 'copy.db'}"))


def test_deliveries_go_on_under_their_ids(make_store: MakeStore, tmp_path: Path) -> None:
    """What was refused for now before the move is accepted after it, under the same id and in order."""
    bench, target = Bench(make_store("sqlite")), make_store("postgres")
    with Receiver(tmp_path) as receiver:
        bench.subscribe("crm", {"url": receiver.url}, retry=(0.0, 3600.0))
        receiver.behave(status=500)
        bench.commit("1", "2")
        bench.run()
        refused = {entry.headers["webhook-id"] for entry in receiver.log()}
        bench.commit("1")
        copy_store(bench.store, target, ignore)

        receiver.behave(status=200)
        with target.write() as connection:
            connection.execute(tables.delivery.update().values(due_at=0))
        bench.store.close()
        bench.store = target
        bench.run()
        accepted = [entry for entry in receiver.log() if entry.status == 200]

    assert len(refused) == 2
    assert refused < {entry.headers["webhook-id"] for entry in accepted}
    assert [entry.json["hubversion"] for entry in accepted if entry.json["subject"] == "1"] == [1, 2]
    assert bench.rows() == []


def test_row_images_that_wait_are_written_by_the_copy(sqlite: Store, make_store: MakeStore) -> None:
    """A lone table's images follow the journal by row numbers, which the copy keeps."""
    target = make_store("postgres")
    columns = (Column("id", "int", "int4", Kind.INTEGER), Column("name", "text", "text", Kind.TEXT))
    catalogue = Catalogue({"notes": Table("notes", "r", "p", columns, ("id",))}, 150000)
    entity = compile_entity(EntityConfig("note", "main", "notes"), catalogue)
    streams.begin_snapshot(sqlite, "main/main", catalogue, {})

    def capture(store: Store) -> Capture:
        state = streams.load_stream(store, "main/main")
        assert state is not None
        return Capture(store, state, [entity], [], 1000)

    def note(id: int, name: str, operation: Operation = Operation.UPDATE) -> RowChange:
        return RowChange("notes", operation, {"id": id, "name": name})

    before = capture(sqlite)
    before.apply([SnapshotRows([note(id, "old", Operation.READ) for id in range(50)]),
                  SnapshotCompleted(Commit(10, 1, 1))])  # fmt: skip
    while before.work():
        pass
    before.apply([Transaction(Commit(1000 + id, 100 + id, 1), [note(id, "new")]) for id in range(20)])

    copy_store(sqlite, target, ignore)
    state = streams.load_stream(target, "main/main")
    assert state is not None and state.imaged is not None
    after = capture(target)
    after.apply([Transaction(Commit(2000, 200, 1), [note(30, "newest")])])
    while after.work():
        pass

    with target.read() as connection:
        rows = connection.execute(sa.select(tables.row_image.c.key, tables.row_image.c.image)).all()
    assert {key: json.loads(image)["name"] for key, image in rows} == {
        str(id): "new" if id < 20 else "newest" if id == 30 else "old" for id in range(50)
    }
