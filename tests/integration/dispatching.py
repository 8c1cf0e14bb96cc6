"""What the dispatch tests share: a store with documents and deliveries in it, and the role run on it."""

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import sqlalchemy as sa

import connectors.file
import connectors.http
from hub.catalogue import Kind
from hub.connector import read_settings
from hub.dispatch.dispatcher import Dispatcher
from hub.documents import Field, Shape
from hub.project import DeliveryPolicy, Destination, EntityConfig, Limits, Network, Project, SubscriptionConfig
from hub.store import tables
from hub.store.database import Store, now
from hub.store.workers import Evicted
from hub.subscriptions import Subscription

SHAPE = Shape({"n": Field(Kind.INTEGER)})
LOCALHOST = Network((ip_network("127.0.0.0/8"),))
KINDS = {"http": connectors.http.CONNECTOR, "file": connectors.file.CONNECTOR}


class Bench:
    """A store of one entity `order`, subscriptions to it, and their destinations."""

    def __init__(self, store: Store) -> None:
        self.store = store
        tables.metadata.create_all(store.engine)
        self.destinations: dict[str, Destination] = {}
        self.configs: dict[str, SubscriptionConfig] = {}
        self.entity_id = store.name_id("entity", "order")
        self.versions: dict[str, int] = {}

    def subscribe(
        self, name: str, settings: dict[str, Any], *, limits: Limits | None = None, body: Any = None, **policy: Any
    ) -> None:
        """A subscription with a destination of the same name."""
        connector = "file" if "path" in settings else "http"
        self.destinations[name] = Destination(name, connector, limits or Limits(), settings=settings)
        self.configs[name] = SubscriptionConfig(name, "order", name, body=body, delivery=DeliveryPolicy(**policy))
        self.store.name_id("subscription", name)

    def commit(self, *keys: str, to: list[str] | None = None, created_at: int | None = None) -> None:
        """A new version of each key, and its deliveries, as capture writes them."""
        subscriptions = to or list(self.configs)
        with self.store.write() as connection:
            for key in keys:
                version = self.versions[key] = self.versions.get(key, 0) + 1
                connection.execute(tables.document.insert().values(**self._document(key, version)))
                for name in subscriptions:
                    connection.execute(
                        tables.delivery.insert().values(**self._delivery(name, key, version, created_at or now()))
                    )
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
            entities={"order": EntityConfig("order", "main", "public.orders")},
            destinations=self.destinations,
            subscriptions=self.configs,
            store=str(self.store.url),
        )

    def dispatcher(self, **arguments: Any) -> Dispatcher:
        return Dispatcher(
            self.store,
            self.project,
            {name: Subscription.compile(config, SHAPE) for name, config in self.configs.items()},
            {name: self._opener(destination) for name, destination in self.destinations.items()},
            **arguments,
        )

    @staticmethod
    def _opener(destination: Destination) -> Callable[[], Any]:
        kind = KINDS[destination.connector]
        settings: Any = read_settings(kind, destination)  # type: ignore[arg-type]
        limits = replace(destination.limits, network=LOCALHOST)
        return lambda: kind.open(settings, limits)

    def run(self, script: Callable[[Dispatcher], Awaitable[None]] | None = None, **arguments: Any) -> None:
        """Run the role while the script runs, then until all is settled."""
        asyncio.run(self._run(script, arguments))

    async def _run(self, script: Callable[[Dispatcher], Awaitable[None]] | None, arguments: dict[str, Any]) -> None:
        dispatcher = self.dispatcher(**arguments)
        finish = asyncio.Event()
        role = asyncio.ensure_future(dispatcher.run(finish=finish))
        if script is not None:
            acting = asyncio.ensure_future(script(dispatcher))
            await asyncio.wait([acting, role], return_when=asyncio.FIRST_COMPLETED)
            if not acting.done():
                role.result()
            await acting
        finish.set()
        await asyncio.wait_for(role, 60)

    def rows(self, table: sa.Table = tables.delivery) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).all())


def main() -> None:
    """A dispatch worker for the tests that kill it: STORE URL CONCURRENCY, until it is ended."""
    logging.basicConfig(level=logging.ERROR)
    bench = Bench(Store(sys.argv[1], durable=False))
    bench.subscribe("crm", {"url": sys.argv[2]}, limits=Limits(concurrency=int(sys.argv[3])), retry=(0.05,) * 50)
    while True:
        with contextlib.suppress(Evicted):
            asyncio.run(bench.dispatcher().run())


def start_worker(store: Store, url: str, concurrency: int = 8) -> subprocess.Popen[bytes]:
    address = store.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.integration.dispatching", address, url, str(concurrency)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})


if __name__ == "__main__":
    main()
