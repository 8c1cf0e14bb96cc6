"""Health, readiness and metrics on real stores: what they say is what plain SQL says."""

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from hub.changes import parse_lsn
from hub.console.counts import LATENCIES, Tail
from hub.console.server import METRICS_SECONDS
from hub.console.sources import ANSWER_SECONDS, FRESH_SECONDS
from hub.locks import Lock, hold
from hub.operate.status import LogEnd, ask_log_end
from hub.project import Destination, EntityConfig, Project, Source, SubscriptionConfig
from hub.store import tables
from hub.store.database import Store, now
from hub.store.streams import note_problem
from hub.store.workers import Membership
from tests.integration.conftest import SECOND, Rows
from tests.integration.serving import served

pytestmark = pytest.mark.integration

PROJECT = Project(
    "shop",
    Path(),
    {"main": Source("main", "postgresql://hub@127.0.0.1:1/nowhere", "hub")},
    {"order": EntityConfig("order", "main", "public.orders")},
    {"crm": Destination("crm", "file"), "mail": Destination("mail", "file")},
    {
        "crm-orders": SubscriptionConfig("crm-orders", "order", "crm"),
        "mailing": SubscriptionConfig("mailing", "order", "mail"),
        'odd "name" \\ of two\nlines': SubscriptionConfig("odd", "order", "mail"),
    },
    "",
)
ODD = 'odd "name" \\ of two\nlines'


def insert(store: Store, table: sa.Table, **values: Any) -> None:
    with store.write() as connection:
        connection.execute(table.insert().values(**values))


def sql(store: Store, query: str) -> list[tuple[Any, ...]]:
    with store.read() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def begin_stream(store: Store, position: int = 0x1000, name: str = "main/main", **values: Any) -> int:
    id = store.name_id("stream", name)
    row = {
        "state": "streaming",
        "run": 1,
        "problem": "",
        "cursor": 0,
        "epoch": 1,
        "seen_at": now(),
        "position": position,
    } | values
    insert(store, tables.stream, stream_id=id, catalogue=b"{}", entities=b"{}", **row)
    return id


@pytest.fixture
def backlog(store: Store, rows: Rows) -> Store:
    """A queue of every state, a paused and a disabled subscription, a held destination, fan-outs, drift."""
    stream_id = begin_stream(store)
    rows.versions("order", "1", *({"id": 1, "n": n} for n in range(9)))
    for version in range(1, 6):
        rows.delivery("crm-orders", "order", "1", version)
    rows.delivery("crm-orders", "order", "1", 6, state=3)
    rows.delivery("crm-orders", "order", "1", 7, state=1, reason="Refused: 400")
    rows.delivery("crm-orders", "order", "1", 8, state=2)
    rows.delivery(ODD, "order", "1", 9, state=1, reason="Refused: 400")
    for name, state in (("mailing", "paused"), (ODD, "disabled")):
        id = store.name_id("subscription", name)
        insert(store, tables.subscription_state, subscription_id=id, state=state, reason="", since=1, definition="")
    held = {"held_since": rows.epoch, "reason": "503", "probe_at": 0}
    insert(store, tables.destination_state, destination="crm", **held)
    for transaction in (7, 8):
        place = {"lsn": 1, "committed_at": 1, "cause": 0, "spooled": 0, "made": 2}
        insert(store, tables.fan_out, stream_id=stream_id, transaction=transaction, **place)
    for key in ("a", "b", "c"):
        insert(store, tables.fan_out_item, entity_id=1, node=0, key=key, fan_out_id=2)
    table_id = store.name_id("table", "main/main/public.orders")
    insert(store, tables.table_state, table_id=table_id, floor=0, swept=0, drift="public.orders has n now.")
    return store


