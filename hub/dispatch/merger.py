"""Merging what waits of the same documents, in the store and in memory; what stays of it, merging.py says.

Done while nothing of these documents is on its way to be rendered: what a worker is just about to send stays as it is,
and is merged with what came behind it once the store knows how that went.
"""

from collections.abc import Sequence, Set

from hub.delivery import Delivery
from hub.dispatch.lanes import Lane, LaneKey
from hub.dispatch.results import Results
from hub.dispatch.routes import Route
from hub.dispatch.threads import Threads
from hub.store.deliveries import PAGE, Deliveries, Mergeable


class Merger:
    def __init__(self, deliveries: Deliveries, threads: Threads, results: Results) -> None:
        self._deliveries = deliveries
        self._threads = threads
        self._results = results

    async def merge(self, route: Route, pending: Sequence[Delivery]) -> list[Delivery]:
        """Merge what waits of these deliveries' documents. What is left and in no lane."""
        queue, worker = route.queue, route.worker
        async with worker.merging:
            keys = {(one.entity_id, one.key) for one in pending if one.slice in worker.slices}
            lanes = [queue.lanes[key] for key in keys if key in queue.lanes]
            fixed = {lane.head.seq for lane in lanes if lane.items and not worker.recall(lane)} | self._results.writing
            documents = Mergeable(route.id, keys, route.policy, fixed, queue.may_have_begun)
            merged = await self._threads.read(self._deliveries.would_merge, documents)
            if merged.gone:
                merged = await self._threads.write(self._deliveries.merge, documents, merged)
            for seq in merged.gone:
                queue.begun.discard(seq)
                worker.health.forget(seq)
            queue.begun.update(one.delivery.seq for one in merged.changed if one.begun)
            waiting: dict[LaneKey, list[Delivery]] = {key: [] for key in keys}
            for one in merged.waiting:
                waiting[one.document].append(one.delivery)
            for key in keys & queue.lanes.keys():
                self._take(route, queue.lanes[key], waiting.pop(key), fixed)
            for key, seq in merged.parked.items():
                queue.hold_key(key, seq)
        route.read_on()
        return [one for deliveries in waiting.values() for one in deliveries]

    def _take(self, route: Route, lane: Lane, waiting: Sequence[Delivery], fixed: Set[int]) -> None:
        if lane.standing and not lane.busy:  # a parked one holds it
            if not waiting:
                return
            parking = lane.parked in self._results.writing
            if parking or waiting[-1].seq > lane.parked:
                lane.cut = min(lane.cut, waiting[0].seq - 1)  # to be read once it goes on
                if not parking:  # what held it does so no longer
                    route.look_again()
                return
            lane.queue.unhold(lane)  # for what comes before that one
        if lane.queue.merged(lane, waiting, fixed) or (lane.due and lane.items):
            route.offer(lane)
        if lane.items and not lane.flying and lane.head.seq in self._results.writing:
            route.merge_behind(lane)

    async def merge_unmerged(self, route: Route) -> None:
        """What waits behind deliveries that were tried, as far as the store knows how that went."""
        lanes = [route.queue.lanes[key] for key in route.unmerged if key in route.queue.lanes]
        heads = [lane.head for lane in lanes if lane.items and lane.head.seq not in self._results.writing]
        route.unmerged = {lane.key for lane in lanes if lane.items and lane.head.seq in self._results.writing}
        if heads:
            await self.merge(route, heads)

    async def sweep(self, route: Route, mask: int) -> None:
        """Merge a page of the backlog, read or not: so the store's queue is bounded while nothing goes out.

        `mask`: the destination's slices, as bits.
        """
        if route.swept is None:
            return
        page = await self._threads.read(self._deliveries.backlog, route.id, mask, route.swept)
        await self.merge(route, page)
        route.swept = page[-1].seq if len(page) == PAGE else None
        if route.swept is not None:
            route.look_again()
