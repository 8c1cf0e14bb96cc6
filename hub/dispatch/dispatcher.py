"""The dispatch role: pending deliveries become attempts, attempts become outcomes, outcomes are written together.

    ring ─► look (store) ─► queues, a lane for each document ─► workers, one for each destination ─► connector
              ▲                                                          │ outcome
              └── what stays in the store until there is room      follow() ─► Changes ─► one store transaction

What is on its way lives in memory: after a crash all that is not settled is pending again, and what was accepted but
not yet written is sent once more with the same id. On SQLite one process dispatches. On Postgres any number do: each
has slices of the destinations' documents (hub/dispatch/slices.py) for as long as it renews its lease.
"""

import asyncio
import contextlib
import logging
import math
import os
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import msgspec
from sqlalchemy.exc import DBAPIError

from hub.capture.versions import Published
from hub.changes import lsn_text
from hub.clock import Alarms, Clock, SystemClock
from hub.connector import Connector
from hub.delivery import Attempt, Delivery, Forwarded, Held, Message, Origin, Outcome, OutcomeKind, Receiver, State
from hub.dispatch.answers import admit
from hub.dispatch.health import WELL, DestinationState, Health
from hub.dispatch.lanes import LANE, WINDOW, Lane, LaneKey, Queue
from hub.dispatch.lease import Lease
from hub.dispatch.merging import due_at, merges
from hub.dispatch.outcomes import SECOND, Following, Step, expires_at, follow, names_none
from hub.dispatch.results import Results
from hub.dispatch.slices import Slice
from hub.dispatch.unchanged import content_of, is_unchanged
from hub.dispatch.workers import Worker
from hub.documents import Shape
from hub.doorbell import heard
from hub.entities import Entity
from hub.errors import OutsideError
from hub.project import DeliveryPolicy, Project
from hub.project.yaml_fields import duration_text
from hub.store.database import Store
from hub.store.deliveries import ALL, PAGE, Changes, Deliveries, Loaded, Look, Mark, Runs, Share
from hub.store.forwards import Forwards
from hub.store.rescheduled import Rescheduled
from hub.store.workers import Evicted, Membership
from hub.subscriptions import Subscription, delivery_id
from hub.subscriptions.bodies import BodyInputs, render_body
from hub.subscriptions.templates import TemplateFailure

log = logging.getLogger("hub.dispatch.dispatcher")

RELEASED = 500  # that an operator released, in memory at one look
PATIENCE = 60 * SECOND  # a retry due later than this is not waited for by `--until-idle`
HELD_PATIENCE = 10 * SECOND  # nor is a destination that has been held for longer
EXPIRY_GAP = 60 * SECOND  # between two searches for what is too old: each reads a subscription's backlog
UNRUNG = 15 * SECOND  # between two looks that nobody rang for
NICENESS = 10  # of a worker with a lease: it gets a tenth beside one that is not nice
GRACE = 10.0  # seconds that attempts on their way get at the end
PROBE_MARGIN = 5 * SECOND  # after a probe's time-out, another worker may try

T = TypeVar("T")


class Route:
    """One subscription at run time: its queue, and the worker that it goes to."""

    def __init__(self, id: int, subscription: Subscription, worker: Worker) -> None:
        self.id = id
        self.subscription = subscription
        self.policy: DeliveryPolicy = subscription.config.delivery
        self.worker = worker
        self.queue = Queue(self.policy.batch_size, round(self.policy.batch_wait * SECOND))
        self.standing = ""  # paused or disabled: nothing of it begins
        self.anew = False  # its backlog is to be read from the start
        self.parks = False  # it has parked deliveries, which an accepted one may supersede
        self.merges = merges(self.policy)
        self.swept: int | None = 0 if self.merges else None  # up to this seq its backlog is merged; None: all of it
        self.unmerged: set[LaneKey] = set()  # what was on its way comes back, and others wait behind it
        self.inherits = True  # others may have begun what is in the queue

    @property
    def name(self) -> str:
        return self.subscription.name

    @property
    def entity(self) -> str:
        return self.subscription.config.entity

    @property
    def holds(self) -> bool:
        return self.policy.on_park == "hold"


