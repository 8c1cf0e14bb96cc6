"""The dispatch role: pending deliveries become attempts, attempts become outcomes, outcomes are written together.

    ring ─► look (store) ─► routes, a lane for each document ─► workers, one for each destination ─► connector
              ▲                                                          │ outcome
              └── what stays in the store until there is room      follow() ─► Steps ─► Results ─► one store transaction

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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any

from sqlalchemy.exc import DBAPIError

from hub.capture.versions import Published
from hub.clock import Alarms, Clock, SystemClock
from hub.connector import Connector
from hub.delivery import Attempt, Delivery, Held, Message, Outcome, OutcomeKind, Receiver, State
from hub.dispatch.accounts import account_of
from hub.dispatch.answers import admit
from hub.dispatch.expiry import Expiry
from hub.dispatch.health import WELL, Health
from hub.dispatch.judge import Judge
from hub.dispatch.lanes import LANE, Lane, LaneKey, Queue
from hub.dispatch.lease import Lease
from hub.dispatch.merger import Merger
from hub.dispatch.messages import Messages
from hub.dispatch.outcomes import SECOND, follow, names_none
from hub.dispatch.results import Results
from hub.dispatch.routes import Route
from hub.dispatch.slices import Slice
from hub.dispatch.steps import Steps
from hub.dispatch.threads import Threads
from hub.dispatch.workers import Worker
from hub.documents import Shape
from hub.doorbell import heard
from hub.entities import Entity
from hub.errors import OutsideError
from hub.project import Project
from hub.store import ledger
from hub.store.database import Store
from hub.store.deliveries import ALL, PAGE, Changes, Deliveries, Look, Mark, Runs, Share
from hub.store.forwards import Forwards
from hub.store.rescheduled import Rescheduled
from hub.store.tables import DELETED
from hub.store.workers import Evicted, Membership
from hub.subscriptions import Subscription

log = logging.getLogger("hub.dispatch.dispatcher")

RELEASED = 500  # that an operator released, in memory at one look
PATIENCE = 60 * SECOND  # a retry due later than this is not waited for by `--until-idle`
HELD_PATIENCE = 10 * SECOND  # nor is a destination that has been held for longer
UNRUNG = 15 * SECOND  # between two looks that nobody rang for
NICENESS = 10  # of a worker with a lease: it gets a tenth beside one that is not nice
GRACE = 10.0  # seconds that attempts on their way get at the end
PROBE_MARGIN = 5 * SECOND  # after a probe's time-out, another worker may try


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
        self._project = project
        self._subscriptions = subscriptions
        self._connectors = connectors
        self._clock: Clock = clock or SystemClock()
        self._jitter = jitter
        destinations = {name: project.destinations[name].limits.concurrency for name in connectors}
        membership = None if store.is_sqlite else Membership(store, destinations)
        # What is on its way, and how far the store was read
        self._workers: dict[str, Worker] = {}
        self._routes: dict[int, Route] = {}  # by subscription id
        self._by_queue: dict[Queue, Route] = {}
        self._mark: Mark = 0
        self._runs: Runs = {}  # that the subscriptions are compiled by
        self._share: Share = {}  # that the reader goes by; what comes to it meanwhile is read in its next round
        self._look_again = asyncio.Event()
        self._looked = False
        self._again = asyncio.Event()  # a rescheduled one may be due
        self._planning = True
        self._quiet = asyncio.Event()  # something ended: whether all is settled may be asked anew
        self._broken: asyncio.Future[None] | None = None
        # The parts
        self._alarms = Alarms(self._clock)
        self._lease = Lease(store, membership, self) if membership else None
        self._deliveries = Deliveries(store, membership)
        self._threads = Threads()
        self._results = Results(partial(self._threads.write, self._deliveries.write), self._stop_all, self._wrote)
        self._merger = Merger(self._deliveries, self._threads, self._results)
        self._steps = Steps(self._results)
        self._judge = Judge(self._by_queue, self._steps, self._results, self._clock, jitter)
        self._expiry = Expiry(self._deliveries, self._threads, self._clock, self._alarms, self.broke)
        self._messages: Messages  # once the store's identity is known

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
        self._threads.start_writing()
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
        identity = await self._threads.write(self._store.identity)
        self._messages = Messages(identity, self._project, self._by_queue, self._steps)
        states = await self._threads.read(self._deliveries.destinations)
        for name, open_connector in self._connectors.items():
            limits = self._project.destinations[name].limits
            self._workers[name] = worker = Worker(name, open_connector(), limits, self, self._clock, self._alarms)
            if self._lease:
                worker.take_share(frozenset())
            if worker.remembers:
                worker.account = await asyncio.to_thread(account_of, identity, self._project.destinations[name])
            worker.health = Health.remembered(states.get(name, WELL))
        self._runs = await self._threads.read(self._deliveries.runs)
        for name, subscription in (await self._threads.read(self._subscriptions)).items():
            id = await self._threads.write(self._store.name_id, "subscription", name)
            worker = self._workers[subscription.config.to]
            route = Route(id, subscription, worker, self._clock, self._alarms, self._look_again.set)
            self._routes[id] = self._by_queue[route.queue] = route
            self._expiry.begin(route)
        self._deliveries.forwards = Forwards(await self._threads.write(self._derived))
        self._mark = await self._threads.read(self._deliveries.mark)
        for id in await self._threads.read(self._deliveries.parked_subscriptions):  # what is parked later, a look shows
            if id in self._routes:
                self._routes[id].parks = True
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
        self._expiry.cancel()
        await asyncio.gather(*(worker.close(GRACE) for worker in self._workers.values()))
        for last in (self._results.flush, *([self._lease.close] if self._lease else [])):
            with contextlib.suppress(DBAPIError, TimeoutError, Evicted):
                async with asyncio.timeout(GRACE):
                    await last()
        self._threads.close()

    def broke(self, error: BaseException) -> None:
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(error)

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
        state = await self._threads.write(self._deliveries.claim_probe, worker.name, now, until)
        if state is not None:
            self._judge.hear(worker, state)
        return state is None

    # Idle

    def settled(self) -> bool:
        """Nothing is on its way and nothing will begin soon.

        All is delivered or parked, or belongs to a subscription that is paused or disabled, to a destination that has
        been held for HELD_PATIENCE, or to a retry that is due later than PATIENCE.
        """
        return (
            self._looked
            and not self._look_again.is_set()
            and self._results.empty
            and self._expiry.idle
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
        return not await self._threads.read(self._deliveries.any_pending, share)

    # Reading: what is pending comes into the queues, as far as there is room

    async def _reader(self) -> None:
        while True:
            await self._look_again.wait()
            self._look_again.clear()
            self._looked = False
            await self._begin_round()
            began = time.monotonic()
            look = await self._threads.read(self._deliveries.look, self._mark, self._share, RELEASED)
            self._mark = look.mark
            for name, worker in self._workers.items():
                if self._lease and not (worker.probing or self._results.knows_better(name, began)):
                    self._judge.hear(worker, look.destinations.get(name, WELL))
            await self._take(look)
            for route in self._routes.values():
                await self._refill(route)
            for route in self._routes.values():
                await self._merger.merge_unmerged(route)
                await self._merger.sweep(route, self._share[route.id])
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
            route.begin_sweep()
        inheriting = [route for route in self._routes.values() if route.inherits]
        if inheriting:
            last = await self._threads.read(self._deliveries.last)
            for route in inheriting:
                route.inherits = False
                route.queue.inherit(last)
        if anew:
            parked = await self._threads.read(self._deliveries.parked_subscriptions)
            for route in anew:
                route.parks = route.parks or route.id in parked

    def _pump(self) -> None:
        for worker in self._workers.values():
            worker.pump()
        self._quiet.set()

    async def _take(self, look: Look) -> None:
        for route in self._routes.values():
            route.parks = route.parks or route.id in look.parked
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
            for delivery in await self._merger.merge(self._routes[id], deliveries) if deliveries else ():
                self._take_fresh(delivery)
        if not look.whole:  # more has come than one look takes
            for route in self._routes.values():
                route.begin_sweep()
                route.queue.behind = True
                route.anew = not self._store.is_sqlite
            self._look_again.set()

    async def _stand_or_go(self, route: Route, standing: str) -> None:
        if standing != route.standing:
            route.standing = standing
            route.rewind()
            if not standing:  # what ended meanwhile is to be read again: later versions would pass it
                await self._results.stored()
        if not standing:
            await self._sync_holds(route)

    async def _sync_holds(self, route: Route) -> Mapping[LaneKey, int]:
        """A parked delivery holds what comes after it of its document, one that was discarded holds no longer.

        The documents' first parked ones, by seq; nothing where the subscription does not hold.
        """
        if not (route.holds and (route.parks or route.queue.standing)):
            return {}
        parking = set(self._results.writing)  # the store may not say so yet
        parked = await self._threads.read(self._deliveries.parked_lanes, route.id, self._share[route.id])
        parking |= self._results.writing
        for key, lane in route.queue.held().items():
            if parked.get(key) != lane.parked and lane.parked not in parking:
                route.queue.unhold(lane)
                route.refills.append(lane)
                self._look_again.set()
        for key, seq in parked.items():
            route.queue.hold_key(key, seq)
        return parked

    async def _take_released(self, look: Look) -> None:
        known = [one for one in look.released if one.delivery.subscription_id in self._routes]
        if not known:
            return
        sent = [one for one in known if one.forced or not one.outdated]
        outdated = [one.delivery.seq for one in known if one.outdated and not one.forced]
        await self._threads.write(self._deliveries.take_released, [one.delivery.seq for one in sent], outdated)
        for one in sent:
            route = self._routes[one.delivery.subscription_id]
            if not route.standing:
                route.send_now(one.delivery, one.forced)
        if outdated or len(look.released) == RELEASED:  # one that is superseded holds its document no longer
            self._look_again.set()

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
            route.offer(route.queue.add(delivery))

    async def _read_backlog(self, route: Route) -> None:
        queue = route.queue
        while queue.behind and not route.standing and queue.room >= PAGE:
            page = await self._threads.read(self._deliveries.backlog, route.id, self._share[route.id], queue.cursor)
            queue.cursor = page[-1].seq if page else queue.cursor
            if route.holds:  # after the page: what was parked before one of these is known by now
                route.parks = True
                await self._sync_holds(route)
            for delivery in await self._merger.merge(route, page) if route.merges else page:
                self._add(route, delivery)
            queue.behind = len(page) == PAGE
            route.worker.pump()

    async def _refill(self, route: Route) -> None:
        """Read on in the lanes that have come to the end of what is in memory."""
        lanes, route.refills = route.refills, []
        pages = [(lane, await self._left(route, lane)) for lane in lanes if route.needs_refill(lane)]
        route.parks = route.parks or (bool(pages) and route.holds)
        parked = await self._sync_holds(route) if pages else {}  # after the pages, as with those of the backlog
        for lane, page in pages:
            if route.needs_refill(lane):
                route.offer(lane.queue.refill(lane, page, more=len(page) == LANE, parked=parked.get(lane.key, 0)))

    async def _left(self, route: Route, lane: Lane) -> list[Delivery]:
        page = await self._threads.read(self._deliveries.lane, route.id, lane.key, lane.cut, LANE)
        return [delivery for delivery in page if delivery.seq not in self._results.writing]

    # Bodies

    async def messages(self, lanes: Sequence[Lane]) -> list[tuple[Lane, Message]]:
        async with self._by_queue[lanes[0].queue].worker.merging:
            runs, loaded = await self._threads.read(
                self._deliveries.load, [lane.head.seq for lane in lanes if lane.items]
            )
            if runs != self._runs:
                await self._compile_anew(runs)
            return self._messages.of(lanes, loaded, await self._held(lanes), self._clock.now())

    async def _held(self, lanes: Sequence[Lane]) -> Mapping[Receiver, Held | None]:
        """What receivers have, where dispatch goes by it; what the store does not know yet is here."""
        routes = self._by_queue
        receivers = {routes[lane.queue].receiver(lane) for lane in lanes if routes[lane.queue].goes_by_ledger}
        if not receivers:
            return {}
        unwritten = {one: self._results.ledger[one] for one in receivers & self._results.ledger.keys()}
        stored = await self._threads.read(self._deliveries.held, receivers)
        return {**stored, **{one: ledger.merged(stored.get(one), held) for one, held in unwritten.items()}}

    async def _compile_anew(self, runs: Runs) -> None:
        """A stream has begun, or begun anew: `changed` goes by the columns that its entities have by now.

        All workers have to render alike, whenever they started: an id has one body.
        """
        subscriptions = await self._threads.read(self._subscriptions)
        for route in self._routes.values():
            route.subscription = subscriptions[route.name]
        self._runs = runs

    # Outcomes

    def tried(self, worker: Worker, outcomes: Sequence[tuple[Lane, Outcome]], started_at: int, probe: bool) -> None:
        now, jitter = self._clock.now(), self._jitter()  # of all: what failed together is tried again together
        alone = len(self._part(worker, outcomes)) < 2
        for lane, outcome in outcomes:
            destination = self._project.destinations[worker.name]
            outcome = admit(outcome, destination, self._project.entities, lane.origin.hops)
            delivery, route = lane.head, self._by_queue[lane.queue]
            following = follow(outcome, delivery.attempts, route.policy, now, jitter, alone)
            accepted = outcome.kind in (OutcomeKind.DELIVERED, OutcomeKind.RESCHEDULE)
            self._results.attempt(
                Attempt(delivery, delivery.attempts + 1, started_at, now - started_at, outcome.kind, outcome.detail),
                _held(lane, worker, outcome, now) if accepted else None,
            )
            self._steps.take(route, lane, following)
            if following.pause:
                self._judge.pause(worker, following)
            self._judge.judge(worker, delivery, outcome, started_at, probe)

    def _part(self, worker: Worker, outcomes: Sequence[tuple[Lane, Outcome]]) -> list[Lane]:
        """Those of a batch that share a fate which names none of them: each half of them goes on by itself."""
        suspects = [(lane, outcome.detail) for lane, outcome in outcomes if names_none(outcome)]
        lanes = [lane for lane, _ in suspects]
        worker.part(lanes)
        if len(lanes) > 1:
            told = {"destination": worker.name, "documents": len(lanes), "reason": suspects[0][1]}
            log.info("batch divided", extra=told)
        return lanes

    # Writing

    def _wrote(self, changes: Changes) -> None:
        for due in {update.due_at for update in changes.updates if update.state is State.RESCHEDULED}:
            self._alarms.at(due, self._again.set)
        unheld = any(self._routes[one.subscription_id].holds for one in changes.accepted)  # what it was parked behind
        if unheld or changes.disabled or changes.forwarded or any(one.unmerged for one in self._routes.values()):
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
            while await self._threads.write(rescheduled.plan, self._clock.now()):
                self._look_again.set()
            first = await self._threads.read(rescheduled.first)
            if first is not None:  # due already: another worker is at it
                self._alarms.at(max(first, self._clock.now() + SECOND), self._again.set)
            self._planning = False
            self._quiet.set()
            await self._again.wait()


def _held(lane: Lane, worker: Worker, outcome: Outcome, now: int) -> Held:
    """What the receiver has of a document once it has accepted this. What it has deleted has no name any more."""
    id = "" if lane.head.event == DELETED else outcome.receiver_id
    return Held(lane.head.version, lane.head.event, lane.content, id, now, worker.account if id else b"")


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
