"""The embedded engine on a real Postgres: each trap of Debezium's connector has its test here."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc import source as sources
from cdc.engine import EngineFeed
from cdc.settings import StreamSettings
from cdc.source import findings, gap, read_slot, read_stream_catalogue, source_sql
from examples.postgres import LocalPostgres
from hub.changes import (
    Arrival,
    FeedPlan,
    Operation,
    Progress,
    RowChange,
    SchemaDrift,
    SnapshotCompleted,
    SnapshotRows,
    Transaction,
    TransactionPart,
    parse_lsn,
)
from hub.errors import OutsideError

pytestmark = pytest.mark.integration

SECONDS = 60.0


class Source:
    """A source under test: a connection to write with, and streams of it."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.slot = "hub_" + url.rpartition("/")[2]
        self.connection = psycopg.connect(url, autocommit=True)
        self.streams: list[Stream] = []

    def __call__(self, statement: str) -> list[Any]:
        cursor = self.connection.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def settings(self, columns: Mapping[str, Sequence[str]]) -> StreamSettings:
        return StreamSettings(self.url, self.slot, columns, read_stream_catalogue(self.url, list(columns)))

    def publish(self, columns: Mapping[str, Sequence[str]]) -> StreamSettings:
        settings = self.settings(columns)
        self(source_sql(columns, settings.catalogue, self.slot, self.url))
        return settings

    def stream(
        self, settings: StreamSettings, *, snapshot: bool, position: int = 0, part: int | None = None
    ) -> "Stream":
        stream = Stream(EngineFeed(settings, self.directory, part), FeedPlan(snapshot=snapshot, position=position))
        self.streams.append(stream)
        return stream

    def close(self) -> None:
        for stream in self.streams:
            stream.feed.close()
        self.connection.close()

    def wal(self) -> int:
        return parse_lsn(self("SELECT pg_current_wal_lsn()")[0][0])

    def confirmed(self) -> int:
        slot = read_slot(self.connection, self.slot)
        assert slot is not None
        return slot.confirmed


class Stream:
    """A started feed and all that has arrived from it."""

    def __init__(self, feed: EngineFeed, plan: FeedPlan) -> None:
        self.feed = feed
        self.arrivals: list[Arrival] = []
        feed.start(plan)

    def until(self, enough: Callable[[], Any], seconds: float = SECONDS, *, stored: bool = True) -> None:
        end = time.monotonic() + seconds
        while not enough():
            assert time.monotonic() < end, self.arrivals[-5:]
            batch = self.feed.take(0.5)
            if batch:
                self.arrivals += batch.arrivals
                if stored:
                    batch.stored()

    def snapshot(self) -> "Stream":
        self.until(lambda: any(isinstance(arrival, SnapshotCompleted) for arrival in self.arrivals))
        return self

    def transactions(self, number: int, **options: Any) -> list[Transaction]:
        def found() -> list[Transaction]:
            return [arrival for arrival in self.arrivals if isinstance(arrival, Transaction)]

        self.until(lambda: len(found()) >= number, **options)
        return found()

    def reached(self) -> int:
        return max((a.lsn if isinstance(a, Progress) else a.commit.lsn) for a in self.arrivals
                   if isinstance(a, Progress | Transaction | SnapshotCompleted))  # fmt: skip


@pytest.fixture
def source(database: str, tmp_path: Path) -> Iterator[Source]:
    source = Source(database, tmp_path)
    yield source
    source.close()


def test_a_null_is_not_the_columns_default(source: Source) -> None:
    """Debezium's converter would put the default in place of a NULL."""
    source("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 7, at timestamptz DEFAULT now(),"
           " d date DEFAULT '2020-01-01',"
           " i interval DEFAULT '1 day',"
           " a int[] DEFAULT '{1}', m numeric DEFAULT 1.5, z timetz DEFAULT '12:00+02')")  # fmt: skip
    source("INSERT INTO t VALUES (1, NULL, NULL, NULL, NULL, NULL, NULL, NULL)")
    settings = source.publish({"public.t": ["id", "n", "at", "d", "i", "a", "m", "z"]})
    stream = source.stream(settings, snapshot=True).snapshot()
    source("INSERT INTO t VALUES (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL)")
    inserted = stream.transactions(1)[0].changes[0].values
    rows = [row.values for a in stream.arrivals if isinstance(a, SnapshotRows) for row in a.changes]

    nothing = dict.fromkeys(["n", "at", "d", "i", "a", "m", "z"])
    assert [*rows, inserted] == [{"id": 1, **nothing}, {"id": 2, **nothing}]


