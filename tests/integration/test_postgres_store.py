"""What is the Postgres store's own: bulk writes, many writers at once, and how its tables are kept."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from hub.capture.capture import Capture
from hub.changes import Commit, RowChange, SnapshotCompleted, SnapshotRows, TakenOver, Transaction
from hub.commands.context import outside
from hub.delivery import Delivery, State
from hub.entities import compile_entity
from hub.errors import OutsideError
from hub.locks import hold
from hub.operate.replay import Filters
from hub.operate.replayer import Replayer
from hub.project import EntityConfig, Retention, SubscriptionConfig
from hub.store import streams, tables
from hub.store.database import UNTRIED, Store, now
from hub.store.definitions import remember
from hub.store.deliveries import Changes, Deliveries
from hub.store.images import Statements, append
from hub.store.migrate import upgrade
from hub.store.operators import Choice, Operators
from hub.store.replays import Replays
from hub.store.retention import prune
from hub.subscriptions import Subscription
from tests.integration.conftest import Rows, sqlalchemy_url
from tests.integration.dispatching import Bench
from tests.unit.test_capture import (
    CATALOGUE,
    MEMO,
    NOTE,
    ORDER,
    TAG,
    VISIT,
    Legacy,
    begun,
    check_journal,
    commits,
    documents,
    heads,
    images,
    journal,
    rows_of,
    settle,
)

pytestmark = pytest.mark.integration

Open = Callable[[], Store]


@pytest.fixture
def open_store(database: str) -> Iterator[Open]:
    """Opens the same Postgres store again and again, each time as another process would."""
    opened: list[Store] = []

    def another() -> Store:
        opened.append(Store(sqlalchemy_url(database)))
        return opened[-1]

    upgrade(another())
    yield another
    for store in opened:
        store.close()


# writing


def test_every_version_is_the_truth_of_its_commit_on_postgres(open_store: Open) -> None:
    """Rows that are written as arrays and copies are those that SQLite's statements write: NULLs, deletes and all."""
    legacy, store = Legacy(1), open_store()
    under_test = begun(store, legacy)
    before = documents(legacy.rows)
    truth = list(commits(legacy, 100))
    for start in range(0, len(truth), 7):
        under_test.apply([transaction for transaction, _ in truth[start : start + 7]])

    check_journal(store, before, truth)
    settle(under_test)
    assert images(store) == rows_of(legacy)


def test_a_copy_fails_as_a_statement_does(open_store: Open) -> None:
    """Its error is SQLAlchemy's, and nothing of the store transaction stays."""
    store = open_store()
    columns = ("entity_id", "key", "version", "event", "cause", "lsn", "transaction", "committed_at", "made_at", "body")
    twice = [(1, "a", 1, 0, 0, 1, 1, 1, 1, b"{}")] * 2

    with pytest.raises(IntegrityError, match="document_version"), store.write() as connection:
        append(connection, "document", columns, twice)

    assert journal(store) == []


def test_no_table_is_read_whole_because_it_was_empty_once(open_store: Open) -> None:
    """A connection keeps the plans that it made on an empty store while the store grows."""
    sql = Statements(sqlite=False)
    found = {
        "rows": sql.rows,
        "references": sql.references,
        "heads": sql.heads,
        "items": sql.items,
        "image": sql.delete("row_image", ("table_id", "key")),
        "reference": sql.delete("row_reference", ("lookup_id", "value", "row_key")),
        "item": sql.delete("fan_out_item", ("entity_id", "node", "key", "fan_out_id")),
        "delivery": sql.delete("delivery", ("entity_id", "key", "version", "subscription_id")),
        "lock": sql.lock("delivery", ("entity_id", "key", "version", "subscription_id")),
    }
    with open_store().write() as connection:
        connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        for name, statement in found.items():
            first, *others = re.split("%[bs]", statement)
            numbered = first + "".join(f"${number}{text}" for number, text in enumerate(others, 1))
            connection.exec_driver_sql(f'PREPARE "{name}" AS {numbered}')
            nulls = ", ".join(["NULL"] * len(others))
            plan = "\n".join(connection.exec_driver_sql(f'EXPLAIN EXECUTE "{name}"({nulls})').scalars())
            assert "Seq Scan" not in plan, plan