def test_a_scrape_says_what_the_store_holds(backlog: Store) -> None:
    """The queue of each subscription, who stands, who is held, what is pending; names as they are."""
    with served(backlog, PROJECT) as console:
        found = console.scrape()

    read_at = found["hub_read_timestamp_seconds",]
    assert abs(read_at - time.time()) < 30
    queue = (
        "SELECT n.name, count(*), min(d.created_at) FROM delivery d JOIN name n ON n.id = d.subscription_id "
        "WHERE d.state IN ({}) GROUP BY n.name"
    )
    waiting = {name: (count, oldest) for name, count, oldest in sql(backlog, queue.format("0, 3"))}
    parked = {name: count for name, count, _ in sql(backlog, queue.format("1"))}
    assert (waiting["crm-orders"][0], parked) == (6, {"crm-orders": 1, ODD: 1})
    for name in PROJECT.subscriptions:
        count, oldest = waiting.get(name, (0, 0))
        age = read_at - oldest / 1e6 if oldest else 0.0
        assert found["hub_subscription_waiting", name] == count
        assert found["hub_subscription_oldest_waiting_seconds", name] == pytest.approx(age, abs=0.01)
        assert found["hub_subscription_parked", name] == parked.get(name, 0)
    states = {name: [found["hub_subscription_state", state, name] for state in ("active", "paused", "disabled")]
              for name in PROJECT.subscriptions}  # fmt: skip
    assert states == {"crm-orders": [1, 0, 0], "mailing": [0, 1, 0], ODD: [0, 0, 1]}
    assert [found["hub_subscription_active", name] for name in ("crm-orders", "mailing", ODD)] == [1, 0, 0]
    assert found["hub_subscription_info", "mail", "order", "mailing"] == 1
    assert (found["hub_destination_held", "crm"], found["hub_destination_held", "mail"]) == (1, 0)
    assert found["hub_destination_held_seconds", "crm"] == pytest.approx(read_at - Rows.epoch / 1e6, abs=0.01)
    assert found["hub_destination_held_seconds", "mail"] == 0
    assert (found["hub_stream_fan_outs", "main/main"], found["hub_stream_fan_out_items", "main/main"]) == (2, 3)
    assert found["hub_stream_drifted_tables", "main/main"] == 1
    ((made_at,),) = sql(backlog, "SELECT max(made_at) FROM document")
    assert found["hub_last_version_timestamp_seconds",] == made_at / 1e6
    assert found["hub_problems",] == 6  # two parked, one disabled, one held, drift, the source


def test_what_happened_before_the_console_is_not_counted(store: Store, rows: Rows) -> None:
    """And what did not happen yet is there as 0, so that its first time is a rise."""
    rows.versions("order", "1", {"id": 1})
    rows.attempt("crm-orders", "order", "1", 1, outcome=3)
    with served(store, PROJECT) as console:
        found = console.scrape()

    assert {value for name, value in found.items() if name[0] in ("hub_attempts_total", "hub_versions_total")} == {0}
    assert found["hub_attempts_total", "refused", "crm-orders"] == 0
    assert found["hub_versions_total", "resync", "order"] == 0


def test_what_happens_is_counted_once(store: Store, rows: Rows) -> None:
    """Attempts by outcome with their time, versions by cause, and latencies as SQL has them; again, and no more."""
    rows.versions("order", "0", {"id": 0})
    rows.attempt("crm-orders", "order", "0", 1)
    ((zero,),), ((first,),) = (sql(store, f"SELECT max(seq) FROM {table}") for table in ("attempt", "document"))
    with served(store, PROJECT) as console:
        console.scrape()
        for part in ("1", "2"):
            _some_of_everything(store, rows, part)
            found = console.scrape()
            _check_counts(store, found, zero, first)
        assert {k: v for k, v in console.scrape().items() if k[0].startswith(("hub_att", "hub_del", "hub_ver"))} == {
            k: v for k, v in found.items() if k[0].startswith(("hub_att", "hub_del", "hub_ver"))
        }