def test_unchanged_toast_keys_and_truncates(source: Source) -> None:
    """Unchanged TOAST values are left out, a key's change is a delete and an insert, a truncate empties the table."""
    types = ["text", "varchar", "jsonb", "json", "bytea", "numeric", "text[]", "int[]", "xml", "varchar[]", "uuid[]"]
    types += ["hstore", "hstore[]", "citext", "citext[]", "long_text", "long_array", "varbit"]
    types += ["jsonb[]", "bytea[]"]
    source("CREATE EXTENSION hstore")
    source("CREATE EXTENSION citext")
    source("CREATE DOMAIN long_text AS text")
    source("CREATE DOMAIN long_array AS text[]")
    columns = {f"c{number}": type for number, type in enumerate(types)}
    source(f"CREATE TABLE t (id int PRIMARY KEY, small int, {', '.join(f'{n} {t}' for n, t in columns.items())})")
    for name in columns:
        source(f"ALTER TABLE t ALTER {name} SET STORAGE EXTERNAL")
    long = "repeat('0123456789', 400)"
    values = {
        "text": long, "varchar": long, "jsonb": f"to_jsonb({long})", "json": f"to_json({long})",
        "bytea": f"{long}::bytea", "numeric": f"{long}::numeric", "text[]": f"ARRAY[{long}]",
        "int[]": "array_fill(5, ARRAY[2000])",
        "xml": f"('<a>' || {long} || '</a>')::xml", "varchar[]": f"ARRAY[{long}]",
        "uuid[]": "array_fill('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid, ARRAY[500])",
        "hstore": f"hstore('a', {long})", "hstore[]": f"ARRAY[hstore('a', {long})]",
        "citext": f"{long}::citext",
        "citext[]": f"ARRAY[{long}::citext]", "long_text": long, "long_array": f"ARRAY[{long}]",
        "varbit": "repeat('01', 20000)::varbit",
        "jsonb[]": f"ARRAY[to_jsonb({long})]", "bytea[]": f"ARRAY[{long}::bytea]",
    }  # fmt: skip
    settings = source.publish({"public.t": ["id", "small", *columns]})
    stream = source.stream(settings, snapshot=True).snapshot()
    source(f"INSERT INTO t VALUES (1, 1, {', '.join(values[type] for type in columns.values())})")
    source("UPDATE t SET small = 2")
    source("UPDATE t SET id = 5")
    source("DELETE FROM t")
    source("TRUNCATE t")
    found = [[(c.operation, c.values) for c in transaction.changes] for transaction in stream.transactions(5)]

    assert set(found[0][0][1]) == {"id", "small", *columns}
    assert found[1:] == [
        [(Operation.UPDATE, {"id": 1, "small": 2})],
        [(Operation.DELETE, {"id": 1}), (Operation.INSERT, {"id": 5, "small": 2})],
        [(Operation.DELETE, {"id": 5})],
        [(Operation.TRUNCATE, {})],
    ]


def test_transactions_of_concurrent_writers(source: Source) -> None:
    """Every transaction arrives once, whole, in commit order; after a restart again, with the same commit LSN."""
    source("CREATE TABLE t (id serial PRIMARY KEY, txid bigint, place int)")
    source("CREATE TABLE other (id int)")
    settings = source.publish({"public.t": ["id", "txid", "place"]})
    stream = source.stream(settings, snapshot=True).snapshot()
    before = source.confirmed()

    def write(writer: int) -> None:
        with psycopg.connect(source.url, autocommit=True) as connection:
            for number in range(50):
                with connection.transaction():
                    for place in range(1 + (number + writer) % 4):
                        connection.execute("INSERT INTO t (txid, place) VALUES (txid_current(), %s)", [place])
                connection.execute("INSERT INTO other VALUES (1)")

    writers = [threading.Thread(target=write, args=[writer]) for writer in range(4)]
    for writer in writers:
        writer.start()
    first = stream.transactions(200, stored=False)
    for writer in writers:
        writer.join()
    stream.feed.close()
    commits = [transaction.commit for transaction in first]
    assert [commit.lsn for commit in commits] == sorted({commit.lsn for commit in commits})
    for transaction in first:
        assert {change.values["txid"] for change in transaction.changes} == {transaction.commit.transaction}
        assert [change.values["place"] for change in transaction.changes] == [*range(len(transaction.changes))]
    assert sum(len(transaction.changes) for transaction in first) == source("SELECT count(*) FROM t")[0][0]

    assert source.confirmed() == before, "nothing was stored, so nothing may be confirmed"
    wait_until_free(source)
    again = source.stream(settings, snapshot=False, position=before).transactions(200)
    assert [(t.commit, t.changes) for t in again] == [(t.commit, t.changes) for t in first]


