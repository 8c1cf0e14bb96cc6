"""Documents as rows of another database, real Postgres and SQLite."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from connectors.sql import CONNECTOR, SqlConnector
from hub.connector import System, read_settings
from hub.delivery import Message, Outcome, OutcomeKind
from hub.errors import ProjectError
from hub.project import Destination, Limits
from hub.store.workers import Evicted
from tests.integration.conftest import assert_kit_passes, sqlalchemy_url

pytestmark = pytest.mark.integration

DELIVERED, REFUSED, HELD = OutcomeKind.DELIVERED, OutcomeKind.REFUSED, OutcomeKind.HELD
TABLE = """
CREATE TABLE orders (
  id integer PRIMARY KEY, status text, total numeric(10,2) CHECK (total >= 0), placed timestamp, paid boolean,
  "Of:100%" {json}, hub_version bigint, gone boolean
)
"""
Execute = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database with the table `orders`."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'other.db'}"
    return sqlalchemy_url(request.getfixturevalue("database"))


@pytest.fixture
def execute(url: str) -> Iterator[Execute]:
    engine = sa.create_engine(url)

    def run(statement: str) -> list[tuple[Any, ...]]:
        with engine.begin() as connection:
            result = connection.execute(sa.text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    run(TABLE.format(json="text" if url.startswith("sqlite") else "jsonb"))
    yield run
    engine.dispose()


def message(key: str, version: int, row: Any = None, *, event: str = "updated") -> Message:
    content = b"null" if row is None else json.dumps(row).encode()
    return Message(f"msg_{key}_{version}", "orders", "order", key, version, event, content, "application/json", 1)


def cloud_event(key: str, version: int, document: Any) -> Message:
    content = json.dumps({"specversion": "1.0", "id": "1", "data": {"document": document, "before": None}}).encode()
    kind = "application/cloudevents+json"
    return Message("msg_1", "orders", "order", key, version, "created", content, kind, 1)


def deliver(url: str, *batches: Sequence[Message], **more: Any) -> list[Outcome]:
    """Each batch in a call of its own."""
    settings = {"url": url, "table": "orders", "key": "id", **more}

    async def run() -> list[Outcome]:
        connector = SqlConnector(read_settings(CONNECTOR, Destination("other", "sql", settings=settings)), Limits())
        try:
            return [outcome for batch in batches for outcome in await connector.deliver(batch)]
        finally:
            await connector.close()

    return asyncio.run(run())


def kinds(outcomes: Sequence[Outcome]) -> list[OutcomeKind]:
    return [one.kind for one in outcomes]


def test_a_document_is_a_row(url: str, execute: Execute) -> None:
    """By the columns' types; what a later version does not name stays; a null clears."""
    first = {"status": "new", "total": "12.50", "placed": "2024-01-02T03:04:05", "paid": True, "Of:100%": {"a": [1.5]}}
    outcomes = deliver(url, [message("1", 1, first)], [message("1", 2, {"status": None, "total": "7"})])

    assert kinds(outcomes) == [DELIVERED, DELIVERED]
    row = execute('SELECT id, status, total, placed, paid, "Of:100%", hub_version FROM orders')[0]
    placed, nested = str(row[3]).replace(" ", "T"), row[5] if isinstance(row[5], dict) else json.loads(row[5])
    assert (row[0], row[1], float(row[2]), placed, bool(row[4]), nested, row[6]) == (
        1,
        None,
        7.0,
        "2024-01-02T03:04:05",
        True,
        {"a": [1.5]},
        2,
    )


def test_the_conformance_kit_passes(url: str, execute: Execute) -> None:
    """What is delivered is read from the table."""
    execute("CREATE TABLE documents (id text PRIMARY KEY, name text, hub_version bigint)")
    system = System({"url": url}, lambda key: bool(execute(f"SELECT 1 FROM documents WHERE id = '{key}'")))

    assert_kit_passes("sql", CONNECTOR, system)