def _some_of_everything(store: Store, rows: Rows, key: str) -> None:
    rows.versions("order", key, *({"n": n} for n in range(1, 9)))
    insert(
        store, tables.document, entity_id=store.name_id("entity", "order"), key=f"s{key}", version=1, event=0, cause=2,
        lsn=1, transaction=1, committed_at=1, made_at=1, body=b"{}",
    )  # fmt: skip
    committed = rows.epoch + SECOND
    for version, late in enumerate((20_000, 50_000, 50_001, 3 * SECOND, 10**12, -5 * SECOND), 1):
        began = committed + (version - 1) * SECOND + late - 3000
        rows.attempt("crm-orders", "order", key, version, started_at=began, duration=3000)
    for outcome in (1, 3, 4, 5):
        rows.attempt("mailing", "order", key, 1, outcome=outcome, duration=1_500_000)
    rows.attempt("mailing", "order", key, 1, outcome=6, duration=0)  # nothing was sent: no time to answer
    rows.attempt("mailing", "order", key, 2, replay_id=1)
    rows.attempt("mailing", "order", key, 3, turn=1)  # planned again, on purpose
    rows.attempt("mailing", "order", f"s{key}", 1)  # of the initial load
    rows.attempt("mailing", "order", "pruned", 1)


def _check_counts(store: Store, found: dict[tuple[str, ...], float], zero: int, first: int) -> None:
    outcomes = ("delivered", "retry", "reschedule", "refused", "dead", "held", "unchanged")
    query = (
        "SELECT n.name, a.outcome, count(*), sum(a.duration) FROM attempt a JOIN name n ON n.id = a.subscription_id "
        f"WHERE a.seq > {zero} GROUP BY n.name, a.outcome"
    )
    counted = sql(store, query)
    expected = {(outcomes[outcome], name): count for name, outcome, count, _ in counted}
    assert len(expected) == 7
    assert {key[1:]: v for key, v in found.items() if key[0] == "hub_attempts_total" and v} == expected
    for name in PROJECT.subscriptions:
        tried = sum(count for subscription, outcome, count, _ in counted if subscription == name and outcome != 6)
        spent = sum(int(duration) for subscription, _, _, duration in counted if subscription == name)
        assert found["hub_attempt_duration_seconds_count", name] == tried
        assert found["hub_attempt_duration_seconds_sum", name] == pytest.approx(spent / 1e6)
    query = (
        "SELECT a.started_at + a.duration - d.committed_at FROM attempt a JOIN document d ON d.entity_id = a.entity_id "
        f"AND d.key = a.key AND d.version = a.version WHERE a.seq > {zero} AND a.outcome = 0 AND d.cause = 0 "
        "AND a.replay_id IS NULL AND a.turn = 0"
    )
    latencies = [max(0, late) / 1e6 for (late,) in sql(store, query)]
    assert len(latencies) in (6, 12)
    for edge in LATENCIES:
        below = sum(late <= edge for late in latencies)
        assert found["hub_delivery_latency_seconds_bucket", str(edge), "crm-orders"] == below
    assert found["hub_delivery_latency_seconds_count", "crm-orders"] == len(latencies)
    assert found["hub_delivery_latency_seconds_sum", "crm-orders"] == pytest.approx(sum(latencies))
    assert found["hub_delivery_latency_seconds_count", "mailing"] == 0
    causes = ("row", "filter", "snapshot", "resync")
    made = sql(store, f"SELECT cause, count(*) FROM document WHERE seq > {first} GROUP BY cause")
    assert {key[1]: v for key, v in found.items() if key[0] == "hub_versions_total" and v} == {
        causes[cause]: count for cause, count in made
    }


def test_a_window_at_a_time(store: Store, rows: Rows) -> None:
    """More than one view counts is counted by several, each row once."""
    rows.versions("order", "1", *({"n": n} for n in range(10)))
    seen: list[int] = []

    def add(connection: sa.Connection, which: sa.ColumnElement[bool]) -> int:
        found = list(connection.scalars(sa.select(tables.document.c.seq).where(which)))
        seen.extend(found)
        return len(found)

    ((last,),) = sql(store, "SELECT max(seq) FROM document")
    tail = Tail(tables.document.c.seq, last - 10, window=3)
    tail.count(store, add)

    assert seen == list(range(last - 9, last + 1))
    assert tail.gaps == {}


