"""Kafka, Kafka Connect, the store's Postgres and the source's go away under load, and a connector's task fails.

Each time `hub status` says what is wrong while it is; afterwards all goes on by itself. The hub's roles run as
containers do: each alone, and started again when it ends.
"""

import json
import re
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
from psycopg import sql

from examples.postgres import LocalPostgres
from stack.connect import Connect
from stack.kafka import Broker
from tests.fault.orders import ENTITY, ORDERS, SCHEMA, Application, expect_each_count_once
from tests.oracle import journal
from tests.oracle.access import admit, fence, make_role, withdraw
from tests.oracle.command import HUB, Project, hub_yaml
from tests.oracle.mode import Kafka, followed_by

pytestmark = pytest.mark.fault

SECONDS = 120.0
OUTSIDE = 3  # exit code: something outside is not there
SUBSCRIPTION = "subscription: every\nentity: order\nto: out\non: [created, updated, deleted, snapshot]\n"
DESTINATION = "destination: out\nconnector: file\npath: {path}\n"


class Container:
    """One role, started again whenever it ends, as Docker's `restart: unless-stopped` does it."""

    def __init__(self, project: Project, role: str) -> None:
        self.name = role
        self.log = project.directory / f"{role}.log"
        self.codes: list[int] = []  # exit codes so far
        self._command = [HUB, "--project", project.directory, "run", "--role", role]
        self._process: psutil.Popen | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Container":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        if self._process:
            self._process.terminate()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"{self.log} has more: the role does not end"

    def _run(self) -> None:
        while not self._stopping.is_set():
            with self.log.open("ab") as output:
                self._process = psutil.Popen(self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
            self.codes.append(self._process.wait())
            self._stopping.wait(1.0)


@pytest.fixture
def kafka(broker: Broker, connect: Connect) -> Iterator[Kafka]:
    place = Kafka(broker.bootstrap, connect.url, connect.secrets)
    with followed_by(place):
        yield place


@pytest.fixture
def project(database: str, pypi_database: str, kafka: Kafka, tmp_path: Path) -> Iterator[Project]:
    """Its source is on one server, its store on another one."""
    with psycopg.connect(database) as connection:
        connection.execute(SCHEMA)
        connection.execute("insert into orders select i, 0, '' from generate_series(0, %s) i", [ORDERS - 1])
    made = Project(tmp_path / "project", pypi_database.replace("postgresql://", "postgresql+psycopg://", 1))
    made.write(
        {
            "hub.yaml": hub_yaml(make_role(database), made.store, slot=_name(database)),
            "entities/order.yaml": ENTITY,
            "subscriptions/every.yaml": SUBSCRIPTION,
            "destinations/out.yaml": DESTINATION.format(path=tmp_path / "out.jsonl"),
        }
    )
    admit(made, database)
    made.hub("store", "upgrade")
    yield made
    withdraw(database)


@pytest.mark.timeout(600)
def test_what_is_away_is_named_and_comes_back_without_anybody(
    database: str,
    project: Project,
    postgres: LocalPostgres,
    pypi_postgres: LocalPostgres,
    broker: Broker,
    connect: Connect,
    tmp_path: Path,
) -> None:
    """Each commit is once in the journal, each version arrives in order, and `hub verify` finds nothing."""
    application = Application(database)
    with ExitStack() as stack:
        roles = [stack.enter_context(Container(project, role)) for role in ("capture", "dispatch", "console")]
        _until(lambda: _well(project), "all is well")
        stack.enter_context(application.working())
        for away, said in (
            (_stopped(broker.kill, broker.start), f"Kafka at {broker.bootstrap} does not answer"),
            (_stopped(connect.kill, connect.start), f"Kafka Connect at {connect.url} does not answer"),
            (_stopped(lambda: pypi_postgres.stop(immediate=True), pypi_postgres.start), "The store cannot be opened"),
            (_stopped(lambda: postgres.stop(immediate=True), postgres.start), "Source of main/main unreachable"),
            (_refused(postgres, database), "has failed: .*(?i:replication)"),
        ):
            with away:
                for options in ([], ["--json"]):
                    _until(lambda said=said, options=options: re.search(said, _status(project, *options)), said)
            position = application.position
            _until(lambda position=position: journal.settled(project.store, position), f"it goes on after: {said}")
        application.stop()
        with psycopg.connect(database, autocommit=True) as source:
            last = fence(source)
        _until(lambda: journal.settled(project.store, last), "the last commit is stored")
        _until(lambda: journal.select(project.store, "select count(*) from delivery") == [(0,)], "all is delivered")
        project.hub("verify")
        _until(lambda: _well(project), "all is well again")
        ended = {role.name: list(role.codes) for role in roles}

    assert not any(ended.values()), "a role did not get over it by itself"
    versions = journal.versions(project.store)
    expect_each_count_once(versions, application.counts)
    _expect_all_in_order(tmp_path / "out.jsonl", versions)


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@contextmanager
def _stopped(stop: Callable[[], None], start: Callable[[], None]) -> Iterator[None]:
    stop()
    try:
        yield
    finally:
        start()


@contextmanager
def _refused(postgres: LocalPostgres, database: str) -> Iterator[None]:
    """The source's role may not replicate for a while: no retry of Debezium's own helps, so its task fails."""
    role = sql.Identifier(f"hub_{_name(database)}")
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("alter role {} noreplication").format(role))
        try:
            admin.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s",
                [_name(database)],
            )
            yield
        finally:
            admin.execute(sql.SQL("alter role {} replication").format(role))


def _until(reached: Callable[[], object], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, f"{SECONDS} s passed, and not yet: {what}"
        time.sleep(0.2)


def _status(project: Project, *options: str) -> str:
    """All that `hub status` prints."""
    command = [HUB, "--project", project.directory, "status", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def _well(project: Project) -> bool:
    """It says so, and everything runs."""
    said = _status(project)
    return "All is well." in said and "does not run" not in said


def _expect_all_in_order(path: Path, versions: list[journal.Version]) -> None:
    """Each version arrives, an order's in their order; what comes again has the id that it had."""
    ids: dict[str, list[str]] = defaultdict(list)  # by order, of its versions
    for line in path.read_text("utf-8").splitlines():
        received = json.loads(line)
        key, version = received["key"], received["version"]
        if version == len(ids[key]) + 1:
            ids[key].append(received["id"])
        assert ids[key][version - 1] == received["id"]
    newest = {version.key: version.version for version in versions}
    assert {key: len(found) for key, found in ids.items()} == newest
    assert len({id for found in ids.values() for id in found}) == len(versions)
