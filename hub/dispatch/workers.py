"""One destination's worker: which of its deliveries is tried next, and when.

Destinations share nothing but the store: each has its own queue, limits and health, so that a slow or dead one holds
no other. Lanes come in ready, are gathered into batches, get their messages just before the attempt, and go out.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import Protocol

from hub.clock import Alarms, Clock
from hub.connector import MAY_SEND, Connector
from hub.delivery import Message, Outcome, OutcomeKind
from hub.dispatch.batches import Batches, pool_of
from hub.dispatch.health import Health
from hub.dispatch.lanes import Lane, Queue
from hub.dispatch.outcomes import SECOND
from hub.dispatch.pace import Pace
from hub.dispatch.slices import SLICES, concurrency_of
from hub.project import Limits

SECOND_CHANCE = 5 * SECOND  # a document whose fault held the destination waits so long once it is well
EVERY = frozenset(range(SLICES))
MESSAGES = 32  # rendered ahead at most, or one call's batch


class Office(Protocol):
    """What a worker reports to."""

    async def messages(self, lanes: Sequence[Lane]) -> list[tuple[Lane, Message]]:
        """Rendered bodies of the lanes' first deliveries; a lane that has none to send is left out and dealt with."""
        ...

    async def may_probe(self, worker: "Worker") -> bool:
        """Whether the next attempt at a held destination is this process's; if not, its health has been changed."""
        ...

    def require_share(self) -> None:
        """Evicted when others may have this process's share of the deliveries by now."""
        ...

    def tried(self, worker: "Worker", outcomes: Sequence[tuple[Lane, Outcome]], started_at: int, probe: bool) -> None:
        """What came of one batch."""
        ...

    def broke(self, error: BaseException) -> None:
        """A fault of our own: the process ends."""
        ...