def test_a_transaction_that_ends_after_a_later_one_is_counted(database: str) -> None:
    """On Postgres two captures write at one time: what commits late has the lower numbers."""
    store = Store(database.replace("postgresql://", "postgresql+psycopg://"))
    tables.metadata.create_all(store.engine)
    rows, entity_id = Rows(store), store.name_id("entity", "order")
    columns = "(entity_id, key, version, event, cause, lsn, transaction, committed_at, made_at)"
    late = f"INSERT INTO document {columns} VALUES ({entity_id}, %s, 1, 0, 0, 1, 1, 1, 1)"
    with served(store, PROJECT) as console, psycopg.connect(database) as slow:
        slow.execute(late, ["late"])
        rows.versions("order", "early", {"n": 1}, {"n": 2})
        assert console.scrape()["hub_versions_total", "row", "order"] == 2
        slow.commit()
        assert console.scrape()["hub_versions_total", "row", "order"] == 3
        slow.execute(late, ["never"])
        slow.rollback()
        rows.versions("order", "after", {"n": 1})
        for _ in range(2):
            assert console.scrape()["hub_versions_total", "row", "order"] == 4
    store.close()


@pytest.fixture
def slot(database: str) -> Iterator[str]:
    with psycopg.connect(database, autocommit=True) as source:
        name = "console_" + database.rpartition("/")[2]
        source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        yield name


def test_a_stream_is_held_against_its_source(store: Store, database: str, slot: str) -> None:
    """Bytes as the server counts them; seconds from when it was seen to be past us, and 0 once we are level again."""

    def ask(_: str) -> LogEnd:
        return ask_log_end(lambda: psycopg.connect(database, autocommit=True), slot)

    with psycopg.connect(database, autocommit=True) as source:
        end = _log_end(source)
        id = begin_stream(store, end, seen_at=now() - 3600 * SECOND)
        with served(store, PROJECT, ask=ask) as console:
            level = console.scrape()
            source.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 100000))")
            behind, lagging = _look_again(console), _look_again(console)
            now_at = _log_end(source)
            with store.write() as connection:
                moved = tables.stream.update().where(tables.stream.c.stream_id == id)
                connection.execute(moved.values(position=now_at))
            again = _look_again(console)
            kept = source.execute(
                "SELECT pg_current_wal_lsn() - restart_lsn FROM pg_replication_slots WHERE slot_name = %s", [slot]
            ).fetchone()

    assert level["hub_stream_lag_seconds", "main/main"] == 0
    assert behind["hub_stream_lag_bytes", "main/main"] >= 100_000
    assert lagging["hub_stream_lag_bytes", "main/main"] == pytest.approx(now_at - end, abs=10_000)
    assert behind["hub_stream_lag_seconds", "main/main"] < 3  # not the hour since something was stored
    assert 3 <= lagging["hub_stream_lag_seconds", "main/main"] < 20
    assert again["hub_stream_lag_seconds", "main/main"] == 0
    assert kept and again["hub_stream_slot_kept_bytes", "main/main"] == pytest.approx(int(kept[0]), abs=10_000)
    assert again["hub_stream_source_up", "main/main"] == 1
    assert again["hub_stream_slot_active", "main/main"] == 0
    statuses = {key[1]: v for key, v in again.items() if key[0] == "hub_stream_slot_wal_status"}
    assert statuses == {"reserved": 1, "extended": 0, "unreserved": 0, "lost": 0, "missing": 0}


def _log_end(source: psycopg.Connection[Any]) -> int:
    row = source.execute("SELECT pg_current_wal_lsn()::text").fetchone()
    assert row
    return parse_lsn(row[0])


def _look_again(console: Any) -> dict[tuple[str, ...], float]:
    """Once the sources' last answers are no longer as good as new ones."""
    time.sleep(FRESH_SECONDS + 0.1)
    return dict(console.scrape())


def test_a_slot_that_is_gone_is_missing(store: Store, database: str) -> None:
    """And a stream that was never started has no slot to speak of."""

    def ask(_: str) -> LogEnd:
        return ask_log_end(lambda: psycopg.connect(database, autocommit=True), "nobody")

    begin_stream(store)
    with served(store, PROJECT, streams=("main/main", "main/new"), ask=ask) as console:
        found = console.scrape()

    assert found["hub_stream_slot_wal_status", "missing", "main/main"] == 1
    assert found["hub_stream_state", "not_started", "main/new"] == 1
    assert not [key for key in found if key[0].startswith(("hub_stream_slot", "hub_stream_lag")) and "main/new" in key]


