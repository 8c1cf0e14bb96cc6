"""A source split into streams, and entities that move between them, with the embedded engine."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.fault.orders import ENTITY, ORDERS, SCHEMA, Application
from tests.oracle import journal
from tests.oracle.access import admit, make_role, withdraw
from tests.oracle.command import Project

pytestmark = pytest.mark.acceptance

MORE = "create table customers (id int primary key, name text); alter table orders add column customer_id int;"
BELONGS_TO = "belongs_to: {customer: {table: customers, foreign_key: customer_id}}\n"
FILES = {
    "entities/order.yaml": ENTITY + BELONGS_TO,
    "entities/customer.yaml": "entity: customer\ntable: customers\n",
    "entities/line.yaml": "entity: line\ntable: lines\n",
    "subscriptions/orders.yaml": "subscription: orders\nentity: order\nto: out\n",
}
DESTINATION = "destination: out\nconnector: file\npath: {path}\n"


@pytest.fixture(params=["sqlite", "postgres"] if os.environ.get("HUB_MOVES") else ["postgres"])
def project(
    request: pytest.FixtureRequest, database: str, make_store: Callable[[str], str], tmp_path: Path
) -> Iterator[Project]:
    with psycopg.connect(database) as connection:
        connection.execute((SCHEMA + MORE).encode())
        connection.execute("insert into customers select i, 'c' || i from generate_series(1, 9) i")
        connection.execute("insert into orders select i, 0, '', i %% 9 + 1 from generate_series(0, %s) i", [ORDERS])
    made = Project(tmp_path / "project", make_store(request.param))
    made.write(FILES | {"destinations/out.yaml": DESTINATION.format(path=tmp_path / "out.jsonl")})
    yield made
    withdraw(database)


class Split:
    """Writes hub.yaml with other streams each time."""

    def __init__(self, project: Project, owner: str) -> None:
        self.project = project
        self.owner = owner
        self.slot = urlsplit(owner).path.removeprefix("/")
        self.url = make_role(owner)

    def __call__(self, **streams: list[str]) -> None:
        source = {"url": self.url, "slot": self.slot, "streams": streams}
        hub = {"hub": "split", "sources": {"main": source}, "store": self.project.store}
        self.project.write({"hub.yaml": json.dumps(hub)})
        admit(self.project, self.owner)


@pytest.mark.timeout(300)
def test_entities_move_from_stream_to_stream_under_load(project: Project, database: str, tmp_path: Path) -> None:
    """One moves into a third stream, then all of them into one: nothing is lost, doubled or made twice."""
    split, application = Split(project, database), Application(database)
    split(crm=["customer"])
    project.hub("run", "--until-idle")
    with application.working(), psycopg.connect(database, autocommit=True) as legacy:
        split(crm=["customer"], sales=["order"])
        legacy.execute("delete from orders where id = %s", [ORDERS])
        project.hub("run", "--until-idle")

        split()
        project.hub("run", "--until-idle", ends_with=2)  # the project could be an old one
        project.hub("source", "resnapshot", "main/main")
        legacy.execute("delete from customers where id = 9")
    project.hub("run", "--until-idle")
    project.hub("verify")

    expect_whole(journal.versions(project.store), application.counts)
    found = json.loads(project.hub("status", "--json", ends_with=1))
    assert [one["stream"] for one in found["streams"]] == ["main/main"]
    assert [problem.partition(" keeps")[0] for problem in found["problems"]] == [
        f"Stream main/{name} has no entity any more, and its slot {split.slot}_{name}" for name in ("crm", "sales")
    ]
    sent = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert sorted((one["key"], one["version"]) for one in sent) == sorted(
        (one.key, one.version) for one in journal.versions(project.store)
        if one.entity == "order" and one.cause != "snapshot"
    )  # fmt: skip


def expect_whole(versions: Sequence[journal.Version], counts: dict[int, int]) -> None:
    """Versions count up; an order's counts never go back, and end with the last; what was deleted is so once."""
    bodies: dict[tuple[str, str], list[str | None]] = defaultdict(list)
    for one in versions:
        mine = bodies[one.entity, one.key]
        assert one.version == len(mine) + 1
        assert not mine or one.body != mine[-1]
        mine.append(one.body)
    for order, count in counts.items():
        seen = [journal.parse(body)["n"] for body in bodies["order", str(order)] if body]
        assert seen == sorted(seen)
        assert seen[-1] == count
    gone = {key for key, mine in bodies.items() if mine[-1] is None}
    assert {key for key in gone if key[0] != "line"} == {("order", str(ORDERS)), ("customer", "9")}