# many writers


class Stream:
    """One stream's capture process: some of the entities, with deliveries of all that happens to them."""

    def __init__(self, store: Store, name: str, *configs: EntityConfig) -> None:
        entities = [compile_entity(config, CATALOGUE) for config in configs]
        self.tables = {table for entity in entities for table in entity.tables()}
        self.subscriptions = {
            entity.name: Subscription.compile(SubscriptionConfig(f"{entity.name}s", entity.name, "out"), entity.shape)
            for entity in entities
        }
        state = streams.begin_snapshot(store, name, CATALOGUE, {})
        self.capture = Capture(store, state, entities, self.subscriptions.values(), 5)

    def begin(self, rows: Sequence[RowChange]) -> None:
        self.capture.apply([SnapshotRows(self._own(rows)), SnapshotCompleted(Commit(10, 1, 1))])
        settle(self.capture)

    def follow(self, transactions: Sequence[Transaction]) -> None:
        for start in range(0, len(transactions), 5):
            own = [Transaction(one.commit, self._own(one.changes)) for one in transactions[start : start + 5]]
            self.capture.apply([one for one in own if one.changes])
            self.capture.work()
        settle(self.capture)

    def _own(self, changes: Sequence[RowChange]) -> list[RowChange]:
        return [change for change in changes if change.table in self.tables]


def test_writers_of_one_store_do_not_disturb_each_other(open_store: Open) -> None:
    """Three streams, replays and operators at once: no deadlock, each document ends at the truth, versions count up."""
    legacy = Legacy(2)
    for _ in range(30):
        legacy.transaction()
    # Tables in several streams: the order's tags, and the tags themselves.
    parts = {"main/a": (ORDER,), "main/b": (TAG, VISIT), "main/c": (NOTE, MEMO)}
    following = [Stream(open_store(), name, *entities) for name, entities in parts.items()]
    for stream in following:
        stream.begin(legacy.read().changes)
    transactions = [transaction for transaction, _ in commits(legacy, 40)]
    subscriptions = {one.name: one for stream in following for one in stream.subscriptions.values()}
    done = threading.Event()

    def replay(entity: str) -> int:
        replays = Replays(open_store())
        worker, rounds = Replayer(replays, subscriptions), 0
        while not done.is_set():
            worker.run(replays.begin("replay", Filters(entity=entity), 0), None, lambda _: None)
            rounds += 1
        return rounds

    def operate(act: Callable[[Operators], object]) -> int:
        operators, rounds = Operators(open_store()), 0
        while not done.is_set():
            act(operators)
            rounds += 1
        return rounds

    def discard(operators: Operators) -> None:
        operators.discard(Choice(entity="order"), "test")

    def release(operators: Operators) -> None:
        operators.release(Choice(entity="order", states=(State.PENDING, State.PARKED)), force=False)

    with ThreadPoolExecutor() as pool:
        others = [pool.submit(replay, entity) for entity in ("order", "tag")]
        others += [pool.submit(operate, act) for act in (discard, release)]
        followers = [pool.submit(stream.follow, transactions) for stream in following]
        for follower in followers:
            follower.result()
        done.set()
        rounds = [other.result() for other in others]

    store = open_store()
    assert min(rounds) > 0
    assert heads(store) == documents(legacy.rows)
    numbers: dict[tuple[str, str], list[int]] = {}
    for row in journal(store):
        numbers.setdefault((row["entity"], row["key"]), []).append(row["version"])
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_a_replay_waits_for_captures_and_vacuum_not_for_it(open_store: Open) -> None:
    """It holds the streams' rows, which a vacuum of the journal does not want."""
    store = open_store()
    streams.begin_snapshot(store, "main/main", CATALOGUE, {})
    state = streams.load_stream(store, "main/main")
    assert state is not None

    with store.write() as connection:
        streams.hold_captures(connection)
        with open_store().engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
            other.exec_driver_sql("SET lock_timeout = '50ms'")
            other.exec_driver_sql("VACUUM document")
            with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
                streams.require_epoch(other, state)


