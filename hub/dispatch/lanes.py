"""What a subscription has in memory of its pending deliveries: one lane for each document, in order.

Only the first delivery of a lane is ever on its way, so that none overtakes an earlier version. Memory is bounded:
past the window the rest stays in the store, and is read again from `cursor`; what follows in a lane that stands is
left there too, and read once the lane goes on.
"""

from collections import deque
from collections.abc import Sequence, Set

from hub.delivery import Delivery, Origin

WINDOW = 2000  # deliveries in memory that may go at once; past them nothing more is read
STANDING = 20_000  # lanes that wait for a retry, in memory; past them nothing more is read
LANE = 500  # deliveries of one lane in memory

NOWHERE = Origin(0, 0, 0)

LaneKey = tuple[int, str]  # entity_id, key


class Lane:
    """One document's deliveries to one subscription."""

    __slots__ = (
        "apart",
        "busy",
        "content",
        "cut",
        "due",
        "flying",
        "items",
        "key",
        "offered_at",
        "origin",
        "parked",
        "queue",
        "released",
        "standing",
    )

    def __init__(self, queue: "Queue", key: LaneKey) -> None:
        self.queue = queue
        self.key = key
        self.items: deque[Delivery] = deque()
        self.busy = False  # ready, on its way or waiting: whoever has it will give it back
        self.flying = False  # its first is with the connector
        self.origin = NOWHERE  # of its first, once its body is rendered
        self.content = b""  # likewise: the hash of what the receiver would have
        self.due = 0  # its first waits for this moment, microseconds since 1970; 0: it does not wait
        self.standing = False  # its first waits for a time, or a parked one holds it: what follows is not in memory
        self.parked = 0  # the seq of the parked one that holds it
        self.cut = 0  # 0: all is in memory; else what has a higher seq is in the store alone
        self.offered_at = 0  # since when its first may go, microseconds since 1970
        self.apart = 0  # its first shares a batch with lanes of the same number alone; 0: it has failed with no others
        self.released: set[int] = set()  # by seq: an operator wants it sent, unless a newer one is accepted first

    @property
    def head(self) -> Delivery:
        return self.items[0]


