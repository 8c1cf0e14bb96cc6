"""What the dispatch tests share: a store with documents and deliveries in it, and the role run on it."""

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import connectors.file
import connectors.http
import connectors.smtp
from hub.catalogue import Kind
from hub.connector import read_settings
from hub.delivery import Message, Outcome, OutcomeKind, State
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.outcomes import SECOND
from hub.documents import Field, Shape
from hub.project import DeliveryPolicy, Destination, EntityConfig, Limits, Network, Project, SubscriptionConfig
from hub.store import tables
from hub.store.database import Store, now
from hub.store.deliveries import set_subscription_state
from hub.store.workers import Evicted
from hub.subscriptions import Subscription

SHAPE = Shape({"n": Field(Kind.INTEGER)})
LOCALHOST = Network((ip_network("127.0.0.0/8"),))
KINDS = {"http": connectors.http.CONNECTOR, "file": connectors.file.CONNECTOR, "smtp": connectors.smtp.CONNECTOR}
MAIL = {"to": "ada@example.org", "subject": "Order {{ key }}", "text": "It is at {{ doc.n }}."}


class MovableClock:
    """Real time, plus what a test adds to it."""

    def __init__(self) -> None:
        self._ahead = 0
        self._moved = asyncio.Event()
        self.waits: list[int] = []

    def now(self) -> int:
        return now() + self._ahead

    async def until(self, moment: int) -> None:
        self.waits.append(moment)
        while self.now() < moment:
            self._moved = asyncio.Event()  # of this loop
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._moved.wait(), (moment - self.now()) / SECOND)

    def advance(self, seconds: float) -> None:
        self._ahead += round(seconds * SECOND)
        self._moved.set()


