"""One subscription at run time: how its deliveries get from the queue to the destination's worker.

    queue ─► offer ─► worker ─► an attempt ─► advance: the lane's next is offered
               └► wait: until its delay is over, or its retry is due

What is not on its way may be forgotten at any time: it is in the store, and is read again.
"""

import asyncio
from collections.abc import Callable

from hub.clock import Alarms, Clock
from hub.delivery import Delivery, Receiver
from hub.dispatch.lanes import WINDOW, Lane, LaneKey, Queue
from hub.dispatch.merging import due_at, merges
from hub.dispatch.outcomes import SECOND, expires_at
from hub.dispatch.workers import Worker
from hub.project import DeliveryPolicy
from hub.subscriptions import Subscription


class Route:
    """Its queue, and the worker that its deliveries go to."""

    def __init__(
        self,
        id: int,
        subscription: Subscription,
        worker: Worker,
        clock: Clock,
        alarms: Alarms,
        look_again: Callable[[], None],
    ) -> None:
        """`look_again`: called when there is something to be read for it."""
        self.id = id
        self.subscription = subscription
        self.policy: DeliveryPolicy = subscription.config.delivery
        self.worker = worker
        self.queue = Queue(self.policy.batch_size, round(self.policy.batch_wait * SECOND))
        self.standing = ""  # paused or disabled: nothing of it begins
        self.anew = False  # its backlog is to be read from the start
        self.inherits = True  # others may have begun what is in the queue
        self.parks = False  # it has parked deliveries, which an accepted one may supersede
        self.refills: list[Lane] = []  # what follows in them is to be read
        self.merges = merges(self.policy)
        self.swept: int | None = 0 if self.merges else None  # up to this seq its backlog is merged; None: all of it
        self.unmerged: set[LaneKey] = set()  # what was on its way comes back, and others wait behind it
        self.look_again = look_again
        self._clock = clock
        self._alarms = alarms

    @property
    def name(self) -> str:
        return self.subscription.name

    @property
    def entity(self) -> str:
        return self.subscription.config.entity

    @property
    def holds(self) -> bool:
        return self.policy.on_park == "hold"

    @property
    def goes_by_ledger(self) -> bool:
        """What the receiver has, or what it calls a document, makes a difference to what is sent."""
        return self.policy.skip_unchanged or self.worker.remembers

    def receiver(self, lane: Lane) -> Receiver:
        return (*lane.key, self.id)

    def stands(self, lane: Lane) -> bool:
        """Nothing more of it goes out from here: its subscription stands still, or another worker has its slice."""
        return bool(self.standing) or (bool(lane.items) and lane.head.slice not in self.worker.slices)

    # To the worker

    def offer(self, lane: Lane | None) -> None:
        """Send the lane's first as soon as it is due."""
        if lane is None:
            return
        if self.stands(lane):
            self.queue.forget(lane)
        elif due_at(lane.head, self.policy) > self._clock.now():
            self.wait(lane)
        else:
            lane.due = 0
            self.worker.offer(lane)

    def wait(self, lane: Lane) -> None:
        """Offer the lane's first once it is due, or too old."""
        self.queue.stand(lane)
        self.read_on()
        due = min(due_at(lane.head, self.policy), expires_at(lane.head.created_at, self.policy))
        if lane.due != due:
            lane.due = due
            self._alarms.at(due, lambda: self._due(lane, due))

    def _due(self, lane: Lane, due: int) -> None:
        if lane.due == due and self.queue.lanes.get(lane.key) is lane and not self.standing:
            lane.due = 0
            self.worker.offer(lane)
            asyncio.get_running_loop().call_soon(self.worker.pump)  # with all that is due at the same moment

    def send_now(self, delivery: Delivery, forced: bool) -> None:
        """An operator released it; `forced`: also when the receiver has a newer version."""
        self.queue.begun.add(delivery.seq)  # it is sent, whatever the receiver has
        lane = self.queue.lanes.get((delivery.entity_id, delivery.key))
        if lane is not None and lane.due and lane.head.seq == delivery.seq:
            lane.items[0] = delivery
            self._due(lane, lane.due)
        else:
            self.offer(self.queue.put_first(delivery, superseded_by_newer=not forced))

    # On from there

    def advance(self, lane: Lane) -> None:
        """The lane's first is done with: on to its next."""
        self.offer(self.queue.pop(lane))
        if self.queue.needs_refill(lane):
            self.refills.append(lane)
            self.look_again()
        self.read_on()

    def lose(self, lane: Lane) -> None:
        """The lane's first is pending no more: it was discarded, or parked as too old."""
        if self.holds:
            self.queue.hold(lane)
            self.look_again()  # which tells whether a parked one holds it
        else:
            self.advance(lane)

    def needs_refill(self, lane: Lane) -> bool:
        return not self.standing and self.queue.lanes.get(lane.key) is lane and self.queue.needs_refill(lane)

    def read_on(self) -> None:
        """There may be room again for what was left in the store."""
        if self.queue.behind and self.queue.room >= WINDOW // 2:
            self.look_again()

    def merge_behind(self, lane: Lane) -> None:
        """Its first was tried, and others may wait behind it: merge them once the store knows how it went."""
        if self.merges and (len(lane.items) > 1 or lane.cut):
            self.unmerged.add(lane.key)
            self.look_again()

    # From the start

    def rewind(self) -> None:
        """It stands still, or goes on: either way what is not on its way is read again, when its time comes."""
        self.worker.drop(self.queue)
        self.queue.rewind()

    def begin_sweep(self) -> None:
        if self.merges and self.swept is None:
            self.swept = 0