def wait_until_free(source: Source) -> None:
    """The server notices the end of a connection on its own time."""
    source("DO $$ BEGIN FOR i IN 1..200 LOOP EXIT WHEN NOT EXISTS (SELECT FROM pg_replication_slots WHERE active"
           f" AND slot_name = '{source.slot}'); PERFORM pg_sleep(0.05); END LOOP; END $$")  # fmt: skip


def test_a_long_transaction_comes_in_parts(source: Source) -> None:
    """No more than `part` changes are held: the rest has gone ahead, and the end tells how many."""
    source("CREATE TABLE t (id int PRIMARY KEY)")
    stream = source.stream(source.publish({"public.t": ["id"]}), snapshot=True, part=100).snapshot()
    source("INSERT INTO t SELECT generate_series(1, 250)")
    end = stream.transactions(1)[0]
    parts = [arrival for arrival in stream.arrivals if isinstance(arrival, TransactionPart)]

    assert [(part.first, len(part.changes)) for part in parts] == [(0, 100), (100, 100)]
    assert (end.spooled, len(end.changes)) == (200, 50)
    ids = [change.values["id"] for each in [*parts, end] for change in each.changes]
    assert ids == [*range(1, 251)]


def test_the_slot_follows_the_store_and_an_idle_one_is_helped_on(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What other tables write moves the log on: a message of ours lets the slot follow, with no table in the source."""
    monkeypatch.setattr(sources, "QUIET_SECONDS", 1.0)
    monkeypatch.setattr(sources, "WATCH_SECONDS", 1.0)
    source("CREATE TABLE t (id int PRIMARY KEY)")
    source("CREATE TABLE other (id int)")
    stream = source.stream(source.publish({"public.t": ["id"]}), snapshot=True).snapshot()
    source("INSERT INTO other SELECT generate_series(1, 10000)")
    reached = source.wal()
    stream.until(lambda: source.confirmed() >= reached, 30)

    assert stream.reached() >= source.confirmed()


def test_changed_columns_are_told_once_before_their_transaction(source: Source) -> None:
    """A dropped column is seen in the next row event."""
    source("CREATE TABLE t (id int PRIMARY KEY, a int, b int)")
    stream = source.stream(source.publish({"public.t": ["id", "a", "b"]}), snapshot=True).snapshot()
    source("INSERT INTO t VALUES (1, 1, 1)")
    stream.transactions(1)
    source("ALTER PUBLICATION " + source.slot + " SET TABLE t")
    source("ALTER TABLE t DROP COLUMN b")
    source("INSERT INTO t VALUES (2, 2)")
    source("INSERT INTO t VALUES (3, 3)")
    stream.transactions(3)
    relevant = [arrival for arrival in stream.arrivals if isinstance(arrival, Transaction | SchemaDrift)]

    assert [type(arrival).__name__ for arrival in relevant] == [
        "Transaction",
        "SchemaDrift",
        "Transaction",
        "Transaction",
    ]
    assert relevant[1] == SchemaDrift("public.t", ("b",), ())


def test_an_added_column_is_noticed(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row events hold only what is captured: the catalogue tells."""
    monkeypatch.setattr(sources, "WATCH_SECONDS", 0.5)
    source("CREATE TABLE t (id int PRIMARY KEY)")
    stream = source.stream(source.publish({"public.t": ["id"]}), snapshot=True).snapshot()
    source("ALTER TABLE t ADD COLUMN more int")
    drift = SchemaDrift("public.t", (), ("more",))
    stream.until(lambda: drift in stream.arrivals)


def test_partitions_come_as_their_root(source: Source) -> None:
    """Rows of partitions carry the root's name, also when they move from one to another."""
    source("CREATE TABLE p (id int, kind text, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind)")
    source("CREATE TABLE p_a PARTITION OF p FOR VALUES IN ('a')")
    source("CREATE TABLE p_b PARTITION OF p FOR VALUES IN ('b')")
    source("INSERT INTO p VALUES (1, 'a')")
    stream = source.stream(source.publish({"public.p": ["id", "kind"]}), snapshot=True).snapshot()
    source("UPDATE p SET kind = 'b'")
    rows = [row for a in stream.arrivals if isinstance(a, SnapshotRows) for row in a.changes]
    moved = stream.transactions(1)[0].changes

    assert rows == [RowChange("public.p", Operation.READ, {"id": 1, "kind": "a"})]
    assert {change.table for change in moved} == {"public.p"}
    assert moved[-1].values == {"id": 1, "kind": "b"}


def test_a_slot_that_lost_its_log_ends_the_stream(postgres: LocalPostgres, source: Source) -> None:
    """Debezium alone would hang: the hub looks first, and says what to do."""
    source("CREATE TABLE t (id int PRIMARY KEY, x text)")
    settings = source.publish({"public.t": ["id", "x"]})
    source.stream(settings, snapshot=True).snapshot().feed.close()
    wait_until_free(source)
    source("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'")
    source("SELECT pg_reload_conf()")
    try:
        for _ in range(4):
            source("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1000000))")
            source("SELECT pg_switch_wal()")
        source("CHECKPOINT")
        slot = read_slot(source.connection, source.slot)
        assert slot is not None and slot.wal_status == "lost" and gap(slot, slot.confirmed)
        with pytest.raises(OutsideError, match=r"is lost.*resnapshot"):
            source.stream(settings, snapshot=False, position=slot.confirmed)
    finally:
        source("ALTER SYSTEM RESET max_slot_wal_keep_size")
        source("SELECT pg_reload_conf()")


def test_what_is_wrong_outside_is_said_before_anything_starts(source: Source) -> None:
    """Each fault is one sentence with its remedy."""
    source("CREATE TABLE t (id int PRIMARY KEY)")
    source("CREATE TABLE keyless (id int)")
    source("CREATE UNLOGGED TABLE quick (id int PRIMARY KEY)")
    source("CREATE VIEW v AS SELECT 1 AS id")
    columns = {f"public.{name}": ["id"] for name in ("t", "keyless", "quick", "v")} | {"public.gone": ["id"]}
    said = " ".join(
        f"{f.what} {f.remedy}" for f in findings(source.connection, source.settings(columns), snapshot=True)
    )
    for sentence in (
        "public.keyless has no primary key", "public.quick is unlogged", "public.v is a view", "no table public.gone",
        f"no publication {source.slot}",
    ):  # fmt: skip
        assert sentence in said
    source(f"CREATE PUBLICATION {source.slot}")
    said = [f.remedy for f in findings(source.connection, source.settings({"public.t": ["id"]}), snapshot=True)]
    source(next(remedy for remedy in said if remedy.startswith("ALTER PUBLICATION")))
    left = findings(source.connection, source.settings({"public.t": ["id"]}), snapshot=True)
    assert [finding for finding in left if finding.fatal] == []


def test_a_second_hub_on_the_slot_is_refused(source: Source) -> None:
    """The slot's reader is named by its process."""
    source("CREATE TABLE t (id int PRIMARY KEY)")
    settings = source.publish({"public.t": ["id"]})
    first = source.stream(settings, snapshot=True).snapshot()
    source("INSERT INTO t VALUES (1)")
    first.transactions(1)
    with pytest.raises(OutsideError, match="in use by the server process"):
        source.stream(settings, snapshot=True)


def test_a_wrong_password_and_a_closed_port(database: str) -> None:
    """The sentence names the place, and never the password."""
    with pytest.raises(OutsideError, match="refuses the password of postgres") as refused:
        sources.connect(database.replace(":postgres@", ":wrong@"))
    assert "wrong" not in str(refused.value)
    with pytest.raises(OutsideError, match="cannot be reached"):
        sources.connect("postgresql://u:p@127.0.0.1:1/x")


def test_a_role_with_only_what_source_sql_grants(source: Source) -> None:
    """The SQL for the DBA is enough for a role of its own, with excluded columns out of its reach."""
    source("CREATE TABLE t (id int PRIMARY KEY, open text, secret text)")
    columns = {"public.t": ["id", "open"]}
    role = f"role_{source.slot}"
    url = source.url.replace("postgres:postgres@", f"{role}:pw@")
    catalogue = read_stream_catalogue(source.url, list(columns))
    statements = source_sql(columns, catalogue, source.slot, url)
    try:
        for _ in range(2):
            source(statements)
        source(f"ALTER ROLE {role} PASSWORD 'pw'")
        stream = source.stream(StreamSettings(url, source.slot, columns, catalogue), snapshot=True).snapshot()
        source("INSERT INTO t VALUES (1, 'a', 'b')")
        assert stream.transactions(1)[0].changes[0].values == {"id": 1, "open": "a"}
    finally:
        for stream in source.streams:
            stream.feed.close()
        source(f"DROP OWNED BY {role}")
        source(f"DROP ROLE {role}")


def test_a_source_that_goes_away_ends_the_stream(tmp_path: Path) -> None:
    """`take` raises, the process ends, a supervisor tries again."""
    with LocalPostgres(tmp_path / "server") as server:
        source = Source(server.url(), tmp_path)
        source("CREATE TABLE t (id int PRIMARY KEY)")
        stream = source.stream(source.publish({"public.t": ["id"]}), snapshot=True).snapshot()
        server.stop(immediate=True)
        with pytest.raises(OutsideError, match=r"lost|reached"):
            stream.until(lambda: False, 60)
        source.close()
