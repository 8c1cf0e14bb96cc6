"""Real services for the tests: skipped with their reason on a laptop, a failure where CI is set."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from examples.postgres import Flavour, LocalPostgres
from hub.connector import MAY_SEND
from hub.errors import OutsideError
from hub.store.workers import Evicted
from stack.connect import Connect
from stack.jars import require_jars
from stack.kafka import Broker
from stack.servers import find_java
from tests.oracle.mode import Kafka, followed_by, kafka

MakeStore = Callable[[str], str]


KAFKA = pytest.mark.xdist_group("kafka")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Where several processes share the tests (`-n`), one has all that need Kafka, and a file's others are one's."""
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(KAFKA if "broker" in item.fixturenames else pytest.mark.xdist_group(item.path.name))


def _missing(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, so this must be there: {reason}", pytrace=False)
    pytest.skip(reason)


def _serve(flavour: Flavour, settings: dict[str, str]) -> Iterator[LocalPostgres]:
    # Not pytest's tmp_path: only its owner may enter that, and the server runs as another user.
    directory = Path(tempfile.mkdtemp(prefix="hub-test-postgres-"))
    directory.chmod(0o755)
    try:
        try:
            server = LocalPostgres(directory / "server", flavour, settings)
            server.start()
        except OutsideError as error:
            _missing(str(error))
            return
        try:
            yield server
        finally:
            server.stop(immediate=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """Debian's server for the whole session, with contrib, pg_stat_statements preloaded."""
    yield from _serve(
        "debian",
        {
            "shared_preload_libraries": "pg_stat_statements",
            "pg_stat_statements.track": "all",
            "pg_stat_statements.max": "10000",
            "max_replication_slots": "40",
            "max_wal_senders": "40",
            "max_connections": "200",
        },
    )


@pytest.fixture(scope="session")
def pypi_postgres() -> Iterator[LocalPostgres]:
    """The demo's server for the whole session: another major version, no extensions."""
    yield from _serve("pypi", {})


def _database(server: LocalPostgres) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
    try:
        yield server.url(name)
    finally:
        with psycopg.connect(server.url(), autocommit=True) as admin:
            _drop_slots(admin, name)
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def _drop_slots(admin: psycopg.Connection[tuple[object, ...]], database: str) -> None:
    """A slot keeps its database from being dropped; who still reads from it is ended first."""
    slots = admin.execute(
        "SELECT slot_name, pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = %s", [database]
    ).fetchall()
    for slot, _ in slots:
        for _ in range(100):
            try:
                admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])
                break
            except psycopg.errors.ObjectInUse:
                admin.execute(
                    "SELECT pg_terminate_backend(active_pid, 100) FROM pg_replication_slots WHERE slot_name = %s",
                    [slot],
                )
            except psycopg.errors.UndefinedObject:
                break


@pytest.fixture
def database(postgres: LocalPostgres) -> Iterator[str]:
    """The URL, as superuser, of a fresh database on Debian's server; its slots go with it."""
    yield from _database(postgres)


@pytest.fixture
def pypi_database(pypi_postgres: LocalPostgres) -> Iterator[str]:
    """The URL, as superuser, of a fresh database on PyPI's server; its slots go with it."""
    yield from _database(pypi_postgres)


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Kafka broker for the whole session. Who kills it starts it again: it keeps its data and its port."""
    try:
        find_java()
        jars = require_jars()
    except OutsideError as error:
        _missing(str(error))
        return
    with Broker(jars, tmp_path_factory.mktemp("kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def connect(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """A Kafka Connect worker on that broker for the whole session, with Debezium and the hub's converter."""
    with Connect(broker.jars, tmp_path_factory.mktemp("connect"), broker.bootstrap) as worker:
        yield worker


@pytest.fixture(params=["embedded", pytest.param("distributed", marks=KAFKA)])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Both ways to run, for the tests that use this fixture: `pytest.mark.usefixtures("mode")`.

    Those are the ones that have the hub follow a source. The others run once, because what they look at is the same in
    both: what is said before anything is followed (check, bad input, the wheel), a store that the test itself has
    filled (the operator's commands), the oracle's own judgement, and the demo, which is embedded by its nature.
    """
    if request.param == "embedded":
        yield "embedded"
        return
    broker: Broker = request.getfixturevalue("broker")
    connect: Connect = request.getfixturevalue("connect")
    with followed_by(Kafka(broker.bootstrap, connect.url, connect.secrets)):
        yield "distributed"


@pytest.fixture
def make_store(postgres: LocalPostgres, tmp_path: Path) -> Iterator[MakeStore]:
    """Gives the URL of a store that is not there yet, of the kind asked for: sqlite or postgres.

    In the distributed mode it is Postgres, whatever was asked for.
    """
    name = f"store_{uuid.uuid4().hex[:12]}"

    def make(kind: str) -> str:
        if kind == "sqlite" and kafka() is None:
            return f"sqlite:///{tmp_path / 'hub.db'}"
        _administer(postgres, f'CREATE DATABASE "{name}"')
        return postgres.url(name).replace("postgresql://", "postgresql+psycopg://", 1)

    yield make
    _administer(postgres, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _administer(server: LocalPostgres, statement: str) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(statement.encode())


@pytest.fixture
def evicted() -> Iterator[None]:
    """The deliveries are another worker's by now: this one was stopped past its lease, and goes on."""

    def lost() -> None:
        raise Evicted

    token = MAY_SEND.set(lost)
    yield
    MAY_SEND.reset(token)