class Dispatcher:
    """`run` is the role. One object runs once."""

    def __init__(
        self,
        store: Store,
        project: Project,
        subscriptions: Callable[[], Mapping[str, Subscription]],
        connectors: Mapping[str, Callable[[], Connector]],
        clock: Clock | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """`subscriptions`: by name, compiled by what the store knows of the entities; called anew when that changes.

        `connectors`: by destination name, how it is opened; called once the event loop runs.
        """
        self._store = store
        destinations = {name: project.destinations[name].limits.concurrency for name in connectors}
        membership = None if store.is_sqlite else Membership(store, destinations)
        self._lease = Lease(store, membership, self) if membership else None
        self._deliveries = Deliveries(store, membership)
        self._project = project
        self._subscriptions = subscriptions
        self._connectors = connectors
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter
        self._alarms = Alarms(self._clock)
        self._routes: dict[int, Route] = {}
        self._workers: dict[str, Worker] = {}
        self._by_queue: dict[Queue, Route] = {}
        self._identity = ""
        self._mark: Mark = 0
        self._runs: Runs = {}  # that the subscriptions are compiled by
        self._share: Share = {}  # that the reader goes by; what comes to it meanwhile is read in its next round
        self._refills: deque[Lane] = deque()
        self._look_again = asyncio.Event()
        self._results = Results(partial(self._write, self._deliveries.write), self._stop_all, self._wrote)
        self._quiet = asyncio.Event()  # something ended: whether all is settled may be asked anew
        self._broken: asyncio.Future[None] | None = None
        self._reads = ThreadPoolExecutor(1, "store-read")
        self._writes = ThreadPoolExecutor(1, "store-write")
        self._expiries: set[asyncio.Task[None]] = set()
        self._again = asyncio.Event()  # a rescheduled one may be due
        self._planning = True
        self._looked = False

    # The role

    def give_way(self) -> None:
        """Run behind others that want the processor. Not the thread that writes: capture waits for its lock.

        By Linux's idle class, which gives the processor up at once: a mere niceness keeps it for some milliseconds.
        Its group (a session, a service or a container) competes with others as before. One that has a lease to renew is
        nicer only: on a busy machine the idle class may get nothing for seconds.
        """
        if self._lease:
            os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), NICENESS))
            return
        self._writes.submit(int).result()  # a thread is scheduled as the one that started it
        with contextlib.suppress(OSError, AttributeError):  # forbidden, or no Linux: it has to do without
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))

    async def run(self, stop: asyncio.Event | None = None, finish: asyncio.Event | None = None) -> None:
        """Deliver until `stop` is set; once `finish` is set, until all is settled.

        OutsideError when the store is lost; Evicted when other workers took this one for lost. Attempts on their way
        get GRACE seconds to end, and their outcomes are written.
        """
        self._broken = asyncio.get_running_loop().create_future()
        with heard(self._store.listen("dispatch"), self._look_again.set, self.broke):
            await self._run(self._broken, stop, finish)

    async def _run(
        self, broken: asyncio.Future[None], stop: asyncio.Event | None, finish: asyncio.Event | None
    ) -> None:
        await self._open()
        endings: list[Awaitable[Any]] = [broken]
        endings += [stop.wait()] if stop else []
        endings += [self._finished(finish)] if finish else []
        tasks = [self._reader(), self._planner(), self._results.run(), self._alarms.run(), *endings]
        tasks += [self._lease.run()] if self._lease else []
        try:
            await _first_of(tasks)
        except DBAPIError as error:
            raise OutsideError(f"The store is lost: {error.orig}.", "Check `store:` and its disk.") from error
        except Evicted:
            self._abandon()
            raise
        finally:
            await self._close()

    async def _open(self) -> None:
        self._identity = await self._write(self._store.identity)
        parked = await self._read(self._deliveries.parked_subscriptions)
        states = await self._read(self._deliveries.destinations)
        for name, open_connector in self._connectors.items():
            limits = self._project.destinations[name].limits
            self._workers[name] = worker = Worker(name, open_connector(), limits, self, self._clock, self._alarms)
            if self._lease:
                worker.take_share(frozenset())
            worker.health = Health.remembered(states.get(name, WELL))
        self._runs = await self._read(self._deliveries.runs)
        for name, subscription in (await self._read(self._subscriptions)).items():
            id = await self._write(self._store.name_id, "subscription", name)
            self._routes[id] = route = Route(id, subscription, self._workers[subscription.config.to])
            self._by_queue[route.queue] = route
            route.parks = id in parked
            self._expire_soon(route)
        self._deliveries.forwards = Forwards(await self._write(self._derived))
        self._mark = await self._read(self._deliveries.mark)
        self._look_now_and_then()

    def _derived(self) -> dict[str, Published]:
        """The derived entities, by name, with who subscribes to them."""
        found = {}
        for name, config in self._project.entities.items():
            if config.derived:
                to = [(id, route.subscription) for id, route in self._routes.items() if route.entity == name]
                entity = Entity(name, "", (), (), Shape({}))
                found[name] = Published(self._store.name_id("entity", name), entity, to)
        return found

    def _look_now_and_then(self) -> None:
        """On Postgres a ring follows its commit, and is lost with a process that is killed between the two."""
        self._look_again.set()
        self._again.set()
        if not self._store.is_sqlite:
            self._alarms.at(self._clock.now() + UNRUNG, self._look_now_and_then)

    async def _close(self) -> None:
        for task in self._expiries:
            task.cancel()
        await asyncio.gather(*(worker.close(GRACE) for worker in self._workers.values()))
        for last in (self._results.flush, *([self._lease.close] if self._lease else [])):
            with contextlib.suppress(DBAPIError, TimeoutError, Evicted):
                async with asyncio.timeout(GRACE):
                    await last()
        self._reads.shutdown()
        self._writes.shutdown()

    def broke(self, error: BaseException) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _read(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reads, call, *arguments)

    async def _write(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writes, call, *arguments)

    # This worker's share, where several dispatch

    def require_share(self) -> None:
        if self._lease:
            self._lease.require()

    def lose(self) -> None:
        self._abandon()
        self.broke(Evicted())

    def _abandon(self) -> None:
        for worker in self._workers.values():
            worker.abandon()

    def hold(self, slices: Set[Slice]) -> None:
        for name, worker in self._workers.items():
            numbers = frozenset(number for destination, number in slices if destination == name)
            if numbers - worker.slices:
                self._read_anew(worker)
            worker.take_share(numbers)

    def _read_anew(self, worker: Worker) -> None:
        """Others have had some of its deliveries: those before the cursor too may be for us. Ours are known as such."""
        for route in self._routes.values():
            if route.worker is worker:
                route.anew = route.inherits = True
        self._look_again.set()

    async def let_go(self, slices: Set[Slice]) -> None:
        for name, worker in self._workers.items():
            leaving = {number for destination, number in slices if destination == name}
            worker.take_share(worker.slices - leaving)
            for route in self._routes.values():
                if route.worker is worker:
                    route.queue.leave(leaving)
            await worker.landed(leaving)
            async with worker.merging:  # a merge that still had some of them is over
                pass
        await self._results.stored()

    async def may_probe(self, worker: Worker) -> bool:
        """Several workers try a held destination one at a time. When another one does, we hear how it went."""
        if self._lease is None or self._results.knows_better(worker.name, math.inf):
            return True
        now = self._clock.now()
        until = now + round(worker.limits.timeout * SECOND) + PROBE_MARGIN
        state = await self._write(self._deliveries.claim_probe, worker.name, now, until)
        if state is not None:
            self._hear(worker, state)
        return state is None

    def _hear(self, worker: Worker, state: DestinationState) -> None:
        """What another worker found out about a destination."""
        health = worker.health
        if state.held_since:
            told = health.held
            health.hold(state)
            if not told:
                self._tell(worker)
        elif health.held:
            self._park_blamed(worker, health.accept(0, self._clock.now()))
            self._tell(worker)
        else:
            health.pause(state.probe_at, state.reason)

    # Idle

    def settled(self) -> bool:
        """Nothing is on its way and nothing will begin soon.

        All is delivered or parked, or belongs to a subscription that is paused or disabled, to a destination that has
        been held for HELD_PATIENCE, or to a retry that is due later than PATIENCE.
        """
        return (
            self._looked
            and not self._look_again.is_set()
            and not self._refills
            and self._results.empty
            and not self._expiries
            and not self._planning
            and not self._again.is_set()
            and not (self._lease and self._lease.changing)
            and all(self._worker_settled(worker) for worker in self._workers.values())
            and all(self._route_settled(route) for route in self._routes.values())
        )

    def _worker_settled(self, worker: Worker) -> bool:
        return worker.idle or (not worker.flying and self._patience_is_over(worker))

    def _patience_is_over(self, worker: Worker) -> bool:
        now = self._clock.now()
        if worker.health.held:
            return now - worker.health.held_since > HELD_PATIENCE
        return worker.health.paused_until - now > PATIENCE

    def _standing_still(self, route: Route) -> bool:
        return bool(route.standing) or self._patience_is_over(route.worker)

    def _route_settled(self, route: Route) -> bool:
        if self._standing_still(route):
            return True
        soon = self._clock.now() + PATIENCE
        return not (route.queue.behind and route.queue.room) and all(
            lane.standing and (not lane.busy or lane.due > soon) for lane in route.queue.lanes.values()
        )

    async def _finished(self, finish: asyncio.Event) -> None:
        await finish.wait()
        for worker in self._workers.values():
            worker.hurry()
        self._look_again.set()  # a ring may be on its way
        while not (self.settled() and await self._others_settled()):
            self._quiet.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):  # patience also ends by the clock alone
                    await self._quiet.wait()

    async def _others_settled(self) -> bool:
        """Nothing waits in slices that are not ours: of a worker that lives, or of one that was lost just now."""
        if self._lease is None:
            return True
        share = {id: ALL ^ mine for id, mine in self._share.items() if not self._standing_still(self._routes[id])}
        return not await self._read(self._deliveries.any_pending, share)

    # Reading: what is pending comes into the queues, as far as there is room

    async def _reader(self) -> None:
        while True:
            await self._look_again.wait()
            self._look_again.clear()
            self._looked = False
            await self._begin_round()
            began = time.monotonic()
            look = await self._read(self._deliveries.look, self._mark, self._share, RELEASED)
            self._mark = look.mark
            for name, worker in self._workers.items():
                if self._lease and not (worker.probing or self._results.knows_better(name, began)):
                    self._hear(worker, look.destinations.get(name, WELL))
            await self._take(look)
            while self._refills:
                await self._refill(self._refills.popleft())
            for route in self._routes.values():
                await self._merge_unmerged(route)
                await self._sweep(route)
                await self._read_backlog(route)
            self._looked = True
            self._pump()

    async def _begin_round(self) -> None:
        """Fix whose deliveries this round reads, and from where."""
        anew = [route for route in self._routes.values() if route.anew]
        self._share = {id: sum(1 << number for number in route.worker.slices) for id, route in self._routes.items()}
        for route in anew:
            route.anew = False
            route.queue.cursor, route.queue.behind = 0, True
            self._begin_sweep(route)
        inheriting = [route for route in self._routes.values() if route.inherits]
        if inheriting:
            last = await self._read(self._deliveries.last)
            for route in inheriting:
                route.inherits = False
                route.queue.inherit(last)
        if anew:
            parked = await self._read(self._deliveries.parked_subscriptions)
            for route in anew:
                route.parks = route.parks or route.id in parked

    def _pump(self) -> None:
        for worker in self._workers.values():
            worker.pump()
        self._quiet.set()

    async def _take(self, look: Look) -> None:
        for route in self._routes.values():
            await self._stand_or_go(route, self._results.disabling.get(route.id) or look.standing.get(route.id, ""))
        await self._take_released(look)
        merging: dict[int, list[Delivery]] = {id: [] for id, route in self._routes.items() if route.merges}
        for delivery in look.fresh:
            if delivery.subscription_id in merging:
                merging[delivery.subscription_id].append(delivery)
            else:
                self._take_fresh(delivery)
        self._pump()  # what goes out as it is waits for no merge, nor for what others left in the store
        for id, deliveries in merging.items():
            for delivery in await self._merge(self._routes[id], deliveries) if deliveries else ():
                self._take_fresh(delivery)
        if not look.whole:  # more has come than one look takes
            for route in self._routes.values():
                self._begin_sweep(route)
                route.queue.behind = True
                route.anew = not self._store.is_sqlite
            self._look_again.set()

    async def _stand_or_go(self, route: Route, standing: str) -> None:
        if standing != route.standing:
            route.standing = standing
            self._stop_route(route)
            if not standing:  # what ended meanwhile is to be read again: later versions would pass it
                await self._results.stored()
        if route.holds and not standing:
            await self._sync_holds(route)

    def _stop_route(self, route: Route) -> None:
        """It stands still, or goes on: either way what is not on its way is read again, when its time comes."""
        route.worker.drop(route.queue)
        route.queue.rewind()

    async def _sync_holds(self, route: Route) -> None:
        """Parked deliveries hold their documents' later versions; those that were discarded hold no longer."""
        if not (route.parks or route.queue.standing):
            return
        parking = set(self._results.writing)  # the store may not say so yet
        parked = await self._read(self._deliveries.parked_lanes, route.id, self._share[route.id])
        parking |= self._results.writing
        for key, lane in route.queue.held().items():
            if key not in parked and lane.parked not in parking:
                route.queue.unhold(lane)
                self._refills.append(lane)
        for key, seq in parked.items():
            route.queue.hold_key(key, seq)

    async def _take_released(self, look: Look) -> None:
        known = [one for one in look.released if one.delivery.subscription_id in self._routes]
        if not known:
            return
        sent = [one for one in known if one.forced or not one.outdated]
        outdated = [one.delivery.seq for one in known if one.outdated and not one.forced]
        await self._write(self._deliveries.take_released, [one.delivery.seq for one in sent], outdated)
        for one in sent:
            route = self._routes[one.delivery.subscription_id]
            if not route.standing:
                self._send_now(route, one.delivery, one.forced)
        if outdated or len(look.released) == RELEASED:  # one that is superseded holds its document no longer
            self._look_again.set()

    def _send_now(self, route: Route, delivery: Delivery, forced: bool) -> None:
        route.queue.begun.add(delivery.seq)  # it is sent, whatever the receiver has
        lane = route.queue.lanes.get((delivery.entity_id, delivery.key))
        if lane is not None and lane.due and lane.head.seq == delivery.seq:
            lane.items[0] = delivery
            self._due(route, lane, lane.due)
        else:
            self._offer(route, route.queue.put_first(delivery, superseded_by_newer=not forced))

    def _take_fresh(self, delivery: Delivery) -> None:
        route = self._routes.get(delivery.subscription_id)
        if route is None or route.standing:
            return
        queue = route.queue
        if delivery.seq <= queue.cursor:  # its transaction ended after that of a later one
            self._add(route, delivery)
        elif not queue.behind:
            if queue.room:
                queue.cursor = delivery.seq
                self._add(route, delivery)
            else:
                queue.behind = True

    def _add(self, route: Route, delivery: Delivery) -> None:
        if delivery.seq not in self._results.writing and delivery.slice in route.worker.slices:
            self._offer(route, route.queue.add(delivery))

    def _offer(self, route: Route, lane: Lane | None) -> None:
        """Send the lane's first as soon as it is due."""
        if lane is None:
            return
        if self._stands(route, lane):
            route.queue.forget(lane)
        elif due_at(lane.head, route.policy) > self._clock.now():
            self._wait_for(route, lane)
        else:
            lane.due = 0
            route.worker.offer(lane)

    @staticmethod
    def _stands(route: Route, lane: Lane) -> bool:
        """Nothing more of it goes out from here: its subscription stands still, or another worker has its slice."""
        return bool(route.standing) or (bool(lane.items) and lane.head.slice not in route.worker.slices)

    def _wait_for(self, route: Route, lane: Lane) -> None:
        route.queue.stand(lane)
        self._read_on(route.queue)
        due = min(due_at(lane.head, route.policy), expires_at(lane.head.created_at, route.policy))
        if lane.due != due:
            lane.due = due
            self._alarms.at(due, lambda: self._due(route, lane, due))

    def _due(self, route: Route, lane: Lane, due: int) -> None:
        if lane.due == due and route.queue.lanes.get(lane.key) is lane and not route.standing:
            lane.due = 0
            route.worker.offer(lane)
            asyncio.get_running_loop().call_soon(route.worker.pump)  # with all that is due at the same moment

    async def _read_backlog(self, route: Route) -> None:
        queue = route.queue
        while queue.behind and not route.standing and queue.room >= PAGE:
            page = await self._read(self._deliveries.backlog, route.id, self._share[route.id], queue.cursor)
            queue.cursor = page[-1].seq if page else queue.cursor
            for delivery in await self._merge(route, page) if route.merges else page:
                self._add(route, delivery)
            queue.behind = len(page) == PAGE
            route.worker.pump()

    async def _refill(self, lane: Lane) -> None:
        route = self._by_queue[lane.queue]
        if route.standing or lane.queue.lanes.get(lane.key) is not lane:
            return
        if not lane.queue.needs_refill(lane):
            if not (lane.items or lane.busy or lane.standing):  # it was unheld, and nothing was left behind it
                lane.queue.forget(lane)
            return
        page = await self._read(self._deliveries.lane, route.id, lane.key, lane.cut, LANE)
        unsent = [delivery for delivery in page if delivery.seq not in self._results.writing]
        self._offer(route, lane.queue.refill(lane, unsent, more=len(page) == LANE))

    # Merging: of what waits of a document the newest stays, for subscriptions that want it so

    async def _merge(self, route: Route, pending: Sequence[Delivery]) -> list[Delivery]:
        """Merge what waits of these deliveries' documents, in the store and in memory. What is left and in no lane."""
        queue, worker = route.queue, route.worker
        async with worker.merging:
            keys = {(one.entity_id, one.key) for one in pending if one.slice in worker.slices}
            lanes = [queue.lanes[key] for key in keys if key in queue.lanes]
            fixed = {lane.head.seq for lane in lanes if lane.items and not worker.recall(lane)} | self._results.writing
            merge = self._deliveries.merge, route.id, keys, route.policy, fixed, queue.may_have_begun
            merged = await self._write(*merge)
            for seq in merged.gone:
                queue.begun.discard(seq)
                worker.health.forget(seq)
            queue.begun.update(one.delivery.seq for one in merged.changed if one.begun)
            waiting: dict[LaneKey, list[Delivery]] = {key: [] for key in keys}
            for one in merged.waiting:
                waiting[one.delivery.entity_id, one.delivery.key].append(one.delivery)
            for key in keys & queue.lanes.keys():
                self._take_merged(route, queue.lanes[key], waiting.pop(key), fixed)
        self._read_on(queue)
        return [one for deliveries in waiting.values() for one in deliveries]

    def _take_merged(self, route: Route, lane: Lane, waiting: Sequence[Delivery], fixed: Set[int]) -> None:
        if lane.queue.merged(lane, waiting, fixed) or (lane.due and lane.items):
            self._offer(route, lane)
        if lane.items and not lane.flying and lane.head.seq in self._results.writing:
            self._merge_behind(route, lane)

    def _merge_behind(self, route: Route, lane: Lane) -> None:
        """It was tried, and others may wait behind it: merge them once the store knows how it went."""
        if route.merges and (len(lane.items) > 1 or lane.cut):
            route.unmerged.add(lane.key)
            self._look_again.set()

    async def _merge_unmerged(self, route: Route) -> None:
        lanes = [route.queue.lanes[key] for key in route.unmerged if key in route.queue.lanes]
        heads = [lane.head for lane in lanes if lane.items and lane.head.seq not in self._results.writing]
        route.unmerged = {lane.key for lane in lanes if lane.items and lane.head.seq in self._results.writing}
        if heads:
            await self._merge(route, heads)

    def _begin_sweep(self, route: Route) -> None:
        if route.merges and route.swept is None:
            route.swept = 0

    async def _sweep(self, route: Route) -> None:
        """Merge a page of the backlog, read or not: so the store's queue is bounded while nothing goes out."""
        if route.swept is None:
            return
        page = await self._read(self._deliveries.backlog, route.id, self._share[route.id], route.swept)
        await self._merge(route, page)
        route.swept = page[-1].seq if len(page) == PAGE else None
        if route.swept is not None:
            self._look_again.set()

    # Bodies

    async def messages(self, lanes: Sequence[Lane]) -> list[tuple[Lane, Message]]:
        async with self._by_queue[lanes[0].queue].worker.merging:
            runs, loaded = await self._read(self._deliveries.load, [lane.head.seq for lane in lanes if lane.items])
            if runs != self._runs:
                await self._compile_anew(runs)
            held = await self._held([lane for lane in lanes if self._by_queue[lane.queue].policy.skip_unchanged])
            found = [(lane, self._prepare(lane, loaded, held)) for lane in lanes]
            return [(lane, message) for lane, message in found if message is not None]

    async def _held(self, lanes: Sequence[Lane]) -> Mapping[Receiver, Held | None]:
        """What the receivers have of the lanes' documents; what the store does not know yet is known here."""
        if not lanes:
            return {}
        receivers = {self._receiver(lane) for lane in lanes}
        unwritten = {one: self._results.ledger[one] for one in receivers & self._results.ledger.keys()}
        return {**await self._read(self._deliveries.held, receivers - unwritten.keys()), **unwritten}

    def _receiver(self, lane: Lane) -> Receiver:
        return (*lane.key, self._by_queue[lane.queue].id)

    def _prepare(
        self, lane: Lane, loaded: Mapping[int, Loaded], held: Mapping[Receiver, Held | None]
    ) -> Message | None:
        route = self._by_queue[lane.queue]
        if lane.queue.lanes.get(lane.key) is not lane or self._stands(route, lane):
            return None
        if route.merges and due_at(lane.head, route.policy) > self._clock.now():  # its quiet time began anew
            self._wait_for(route, lane)
            return None
        message = self._message(route, lane, loaded.get(lane.head.seq))
        has = held.get(self._receiver(lane))
        if message is None or has is None or not self._has_already(route, lane, has):
            return message
        self._skip(route, lane, has)
        return None

    @staticmethod
    def _has_already(route: Route, lane: Lane, held: Held) -> bool:
        return is_unchanged(lane.head, lane.content, held, begun=route.queue.may_have_begun(lane.head.seq))

    def _skip(self, route: Route, lane: Lane, held: Held) -> None:
        """As if it had been accepted: the receiver has what this version would bring."""
        delivery, now = lane.head, self._clock.now()
        said = f"Not sent: it says the same as version {held.version}, which the receiver has."
        self._results.attempt(
            Attempt(delivery, delivery.attempts + 1, now, 0, OutcomeKind.UNCHANGED, said),
            msgspec.structs.replace(held, version=delivery.version),
        )
        self._settle(route, lane, Following(Step.SETTLE, delivery.attempts))

    async def _compile_anew(self, runs: Runs) -> None:
        """A stream has begun, or begun anew: `changed` goes by the columns that its entities have by now.

        All workers have to render alike, whenever they started: an id has one body.
        """
        subscriptions = await self._read(self._subscriptions)
        for route in self._routes.values():
            route.subscription = subscriptions[route.name]
        self._runs = runs

    def _message(self, route: Route, lane: Lane, loaded: Loaded | None) -> Message | None:
        delivery = lane.head
        if loaded is None:  # discarded, or parked as too old
            self._gone(route, lane)
        elif expires_at(delivery.created_at, route.policy) <= self._clock.now():
            self._park(route, lane, delivery.attempts, _expired(route))
        elif not loaded.found:
            self._park(route, lane, delivery.attempts, f"The journal no longer has version {delivery.version}.")
        else:
            lane.origin = Origin(loaded.lsn, loaded.transaction, loaded.hops)
            try:
                return self._render(route, lane, loaded)
            except TemplateFailure as failure:
                self._park(route, lane, delivery.attempts, f"body: {failure}")
        return None

    def _gone(self, route: Route, lane: Lane) -> None:
        if route.holds:
            route.queue.hold(lane)
            self._look_again.set()  # which tells whether a parked one holds it
        else:
            self._advance(route, lane)

    def _render(self, route: Route, lane: Lane, loaded: Loaded) -> Message:
        config, delivery = route.subscription.config, lane.head
        id = delivery_id(self._identity, config.name, config.entity, delivery.key, delivery.version, delivery.turn)
        inputs = BodyInputs(
            hub=self._project.name,
            source=self._project.entities[config.entity].source,
            delivery_id=id,
            entity=config.entity,
            key=delivery.key,
            version=delivery.version,
            event=loaded.event,
            cause=loaded.cause,
            lsn=lsn_text(loaded.lsn),
            transaction=loaded.transaction,
            committed_at=loaded.committed_at,
            document=loaded.document,
            before=loaded.before,
        )
        body = render_body(route.subscription, inputs)
        lane.content = content_of(config.to, loaded.event, body)
        return Message(
            id=id,
            subscription=config.name,
            entity=config.entity,
            key=delivery.key,
            version=delivery.version,
            event=loaded.event.value,
            content=body.content,
            content_type=body.content_type,
            attempt=delivery.attempts + 1,
        )

    # Outcomes

    def tried(self, worker: Worker, outcomes: Sequence[tuple[Lane, Outcome]], started_at: int, probe: bool) -> None:
        now, jitter = self._clock.now(), self._jitter()  # of all: what failed together is tried again together
        alone = len(self._part(worker, outcomes)) < 2
        for lane, outcome in outcomes:
            destination = self._project.destinations[worker.name]
            outcome = admit(outcome, destination, self._project.entities, lane.origin.hops)
            delivery, policy = lane.head, self._by_queue[lane.queue].policy
            following = follow(outcome, delivery.attempts, policy, now, jitter, alone)
            accepted = outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE)
            self._results.attempt(
                Attempt(delivery, delivery.attempts + 1, started_at, now - started_at, outcome.kind, outcome.detail),
                Held(delivery.version, delivery.event, lane.content, outcome.receiver_id, now) if accepted else None,
            )
            self._take_step(worker, lane, following)
            self._judge(worker, lane, delivery, outcome, started_at, probe)

    def _part(self, worker: Worker, outcomes: Sequence[tuple[Lane, Outcome]]) -> list[Lane]:
        """Those of a batch that share a fate which names none of them: each half of them goes on by itself."""
        suspects = [(lane, outcome.detail) for lane, outcome in outcomes if names_none(outcome)]
        lanes = [lane for lane, _ in suspects]
        worker.part(lanes)
        if len(lanes) > 1:
            told = {"destination": worker.name, "documents": len(lanes), "reason": suspects[0][1]}
            log.info("batch divided", extra=told)
        return lanes

    def _take_step(self, worker: Worker, lane: Lane, following: Following) -> None:
        lane.flying = False
        self._STEPS[following.step](self, self._by_queue[lane.queue], lane, following)
        if following.pause:
            self._pause(worker, following)

    def _settle(self, route: Route, lane: Lane, following: Following) -> None:
        self._results.settle(lane.head, supersedes=route.parks, forwarded=_forwarded(lane, following))
        self._accepted(route, lane)

    def _reschedule(self, route: Route, lane: Lane, following: Following) -> None:
        forwarded = _forwarded(lane, following)
        self._results.reschedule(
            lane.head, following.due_at, following.reason, supersedes=route.parks, forwarded=forwarded
        )
        self._accepted(route, lane)

    def _drop(self, route: Route, lane: Lane, following: Following) -> None:
        self._results.settle(lane.head, supersedes=False)
        self._advance(route, lane)

    def _accepted(self, route: Route, lane: Lane) -> None:
        """Released ones of older versions would make the receiver older than it is."""
        delivery = lane.head
        while len(lane.items) > 1 and lane.items[1].seq in lane.released and lane.items[1].version < delivery.version:
            self._results.update(lane.items[1], State.SUPERSEDED, lane.items[1].attempts, 0, "")
            lane.released.discard(lane.items[1].seq)
            del lane.items[1]
            lane.queue.size -= 0 if lane.standing else 1
        self._advance(route, lane)

    def _wait(self, route: Route, lane: Lane, following: Following) -> None:
        due = min(following.due_at, expires_at(lane.head.created_at, route.policy))
        self._results.update(lane.head, State.PENDING, following.attempts, due, following.reason)
        lane.items[0] = msgspec.structs.replace(lane.head, attempts=following.attempts, due_at=due)
        self._merge_behind(route, lane)
        if self._stands(route, lane):
            route.queue.forget(lane)
        else:
            self._wait_for(route, lane)

    def _divide(self, route: Route, lane: Lane, following: Following) -> None:
        self._offer(route, lane)
        self._merge_behind(route, lane)

    def _park_after(self, route: Route, lane: Lane, following: Following) -> None:
        self._park(route, lane, following.attempts, following.reason)

    def _hold(self, route: Route, lane: Lane, following: Following) -> None:
        if self._stands(route, lane):
            route.queue.forget(lane)
        else:
            route.worker.doubt(lane)
            self._merge_behind(route, lane)

    def _disable(self, route: Route, lane: Lane, following: Following) -> None:
        if route.standing != "disabled":  # else by another one of its batch
            log.warning("subscription disabled", extra={"subscription": route.name, "reason": following.reason})
        self._results.disable(route.id, following.reason)
        route.standing = "disabled"
        self._stop_route(route)

    _STEPS: Mapping[Step, Callable[["Dispatcher", Route, Lane, Following], None]] = {
        Step.SETTLE: _settle,
        Step.RESCHEDULE: _reschedule,
        Step.DIVIDE: _divide,
        Step.DROP: _drop,
        Step.WAIT: _wait,
        Step.PARK: _park_after,
        Step.HOLD: _hold,
        Step.DISABLE: _disable,
    }

    def _park(self, route: Route, lane: Lane, attempts: int, reason: str) -> None:
        delivery = lane.head
        log.warning(
            "delivery parked",
            extra={"subscription": route.name, "key": delivery.key, "version": delivery.version, "reason": reason},
        )
        self._results.update(delivery, State.PARKED, attempts, 0, reason)
        route.parks = True
        route.worker.health.forget(delivery.seq)
        if route.holds and not route.standing:
            route.queue.hold(lane)
            self._read_on(route.queue)
        else:
            self._advance(route, lane)

    def _advance(self, route: Route, lane: Lane) -> None:
        """The lane's first is done with: on to its next."""
        queue = lane.queue
        self._offer(route, queue.pop(lane))
        if queue.needs_refill(lane):
            self._refills.append(lane)
            self._look_again.set()
        self._read_on(queue)

    def _read_on(self, queue: Queue) -> None:
        """There may be room again for what was left in the store."""
        if queue.behind and queue.room >= WINDOW // 2:
            self._look_again.set()

    # The destination's health

    def _judge(
        self, worker: Worker, lane: Lane, delivery: Delivery, outcome: Outcome, started_at: int, probe: bool
    ) -> None:
        health, was_held = worker.health, worker.health.held
        if outcome.kind is OutcomeKind.HELD:
            health.fail(delivery.seq, outcome.detail, probe=probe, now=self._clock.now(), jitter=self._jitter())
        elif outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE):
            self._park_blamed(worker, health.accept(delivery.seq, started_at))
        elif probe:
            health.answer(delivery.seq, self._clock.now())
        if health.held != was_held:
            self._tell(worker)
        if health.held or was_held:
            self._remember(worker)

    def _park_blamed(self, worker: Worker, blamed: Mapping[int, str]) -> None:
        for seq, reason in blamed.items():
            lane = worker.take_doubtful(seq)
            if lane is not None:
                route = self._by_queue[lane.queue]
                self._park(route, lane, lane.head.attempts + 1, f"Refused, while others are accepted: {reason}")

    def _tell(self, worker: Worker) -> None:
        if worker.health.held:
            log.warning("destination held", extra={"destination": worker.name, "reason": worker.health.reason})
        else:
            log.warning("destination well again", extra={"destination": worker.name})

    def _pause(self, worker: Worker, following: Following) -> None:
        if worker.health.paused_until <= self._clock.now() < following.due_at:  # else it is known
            until = datetime.fromtimestamp(following.due_at // SECOND, UTC).isoformat()
            told = {"destination": worker.name, "until": until, "reason": following.reason}
            log.warning("destination asks for time", extra=told)
        worker.health.pause(following.due_at, following.reason)
        self._remember(worker)

    def _remember(self, worker: Worker) -> None:
        self._results.remember(worker.name, worker.health.state(self._clock.now()))

    # Writing

    def _wrote(self, changes: Changes) -> None:
        for due in {update.due_at for update in changes.updates if update.state is State.RESCHEDULED}:
            self._alarms.at(due, self._again.set)
        if changes.disabled or changes.forwarded or any(route.unmerged for route in self._routes.values()):
            self._look_again.set()
        self._quiet.set()

    def _stop_all(self, stopping: bool) -> None:
        for worker in self._workers.values():
            if worker.stopping != stopping and not worker.closed:
                worker.stopping = stopping
                worker.pump()

    # What receivers asked for again at a later time

    async def _planner(self) -> None:
        while True:
            self._planning = True
            self._again.clear()
            subscriptions = {id: route.subscription for id, route in self._routes.items()}
            rescheduled = Rescheduled(self._store, subscriptions, self._deliveries.forwards.entity_ids)
            while await self._write(rescheduled.plan, self._clock.now()):
                self._look_again.set()
            first = await self._read(rescheduled.first)
            if first is not None:  # due already: another worker is at it
                self._alarms.at(max(first, self._clock.now() + SECOND), self._again.set)
            self._planning = False
            self._quiet.set()
            await self._again.wait()

    # Expiry

    async def _expire(self, route: Route) -> None:
        """Park what is past `expire`, held, paused or not; again when the oldest of the rest is."""
        before = self._clock.now() - round(route.policy.expire * SECOND)
        while old := await self._read(self._deliveries.expired, route.id, before):
            await self._write(self._deliveries.expire, old, _expired(route))
            route.parks = True
        oldest = await self._read(self._deliveries.oldest, route.id)
        again = expires_at(oldest if oldest is not None else self._clock.now(), route.policy)
        self._alarms.at(max(again, self._clock.now() + EXPIRY_GAP), lambda: self._expire_soon(route))

    def _expire_soon(self, route: Route) -> None:
        task = asyncio.get_running_loop().create_task(self._expire(route))
        self._expiries.add(task)
        task.add_done_callback(self._expiry_ended)

    def _expiry_ended(self, task: asyncio.Task[None]) -> None:
        self._expiries.discard(task)
        error = None if task.cancelled() else task.exception()
        if error:
            self.broke(error)


def _forwarded(lane: Lane, following: Following) -> Forwarded | None:
    return Forwarded(lane.head, lane.origin, following.forward) if following.forward else None


def _expired(route: Route) -> str:
    return f"Not delivered within {duration_text(route.policy.expire)}."


async def _first_of(awaitables: Iterable[Awaitable[Any]]) -> None:
    """Return when one of them ends, raising what it raised; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
