"""Which deliveries go out together: what may go to a destination, gathered into batches.

A batch is of one subscription and has one delivery of a document, its lane's first. It is full with as many as
`batch.size` says, or as the connector takes. A full one goes at once, another once its first has waited `batch.wait`.

Lanes that are set apart go without waiting, and with none but those that were set apart with them.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from hub.dispatch.lanes import Lane, Queue

Pool = tuple[Queue, int]  # subscription, and what sets the lanes apart: lanes of one pool may share a batch


def pool_of(lane: Lane) -> Pool:
    return lane.queue, lane.apart


class Batches:
    """The lanes of one destination that may go and that nobody has taken yet."""

    def __init__(self, most: int) -> None:
        """`most`: messages that the connector takes in one call."""
        self.most = most
        self.hurried = False  # nothing waits to be gathered any more
        self._pools: OrderedDict[Pool, deque[Lane]] = OrderedDict()  # who comes first is asked first
        self._parts = 0  # that were set apart so far

    def __bool__(self) -> bool:
        return bool(self._pools)

    def size(self, queue: Queue) -> int:
        """Of a full batch."""
        return min(queue.batch_size or self.most, self.most)

    def add(self, lane: Lane, now: int) -> None:
        lane.offered_at = now
        self._pools.setdefault(pool_of(lane), deque()).append(lane)

    def part(self, lanes: Sequence[Lane]) -> None:
        """They failed together: set their halves apart, so that the culprit stands alone in the end."""
        half = (len(lanes) + 1) // 2
        for part in (lanes[:half], lanes[half:]):
            self._parts += 1
            for lane in part:
                lane.apart = self._parts

    def put_back(self, lanes: Sequence[Lane]) -> None:
        """Before all others, as long as they have waited already."""
        for lane in reversed(lanes):
            self._pools.setdefault(pool_of(lane), deque()).appendleft(lane)
            self._pools.move_to_end(pool_of(lane), last=False)

    def take(self, room: int, now: int) -> list[Lane]:
        """The next batch that is to go: whole, so that none when it is larger than `room`."""
        for pool, lanes in self._pools.items():
            if self._due_at(pool) <= now:
                count = min(self.size(pool[0]), len(lanes))
                return self._taken(pool, count) if count <= room else []
        return []

    def take_one(self) -> Lane | None:
        """The next that may go, whether its batch is full or not."""
        return self._taken(next(iter(self._pools)), 1)[0] if self._pools else None

    def due_at(self) -> int | None:
        """When the next batch is to go, microseconds since 1970; None: there is none."""
        return min(map(self._due_at, self._pools), default=None)

    def drop(self, goes: Callable[[Lane], bool]) -> None:
        left = ((pool, deque(lane for lane in lanes if not goes(lane))) for pool, lanes in self._pools.items())
        self._pools = OrderedDict((pool, lanes) for pool, lanes in left if lanes)

    def _due_at(self, pool: Pool) -> int:
        (queue, apart), lanes = pool, self._pools[pool]
        if apart or self.hurried or not queue.batch_wait or len(lanes) >= self.size(queue):
            return 0
        return lanes[0].offered_at + queue.batch_wait

    def _taken(self, pool: Pool, count: int) -> list[Lane]:
        lanes = self._pools.pop(pool)
        taken = [lanes.popleft() for _ in range(count)]
        if lanes:  # the other subscriptions have their turn first
            self._pools[pool] = lanes
        return taken
