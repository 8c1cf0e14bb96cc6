from typing import Any

import pytest
import sqlalchemy as sa

from hub.documents import Event
from hub.errors import FaultError, InputError
from hub.project import Retention
from hub.store import tables
from hub.store.database import Store
from hub.store.journal import PAGE, Journal
from hub.store.retention import Pruned, erase, plan_erasure, prune

SECOND = 1_000_000
DAY = 86400 * SECOND


def _count(store: Store, table: sa.Table) -> int:
    with store.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def _numbers(store: Store, key: str) -> list[int]:
    return [version.version for version in Journal(store).history("order", key)]


def test_a_document_is_found_as_it_was(store: Store, rows: Any) -> None:
    """By newest, by number and by moment; a moment before the first version finds nothing."""
    rows.versions("order", "42", {"n": 1}, {"n": 2}, None)
    journal = Journal(store)

    assert journal.newest("order", "42").event is Event.DELETED
    assert journal.version("order", "42", 1).body == b'{"n":1}'
    assert journal.at("order", "42", rows.epoch + 2 * SECOND).body == b'{"n":2}'
    assert journal.at("order", "42", rows.epoch + SECOND - 1) is None
    assert journal.previous("order", "42", 3).version == 2
    assert journal.kept("order", "42") == (1, 3)
    assert journal.newest("order", "43") is None
    assert journal.newest("unheard", "42") is None


def test_current_documents_come_in_pages_without_gap_or_repeat(store: Store, rows: Any) -> None:
    """More than two pages, deleted ones left out, newest versions only."""
    keys = [f"{number:04}" for number in range(2 * PAGE + 10)]
    for key in keys:
        rows.versions("order", key, {"key": key}, {"key": key, "v": 2})
    rows.versions("order", "gone", {"v": 1}, None)
    rows.versions("other", "0001", {"v": 1})

    found = list(Journal(store).current("order"))

    assert [version.key for version in found] == keys
    assert {version.version for version in found} == {2}


def test_current_documents_by_the_time_of_their_last_change(store: Store, rows: Any) -> None:
    """`since` is included, `until` is not; an older version's time does not count."""
    rows.versions("order", "1", {"n": 1})
    rows.versions("order", "2", {"n": 1}, {"n": 2})

    since_second = Journal(store).current("order", since=rows.epoch + 2 * SECOND)
    until_second = Journal(store).current("order", until=rows.epoch + 2 * SECOND)

    assert [version.key for version in since_second] == ["2"]
    assert [version.key for version in until_second] == ["1"]


def test_history_comes_in_pages(store: Store, rows: Any) -> None:
    """All versions, oldest first."""
    rows.versions("order", "42", *({"n": number} for number in range(PAGE + 5)))

    assert _numbers(store, "42") == list(range(1, PAGE + 6))


@pytest.mark.parametrize("typed", ['[12,"FR"]', '[12, "FR"]', '[ 12,"FR" ]'])
def test_a_composite_key_may_be_typed_with_blanks(store: Store, rows: Any, typed: str) -> None:
    """It is found as it is stored."""
    rows.versions("order", '[12,"FR"]', {"n": 1})

    assert Journal(store).key("order", typed) == '[12,"FR"]'


def test_a_plain_key_that_looks_like_a_list_is_left_alone(store: Store, rows: Any) -> None:
    """What is stored as it was typed wins; what is no JSON stays."""
    rows.versions("order", '["a", 1]', {"n": 1})

    assert Journal(store).key("order", '["a", 1]') == '["a", 1]'
    assert Journal(store).key("order", "[x") == "[x"


def test_prune_keeps_the_newest_version_and_what_deliveries_need(store: Store, rows: Any) -> None:
    """Version 2 is a waiting delivery's before, 3 its document, 5 the newest: 1 and 4 go."""
    rows.versions("order", "42", *({"n": number} for number in range(1, 6)))
    rows.versions("order", "43", {"n": 1}, None)
    rows.delivery("crm", "order", "42", 3, before_version=2, state=1)
    retention = Retention(documents=30 * 86400, attempts=7 * 86400)

    assert prune(store, retention, rows.epoch + 31 * DAY, dry_run=True).versions == 3
    assert _numbers(store, "42") == [1, 2, 3, 4, 5]
    assert prune(store, retention, rows.epoch + 31 * DAY) == Pruned(versions=3, attempts=0, superseded=0)
    assert _numbers(store, "42") == [2, 3, 5]
    assert _numbers(store, "43") == [2]