def test_a_source_that_does_not_answer_delays_nothing(store: Store) -> None:
    """One refuses, one hangs: both are down in the figures, the rest is there, and the hanging one is asked once."""
    begin_stream(store)
    begin_stream(store, name="main/sales")
    go, asked = threading.Event(), list[str]()

    def ask(stream: str) -> LogEnd:
        asked.append(stream)
        if stream == "main/sales":
            go.wait(60)
        return LogEnd(unreachable="The source at db:5432 cannot be reached.")

    with served(store, PROJECT, streams=("main/main", "main/sales"), ask=ask) as console:
        began = time.monotonic()
        found = console.scrape()
        took = time.monotonic() - began
        time.sleep(FRESH_SECONDS + 0.1)
        began = time.monotonic()
        console.scrape()
        took_again = time.monotonic() - began
        go.set()

    assert ANSWER_SECONDS <= took < METRICS_SECONDS
    assert took_again < 1
    assert [found["hub_stream_source_up", name] for name in ("main/main", "main/sales")] == [0, 0]
    assert not [key for key in found if key[0].startswith(("hub_stream_slot", "hub_stream_lag"))]
    assert found["hub_subscription_waiting", "mailing"] == 0
    assert sorted(asked) == ["main/main", "main/main", "main/sales"]


class Member:
    """A dispatch worker of a Postgres store, as far as others see it."""

    def __init__(self, store: Store) -> None:
        self._membership = Membership(store, {})
        self._membership.join()

    def release(self) -> None:
        self._membership.leave()


def dispatching(store: Store) -> Lock:
    return hold(store, "dispatch") if store.is_sqlite else Member(store)


def test_readiness_turns_with_the_roles(store: Store) -> None:
    """Ready while both run and no stream has a problem; each fault is named, and roles are up in the metrics."""
    begin_stream(store)
    with served(store, PROJECT) as console:
        nobody = console.get("/readyz")
        capture, dispatch = hold(store, "capture main/main"), dispatching(store)
        both, found = console.get("/readyz"), console.scrape()
        note_problem(store, "main/main", "The replication slot hub is gone.")
        stands, up = console.get("/readyz"), console.scrape()["hub_stream_up", "main/main"]
        note_problem(store, "main/main", "")
        dispatch.release()
        undelivered = console.get("/readyz")
        capture.release()

    assert (nobody.status, len(nobody.json["problems"])) == (503, 2)
    assert (both.status, both.json) == (200, {"ready": True, "problems": []})
    assert [found["hub_role_up", *role] for role in (("capture", "main/main"), ("dispatch", ""))] == [1, 1]
    assert found["hub_stream_up", "main/main"] == 1
    assert (stands.status, stands.json) == (
        503,
        {"ready": False, "problems": ["Stream main/main stands still: The replication slot hub is gone."]},
    )
    assert up == 0
    assert (undelivered.status, undelivered.json["problems"]) == (
        503,
        ["Nothing is delivered: dispatch does not run. Start `hub run`."],
    )


def test_what_waits_for_a_receiver_is_no_unreadiness(backlog: Store) -> None:
    """Parked, held, disabled, drifted, and a source that the console does not reach."""
    capture, dispatch = hold(backlog, "capture main/main"), dispatching(backlog)
    with served(backlog, PROJECT) as console:
        assert console.get("/readyz").status == 200
    capture.release()
    dispatch.release()


def test_a_store_that_cannot_be_read(store: Store) -> None:
    """Health goes on, readiness and metrics say it in a sentence, and all is well once it is mended."""
    with served(store, PROJECT) as console:
        with store.write() as connection:
            connection.exec_driver_sql("ALTER TABLE delivery RENAME TO elsewhere")
            connection.exec_driver_sql("ALTER TABLE stream RENAME TO stream_elsewhere")
        answers = [console.get(path) for path in ("/healthz", "/readyz", "/metrics")]
        with store.write() as connection:
            connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO delivery")
            connection.exec_driver_sql("ALTER TABLE stream_elsewhere RENAME TO stream")
        again = console.get("/metrics")

    assert [answer.status for answer in answers] == [200, 503, 503]
    assert answers[1].json["problems"][0].startswith("The store cannot be read: ")
    assert answers[2].text.startswith("The store cannot be read: ")
    assert not re.search(r"SELECT|Error", answers[1].text + answers[2].text)
    assert again.status == 200


