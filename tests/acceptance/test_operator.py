"""The operator's commands as subprocesses, on a store as capture and dispatch leave it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from hub.catalogue import Catalogue, Column, Kind, Table
from hub.commands import main
from hub.project.files import load
from hub.store import tables
from hub.store.database import Store, now
from hub.store.definitions import remember
from hub.store.migrate import upgrade

SECOND = 1_000_000
PROJECT = {
    "hub.yaml": """
hub: shop
sources: {main: {url: "postgresql://hub@127.0.0.1:1/nowhere", slot: hub}}
store: sqlite:///hub.db
""",
    "entities/order.yaml": "entity: order\ntable: public.orders\nkey: id\n",
    "destinations/out.yaml": "destination: out\nconnector: file\npath: out.jsonl\n",
    "subscriptions/all.yaml": "subscription: all\nentity: order\nto: out\n",
    "subscriptions/paid.yaml": "subscription: paid\nentity: order\nto: out\nmatch: {status: [paid]}\n",
}
ORDERS = Table(
    name="public.orders",
    relkind="r",
    persistence="p",
    columns=(
        Column("id", "integer", "int4", Kind.INTEGER, not_null=True),
        Column("status", "text", "text", Kind.TEXT),
        Column("total", "double precision", "float8", Kind.FLOAT),
    ),
    primary_key=("id",),
)
Hub = Callable[..., str]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Order 42 in three versions, 43 in two of which the last is a delete; 42's versions sent, the last is parked."""
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    store = Store(f"sqlite:///{tmp_path / 'hub.db'}")
    upgrade(store)
    _stream(store)
    for number, status in enumerate(("new", "paid", "sent"), 1):
        _version(store, "42", number, f'{{"id":42,"status":"{status}","total":1.10}}'.encode(), number > 1)
    _version(store, "43", 1, b'{"id":43,"status":"new","total":5}', False)
    _version(store, "43", 2, None, True)
    _sent(store, tables.attempt, 1, started_at=_at(1) + 4000, duration=2000, number=1, outcome=0, detail="200")
    _sent(
        store, tables.delivery, 3, before_version=2, state=1, due_at=0, attempts=1, created_at=_at(3), cause=0,
        reason="Refused: 400 no",
    )  # fmt: skip
    return store


def _at(number: int) -> int:
    return now() // SECOND * SECOND - (100 - number) * SECOND


def _stream(store: Store) -> None:
    values = {
        "position": 0x1000,
        "state": "streaming",
        "run": 1,
        "catalogue": msgspec.json.encode(Catalogue({"public.orders": ORDERS}, 150000)),
        "entities": b"{}",
        "problem": "",
        "seen_at": now(),
        "cursor": 0,
        "epoch": 1,
    }
    id = store.name_id("stream", "main/main")
    with store.write() as connection:
        connection.execute(tables.stream.insert().values(stream_id=id, **values))


def _version(store: Store, key: str, number: int, body: bytes | None, before: bool) -> None:
    values = {
        "entity_id": store.name_id("entity", "order"),
        "event": 2 if body is None else int(before),
        "cause": 0,
        "lsn": 0x100 * number,
        "transaction": 700 + number,
        "committed_at": _at(number),
        "made_at": _at(number) + 2000,
    }
    with store.write() as connection:
        connection.execute(tables.document.insert().values(key=key, version=number, body=body, **values))


def _sent(store: Store, table: sa.Table, version: int, **values: Any) -> None:
    ids = {"subscription_id": store.name_id("subscription", "all"), "entity_id": store.name_id("entity", "order")}
    with store.write() as connection:
        connection.execute(table.insert().values(key="42", version=version, turn=0, event=1, **ids, **values))