def test_a_replay_locks_deliveries_in_the_order_of_the_queue(open_store: Open) -> None:
    """As all do who change several in one transaction, or two would wait for each other. It goes by key itself."""
    store = open_store()
    rows = Rows(store)
    for key in ("b", "a"):
        rows.versions("tag", key, {"id": 1})
        rows.delivery("tags", "tag", key, 1)
    entity = compile_entity(TAG, CATALOGUE)
    subscription = Subscription.compile(SubscriptionConfig("tags", "tag", "out"), entity.shape)
    replays = Replays(store)
    begun = replays.begin("replay", Filters(entity="tag"), 2)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"

    with ThreadPoolExecutor() as pool, open_store().write() as connection:
        first, last = connection.exec_driver_sql("SELECT seq FROM delivery ORDER BY seq").scalars()
        connection.exec_driver_sql("SELECT 1 FROM delivery WHERE seq = %s FOR UPDATE", (first,))
        written = pool.submit(Replayer(replays, {"tags": subscription}).run, begun, None, lambda _: None)
        while not connection.exec_driver_sql(waiting).scalar():
            assert not written.done()
        connection.exec_driver_sql("SELECT 1 FROM delivery WHERE seq = %s FOR UPDATE NOWAIT", (last,))
        connection.commit()
    assert written.result().written == 2


def test_what_is_superseded_is_not_waited_for(open_store: Open) -> None:
    """Dispatch holds the accepted delivery by then, for which a replay of the parked one may wait in its turn."""
    store = open_store()
    rows = Rows(store)
    for version, state in ((1, State.PARKED), (2, State.PARKED), (3, State.PENDING)):
        rows.delivery("tags", "tag", "a", version, state=int(state))
    changes = Changes()
    accepted = Delivery(3, store.name_id("subscription", "tags"), store.name_id("entity", "tag"), "a", 3, 0, 1, 0, 0, 0)
    changes.settled.append(accepted.seq)
    changes.accepted.append(accepted)

    with open_store().write() as connection:
        connection.exec_driver_sql("SELECT 1 FROM delivery WHERE version = 1 FOR UPDATE")
        with ThreadPoolExecutor() as pool:
            pool.submit(Deliveries(store).write, changes).result(timeout=20)

    with store.read() as connection:
        states = connection.execute(sa.select(tables.delivery.c.version, tables.delivery.c.state)).all()
    assert sorted(map(tuple, states)) == [(1, int(State.PARKED)), (2, int(State.SUPERSEDED))]


def test_processes_that_start_together_agree(open_store: Open) -> None:
    """On the store's identity, on the number of each name, and on who begins a stream."""
    stores = [open_store() for _ in range(4)]
    together = threading.Barrier(len(stores))

    def start(store: Store) -> tuple[str, list[int]]:
        together.wait()
        return store.identity(), [store.name_id("entity", f"e{number}") for number in range(20)]

    def begin(store: Store) -> int:
        together.wait()
        try:
            return streams.begin_snapshot(store, "main/main", CATALOGUE, {}).run
        except TakenOver:
            return 0

    with ThreadPoolExecutor(len(stores)) as pool:
        found = list(pool.map(start, stores))
        runs = list(pool.map(begin, stores))

    assert all(one == found[0] for one in found)
    assert len(set(found[0][1])) == 20
    assert max(runs) >= 1 and sorted(filter(None, runs)) == list(range(1, max(runs) + 1))


def test_one_process_at_a_time_applies_retention(open_store: Open) -> None:
    """The other is told who does."""
    lock = hold(open_store(), "retention")
    with pytest.raises(OutsideError, match=r"The retention of this store is running already: pid \d+"):
        prune(open_store(), Retention(), now())
    lock.release()

    assert prune(open_store(), Retention(), now()).versions == 0


# connections


def test_a_view_is_consistent_and_a_write_sees_what_others_have_committed(open_store: Open) -> None:
    """On the same connection of the pool, one after the other."""
    store, other = open_store(), open_store()
    count = sa.select(sa.func.count()).select_from(tables.name)
    seen = []
    for transaction in (store.read, store.write, store.read):
        with transaction() as connection:
            before = connection.execute(count).scalar_one()
            other.name_id("entity", f"made in {len(seen)}")
            seen.append(connection.execute(count).scalar_one() - before)

    assert seen == [0, 1, 0]