def test_a_store_that_answers_late(database: str) -> None:
    """A scrape gives the last figures, which say of when they are; without any it is refused. It never hangs."""
    store = Store(database.replace("postgresql://", "postgresql+psycopg://"))
    tables.metadata.create_all(store.engine)
    with served(store, PROJECT) as console:
        with _locked(database):
            began = time.monotonic()
            refused = console.get("/metrics")
            took = time.monotonic() - began
        first = console.scrape()
        with _locked(database):
            old = console.scrape()
        fresh = console.scrape()
    store.close()

    assert (refused.status, took < METRICS_SECONDS + 2) == (503, True)
    assert "did not answer within 6 seconds" in refused.text
    assert old["hub_read_timestamp_seconds",] == first["hub_read_timestamp_seconds",]
    assert fresh["hub_read_timestamp_seconds",] > old["hub_read_timestamp_seconds",]


@contextmanager
def _locked(database: str) -> Iterator[None]:
    with psycopg.connect(database) as holder:
        holder.execute("LOCK TABLE delivery IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer wrong", "Bearer s3crét-", "Basic s3crét", "s3crét"])
def test_metrics_ask_for_the_token(tmp_path: Path, shown: str) -> None:
    """401 and a sentence for all but health and readiness; whether a page exists is not told either."""
    with served(_sqlite(tmp_path), PROJECT, token="s3crét") as console:
        header = {"Authorization": shown.encode().decode("latin-1")} if shown else {}
        answers = {path: console.get(path, **header) for path in ("/metrics", "/nothing", "/healthz", "/readyz")}

    assert {path: answer.status for path, answer in answers.items()} == {
        "/metrics": 401, "/nothing": 401, "/healthz": 200, "/readyz": 503,
    }  # fmt: skip
    assert answers["/metrics"].headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer TOKEN" in answers["/metrics"].text
    assert answers["/readyz"].json == {"ready": False}
    assert "s3cr" not in "".join(answer.text for answer in answers.values())


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_who_shows_the_token_gets_in(tmp_path: Path, scheme: str) -> None:
    """And readiness names its problems."""
    with served(_sqlite(tmp_path), PROJECT, token="s3crét") as console:
        header = {"Authorization": f"{scheme} s3crét".encode().decode("latin-1")}
        answers = {path: console.get(path, **header) for path in ("/metrics", "/nothing", "/readyz")}

    assert {path: answer.status for path, answer in answers.items()} == {
        "/metrics": 200,
        "/nothing": 404,
        "/readyz": 503,
    }
    assert len(answers["/readyz"].json["problems"]) == 2


def test_http_as_one_expects_it(tmp_path: Path) -> None:
    """HEAD, paths that do not exist, methods that do nothing, and both formats of metrics."""
    with served(_sqlite(tmp_path), PROJECT) as console:
        head = console.get("/metrics", method="HEAD")
        missing, posted = console.get("/metrics/"), console.get("/metrics", method="POST")
        plain, open_metrics = console.get("/metrics"), console.get("/metrics", Accept="application/openmetrics-text")

    assert (head.status, head.text, int(head.headers["content-length"]) > 1000) == (200, "", True)
    assert (missing.status, missing.text) == (404, "There is no such page. There are /healthz, /readyz and /metrics.\n")
    assert (posted.status, posted.text) == (405, "Nothing can be changed here: use GET or HEAD.\n")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text; version=")
    assert open_metrics.text.endswith("# EOF\n")


def _sqlite(directory: Path) -> Store:
    store = Store(f"sqlite:///{directory / 'hub.db'}")
    tables.metadata.create_all(store.engine)
    return store