@pytest.fixture
def hub(store: Store, tmp_path: Path) -> Hub:
    def run(*arguments: str, ends_with: int = 0) -> str:
        command = [sys.executable, "-m", "hub", "--project", str(tmp_path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == ends_with, f"{arguments}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if not ends_with else done.stdout + done.stderr

    return run


def _lines(output: str) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def test_documents_are_listed_and_shown_digit_by_digit(hub: Hub) -> None:
    """The object has exactly the contract's keys; 1.10 stays 1.10; a deleted document is not listed."""
    listed = hub("documents", "list", "--json")

    (one,) = _lines(listed)
    assert list(one) == ["entity", "key", "version", "event", "cause", "lsn", "transaction", "committed_at", "document"]
    assert (one["entity"], one["key"], one["version"], one["lsn"]) == ("order", "42", 3, "0/300")
    assert '"total":1.10' in listed
    assert one["committed_at"].endswith("Z")
    assert hub("documents", "show", "order", "42", "--json") == listed


def test_a_document_is_shown_as_it_was(hub: Hub, store: Store) -> None:
    """By version and by time, deleted ones too."""
    assert (
        json.loads(hub("documents", "show", "order", "42", "--version", "2", "--json"))["document"]["status"] == "paid"
    )
    assert json.loads(hub("documents", "show", "order", "42", "--at", "0s", "--json"))["version"] == 3
    assert json.loads(hub("documents", "show", "order", "43", "--json"))["document"] is None
    assert "deleted" in hub("documents", "show", "order", "43")


def test_history_and_diff_name_what_changed(hub: Hub) -> None:
    """Paths, with what stood there before and after."""
    assert [version["version"] for version in _lines(hub("documents", "history", "order", "42", "--json"))] == [1, 2, 3]
    assert "    status" in hub("documents", "history", "order", "42")
    assert hub("documents", "diff", "order", "42", "1", "3") == 'status: "new" -> "sent"\n'
    assert json.loads(hub("documents", "diff", "order", "42", "1", "3", "--json"))["changed"] == [
        {"path": "status", "before": "new", "after": "sent"}
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["documents", "show", "ordre", "42"], "Did you mean order"),
        (["documents", "show", "order", "7"], "There is no order 7"),
        (["documents", "show", "order", "42", "--version", "9"], "versions 1 to 3"),
        (["documents", "show", "order", "42", "--at", "9d"], "versions 1 to 3"),
        (["documents", "list", "--since", "yesterday"], "is no time"),
        (["replay"], "what to send"),
        (["replay", "--subscription", "al"], "Did you mean all"),
        (["replay", "--from-lsn", "x", "--yes"], "is no WAL position"),
        (["replay", "--entity", "order", "--rate", "fast"], "is no rate"),
        (["replay", "--resume"], "No replay was cut off"),
        (["backfill", "nobody"], "There is no subscription"),
    ],
)
def test_bad_input_gets_a_sentence(store: Store, tmp_path: Path, arguments: list[str], said: str) -> None:
    """Exit code 2, what is wrong and what there is instead."""
    done = CliRunner().invoke(main, ["--project", str(tmp_path), *arguments])

    assert (done.exit_code, said in done.output) == (2, True), done.output


def test_erase_refuses_what_exists_and_forgets_what_is_gone(hub: Hub, store: Store) -> None:
    """The newest number stays, without content."""
    assert "still exists" in hub("documents", "erase", "order", "42", "--yes", ends_with=1)
    hub("documents", "erase", "order", "43", "--yes")

    assert [v["version"] for v in _lines(hub("documents", "history", "order", "43", "--json"))] == [2]


def test_a_trace_says_what_the_receiver_has(hub: Hub, store: Store) -> None:
    """Of whichever version it is, by its own id; one that has accepted nothing yet is left out."""
    names = {"entity_id": store.name_id("entity", "order"), "key": "42", "event": 0, "content": b""}
    for subscription, version, receiver_id in (("all", 1, "0035g"), ("paid", 0, "")):
        row = {"version": version, "receiver_id": receiver_id, "accepted_at": SECOND}
        row["subscription_id"] = store.name_id("subscription", subscription)
        with store.write() as connection:
            connection.execute(tables.ledger.insert().values(names | row))

    at = "1970-01-01T00:00:01.000000Z"
    assert f"all has version 1 as 0035g: created, accepted at {at}" in hub("trace", "order", "42")
    assert json.loads(hub("trace", "order", "42", "--json"))["receivers"] == [
        {"subscription": "all", "version": 1, "event": "created", "receiver_id": "0035g", "accepted_at": at}
    ]