def test_a_whole_document_fills_the_columns_there_are(url: str, execute: Execute) -> None:
    """Without a `body`, what the table has no column for is left out."""
    document = {"id": 5, "status": "paid", "customer": {"name": "Ada"}}

    assert kinds(deliver(url, [cloud_event("5", 3, document)])) == [DELIVERED]
    assert execute("SELECT id, status, hub_version FROM orders") == [(5, "paid", 3)]


@pytest.mark.parametrize("deleted", ["", "gone"])
def test_an_older_version_never_overwrites_a_newer_one(url: str, execute: Execute, deleted: str) -> None:
    """Whatever the order of arrival; the same one may come again. A delete is a version too."""
    more = {"deleted": deleted}
    deliver(url, [message("1", 3, {"status": "new"})], [message("1", 2, {"status": "old"})], **more)
    assert execute("SELECT status, hub_version FROM orders") == [("new", 3)]

    deliver(url, [message("1", 2, event="deleted")], [message("1", 3, {"status": "again"})], **more)
    assert execute("SELECT status, hub_version FROM orders") == [("again", 3)]

    deliver(url, [message("1", 4, event="deleted")], [message("1", 4, event="deleted")], **more)
    left = execute("SELECT hub_version, gone FROM orders")
    assert [(version, bool(gone)) for version, gone in left] == ([(4, True)] if deleted else [])
    if deleted:
        deliver(url, [message("1", 3, {"status": "late"})], **more)
        assert [bool(row[0]) for row in execute("SELECT gone FROM orders")] == [True]
        deliver(url, [message("1", 5, {"status": "back"})], **more)
        assert [(row[0], bool(row[1])) for row in execute("SELECT status, gone FROM orders")] == [("back", False)]


@pytest.mark.usefixtures("evicted")
def test_a_worker_that_may_not_send_any_more_writes_nothing(url: str, execute: Execute) -> None:
    """What it wrote in its transaction is rolled back, deletes too."""
    execute("INSERT INTO orders (id, hub_version) VALUES (2, 1)")
    with pytest.raises(Evicted):
        deliver(url, [message("1", 1, {"status": "new"}), message("2", 2, event="deleted")])

    assert execute("SELECT id FROM orders") == [(2,)]


def test_a_batch_ends_each_document_with_its_newest(url: str, execute: Execute) -> None:
    """A random order of versions, deletes among them, against what they come to."""
    chance = random.Random(7)
    messages = [
        message(str(key), version, {"status": f"v{version}", "total": "1.00"})
        if version % 3
        else message(str(key), version, event="deleted")
        for key in range(50)
        for version in range(1, chance.randint(2, 6))
    ]
    newest = {one.key: one for one in messages}
    chance.shuffle(messages)

    # A delete that has come leaves nothing to compare with, so it is marked.
    outcomes = deliver(url, *(messages[at : at + 40] for at in range(0, len(messages), 40)), deleted="gone")
    assert set(kinds(outcomes)) == {DELIVERED}
    found = dict(execute("SELECT id, hub_version FROM orders WHERE gone = " + _false(url)))
    living = {int(key): one.version for key, one in newest.items() if one.event != "deleted"}
    assert {key: found.get(key) for key in living} == living


def _false(url: str) -> str:
    return "0" if url.startswith("sqlite") else "false"


def test_one_bad_row_keeps_its_batch_from_being_written(url: str, execute: Execute) -> None:
    """None of it is, and the outcome says so: dispatch halves the batch down to the culprit."""
    batch = [message(str(key), 1, {"total": "-1" if key == 13 else "1"}) for key in range(40)]
    outcomes = deliver(url, batch, batch[13:14], batch[:13])

    assert {(one.kind, one.whole) for one in outcomes[:40]} == {(REFUSED, True)}
    assert (outcomes[40].kind, outcomes[40].whole) == (REFUSED, False)
    assert "heck constraint" in outcomes[40].detail.replace("CHECK", "check")
    assert execute("SELECT count(*) FROM orders") == [(13,)]