class Queue:
    """The pending deliveries of one subscription."""

    def __init__(self, batch_size: int | None = None, batch_wait: int = 0) -> None:
        """`batch_size`: None is as many as the connector takes; `batch_wait`: microseconds."""
        self.batch_size = batch_size
        self.batch_wait = batch_wait
        self.lanes: dict[LaneKey, Lane] = {}
        self.cursor = 0  # the highest seq that was read
        self.behind = True  # the store has pending ones past the cursor that were not read
        self.size = 0  # in memory, of lanes that do not stand
        self.standing = 0  # lanes
        self.begun: set[int] = set()  # seqs of deliveries that are not settled and whose attempt has begun
        self.inherited = 0  # attempts of deliveries up to this seq may have begun in another process

    @property
    def room(self) -> int:
        return 0 if self.standing >= STANDING else max(0, WINDOW - self.size)

    def add(self, delivery: Delivery) -> Lane | None:
        """Put it last in its lane. The lane, when it was idle and is to be sent now."""
        key = (delivery.entity_id, delivery.key)
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = Lane(self, key)
        elif lane.standing and not lane.busy and delivery.seq < lane.parked:  # it comes before the one that holds
            self._unstand(lane)
        elif lane.standing or lane.cut or len(lane.items) >= LANE or (lane.items and delivery.seq <= self._last(lane)):
            if all(item.seq != delivery.seq for item in lane.items):  # else it was read twice
                lane.cut = min(lane.cut or delivery.seq, delivery.seq - 1)
            return None
        lane.items.append(delivery)
        self.size += 1
        return self._offer(lane)

    @staticmethod
    def _last(lane: Lane) -> int:
        return max(lane.items[-1].seq, lane.head.seq)  # a released one is not in the order of seq

    def put_first(self, delivery: Delivery, *, superseded_by_newer: bool) -> Lane | None:
        """As `add`, for one that an operator released: before later versions, but not before what is on its way."""
        key = (delivery.entity_id, delivery.key)
        lane = self.lanes.setdefault(key, Lane(self, key))
        if any(item.seq == delivery.seq for item in lane.items):
            return None
        place = 1 if lane.busy and lane.items else 0
        while place < len(lane.items) and lane.items[place].version < delivery.version:
            place += 1
        lane.items.insert(place, delivery)
        if superseded_by_newer:
            lane.released.add(delivery.seq)
        if not lane.standing:
            self.size += 1
        elif not lane.busy:  # it stood for a parked one
            self._unstand(lane)
        return self._offer(lane)

    def _offer(self, lane: Lane) -> Lane | None:
        if lane.busy or not lane.items:
            return None
        lane.busy = True
        return lane

    def stand(self, lane: Lane) -> None:
        """Its first has to wait: leave what follows to the store."""
        if lane.standing:
            return
        lane.standing = True
        self.standing += 1
        self.size -= len(lane.items)
        first = lane.head.seq
        left = [item.seq for item in lane.items if item.seq > first]
        if left:
            lane.cut = min(left) - 1
            lane.items = deque(item for item in lane.items if item.seq <= first)

    def hold(self, lane: Lane) -> None:
        """Its first was parked and holds the later ones, until an operator retries or discards it."""
        self.stand(lane)
        first = lane.items.popleft()
        self.begun.discard(first.seq)
        lane.parked = first.seq
        lane.cut = lane.cut or first.seq
        lane.busy = lane.flying = False
        lane.apart = 0

    def hold_key(self, key: LaneKey, seq: int) -> None:
        """As `hold`, for one that was parked elsewhere. What is before it in its lane goes out first."""
        lane = self.lanes.setdefault(key, Lane(self, key))
        if lane.busy:
            kept = deque(item for item in lane.items if item.seq <= seq or item is lane.head)
            self.size -= 0 if lane.standing else len(lane.items) - len(kept)
            lane.items = kept
            lane.cut = min(lane.cut or seq, seq)
        elif not lane.standing and not (self.needs_refill(lane) and lane.cut < seq):  # else it finds what is before
            lane.standing, lane.cut, lane.parked = True, seq, seq
            self.standing += 1

    def held(self) -> dict[LaneKey, Lane]:
        return {key: lane for key, lane in self.lanes.items() if lane.standing and not lane.busy}

    def unhold(self, lane: Lane) -> None:
        """Nothing parked holds it any more: it needs a refill."""
        self._unstand(lane)

    def _unstand(self, lane: Lane) -> None:
        lane.standing = False
        self.standing -= 1
        self.size += len(lane.items)

    def pop(self, lane: Lane) -> Lane | None:
        """The first is settled. The lane, when its next is to be sent now; see `needs_refill` for the rest."""
        if lane.standing:
            self._unstand(lane)
        gone = lane.items.popleft()
        lane.released.discard(gone.seq)
        self.begun.discard(gone.seq)
        self.size -= 1
        lane.busy = lane.flying = False
        lane.apart = 0
        if not lane.items and not lane.cut:
            del self.lanes[lane.key]
        return self._offer(lane)

    @staticmethod
    def needs_refill(lane: Lane) -> bool:
        """What follows is in the store alone: read it with `refill` before anything else comes in."""
        return bool(lane.cut) and not lane.items and not lane.standing

    def refill(self, lane: Lane, deliveries: Sequence[Delivery], *, more: bool, parked: int = 0) -> Lane | None:
        """The lane's next from the store, in order, past `cut`; `more`: there are still others after them.

        `parked`: the seq of the one that holds what comes after it; 0: none does.
        """
        if parked:
            deliveries, more = [one for one in deliveries if one.seq < parked], True
        lane.items.extend(deliveries)
        self.size += len(deliveries)
        lane.cut = (deliveries[-1].seq if deliveries else parked) if more else 0
        if not deliveries:
            if parked:
                self.hold_key(lane.key, parked)
            else:
                del self.lanes[lane.key]
        return self._offer(lane)

    def inherit(self, last: int) -> None:
        """Of deliveries up to `last` another process may have begun any: which ones began here says no more."""
        self.inherited = last
        self.begun = {seq for seq in self.begun if seq > last}

    def may_have_begun(self, seq: int) -> bool:
        return seq <= self.inherited or seq in self.begun

    def merged(self, lane: Lane, waiting: Sequence[Delivery], fixed: Set[int]) -> Lane | None:
        """All that waits in its document's store is this now; of the lane only what is `fixed` stays.

        The lane, when it was idle and is to be sent now.
        """
        items = [item for item in lane.items if item.seq in fixed] + list(waiting)
        in_memory = 1 if lane.standing else LANE
        left = [item.seq for item in items[in_memory:]]
        lane.cut = min(left) - 1 if left else 0
        if not lane.standing:
            self.size += min(len(items), in_memory) - len(lane.items)
        lane.items = deque(items[:in_memory])
        if not items:
            self.forget(lane)
        return self._offer(lane)

    def forget(self, lane: Lane) -> None:
        """Leave the lane to the store; it is read again from the start."""
        if self.lanes.get(lane.key) is lane:
            del self.lanes[lane.key]
            self._count()

    def leave(self, slices: Set[int]) -> None:
        """Forget the lanes of these slices, but for what is on its way: another worker is to have them."""
        self.lanes = {
            key: lane
            for key, lane in self.lanes.items()
            if lane.flying or not lane.items or lane.head.slice not in slices
        }
        self._count()

    def rewind(self) -> None:
        """Forget what is not on its way: the subscription stands still, and reads from the start when it goes on."""
        self.lanes = {key: lane for key, lane in self.lanes.items() if lane.flying}
        self.cursor, self.behind = 0, True
        self._count()

    def _count(self) -> None:
        self.size = sum(len(lane.items) for lane in self.lanes.values() if not lane.standing)
        self.standing = sum(lane.standing for lane in self.lanes.values())
