"""What is past its subscription's `expire` is parked: held, paused or not."""

import asyncio
from collections.abc import Callable

from hub.clock import Alarms, Clock
from hub.dispatch.outcomes import SECOND, expires_at, expiry_reason
from hub.dispatch.routes import Route
from hub.dispatch.threads import Threads
from hub.store.deliveries import Deliveries

GAP = 60 * SECOND  # between two searches for what is too old: each reads a subscription's backlog


class Expiry:
    def __init__(
        self,
        deliveries: Deliveries,
        threads: Threads,
        clock: Clock,
        alarms: Alarms,
        broke: Callable[[BaseException], None],
    ) -> None:
        """`broke`: told of a fault that ends the process."""
        self._deliveries = deliveries
        self._threads = threads
        self._clock = clock
        self._alarms = alarms
        self._broke = broke
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        return not self._tasks

    def begin(self, route: Route) -> None:
        """Park what is too old already; again when the oldest of the rest is."""
        task = asyncio.get_running_loop().create_task(self._expire(route))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _expire(self, route: Route) -> None:
        before = self._clock.now() - round(route.policy.expire * SECOND)
        while old := await self._threads.read(self._deliveries.expired, route.id, before):
            await self._threads.write(self._deliveries.expire, old, expiry_reason(route.policy))
            route.parks = True
        oldest = await self._threads.read(self._deliveries.oldest, route.id)
        again = expires_at(oldest if oldest is not None else self._clock.now(), route.policy)
        self._alarms.at(max(again, self._clock.now() + GAP), lambda: self.begin(route))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            self._broke(error)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