class Worker:
    def __init__(
        self, name: str, connector: Connector, limits: Limits, office: Office, clock: Clock, alarms: Alarms
    ) -> None:
        self.name = name
        self.connector = connector
        self.account = b""  # of the receiver, as hub.dispatch.accounts has it, where the connector goes by its names
        self.limits = limits
        self.health = Health()
        self.probing = False  # the next attempt at a held destination is ours
        self.stopping = False
        self.closed = False
        self.merging = asyncio.Lock()  # had by whoever merges what waits, and while bodies are read
        self.slices = EVERY  # of the destination's documents: only these are ours
        self.concurrency = limits.concurrency
        self._office = office
        self._clock = clock
        self._alarms = alarms
        self._pace = Pace(limits.rate, clock.now())
        self._ready = Batches(connector.batch)
        self._messages: deque[tuple[Lane, Message]] = deque()
        self._doubtful: deque[tuple[int, Lane]] = deque()  # with the time from which it may be tried again
        self._loading: set[asyncio.Task[None]] = set()
        self._flights: dict[asyncio.Task[None], list[Lane]] = {}
        self._second: set[Lane] = set()  # the doubtful lanes that are being tried
        self._alarm_at = 0

    @property
    def remembers(self) -> bool:
        """The connector goes by what the receiver calls a document."""
        return getattr(self.connector, "remembers", False)

    def take_share(self, slices: frozenset[int]) -> None:
        """These are ours from now on, and with them so much of the limits."""
        if slices == self.slices:
            return
        self.slices = slices
        self.concurrency = concurrency_of(slices, self.limits.concurrency)
        self._pace.take_part(len(slices) / SLICES, self._clock.now())
        self._drop(lambda lane: bool(lane.items) and lane.head.slice not in slices)

    async def landed(self, slices: Set[int]) -> None:
        """Return once nothing of these slices is on its way."""
        leaving = [
            task
            for task, lanes in self._flights.items()
            if not task.done() and any(lane.head.slice in slices for lane in lanes)  # a lane may be empty when it is
        ]
        if leaving:
            await asyncio.wait(leaving)

    def abandon(self) -> None:
        """Whatever is on its way: no byte more of it."""
        self.stopping = self.closed = True
        for task in (*self._flights, *self._loading):
            task.cancel()

    # What comes in

    def offer(self, lane: Lane) -> None:
        self._ready.add(lane, self._clock.now())

    def hurry(self) -> None:
        """All is to end: no batch waits to be filled any more."""
        self._ready.hurried = True
        self.pump()

    def part(self, lanes: Sequence[Lane]) -> None:
        """They failed together, and nobody says whose fault it was: each half goes by itself."""
        self._ready.part(lanes)

    def doubt(self, lane: Lane) -> None:
        """Its fault was taken as the destination's: it goes last."""
        self._doubtful.append((self._clock.now() + SECOND_CHANCE, lane))

    def take_doubtful(self, seq: int) -> Lane | None:
        """Take out the lane whose first delivery this is."""
        for entry in self._doubtful:
            if entry[1].items and entry[1].head.seq == seq:
                self._doubtful.remove(entry)
                return entry[1]
        return None

    def recall(self, lane: Lane) -> bool:
        """Its body may be out of date: have it rendered anew. False when it is on its way, or just about to be."""
        if lane.flying:
            return False
        rendered = next((pair for pair in self._messages if pair[0] is lane), None)
        if rendered is not None:
            if self.health.held:  # it is the probe
                return False
            self._messages.remove(rendered)
            self._ready.put_back([lane])
        return True

    def drop(self, queue: Queue) -> None:
        """Forget the lanes of a subscription that stands still; those on their way end."""
        self._drop(lambda lane: lane.queue is queue)

    def _drop(self, goes: Callable[[Lane], bool]) -> None:
        self._ready.drop(goes)
        self._messages = deque(pair for pair in self._messages if not goes(pair[0]))
        self._doubtful = deque(pair for pair in self._doubtful if not goes(pair[1]))
        self._second = {lane for lane in self._second if not goes(lane)}

    @property
    def flying(self) -> int:
        return len(self._flights)

    @property
    def idle(self) -> bool:
        return not (self._ready or self._messages or self._doubtful or self._loading or self._flights)

    # What goes out

    def pump(self) -> None:
        """Start whatever may start now; otherwise an alarm is set, or someone calls when something ends."""
        if self.health.held:
            self._unload()
        while not self.stopping and len(self._flights) < self.concurrency:
            wait = self._wait()
            if wait:
                self._pump_in(wait)
                return
            group = self._next()
            if not group:
                self._load()
                return
            self._fly(group)
        self._load()

    def _wait(self) -> int:
        """Microseconds to the next start, as far as time decides."""
        now = self._clock.now()
        return max(self.health.open_at() - now, self._pace.wait(now), 0)

    def _pump_in(self, wait: int) -> None:
        at = self._clock.now() + wait
        if self._alarm_at <= self._clock.now() or at < self._alarm_at:
            self._alarm_at = at
            self._alarms.at(at, self.pump)

    def _next(self) -> list[tuple[Lane, Message]]:
        if not self._messages or (self.health.held and self._flights):
            return []
        pool = pool_of(self._messages[0][0])
        size = 1 if self.health.held else self._ready.size(pool[0])
        group: list[tuple[Lane, Message]] = []
        while len(group) < size and self._messages and pool_of(self._messages[0][0]) == pool:
            group.append(self._messages.popleft())
        return group

    def _fly(self, group: list[tuple[Lane, Message]]) -> None:
        self._pace.take(self._clock.now())
        for lane, _ in group:
            lane.flying = True
            lane.queue.begun.add(lane.head.seq)
        task = asyncio.get_running_loop().create_task(self._flight(group, self.health.held))
        self._flights[task] = [lane for lane, _ in group]
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        del self._flights[task]
        self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error:
            self._office.broke(error)
        else:
            self.pump()

    async def _flight(self, group: list[tuple[Lane, Message]], probe: bool) -> None:
        self._office.require_share()
        MAY_SEND.set(self._office.require_share)
        started_at = self._clock.now()
        outcomes = await self._outcomes([message for _, message in group])
        lanes = [lane for lane, _ in group]
        self._second.difference_update(lanes)
        self._office.tried(self, list(zip(lanes, outcomes, strict=True)), started_at, probe)
        self.probing = self.probing and not probe

    async def _outcomes(self, messages: list[Message]) -> Sequence[Outcome]:
        """The delivery boundary: whatever a connector does, there is an outcome for each message."""
        try:
            async with asyncio.timeout(self.limits.timeout):
                outcomes = await self.connector.deliver(messages)
        except TimeoutError:
            return _of_all(messages, f"No answer within {self.limits.timeout:g} s.")
        except Exception as error:  # noqa: BLE001 - a fault in a connector costs its own deliveries alone
            return _of_all(messages, f"The connector failed: {type(error).__name__}.")
        if len(outcomes) != len(messages):
            return _of_all(messages, f"The connector gave {len(outcomes)} outcomes for {len(messages)} messages.")
        return outcomes

    # Bodies, just ahead of the attempts

    def _unload(self) -> None:
        """The destination is held: what was rendered is rendered anew when its turn comes."""
        if len(self._messages) > 1 or (self._messages and self._wait()):
            self._ready.put_back([lane for lane, _ in self._messages])
            self._messages.clear()
            self._second.clear()

    def _load(self) -> None:
        if self._loading or self.stopping:
            return
        lanes = self._choose()
        if not lanes:
            return
        task = asyncio.get_running_loop().create_task(self._prepare(lanes))
        self._loading.add(task)
        task.add_done_callback(self._loaded)

    def _choose(self) -> list[Lane]:
        if self.health.held:
            return self._choose_probe()
        most = max(MESSAGES, self.connector.batch)
        room = most - len(self._messages)
        if room < most // 2:
            return []
        lanes: list[Lane] = []
        while batch := self._ready.take(room - len(lanes), self._clock.now()):
            lanes += batch
        self._pump_when_gathered()
        return lanes + self._second_chance()

    def _pump_when_gathered(self) -> None:
        due_at = self._ready.due_at()
        if due_at is not None and due_at > self._clock.now():
            self._pump_in(due_at - self._clock.now())

    def _choose_probe(self) -> list[Lane]:
        if self._messages or self._flights or self._wait():
            return []
        lane = self._ready.take_one()
        if lane is not None:
            return [lane]
        return [self._doubtful.popleft()[1]] if self._doubtful else []

    def _second_chance(self) -> list[Lane]:
        """Doubtful lanes one after the other, or those that were set apart together.

        A document is to blame only when it fails alone. Of a batch that fails again, the halves follow.
        """
        if not self._doubtful or self._second:
            return []
        wait = self._doubtful[0][0] - self._clock.now()
        if wait > 0:
            self._pump_in(wait)
            return []
        pool, lanes = pool_of(self._doubtful[0][1]), []
        while self._doubtful and pool_of(self._doubtful[0][1]) == pool:
            lanes.append(self._doubtful.popleft()[1])
        self._second = set(lanes)
        return lanes

    async def _prepare(self, lanes: list[Lane]) -> None:
        if self.health.held:
            self.probing = await self._office.may_probe(self)
            if not self.probing:
                self._ready.put_back(lanes)
                return
        messages = await self._office.messages(lanes)
        self.probing = self.probing and bool(messages)
        self._messages.extend(messages)
        self._second -= set(lanes) - {lane for lane, _ in messages}

    def _loaded(self, task: asyncio.Task[None]) -> None:
        self._loading.discard(task)
        self._ended(task)

    async def close(self, grace: float) -> None:
        """Let what is on its way end, `grace` seconds at most."""
        self.stopping = self.closed = True
        if self._flights:
            await asyncio.wait(self._flights, timeout=grace)
        for task in (*self._flights, *self._loading):
            task.cancel()
        await self.connector.close()


def _of_all(messages: Sequence[Message], detail: str) -> list[Outcome]:
    return [Outcome(OutcomeKind.RETRY, detail, whole=True)] * len(messages)