def test_prune_keeps_what_was_current_within_the_retention(store: Store, rows: Any) -> None:
    """A version goes by its successor's age: what was current 30 days ago can still be shown."""
    rows.versions("order", "42", {"n": 1}, {"n": 2}, {"n": 3})

    moment = rows.epoch + 30 * DAY + 2 * SECOND + SECOND // 2
    assert prune(store, Retention(documents=30 * 86400), moment).versions == 1
    assert _numbers(store, "42") == [2, 3]


def test_prune_removes_old_attempts_and_superseded_deliveries(store: Store, rows: Any) -> None:
    """Attempts by their own retention; a parked delivery stays however old it is."""
    rows.versions("order", "42", {"n": 1}, {"n": 2})
    rows.attempt("crm", "order", "42", 1)
    rows.attempt("crm", "order", "42", 2, started_at=rows.epoch + 8 * DAY)
    rows.delivery("crm", "order", "42", 1, state=2, before_version=0)
    rows.delivery("crm", "order", "42", 2, state=1)

    assert prune(store, Retention(), rows.epoch + 8 * DAY) == Pruned(versions=0, attempts=1, superseded=0)
    assert prune(store, Retention(), rows.epoch + 40 * DAY).superseded == 1
    assert _count(store, tables.delivery) == 1


def test_erase_refuses_while_the_row_exists(store: Store, rows: Any) -> None:
    """And says so of a document that never was."""
    rows.versions("attendee", "7", {"name": "Ada"})

    with pytest.raises(FaultError, match="still exists"):
        plan_erasure(store, "attendee", "7")
    with pytest.raises(InputError, match="no attendee 8"):
        plan_erasure(store, "attendee", "8")


def test_erase_leaves_the_number_alone(store: Store, rows: Any) -> None:
    """Versions, deliveries and attempts go, the newest number stays without content, others' rows are untouched."""
    rows.versions("attendee", "7", {"name": "Ada"}, {"name": "Ada L."}, None)
    rows.versions("attendee", "8", {"name": "Bob"})
    rows.delivery("crm", "attendee", "7", 2)
    rows.attempt("crm", "attendee", "7", 1, detail="Ada is known")
    rows.attempt("crm", "attendee", "8", 1)
    for key, receiver_id in (("7", "ada@example.com"), ("8", "bob@example.com")):
        rows.holding("crm", "attendee", key, 1, receiver_id=receiver_id)
    plan = plan_erasure(store, "attendee", "7")

    erase(store, plan)

    assert (plan.version, plan.versions, plan.deliveries, plan.attempts, plan.untold) == (3, 2, 1, 1, ())
    assert [(v.version, v.body) for v in Journal(store).history("attendee", "7")] == [(3, None)]
    assert (_count(store, tables.delivery), _count(store, tables.attempt), _count(store, tables.ledger)) == (0, 1, 1)
    assert Journal(store).newest("attendee", "8").body == b'{"name":"Bob"}'


def test_erase_names_those_that_were_not_told(store: Store, rows: Any) -> None:
    """A receiver that has not accepted the delete would keep the person for ever."""
    rows.versions("attendee", "7", {"name": "Ada"}, None)
    rows.delivery("crm", "attendee", "7", 2, event=2, state=1)

    assert plan_erasure(store, "attendee", "7").untold == ("crm",)


@pytest.mark.parametrize("empty_store", ["sqlite"], indirect=True)
def test_erased_content_is_not_in_the_files(store: Store, rows: Any) -> None:
    """Neither in the free pages of a SQLite store nor in its log."""
    rows.versions("attendee", "7", {"name": "Unmistakable" * 500}, None)

    erase(store, plan_erasure(store, "attendee", "7"))

    files = store.path.parent.glob(f"{store.path.name}*")
    assert not [file for file in files if b"Unmistakable" in file.read_bytes()]
