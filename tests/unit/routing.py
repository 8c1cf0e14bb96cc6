"""What the tests of dispatch's parts share: one subscription's route, with neither a store nor a receiver behind it."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from hub.catalogue import Kind
from hub.clock import Alarms, Clock
from hub.delivery import Delivery
from hub.dispatch.lanes import Lane
from hub.dispatch.results import Results
from hub.dispatch.routes import Route
from hub.dispatch.workers import Worker
from hub.documents import Field, Shape
from hub.project import DeliveryPolicy, Limits, SubscriptionConfig
from hub.store.deliveries import Changes
from hub.subscriptions import Subscription

NOW = 1_700_000_000_000_000  # microseconds since 1970
SHAPE = Shape({"n": Field(Kind.INTEGER)})


class StoppedClock:
    def now(self) -> int:
        return NOW

    async def until(self, moment: int) -> None:
        await asyncio.Event().wait()


def delivery(seq: int, key: str = "a", **fields: Any) -> Delivery:
    """Of version `seq`, made just now and due at once."""
    return msgspec.structs.replace(Delivery(seq, 1, 1, key, seq, 0, 1, 0, 0, NOW), **fields)


class Routing:
    """A route of which nothing is left in the store, and what would be stored."""

    def __init__(self, *, body: Any = None, **policy: Any) -> None:
        config = SubscriptionConfig("crm", "order", "crm", body=body, delivery=DeliveryPolicy(**policy))
        clock: Clock = StoppedClock()
        nobody: Any = SimpleNamespace(batch=50)
        alarms = Alarms(clock)
        worker = Worker("crm", nobody, Limits(), nobody, clock, alarms)
        self.looks: list[str] = []
        self.route = Route(
            1, Subscription.compile(config, SHAPE), worker, clock, alarms, lambda: self.looks.append("look")
        )
        self.route.queue.behind = False
        self.results = Results(self._write, lambda _: None, lambda _: None)
        self._changes = Changes()

    async def _write(self, changes: Changes) -> None:
        self._changes = changes

    def written(self) -> Changes:
        asyncio.run(self.results.flush())
        return self._changes

    def add(self, seq: int, key: str = "a", **fields: Any) -> Lane:
        """The lane of a delivery that was read and offered."""
        self.route.offer(self.route.queue.add(delivery(seq, key, **fields)))
        return self.route.queue.lanes[1, key]