def test_a_ring_comes_after_its_commit(open_store: Open) -> None:
    """It takes nothing into the transaction, none follows one that failed, and several are one."""
    store, other = open_store(), open_store()
    bell = other.listen("dispatch")
    with pytest.raises(ZeroDivisionError), store.write() as connection:
        store.ring("dispatch", connection)
        raise ZeroDivisionError
    assert not bell.wait(0.1)

    with store.write() as connection:
        store.ring("dispatch", connection)
        store.ring("dispatch", connection)
        locks = connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND database = 0"
        )
        assert locks.scalar() == 0
    assert bell.wait(5)
    assert not bell.wait(0.1)
    bell.close()


def test_a_stopped_process_does_not_keep_its_transaction(open_store: Open) -> None:
    """Postgres ends it within the time in which Kafka gives the stream to another."""
    with open_store().write() as connection:
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "10s"


def test_who_wakes_up_without_its_transaction_says_so_in_a_sentence(open_store: Open) -> None:
    """Postgres calls that no operational error."""
    with pytest.raises(DBAPIError) as raised, open_store().write() as connection:
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '50ms'")
        time.sleep(0.5)
        connection.exec_driver_sql("SELECT 1")

    assert "The store cannot be used: terminating connection due to idle" in str(outside(raised.value))


def test_a_connection_that_has_died_at_rest_is_replaced(open_store: Open) -> None:
    """Nobody notices a restart of Postgres while nothing was to do."""
    store = open_store()
    with store.read() as connection:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
    with open_store().write() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    time.sleep(UNTRIED)  # as long as it is trusted without a question

    with store.write() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar() != pid


# how the tables are kept


def _options(store: Store) -> dict[str, dict[str, str]]:
    query = "SELECT relname, reloptions FROM pg_class WHERE relkind = 'r' AND reloptions IS NOT NULL"
    with store.read() as connection:
        return {name: dict(o.split("=") for o in options) for name, options in connection.exec_driver_sql(query)}


def test_queues_are_vacuumed_early_and_at_full_speed(open_store: Open) -> None:
    """At a hundredth of their rows instead of a fifth: a backlog is no reason to let dead rows pile up."""
    options = _options(open_store())

    for table in ("delivery", "fan_out", "fan_out_item", "spool"):
        assert options[table]["autovacuum_vacuum_scale_factor"] == "0.01"
        assert options[table]["autovacuum_vacuum_cost_delay"] == "0"
    for table in ("document", "attempt"):
        assert options[table]["autovacuum_vacuum_insert_scale_factor"] == "0.05"


def test_an_updated_row_stays_in_its_page(open_store: Open) -> None:
    """A tenth of the row images updated, and a stream's position at each commit: nearly all without an index entry."""
    store = open_store()
    streams.begin_snapshot(store, "main/main", CATALOGUE, {"order": "x" * 1500})
    row_image, stream = tables.row_image, tables.stream
    rows = [{"table_id": 1, "key": str(key), "run": 1, "image": b"x" * 200} for key in range(2000)]
    with store.write() as connection:
        connection.execute(row_image.insert(), rows)
    with store.write() as connection:
        connection.execute(row_image.update().where(row_image.c.key.like("%7")).values(image=b"y" * 200))
        for position in range(20):
            connection.execute(stream.update().values(position=position))
        query = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE n_tup_upd > 0"
        updated = {name: (all_of_them, hot) for name, all_of_them, hot in connection.exec_driver_sql(query)}

    assert updated["row_image"][0] == 200 and updated["row_image"][1] > 190
    assert updated["stream"] == (20, 20)


def test_workers_that_start_at_once_keep_the_definitions(store: Store) -> None:
    """The second writes what the first has not committed yet."""
    bench = Bench(store)
    bench.subscribe("crm", {"url": "http://crm.test"})
    state, id = tables.subscription_state, store.name_id("subscription", "crm")
    first = {"state": "active", "reason": "", "since": 1, "definition": "{}"}
    with ThreadPoolExecutor(1) as pool:
        with store.write() as connection:
            connection.execute(state.insert().values(subscription_id=id, **first))
            second = pool.submit(remember, store, bench.project)
            with pytest.raises(TimeoutError):
                second.result(1.0)
        assert second.result(10.0) == []

    (row,) = bench.rows(state)
    assert (row.since, row.definition == "{}") == (1, False)