@pytest.mark.parametrize(
    ("more", "row", "what"),
    [
        ({"table": "nowhere"}, {"status": "a"}, "nowhere"),
        ({"version": "v"}, {"status": "a"}, "The table orders has no column 'v'."),
        ({}, {"stauts": "a"}, "The table orders has no column 'stauts'."),
        ({"key": "status"}, {}, "constraint"),
    ],
)
def test_a_table_that_does_not_fit_holds_the_destination(
    url: str, execute: Execute, more: dict[str, Any], row: Any, what: str
) -> None:
    """It would be so with every document; once mended, it is seen at once."""
    outcome = deliver(url, [message("1", 1, row)], **more)[0]

    assert outcome.kind is HELD
    assert what in outcome.detail


def test_a_column_that_is_added_is_seen(url: str, execute: Execute) -> None:
    """By the connector that missed it."""
    settings = {"url": url, "table": "orders", "key": "id"}

    async def run() -> list[Outcome]:
        connector = SqlConnector(read_settings(CONNECTOR, Destination("other", "sql", settings=settings)), Limits())
        first = await connector.deliver([message("1", 1, {"colour": "red"})])
        await asyncio.to_thread(execute, "ALTER TABLE orders ADD COLUMN colour text")
        second = await connector.deliver([message("1", 1, {"colour": "red"})])
        await connector.close()
        return [*first, *second]

    assert kinds(asyncio.run(run())) == [HELD, DELIVERED]


def test_what_is_no_row_is_refused(url: str, execute: Execute) -> None:
    """With what is missing."""
    outcomes = deliver(url, [message("1", 1, ["a"])], [cloud_event("1", 1, 5)], [message("2", 1, {"total": "much"})])

    assert kinds(outcomes[:2]) == [REFUSED, REFUSED]
    assert "map of columns" in outcomes[0].detail
    assert "no document" in outcomes[1].detail
    if not url.startswith("sqlite"):
        assert outcomes[2].kind is REFUSED and "invalid input syntax" in outcomes[2].detail


def test_a_composite_key(url: str, execute: Execute) -> None:
    """Its parts in the order of `key`."""
    execute("CREATE TABLE lines (shop text, id bigint, n integer, hub_version bigint, PRIMARY KEY (shop, id))")
    more = {"table": "lines", "key": ["id", "shop"]}
    deliver(url, [message('[12,"FR"]', 1, {"n": 1}), message('[12,"BE"]', 1, {"n": 2})], **more)
    deliver(url, [message('[12,"BE"]', 2, event="deleted")], **more)

    assert execute("SELECT shop, id, n FROM lines") == [("FR", 12, 1)]
    assert deliver(url, [message("12", 1, {"n": 1})], **more)[0].kind is REFUSED


def test_a_database_that_is_not_there_is_held() -> None:
    """And its password is not shown."""
    outcome = deliver("postgresql://hub:s3cr3t@127.0.0.1:9/none", [message("1", 1, {"status": "a"})])[0]

    assert outcome.kind is HELD
    assert "s3cr3t" not in outcome.detail


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"url": "mysql://a@b/c"}, "`url` is no database's"),
        ({"url": "nonsense"}, "`url` is no database's"),
        ({"url": "postgresql://a@b"}, "names no database"),
        ({"table": ""}, "`table` names no table"),
        ({"key": []}, "names no column"),
        ({"key": "hub_version"}, "name a column twice"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], what: str) -> None:
    """Before anything is written."""
    settings = {"url": "sqlite:///x.db", "table": "orders", "key": "id"} | wrong

    with pytest.raises(ProjectError, match=what):
        read_settings(CONNECTOR, Destination("other", "sql", settings=settings))
