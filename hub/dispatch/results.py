"""What dispatch has to write: collected in memory, so that the outcomes of many attempts share a store transaction."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

from sqlalchemy.exc import OperationalError

from hub.delivery import Attempt, Delivery, Forwarded, Held, Receiver, State
from hub.dispatch.health import DestinationState
from hub.store import ledger
from hub.store.deliveries import CHUNK, Changes, Update
from hub.store.tables import DELETED

log = logging.getLogger("hub.dispatch.results")

GATHER = 0.02  # seconds between two writes at least, so that they share a store transaction with more
WRITING = 0.15  # of the time at most: a store that is slower, or wanted by capture too, gets fewer and larger ones …
GATHER_MOST = 0.5  # … but one at least in this many seconds
UNWRITTEN = 5000  # outcomes in memory that the store has not taken; past them no attempt begins
AGAIN = 1.0  # seconds until a store that took nothing (its disk is full) is tried again


class Results:
    """Written in the order in which they came in."""

    def __init__(
        self,
        write: Callable[[Changes], Awaitable[None]],
        stopping: Callable[[bool], None],
        wrote: Callable[[Changes], None],
    ) -> None:
        """`stopping`: told whether attempts have to wait for the store; `wrote`: what has just been stored."""
        self._write = write
        self._stopping = stopping
        self._wrote = wrote
        self._unwritten: deque[Changes] = deque([Changes()])
        self._to_write = asyncio.Event()
        self._written = asyncio.Condition()  # told of each store transaction
        self.writing: set[int] = set()  # seqs whose outcome is not in the store yet
        self.disabling: dict[int, str] = {}  # by subscription id: the store does not know yet
        self.ledger: dict[Receiver, Held | None] = {}  # as in Changes: the store does not know yet
        self._remembered: dict[str, float] = {}  # by destination: when its state was stored; inf: not yet

    def attempt(self, attempt: Attempt, held: Held | None = None) -> None:
        """`held`: what the receiver has by it, when it was accepted; else that is open."""
        self._learn(attempt.delivery, held)
        self._changes().attempts.append(attempt)

    def settle(self, delivery: Delivery, *, supersedes: bool, forwarded: Forwarded | None = None) -> None:
        """It is done with. `supersedes`: parked deliveries of older versions are outdated by it."""
        changes = self._changes()
        changes.settled.append(delivery.seq)
        self._accept(changes, delivery, supersedes, forwarded)

    def update(
        self, delivery: Delivery, state: State, attempts: int, due_at: int, reason: str, *, tried: bool = True
    ) -> None:
        """It stays. `tried`: an attempt may have begun. If it is parked then, nobody knows what the receiver has."""
        if state is State.PARKED and tried:
            self._learn(delivery, None)
        self._changes().updates.append(Update(delivery.seq, state, attempts, due_at, reason))
        self.writing.add(delivery.seq)

    def reschedule(
        self, delivery: Delivery, due_at: int, reason: str, *, supersedes: bool, forwarded: Forwarded | None
    ) -> None:
        """As `settle`, and its receiver asks for the document again at `due_at`."""
        changes = self._changes()
        changes.updates.append(Update(delivery.seq, State.RESCHEDULED, 0, due_at, reason))
        changes.rescheduled.append(delivery)
        self._accept(changes, delivery, supersedes, forwarded)

    def _accept(self, changes: Changes, delivery: Delivery, supersedes: bool, forwarded: Forwarded | None) -> None:
        """What is written together with what became of the delivery."""
        if supersedes:
            changes.accepted.append(delivery)
        if forwarded:
            changes.forwarded.append(forwarded)
        self.writing.add(delivery.seq)

    def _learn(self, delivery: Delivery, held: Held | None) -> None:
        receiver = (delivery.entity_id, delivery.key, delivery.subscription_id)
        if receiver in self.ledger:
            held = ledger.merged(self.ledger[receiver], held)
            earlier = self._unwritten[-1].ledger.get(receiver)
            if earlier and earlier.event == DELETED:  # to be stored first: it takes the name away
                self._unwritten.append(Changes())
        self._changes().ledger[receiver] = self.ledger[receiver] = held

    def disable(self, subscription_id: int, reason: str) -> None:
        self._changes().disabled[subscription_id] = reason
        self.disabling[subscription_id] = "disabled"

    def remember(self, destination: str, state: DestinationState) -> None:
        self._changes().destinations[destination] = state
        self._remembered[destination] = float("inf")

    def knows_better(self, destination: str, since: float) -> bool:
        """The destination's state was changed here after the moment `since` (time.monotonic), or is not stored yet."""
        return self._remembered.get(destination, 0.0) >= since

    @property
    def empty(self) -> bool:
        """All is in the store."""
        return not self.writing and not any(self._unwritten)

    async def stored(self) -> None:
        """Return once what has come in until now is in the store."""
        wanted = set(self.writing)
        async with self._written:
            await self._written.wait_for(lambda: wanted.isdisjoint(self.writing))

    async def run(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write.clear()
            started = time.monotonic()
            await self.flush()
            took = time.monotonic() - started
            await asyncio.sleep(min(GATHER_MOST, max(GATHER, took * (1 / WRITING - 1))))

    async def flush(self) -> None:
        """Write all there is."""
        while changes := await self._write_oldest():
            self._wrote(changes)
            async with self._written:
                self._written.notify_all()

    def _changes(self) -> Changes:
        self._to_write.set()
        if len(self._unwritten[-1]) >= CHUNK:
            self._unwritten.append(Changes())
        return self._unwritten[-1]

    async def _write_oldest(self) -> Changes | None:
        """Write the oldest changes; again and again while the disk is full. None when there were none."""
        changes = self._unwritten[0]
        if not changes:
            return None
        self._unwritten.popleft()
        if not self._unwritten:
            self._unwritten.append(Changes())
        while True:
            try:
                await self._write(changes)
                break
            except OperationalError as error:
                log.error("store not written", extra={"reason": str(error.orig)})
                self._stopping(True)
                await asyncio.sleep(AGAIN)
        self._stopping(sum(map(len, self._unwritten)) > UNWRITTEN)
        self._forget(changes)
        return changes

    def _forget(self, changes: Changes) -> None:
        # A delivery that had to wait may have been tried again while that was being written.
        unwritten = {seq for later in self._unwritten for seq in _seqs(later)}
        self.writing.difference_update(seq for seq in _seqs(changes) if seq not in unwritten)
        for id in changes.disabled:
            self.disabling.pop(id, None)
        for receiver, held in changes.ledger.items():
            if self.ledger.get(receiver) is held:
                self.ledger.pop(receiver, None)
        later = {name for unwritten in self._unwritten for name in unwritten.destinations}
        self._remembered.update(dict.fromkeys(changes.destinations.keys() - later, time.monotonic()))


def _seqs(changes: Changes) -> Iterator[int]:
    """Of the deliveries that they are about."""
    yield from changes.settled
    yield from (update.seq for update in changes.updates)
