"""Capture and dispatch are killed with -9 at random moments under load: nothing is lost, nothing doubled, all in order.

The legacy application changes one order a commit and counts in it, so that the journal must hold each count once. The
receiver writes its log to disk before it answers, and answers 500 to some of what it has logged.
"""

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.conftest import MakeStore
from tests.fault.orders import ENTITY, ORDERS, SCHEMA, Application, expect_each_count_once
from tests.oracle import journal
from tests.oracle.access import admit, fence, make_role, withdraw
from tests.oracle.command import Project, Run, hub_yaml
from tests.oracle.compare import same
from tests.receiver import Received, Receiver

pytestmark = [pytest.mark.fault, pytest.mark.usefixtures("mode")]

KILLS = 10  # of each role
FILES = {
    "entities/order.yaml": ENTITY,
    "subscriptions/every.yaml": """
subscription: every
entity: order
to: receiver
on: [created, updated, deleted, snapshot]
delivery: {mode: every, retry: [200ms, 200ms, 500ms, 1s, 1s, 2s, 5s, 10s]}
""",
}
DESTINATION = "destination: receiver\nconnector: http\nurl: {url}\nlimits: {{concurrency: 8, timeout: 10s}}\n"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path, fail_percent=5) as started:
        yield started


@pytest.fixture
def project(database: str, receiver: Receiver, make_store: MakeStore, tmp_path: Path) -> Iterator[Project]:
    with psycopg.connect(database) as connection:
        connection.execute(SCHEMA)
        connection.execute("insert into orders select i, 0, '' from generate_series(0, %s) i", [ORDERS - 1])
    store = make_store("sqlite")
    made = Project(tmp_path / "project", store)
    slot = urlsplit(database).path.removeprefix("/")
    made.write({**FILES, "destinations/receiver.yaml": DESTINATION.format(url=receiver.url)})
    made.write({"hub.yaml": hub_yaml(make_role(database), store, slot=slot)})
    admit(made, database)
    yield made
    withdraw(database)


@pytest.mark.timeout(900)
def test_kills_lose_nothing_and_double_nothing(database: str, project: Project, receiver: Receiver) -> None:
    """Ten kills of each role, each with work open: the log is the journal, in order, and the journal is the source."""
    application = Application(database)
    with psycopg.connect(database, autocommit=True) as connection, project.running() as run:
        run.until_settled(fence(connection))
        with application.working():
            rng = Random(5)
            counted = {"capture": 0, "dispatch": 0}
            for _ in range(3 * KILLS):
                for role, work in (("capture", _Unread(project, application)), ("dispatch", _Undelivered(project))):
                    counted[role] += counted[role] < KILLS and _kill(run, role, rng, work)
        assert counted == {"capture": KILLS, "dispatch": KILLS}
        assert application.rate >= 50
        run.until_settled(fence(connection), timeout=120)
        run.until(lambda: _pending(project.store) == 0, "every delivery is settled", timeout=120)

    versions = journal.versions(project.store)
    expect_each_count_once(versions, application.counts)
    _expect_log_is_journal(receiver.log(), versions)
    _expect_verify_to_find_one_change(project)


class Work(Protocol):
    """What a role has to do."""

    def note(self) -> bool:
        """Remember what is open now; False when nothing is."""
        ...

    def is_left(self) -> bool:
        """Whether some of what was noted is open still."""
        ...


@dataclass
class _Unread:
    """Commits that the store does not have yet."""

    project: Project
    application: Application
    position: int = 0

    def note(self) -> bool:
        self.position = self.application.position
        return self.is_left()

    def is_left(self) -> bool:
        return int(journal.select(self.project.store, "select min(position) from stream")[0][0]) < self.position


@dataclass
class _Undelivered:
    """Deliveries that are not settled yet."""

    project: Project
    deliveries: set[int] = field(default_factory=set)

    def note(self) -> bool:
        self.deliveries = self._open()
        return bool(self.deliveries)

    def is_left(self) -> bool:
        return not self.deliveries.isdisjoint(self._open())

    def _open(self) -> set[int]:
        return {seq for (seq,) in journal.select(self.project.store, "select seq from delivery")}


def _kill(run: Run, role: str, rng: Random, work: Work) -> bool:
    """Kill a role, once it runs, at a random moment with work open. False when it had finished that by then."""
    run.until(lambda: run.role(role) is not None, f"{role} runs", 120)
    process = run.role(role)
    time.sleep(rng.uniform(0.2, 2.0))  # the random moment
    run.until(work.note, f"{role} has work open")
    assert process
    process.kill()
    process.wait(10)
    return work.is_left()


def _pending(store: str) -> int:
    return int(journal.select(store, "select count(*) from delivery")[0][0])


def _expect_log_is_journal(log: list[Received], versions: list[journal.Version]) -> None:
    """By version and content; first arrivals in order; a repeated one has its first one's id, and there was one."""
    first: dict[tuple[str, int], str] = {}
    newest: dict[str, int] = defaultdict(int)
    documents: dict[tuple[str, int], Any] = {}
    for received in log:
        event = journal.parse(received.body.decode())
        name = event["subject"], event["hubversion"]
        identity = received.headers["webhook-id"]
        if name not in first:
            assert name[1] == newest[name[0]] + 1, f"{name} came after version {newest[name[0]]}"
            newest[name[0]] = name[1]
            first[name], documents[name] = identity, event["data"]["document"]
        assert first[name] == identity
        assert same(documents[name], event["data"]["document"])
    written = {(version.key, version.version): journal.parse(version.body or "null") for version in versions}
    assert documents.keys() == written.keys()
    assert [name for name, document in written.items() if not same(document, documents[name])] == []
    assert len(set(first.values())) == len(first)
    assert len(log) > len(first)
    assert {key: newest[key] for key, _ in written} == _last_of(log)


def _last_of(log: list[Received]) -> dict[str, int]:
    """By order, the version that its receiver ended with."""
    events = (journal.parse(received.body.decode()) for received in log)
    return {event["subject"]: event["hubversion"] for event in events}


def _expect_verify_to_find_one_change(project: Project) -> None:
    """`hub verify` finds nothing; one value changed by hand in one stored document, and it names that document."""
    project.hub("verify")
    where = "key = '7' and version = (select max(version) from document where key = '7')"
    body = bytes(journal.select(project.store, f"select body from document where {where}")[0][0])
    altered = re.sub(rb'"n":(\d+)', rb'"n":1\1', body, count=1)
    journal.change(project.store, f"update document set body = ? where {where}", (altered,))
    assert "7" in project.hub("verify", "--json", ends_with=1)