def test_a_trace_has_times_at_every_step(hub: Hub) -> None:
    """From the commit, in milliseconds: document, answer; what is parked says why."""
    first = json.loads(hub("trace", "order", "42", "--version", "1", "--json"))
    newest = json.loads(hub("trace", "order", "42", "--json"))

    assert first["made_after_ms"] == 2.0
    (delivery,) = first["deliveries"]
    assert (delivery["subscription"], delivery["state"]) == ("all", "delivered")
    assert delivery["attempts"][0]["after_ms"] == pytest.approx(6.0)
    assert (newest["deliveries"][0]["state"], newest["deliveries"][0]["reason"]) == ("parked", "Refused: 400 no")
    assert "Refused: 400 no" in hub("trace", "order", "42")


def test_explain_names_the_condition(hub: Hub) -> None:
    """Per subscription."""
    said = hub("explain", "order", "42", "--version", "1")

    assert "all: sent as created" in said
    assert "paid: not sent. The document is not in the set:" in said


def test_a_replay_shows_its_plan_then_queues_it(hub: Hub, store: Store) -> None:
    """A dry run changes nothing; the real one ends each document with its newest."""
    plan = json.loads(hub("replay", "--subscription", "all", "--key", "42", "--to-lsn", "0/100", "--dry-run", "--json"))
    assert (plan["documents"], plan["versions"], plan["subscriptions"]) == (1, 2, {"all": 2})
    assert _queued(store) == [3]

    done = json.loads(hub("replay", "--subscription", "all", "--key", "42", "--to-lsn", "0/100", "--yes", "--json"))

    assert (done["written"], done["finished_at"] is not None) == (2, True)
    assert _queued(store) == [1, 3]
    assert "1 of" not in hub("replay", "--list")
    assert [one["id"] for one in _lines(hub("replay", "--list", "--json"))] == [done["id"]]


def test_a_plan_counts_in_words(hub: Hub) -> None:
    """One of something is not several."""
    one = hub("replay", "--subscription", "all", "--key", "42", "--transaction", "703", "--dry-run")
    two = hub("replay", "--subscription", "all", "--key", "42", "--to-lsn", "0/100", "--dry-run")

    assert one.startswith("replay: 1 version of 1 document, 1 delivery\n")
    assert two.startswith("replay: 2 versions of 1 document, 2 deliveries\n")


def test_a_replay_of_what_failed(hub: Hub, store: Store) -> None:
    """What was parked waits again."""
    hub("replay", "--failed", "--yes")

    with store.read() as connection:
        rows = connection.execute(sa.select(tables.delivery.c.version, tables.delivery.c.state)).all()
    assert [tuple(row) for row in rows] == [(3, 0)]


@pytest.mark.parametrize("command", [["replay", "--entity", "order"], ["backfill", "mails"]])
def test_what_cannot_be_taken_back_is_not_replayed(hub: Hub, store: Store, tmp_path: Path, command: list[str]) -> None:
    """Unless that is said; its plan may be looked at."""
    mail = "destination: mail\nconnector: smtp\nhost: smtp.example.com\nfrom: shop@shop.example\n"
    (tmp_path / "destinations/mail.yaml").write_text(mail)
    (tmp_path / "subscriptions/mails.yaml").write_text("subscription: mails\nentity: order\nto: mail\n")

    assert "mails" in hub(*command, "--dry-run")
    said = hub(*command, "--yes", ends_with=2)
    assert "What mails delivers cannot be taken back" in said
    assert "--side-effects" in said
    assert hub("replay", "--list", "--json") == ""
    assert "deliveries are in the queue" in hub(*command, "--yes", "--side-effects")


def test_a_replay_needs_a_yes(hub: Hub, store: Store) -> None:
    """Without a terminal and without --yes nothing is queued."""
    hub("replay", "--entity", "order", ends_with=1)

    assert _queued(store) == [3]


