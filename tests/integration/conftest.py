"""Fresh stores of both kinds, and rows in them as capture and dispatch write them."""

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hub.connector import ConnectorKind, System
from hub.documents import Event, encode
from hub.kit.running import run_kit
from hub.store import tables
from hub.store.database import Store
from hub.store.migrate import upgrade
from hub.store.tables import EVENTS
from tests.receiver import Receiver

SECOND = 1_000_000


def sqlalchemy_url(libpq_url: str) -> str:
    return sa.make_url(libpq_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def assert_kit_passes(name: str, kind: ConnectorKind[Any], system: System) -> None:
    """The conformance kit on a real system of the connector's own; what is delivered there was looked at."""
    assert kind.trial
    trial = replace(kind.trial, system=lambda _: nullcontext(system))
    verdicts = asyncio.run(run_kit(name, replace(kind, trial=trial)))

    assert [f"{one.check}: {one.fault}" for one in verdicts if one.fault] == []
    assert not any(one.not_tried for one in verdicts[:4])


@pytest.fixture(params=["sqlite", "postgres"])
def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store without tables: a SQLite file, or a fresh Postgres database."""
    yield from _opened(request, tmp_path, durable=True)


@pytest.fixture(params=["sqlite", "postgres"])
def volatile_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """As `empty_store`, quicker: what it has committed may be lost with the machine, though not with a process."""
    yield from _opened(request, tmp_path, durable=False)


def _opened(request: pytest.FixtureRequest, directory: Path, *, durable: bool) -> Iterator[Store]:
    if request.param == "sqlite":
        url = f"sqlite:///{directory / 'hub.db'}"
    else:
        url = sqlalchemy_url(request.getfixturevalue("database"))
    store = Store(url, durable=durable)
    yield store
    store.close()


@pytest.fixture
def store(empty_store: Store) -> Store:
    """A store as `hub run` makes it, of either kind."""
    upgrade(empty_store)
    return empty_store


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as receiver:
        yield receiver


class Rows:
    """Writes rows of the journal and the queue, times counted from `epoch`."""

    epoch = 1_700_000_000 * SECOND  # 2023-11-14T22:13:20Z

    def __init__(self, store: Store) -> None:
        self.store = store

    def versions(self, entity: str, key: str, *trees: Any, first: int = 1) -> None:
        """One version for each tree, None being a delete: a second, 256 bytes of WAL, a transaction id apart."""
        for number, tree in enumerate(trees, first):
            before = trees[number - first - 1] if number > first else None
            event = Event.DELETED if tree is None else Event.CREATED if before is None else Event.UPDATED
            self._insert(
                tables.document,
                entity_id=self.store.name_id("entity", entity),
                key=key,
                version=number,
                event=EVENTS.index(event),
                cause=0,
                lsn=0x100 * number,
                transaction=700 + number,
                committed_at=self.epoch + number * SECOND,
                made_at=self.epoch + number * SECOND + 2000,
                body=tree if isinstance(tree, bytes | None) else encode(tree),
            )

    def delivery(self, subscription: str, entity: str, key: str, version: int, **values: Any) -> None:
        row = {"event": 1, "cause": 0, "state": 0, "due_at": 0, "attempts": 0, "before_version": version - 1}
        self._sent(tables.delivery, subscription, entity, key, version, row | values, "created_at")

    def attempt(self, subscription: str, entity: str, key: str, version: int, **values: Any) -> None:
        row = {"event": 1, "number": 1, "duration": 3000, "outcome": 0, "detail": "200"}
        self._sent(tables.attempt, subscription, entity, key, version, row | values, "started_at")

    def holding(self, subscription: str, entity: str, key: str, version: int, **values: Any) -> None:
        """What the receiver has of a document."""
        row = {"event": 1, "content": b"hash", "receiver_id": "", "accepted_at": self.epoch + version * SECOND + 8000}
        names = {
            "subscription_id": self.store.name_id("subscription", subscription),
            "entity_id": self.store.name_id("entity", entity),
        }
        self._insert(tables.ledger, **(names | {"key": key, "version": version} | row | values))

    def _sent(
        self, table: sa.Table, subscription: str, entity: str, key: str, version: int, values: Any, time: str
    ) -> None:
        names = {
            "subscription_id": self.store.name_id("subscription", subscription),
            "entity_id": self.store.name_id("entity", entity),
        }
        at = {time: self.epoch + version * SECOND + 5000}
        self._insert(table, **({"key": key, "version": version, "turn": 0} | names | at | values))

    def _insert(self, table: sa.Table, **values: Any) -> None:
        with self.store.write() as connection:
            connection.execute(table.insert().values(**values))


@pytest.fixture
def rows(store: Store) -> Rows:
    return Rows(store)