async def reached(condition: Callable[[], bool], timeout: float = 20.0, every: float = 0.01) -> None:
    """What another process or the store shows; looked at often, for nothing signals it to a test."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        await asyncio.sleep(every)


class Bench:
    """A store of one entity `order`, subscriptions to it, and their destinations."""

    def __init__(self, store: Store) -> None:
        self.store = store
        tables.metadata.create_all(store.engine)
        self.destinations: dict[str, Destination] = {}
        self.configs: dict[str, SubscriptionConfig] = {}
        self.entity_id = store.name_id("entity", "order")
        self.entities = {"order": EntityConfig("order", "main", "public.orders")}
        self.versions: dict[str, int] = {}
        self.shape = SHAPE

    def subscribe(
        self,
        name: str,
        settings: dict[str, Any],
        *,
        limits: Limits | None = None,
        body: Any = None,
        entity: str = "order",
        match: Any = None,
        answers: tuple[str, ...] = (),
        **policy: Any,
    ) -> None:
        """A subscription with a destination of the same name."""
        connector = "file" if "path" in settings else "smtp" if "host" in settings else "http"
        self.destinations[name] = Destination(name, connector, limits or Limits(), answers, settings=settings)
        delivery = DeliveryPolicy(**policy)
        self.configs[name] = SubscriptionConfig(name, entity, name, match=match, body=body, delivery=delivery)
        self.store.name_id("subscription", name)

    def derive(self, entity: str, *destinations: str) -> None:
        """A derived entity that these may forward."""
        self.entities[entity] = EntityConfig(entity, "", "", derived=True, derived_from=destinations)

    def commit(
        self,
        *keys: str,
        to: list[str] | None = None,
        created_at: int | None = None,
        deleted: bool = False,
        state: State = State.PENDING,
    ) -> None:
        """A new version of each key, and its deliveries, as capture writes them; `deleted`: there is no document."""
        subscriptions = (
            [name for name, config in self.configs.items() if config.entity == "order"] if to is None else to
        )
        with self.store.write() as connection:
            for key in keys:
                version = self.versions[key] = self.versions.get(key, 0) + 1
                event = 2 if deleted else 0 if version == 1 else 1
                document = self._document(key, version) | {"event": event} | ({"body": None} if deleted else {})
                connection.execute(tables.document.insert().values(**document))
                for name in subscriptions:
                    row = self._delivery(name, key, version, created_at or now()) | {
                        "event": event,
                        "state": int(state),
                    }
                    connection.execute(tables.delivery.insert().values(**row))
            self.store.ring("dispatch", connection)
        self.store.ring("dispatch")

    def _document(self, key: str, version: int) -> dict[str, Any]:
        return {
            "entity_id": self.entity_id,
            "key": key,
            "version": version,
            "event": 0 if version == 1 else 1,
            "cause": 0,
            "lsn": version,
            "transaction": 700 + version,
            "committed_at": now(),
            "made_at": now(),
            "body": json.dumps({"id": key, "n": version}).encode(),
        }

    def _delivery(self, name: str, key: str, version: int, created_at: int) -> dict[str, Any]:
        return {
            "subscription_id": self.store.name_id("subscription", name),
            "entity_id": self.entity_id,
            "key": key,
            "version": version,
            "before_version": version - 1,
            "turn": 0,
            "event": 0 if version == 1 else 1,
            "cause": 0,
            "state": 0,
            "due_at": 0,
            "attempts": 0,
            "created_at": created_at,
        }

    @property
    def project(self) -> Project:
        return Project(
            name="conference",
            directory=Path(),
            sources={},
            entities=self.entities,
            destinations=self.destinations,
            subscriptions=self.configs,
            store=str(self.store.url),
        )

    def dispatcher(self, **arguments: Any) -> Dispatcher:
        return Dispatcher(
            self.store,
            self.project,
            lambda: {name: Subscription.compile(config, self._shape(config)) for name, config in self.configs.items()},
            {name: self._opener(destination) for name, destination in self.destinations.items()},
            **arguments,
        )

    def _shape(self, config: SubscriptionConfig) -> Shape:
        return self.shape if config.entity == "order" else Shape({})

    def _opener(self, destination: Destination) -> Callable[[], Any]:
        kind = KINDS[destination.connector]
        settings: Any = read_settings(kind, destination)  # type: ignore[arg-type]
        limits = replace(destination.limits, network=LOCALHOST)
        return lambda: kind.open(settings, limits)

    def run(
        self, script: Callable[[Dispatcher], Awaitable[None]] | None = None, *, then: str = "finish", **arguments: Any
    ) -> None:
        """Run the role while the script runs, `then` until all is settled; with "stop" no longer."""
        asyncio.run(self._run(script, then, arguments))

    async def _run(
        self, script: Callable[[Dispatcher], Awaitable[None]] | None, then: str, arguments: dict[str, Any]
    ) -> None:
        dispatcher = self.dispatcher(**arguments)
        ending = asyncio.Event()
        role = asyncio.ensure_future(dispatcher.run(**{then: ending}))
        if script is not None:
            acting = asyncio.ensure_future(script(dispatcher))
            await asyncio.wait([acting, role], return_when=asyncio.FIRST_COMPLETED)
            if not acting.done():
                role.result()
            await acting
        ending.set()
        await asyncio.wait_for(role, 60)

    def rows(self, table: sa.Table = tables.delivery) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all())


DELIVERED = Outcome(OutcomeKind.DELIVERED)
Answer = Callable[[Sequence[Message]], Sequence[Outcome]]


def accept(messages: Sequence[Message]) -> Sequence[Outcome]:
    return [DELIVERED] * len(messages)


class Bulk:
    """A receiver in memory that takes up to 50 documents a call."""

    batch = 50

    def __init__(self) -> None:
        self.answer: Answer = accept
        self.calls: list[list[tuple[str, int]]] = []  # keys and versions
        self.accepted: list[tuple[str, int]] = []

    async def deliver(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        self.calls.append([(one.key, one.version) for one in messages])
        await asyncio.sleep(0)
        outcomes = self.answer(messages)
        told = zip(messages, outcomes, strict=True)
        self.accepted += [(one.key, one.version) for one, outcome in told if outcome == DELIVERED]
        return outcomes

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]

    async def close(self) -> None: ...


class BulkBench(Bench):
    """With the one receiver, and a clock that can be moved."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.bulk = Bulk()
        self.clock = MovableClock()

    def _opener(self, destination: Destination) -> Callable[[], Any]:
        return lambda: self.bulk

    def gather(self, **policy: Any) -> None:
        """A subscription of one call at a time."""
        self.subscribe("crm", {"url": "http://crm.test"}, limits=Limits(concurrency=1), **policy)

    def set_state(self, state: str) -> None:
        with self.store.write() as connection:
            set_subscription_state(self.store, connection, self.store.name_id("subscription", "crm"), state, "")
            self.store.ring("dispatch", connection)
        self.store.ring("dispatch")

    def waiting(self) -> list[str]:
        return [row.key for row in self.rows() if row.state == State.PENDING]


def main() -> None:
    """A dispatch worker for the tests that kill it: STORE SETTINGS CONCURRENCY, until it is ended."""
    logging.basicConfig(level=logging.ERROR)
    bench = Bench(Store(sys.argv[1], durable=False))
    settings, limits = json.loads(sys.argv[2]), Limits(concurrency=int(sys.argv[3]))
    mails = "host" in settings
    answers = () if mails else ("reschedule", "forward")
    bench.subscribe("crm", settings, limits=limits, body=MAIL if mails else None, answers=answers, retry=(0.05,) * 50)
    bench.derive("lead_score", "crm")
    while True:
        with contextlib.suppress(Evicted):
            asyncio.run(bench.dispatcher().run())


def start_worker(store: Store, url: str, concurrency: int = 8) -> subprocess.Popen[bytes]:
    return start_delivering(store, {"url": url}, concurrency)


def start_delivering(store: Store, settings: dict[str, Any], concurrency: int) -> subprocess.Popen[bytes]:
    """To the subscription `crm`, whose destination has these settings; mails where they name a `host`."""
    address = store.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.integration.dispatching", address, json.dumps(settings), str(concurrency)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2])


if __name__ == "__main__":
    main()