def test_a_backfill_queues_the_set(hub: Hub, store: Store) -> None:
    """Order 42 is outside the set of paid ones."""
    assert "Nothing fits" in hub("backfill", "paid", "--yes")
    hub("backfill", "all", "--yes")

    assert _queued(store) == [3]


def test_a_backfill_deletes_what_a_changed_set_leaves_out(hub: Hub, store: Store, tmp_path: Path) -> None:
    """Its plan says so, and that the hub has not run with the set yet; its next start says what to do."""
    remember(store, load(tmp_path, {}))
    assert "last ran" not in hub("backfill", "all", ends_with=1)
    (tmp_path / "subscriptions/all.yaml").write_text(
        "subscription: all\nentity: order\nto: out\nmatch: {status: [paid]}\n"
    )

    plan = hub("backfill", "all", ends_with=1)
    said = remember(store, load(tmp_path, {}))
    again = remember(store, load(tmp_path, {}))
    done = json.loads(hub("backfill", "all", "--yes", "--json"))

    assert "1 of them delete what the receiver has, or may have" in plan
    assert "The hub last ran without all as it is now." in plan
    assert (len(said), again) == (1, [])
    assert "`hub backfill all`" in said[0]
    assert (done["deliveries"], done["deleted"]) == (1, 1)
    with store.read() as connection:
        (row,) = connection.execute(sa.select(tables.delivery)).all()
    assert (row.version, row.before_version, row.event, row.state) == (3, 3, 2, 0)


def _queued(store: Store) -> list[int]:
    with store.read() as connection:
        return list(connection.scalars(sa.select(tables.delivery.c.version).order_by(tables.delivery.c.seq)))


def test_status_fails_when_an_operator_is_needed(hub: Hub) -> None:
    """What is parked, and a source out of reach, are named with what to do."""
    said = hub("status", ends_with=1)
    shown = json.loads(hub("status", "--json", ends_with=1).splitlines()[0])

    assert "all: 1 parked" in said
    assert "source unreachable" in said
    assert shown["streams"][0]["position"] == "0/1000"
    assert {one["subscription"]: one["parked"] for one in shown["subscriptions"]} == {"all": 1, "paid": 0}


def test_status_says_until_when_a_destination_asked_for_time(hub: Hub, store: Store) -> None:
    """Nothing is wrong with it, and what waits goes on by itself; a time that is over is not shown."""
    until = 4_102_444_800_000_000  # 2100-01-01
    state = {"held_since": 0, "reason": "429 daily quota", "probe_at": until, "failures": 0}
    with store.write() as connection:
        connection.execute(tables.destination_state.insert().values(destination="out", **state))

    said = hub("status", ends_with=1)
    assert "Destination out asked for time until 2100-01-01T00:00:00.000000Z: 429 daily quota" in said
    assert "held" not in said
    (shown,) = json.loads(hub("status", "--json", ends_with=1).splitlines()[0])["destinations"]
    assert (shown["held_since"], shown["paused_until"]) == (None, "2100-01-01T00:00:00.000000Z")

    with store.write() as connection:
        connection.execute(tables.destination_state.update().values(probe_at=1))
    assert "asked for time" not in hub("status", ends_with=1)


def test_the_store_is_pruned_and_upgraded(hub: Hub) -> None:
    """Nothing is old enough, and the store is of this version already."""
    assert json.loads(hub("store", "prune", "--dry-run", "--json"))["versions"] == 0
    assert "already" in hub("store", "upgrade")


def test_verify_without_source_says_so(hub: Hub) -> None:
    """Exit code 3."""
    hub("verify", ends_with=3)


def test_there_is_no_store_yet(hub: Hub, tmp_path: Path) -> None:
    """Reading one does not make it."""
    for file in tmp_path.glob("hub.db*"):
        file.unlink()

    assert "There is no store" in hub("status", ends_with=3)
    assert not list(tmp_path.glob("hub.db"))
